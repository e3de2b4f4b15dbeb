from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from eachmask.data.images.inputs import find_inputs
from eachmask.structures import UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    for name in ("b.png", "a.png", "sub/a.png", "sub/deep/c.jpg", ".hidden/x.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3)).save(root / name)
    (root / "a.jpg").write_bytes((root / "sub/deep/c.jpg").read_bytes())
    (root / "notes.txt").write_text("nothing")
    (root / "Thumbs.db").write_text("nothing")
    (root / "nosuffix").write_bytes((root / "a.png").read_bytes())
    return root


def _names(*arguments: object, **options: object) -> list[str]:
    return [s.name for s in find_inputs([str(a) for a in arguments], **options).sources]  # type: ignore[arg-type]


def test_folder_is_searched_to_any_depth(images: Path) -> None:
    inputs = find_inputs([images])
    assert [s.name for s in inputs.sources] == [
        "a.jpg", "a.png", "b.png", "nosuffix", "sub/a.png", "sub/deep/c.jpg",
    ]  # fmt: skip
    assert inputs.skipped == [("notes.txt", "not an image by its name or its first bytes")]
    outputs = {s.name: s.output for s in inputs.sources}
    assert outputs["a.jpg"] == "a.jpg" and outputs["a.png"] == "a.png"  # one stem, one folder: the suffix stays
    assert outputs["b.png"] == "b" and outputs["sub/a.png"] == "sub/a"


def test_same_names_in_different_folders(tmp_path: Path) -> None:
    for folder in ("p/x", "q/x"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("L", (4, 3)).save(tmp_path / folder / "a.png")
    assert _names(tmp_path / "p/x", tmp_path / "q/x") == ["p/x/a.png", "q/x/a.png"]
    assert _names(tmp_path / "p/x/a.png", tmp_path / "q/x/a.png") == ["p/x/a.png", "q/x/a.png"]


def test_outputs_never_meet(tmp_path: Path) -> None:
    for name in ("a.png", "A.jpg", "a.png.bmp", "a_page1.bmp", "a.b.png", "a.b.jpg"):
        Image.new("L", (4, 3)).save(tmp_path / name)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 8, 9), np.uint8), photometric="minisblack")
    sources = find_inputs([tmp_path]).sources
    assert len({s.output.casefold() for s in sources}) == len(sources) == 8


def test_patterns_lists_and_standard_input(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _names(images / "*.png") == ["a.png", "b.png"]
    assert _names(images / "**/*.jpg") == ["a.jpg", "sub/deep/c.jpg"]
    listed = tmp_path / "list.txt"
    listed.write_text("in/b.png\n\n  in/a.png  \n")  # relative to the list
    assert _names(listed) == _names(f"@{listed}") == ["b.png", "a.png"]
    monkeypatch.chdir(images)
    assert _names("-", stdin=io.StringIO("sub/a.png\nb.png\n")) == ["sub/a.png", "b.png"]
    Image.new("L", (4, 3)).save(images / "odd[1].png")
    assert _names("odd[1].png") == ["odd[1].png"]  # a file that looks like a pattern


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
@pytest.mark.parametrize("end", [b"\n", b"\0"])
def test_names_on_standard_input_are_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: bytes) -> None:
    names = [b"\xff.png", "a\u2028b\x85.png".encode(), b"two\nlines.png"][: 3 if end == b"\0" else 2]
    for name in names:
        Image.new("L", (4, 3)).save(tmp_path / "ok.png")
        os.rename(tmp_path / "ok.png", os.fsencode(tmp_path) + b"/" + name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"".join(name + end for name in names)), "utf-8"))
    sources = find_inputs(["-"]).sources
    assert [os.fsencode(s.path.name) for s in sources] == names
    assert not any(s.problem for s in sources)


