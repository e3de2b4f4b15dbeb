"""Every README block marked ``run`` runs, as a newcomer would run it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import skimage

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```(bash|python) run\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def newcomer(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder with images, and an environment in which ``eachmask`` is found by name."""
    (tmp_path / "images").mkdir()
    shutil.copy(Path(skimage.__file__).parent / "data" / "coins.png", tmp_path / "images")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "eachmask"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m eachmask "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join((str(tmp_path / "bin"), os.environ["PATH"]))
    return tmp_path, os.environ | {"PATH": path, "EACHMASK_CACHE": str(tmp_path / "cache")}


def test_there_are_blocks() -> None:
    assert {language for language, _ in BLOCKS} == {"bash", "python"} and len(BLOCKS) >= 4


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_runs(number: int, newcomer: tuple[Path, dict[str, str]]) -> None:
    folder, environment = newcomer
    language, code = BLOCKS[number]
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euc", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "--out results" in code:
        promised = re.findall(r"^\| `(\w+(?:\.\w+|/))` \|", README, flags=re.MULTILINE)
        assert len(promised) >= 5 and all((folder / "results" / name).exists() for name in promised)
