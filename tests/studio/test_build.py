"""What the package ships is what web/ builds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from studio.made_server import PAGE

WEB = Path(__file__).parents[2] / "web"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_shipped_page_is_that_of_its_source(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm: the page is not built again")
    web = tmp_path / "web"
    shutil.copytree(WEB, web, ignore=shutil.ignore_patterns("node_modules"))
    if (WEB / "node_modules").is_dir():
        (web / "node_modules").symlink_to(WEB / "node_modules")
    elif (
        ci := subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=web, capture_output=True, text=True)
    ).returncode:
        pytest.skip(f"npm ci has no packages: {ci.stderr[-200:]}")
    built = tmp_path / "page"
    command = [npm, "exec", "--", "vite", "build", "--outDir", str(built)]
    done = subprocess.run(command, cwd=web, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(built) == contents(PAGE), "run make web, and commit what it builds"