def test_an_impossible_name_stops_nothing(images: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{'n' * 300}.png\n{images}/a.png\n")
    inputs = find_inputs([tmp_path / "list.txt", f"{'m' * 300}.txt"])
    assert [bool(s.problem) for s in inputs.sources] == [True, False, True]


def test_each_once_in_the_given_order(images: Path) -> None:
    assert _names(images / "sub/a.png", images / "b.png", images)[:3] == ["sub/a.png", "b.png", "a.jpg"]
    assert len(_names(images, images)) == 6


def test_pages(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((3, 8, 9), np.uint16), photometric="minisblack")
    sources = find_inputs([tmp_path / "stack.tif"]).sources
    assert [(s.name, s.page, s.output) for s in sources] == [
        (f"stack.tif#page={k}", k, f"stack_page{k}") for k in (1, 2, 3)
    ]


def test_animations_are_told(images: Path) -> None:
    frames = [Image.new("RGB", (4, 3), color) for color in ("red", "green")]
    for name in ("moving.gif", "moving.png", "moving.webp"):
        frames[0].save(images / name, save_all=True, append_images=frames[1:])
    frames[0].save(images / "still.gif")
    frames[0].save(images / "still.webp")
    (images / "broken.gif").write_bytes((images / "moving.gif").read_bytes()[:12])
    assert find_inputs([images]).animations == ["moving.gif", "moving.png", "moving.webp"]


def test_pages_whatever_the_suffix(tmp_path: Path) -> None:
    stack = np.zeros((2, 8, 9), np.uint16)
    for name in ("confocal.lsm", "misnamed.png", "none"):
        tifffile.imwrite(tmp_path / name, stack, photometric="minisblack")
    assert [s.page for s in find_inputs([tmp_path]).sources] == [1, 2] * 3


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes are files elsewhere only")
def test_pipes_are_not_waited_for(images: Path) -> None:
    for name in ("live", "live.tif"):
        os.mkfifo(images / name)
    inputs = find_inputs([images])
    assert [s.name for s in inputs.sources if s.problem.startswith("is no file but a pipe")] == ["live.tif"]
    assert "live" in [name for name, _ in inputs.skipped]


def test_missing_files_are_known_before(images: Path) -> None:
    inputs = find_inputs([images / "b.png", images / "gone.png"])
    assert [(s.name, s.problem) for s in inputs.sources] == [("b.png", ""), ("gone.png", "does not exist")]


def test_names_of_which_none_is_there_are_refused_at_once(tmp_path: Path) -> None:
    gone = [tmp_path / f"{letter}.png" for letter in "abcde"]
    with pytest.raises(UserError, match=r"/a.png does not exist, .*/c.png does not exist and 2 more$"):
        find_inputs(gone)


def test_results_are_not_inputs(images: Path) -> None:
    for folder in ("results", "older"):
        (images / folder / ".journal").mkdir(parents=True)
        Image.new("L", (4, 3)).save(images / folder / "overlay.png")
    (images / "older/.journal/run.json").write_text("{}")
    assert not any("overlay" in name for name in _names(images, exclude=images / "results"))


def test_links_that_go_round(images: Path) -> None:
    (images / "sub" / "up").symlink_to(images)
    assert len(_names(images)) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    Image.new("L", (4, 3)).save(tmp_path / "ok.png")
    os.rename(tmp_path / "ok.png", os.fsencode(tmp_path) + b"/\xff.png")
    (source,) = find_inputs([tmp_path]).sources
    source.name.encode("utf-8")
    assert source.path.exists()


def test_nothing_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1")
    with pytest.raises(UserError, match="no images found in .*1 files there are no images"):
        find_inputs([tmp_path])
    with pytest.raises(UserError, match="nothing matches"):
        find_inputs([str(tmp_path / "*.png")])
    with pytest.raises(UserError, match="the list .* cannot be read"):
        find_inputs([f"@{tmp_path}/none.txt"])


def test_patterns_end_where_links_lead_into_themselves(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for loop in range(4):
            (tmp_path / name / f"loop{loop}").symlink_to(tmp_path)
    Image.new("L", (4, 4)).save(tmp_path / "a" / "x.png")
    Image.new("L", (4, 4)).save(tmp_path / "y.png")
    assert sorted(s.name for s in find_inputs([f"{tmp_path}/**/*.png"]).sources) == ["a/x.png", "y.png"]
    assert [s.name for s in find_inputs([f"{tmp_path}/**/a/**/x.png"]).sources] == ["a/x.png"]
