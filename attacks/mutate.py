"""Mutated inputs: parts of a good file changed, cut, repeated, or replaced by what often goes wrong."""

import re
import struct
from collections.abc import Sequence
from random import Random

MAX_BYTES = 2**18
LARGE = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
NUMBERS = [
    b"0",
    b"-0",
    b"-1",
    b"1e999",
    b"-1e400",
    b"1e-400",
    b"nan",
    b"NaN",
    b"inf",
    b"Infinity",
    b"1_000",
    b"0x10",
    b"9" * 5000,
]
NUMBERS += [
    b"1e",
    b".",
    b"+-1",
    "\u0661\u0662".encode(),
    "\uff11".encode(),
    b"1,5",
    b"1" + b"0" * 400,
    b"1e" + b"9" * 400,
    b"0.1.2",
]
WORDS = [
    b"",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"[" * 5000,
    b'{"a":' * 3000,
    b"a." * 3000,
    b"\0",
    b"\r",
    b"\n",
    b"\t",
    b";",
    b",",
    b'"',
    b"'",
    b"\\",
]
WORDS += [
    b"\xff\xfe",
    b"\xfe\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\x1b[2J",
    "\u202e".encode(),
    "\u200b".encode(),
    "e\u0301".encode(),
]
WORDS += [
    b"\x85",
    "\u2028".encode(),
    b"x" * 100_000,
    b"../" * 100,
    b"/dev/zero",
    b"%s%n",
    b"__class__",
    b"=1+1",
    b"#",
    b'"""',
    b"[[a]]",
    b"\x1a",
]
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


def mutated(content: bytes, rng: Random, others: Sequence[bytes], *, is_text: bool) -> bytes:
    """The content after one to four changes; `others` are good files, parts of which may come in."""
    change = _change_text if is_text else _change_bytes
    for _ in range(rng.choice((1, 1, 2, 4))):
        content = change(content, rng, others)[:MAX_BYTES]
    return content


def _times(part: bytes, wanted: int) -> int:
    """Number of times to repeat a part, at most so often that it stays small."""
    return min(wanted, MAX_BYTES // (1 + len(part)))


def _span(content: bytes, rng: Random) -> tuple[int, int]:
    """Two places, mostly close to each other."""
    start = rng.randrange(len(content) + 1)
    return start, min(len(content), start + int(len(content) ** rng.random()))


def _change_bytes(content: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    start, end = _span(content, rng)
    if rng.random() < 0.5:  # headers say the most in the fewest bytes
        start, end = min(start, rng.randrange(128)), min(end, rng.randrange(1, 256))
        end = max(start, end)
    middle = content[start:end]
    match rng.randrange(9):
        case 0:
            return content[:start]
        case 1:
            return content[:start] + content[end:]
        case 2:
            return content[:end] + middle * _times(middle, rng.choice((1, 2, 50))) + content[end:]
        case 3:
            flipped = bytearray(content)
            for _ in range(rng.choice((1, 1, 8, 64)) if content else 0):
                flipped[rng.randrange(start, len(content)) if start < len(content) else -1] ^= 1 << rng.randrange(8)
            return bytes(flipped)
        case 4:
            number = rng.choice(LARGE) + rng.choice((0, 0, -1, 1, 3))
            field = struct.pack(rng.choice("<>") + "Q", number % 2**64)
            size = rng.choice((1, 2, 4, 8))
            field = field[:size] if rng.random() < 0.5 else field[-size:]
            return content[:start] + field + content[start + size :]
        case 5:
            return content[:start] + rng.randbytes(len(middle)) + content[end:]
        case 6:
            other = rng.choice(others)
            return content[:start] + other[slice(*_span(other, rng))] + content[end:]
        case 7:
            return content[:start] + bytes(rng.choice((1, 8, 4096))) + content[end:]
        case _:
            return content + rng.choice((b"\0", content[:64], rng.randbytes(40), rng.choice(others)))


def _change_text(content: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    lines, (start, end) = content.splitlines(keepends=True), _span(content, rng)
    match rng.randrange(8):
        case 0 if numbers := [*NUMBER.finditer(content)]:
            found = rng.choice(numbers)
            return content[: found.start()] + rng.choice(NUMBERS) + content[found.end() :]
        case 1:
            return content[:start] + rng.choice(WORDS) + content[end:]
        case 2:
            return content[:start] + rng.choice(WORDS + NUMBERS) + content[start:]
        case 3 if lines:
            line = rng.randrange(len(lines))
            return b"".join(
                (*lines[:line], lines[line] * _times(lines[line], rng.choice((0, 2, 300))), *lines[line + 1 :])
            )
        case 4 if len(lines) > 1:
            one, other = rng.sample(range(len(lines)), 2)
            lines[one], lines[other] = lines[other], lines[one]
            return b"".join(lines)
        case 5:
            encoding = rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1", "cp1252"))
            return content.decode("utf-8", "replace").encode(encoding, "replace")
        case 6:
            words = (
                content.split(separator)
                if (separator := rng.choice((b",", b"\t", b" ", b'"', b"="))) in content
                else [content]
            )
            word = words[place := rng.randrange(len(words))]
            words[place : place + 1] = rng.choice(([], [word] * 2, [rng.choice(WORDS)], [word] * _times(word, 1500)))
            return separator.join(words)
        case _:
            return _change_bytes(content, rng, others)
