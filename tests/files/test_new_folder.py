from __future__ import annotations

from pathlib import Path

import pytest

from eachmask.files.lock import lock
from eachmask.files.new_folder import new_folder
from eachmask.structures import UserError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_has_its_name_when_it_is_whole(tmp_path: Path, is_there: bool) -> None:
    target = tmp_path / "deep" / "set"
    if is_there:
        target.mkdir(parents=True)
    with new_folder(target) as folder:
        (folder / "a").write_text("a")
        assert not target.exists() or not names(target)
    assert names(target) == ["a"] and names(target.parent) == ["set"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "set") as folder:
        (folder / "a").write_text("a")
        raise RuntimeError
    assert not names(tmp_path)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".set.part" / "data"
    left.mkdir(parents=True)
    (left / "half").write_text("h")
    with new_folder(tmp_path / "set") as folder:
        assert not names(folder)
        (folder / "a").write_text("a")
    assert names(tmp_path) == ["set"] and names(tmp_path / "set") == ["a"]


def test_two_processes_and_folders_with_something_in_them_are_refused(tmp_path: Path) -> None:
    (tmp_path / ".set.part").mkdir()
    with lock(tmp_path / ".set.part" / "lock", tmp_path / "set"):
        with pytest.raises(UserError, match="another process"), new_folder(tmp_path / "set"):
            pass
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").touch()
    with pytest.raises(UserError, match="not empty"), new_folder(tmp_path / "set"):
        pass


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "set").symlink_to(tmp_path / "real")
    with new_folder(tmp_path / "set") as folder:
        (folder / "a").touch()
    assert (tmp_path / "set").is_symlink() and names(tmp_path / "real") == ["a"]
