"""Text files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from eachmask.files.atomic import atomic, write_text


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic(path) as file:
        file.write("half")
        assert path.read_text() == "old"
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"] and path.read_text() == "old"
    write_text(path, "neu: \u00e4")
    assert path.read_bytes() == "neu: \u00e4".encode() and len(list(tmp_path.iterdir())) == 1
