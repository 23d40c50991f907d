"""Random generators as a function of seed, purpose and place."""

import hashlib

import torch

from lungsound.randomness import generator_at


def draws(generator: torch.Generator) -> list[float]:
    return torch.rand(4, generator=generator).tolist()


def test_the_same_place_draws_the_same_whatever_was_drawn_before() -> None:
    first = draws(generator_at(3, "augment", 7, 31))
    torch.manual_seed(99)
    torch.rand(5)
    generator = generator_at(3, "augment", 7, 30)
    torch.rand(100, generator=generator)
    assert draws(generator_at(3, "augment", 7, 31)) == first


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    draws(generator_at(0, "order", 1))
    assert torch.equal(torch.rand(3), expected)


def test_seed_purpose_and_each_number_of_the_place_matter() -> None:
    places = [(0, "order", (1, 23)), (1, "order", (1, 23)), (0, "augment", (1, 23)), (0, "order", (12, 3))]
    places += [(0, "order", (123,)), (0, "order", (1, 23, 0)), (0, "order", ()), (-1, "order", (1, 23))]
    drawn = [tuple(draws(generator_at(seed, purpose, *place))) for seed, purpose, place in places]
    assert len(set(drawn)) == len(places)


def test_the_seed_is_63_bits_of_a_hash_of_the_place() -> None:
    """Pinned: a change of the formula would change every run."""
    digest = hashlib.sha256(b"4/patch-mix/7/31").digest()
    expected = sum(byte << (8 * position) for position, byte in enumerate(digest[:8])) // 2
    assert generator_at(4, "patch-mix", 7, 31).initial_seed() == expected
    assert generator_at(0, "weights").initial_seed() == 6830633090851249822
