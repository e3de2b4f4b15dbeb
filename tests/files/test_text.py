"""What is said at a terminal."""

from __future__ import annotations

import io
import warnings

import pytest
from rich.console import Console

from eachmask.cli.warning_notes import warnings_as_notes
from eachmask.files.text import counted, say

NAME = "a\x1b[2J\x9b31m\u202egnp.png"
SHOWN = r"a\x1b[2J\x9b31m\u202egnp.png"


def test_names_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"{NAME}: done\n\tü")
    say(NAME, error=True)
    assert capsys.readouterr() == (f"{SHOWN}: done\n\tü\n", f"{SHOWN}\n")


def test_neither_do_those_in_warnings() -> None:
    stream = io.StringIO()
    with warnings_as_notes(Console(file=stream)):
        warnings.warn_explicit(f"removed {NAME}", UserWarning, "x.py", 1, module="eachmask.batch")
    assert stream.getvalue() == f"Note: removed {SHOWN}\n"


def test_numbers_have_their_noun() -> None:
    assert [counted(n, "class") for n in (0, 1, 1200)] == ["0 classes", "1 class", "1,200 classes"]
