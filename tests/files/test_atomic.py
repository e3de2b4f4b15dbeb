"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from eachmask.files.atomic import atomic, replacing, replacing_from_folder, write_bytes, write_text


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


def test_bytes_have_the_permissions_of_the_users_other_files(tmp_path: Path) -> None:
    (tmp_path / "own").touch()
    write_bytes(tmp_path / "data", b"\x00")
    with replacing(tmp_path / "tensors") as part:  # as safetensors does
        part.write_bytes(b"1")
        part.chmod(0o600)
    assert (tmp_path / "data").read_bytes() == b"\x00"
    assert {p.stat().st_mode for p in tmp_path.iterdir()} == {(tmp_path / "own").stat().st_mode}


def test_what_a_library_leaves_beside_its_file_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    (tmp_path / "model.safetensors.part").mkdir()  # a run that was killed
    (tmp_path / "model.safetensors.part" / ".tmp1").write_bytes(b"half")
    with replacing_from_folder(path) as part:
        part.with_name(".tmp2").write_bytes(b"1")
        part.with_name(".tmp2").replace(part)
    assert path.read_bytes() == b"1" and list(tmp_path.iterdir()) == [path]
    (tmp_path / "model.safetensors.part").touch()
    with pytest.raises(RuntimeError), replacing_from_folder(path) as part:
        part.with_name(".tmp3").write_bytes(b"2")
        raise RuntimeError
    assert path.read_bytes() == b"1" and list(tmp_path.iterdir()) == [path]
