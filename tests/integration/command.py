"""The command line in this process, as a person would call it."""

import sys

import pytest

from lungsound.cli.main import main


def lungsound(*arguments: object) -> int:
    """Exit code of `lungsound <arguments>`; what it prints is there for capsys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lungsound", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
    return int(exit_.value.code or 0)
