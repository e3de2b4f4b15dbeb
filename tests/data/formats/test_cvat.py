from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from foreign_sets import image
from small_sets import make_set

from eachmask.data.compare import compare
from eachmask.data.formats.cvat import crop_of_runs, read_cvat, row_runs, write_cvat
from eachmask.structures import UserError


def test_everything_comes_back(tmp_path: Path) -> None:
    data = make_set(tmp_path / "images", overlapping=True, crowd=True)
    write_cvat(tmp_path / "out", data)
    again = read_cvat(tmp_path / "out")
    assert compare(data, again)[0].exact
    assert again.categories == data.categories


def test_runs_go_row_by_row_and_begin_with_background() -> None:
    crop = np.array([[1, 1, 0], [0, 1, 1]], bool)
    assert row_runs(crop) == [0, 2, 2, 2]
    assert np.array_equal(crop_of_runs([0, 2, 2, 2], 2, 3), crop)
    with pytest.raises(ValueError, match="hold 5 pixels"):
        crop_of_runs([5], 2, 3)


def _file(folder: Path, shapes: str) -> Path:
    path = folder / "annotations.xml"
    path.write_text(f'<annotations><image id="0" name="a.jpg" width="20" height="10">{shapes}</image></annotations>')
    return path


def test_files_of_others(tmp_path: Path) -> None:
    shapes = (
        '<box label="dog" xtl="2" ytl="1" xbr="6" ybr="4"/>'
        '<mask label="cat" rle="1, 2, 1" left="10" top="3" width="2" height="2"/>'
        '<polygon label="dog" points="0,0;5,0;5,5;0,5"><attribute name="x">true</attribute></polygon>'
        '<polyline label="dog" points="0,0;5,0"/>'
    )
    data = read_cvat(_file(tmp_path, shapes))
    targets = data.splits["all"].images()[0].targets
    assert targets.label_names == ["dog", "cat", "dog"]
    assert targets.masks is not None
    assert targets.masks.area().tolist() == [12, 2, 25]
    assert not targets.crowd.any()  # type: ignore[union-attr]
    (problem,) = data.problems
    assert "polyline 4 of a.jpg: a polyline has no area; it is left out" in str(problem)


def test_ellipses_and_what_is_turned(tmp_path: Path) -> None:
    shapes = (
        '<ellipse label="a" cx="10" cy="5" rx="6" ry="3"/>'
        '<box label="a" xtl="6" ytl="4" xbr="14" ybr="6" rotation="90"/>'
        '<ellipse label="a" cx="10" cy="5" rx="6" ry="3" rotation="30"/>'
        '<polygon label="a" points="0,0;5,0;5,5;0,5;"/>'
    )
    data = read_cvat(_file(tmp_path, shapes))
    masks = data.splits["all"].images()[0].targets.masks
    assert masks is not None and data.problems == []
    area = masks.area()
    assert area[0] == pytest.approx(np.pi * 18, abs=3) and area[2] == pytest.approx(np.pi * 18, abs=4)
    assert masks.boxes()[1].tolist() == [9, 1, 11, 9] and area[3] == 25
    # to the right the axis goes down: degrees are counted clockwise
    turned = masks.decode()[2]
    assert turned[6, 13] and not turned[3, 13] and turned[3, 6] and not turned[6, 6]


def test_tracks_of_a_video_say_how_to_export_them(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text('<annotations><track id="0" label="a"><box frame="0" xtl="1"/></track></annotations>')
    with pytest.raises(UserError, match="holds tracks of a video: export the task as CVAT for images"):
        read_cvat(path)


@pytest.mark.parametrize(
    "shape",
    [
        '<mask label="cat" rle="1, 2" left="1" top="1" width="2" height="2"/>',
        '<mask label="cat" rle="4" left="1" top="1" width="99999999" height="99999999"/>',
        '<polygon label="cat" points="0,0;x,1;2,2"/>',
        '<polygon points="0,0;5,0;5,5"/>',
        '<polygon label="dog" points="0,0;5;5,5"/>',
        '<polygon label="dog" points="0,0;5,0;5,1e9"/>',
        '<polygon label="dog" points="0,0;5,0;nan,5"/>',
        '<polygon label="dog" points="0,0;5,0"/>',
    ],
)
def test_bad_shapes_are_named(tmp_path: Path, shape: str) -> None:
    data = read_cvat(_file(tmp_path, shape + '<box label="cat" xtl="2" ytl="1" xbr="6" ybr="4"/>'))
    assert data.splits["all"].images()[0].targets.label_names == ["cat"]
    (problem,) = data.problems
    assert "annotations.xml" in str(problem) and "1 of a.jpg" in str(problem)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entity_bombs_are_refused(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "annotations.xml"
    bomb = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY a "ha">]><annotations>&a;</annotations>'
    path.write_bytes(bomb.encode(encoding))
    with pytest.raises(UserError, match="DOCTYPE"):
        read_cvat(path)


def test_names_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text('<annotations><image id="0" name="../../secret.jpg" width="20" height="10"/></annotations>')
    data = read_cvat(path)
    assert not len(data)
    assert "leads out" in str(data.problems[0])


def test_a_file_that_was_cut_off_says_so(tmp_path: Path) -> None:
    path = _file(tmp_path, '<box label="cat" xtl="2" ytl="1" xbr="6" ybr="4"/>')
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match=r"annotations\.xml is not valid XML .* if it was cut off"):
        read_cvat(path)


def test_classes_that_are_declared_come_first_wherever_they_stand(tmp_path: Path) -> None:
    labels = "<task><labels><label><name>dog</name></label><label><name>ant</name></label></labels></task>"
    shapes = "".join(f'<box label="{name}" xtl="2" ytl="1" xbr="6" ybr="4"/>' for name in ("cat", "dog"))
    image = f'<image id="0" name="a.jpg" width="20" height="10">{shapes}</image>'
    (tmp_path / "annotations.xml").write_text(f"<annotations>{image}<meta>{labels}</meta></annotations>")
    data = read_cvat(tmp_path)
    assert [category.name for category in data.categories] == ["dog", "ant", "cat"]
    assert data.splits["all"].images()[0].targets.label_names == ["cat", "dog"]


def test_tracks_are_read_where_their_frames_are(tmp_path: Path) -> None:
    def box(frame: int, more: str = "") -> str:
        return f'<box frame="{frame}" xtl="5" ytl="5" xbr="20" ybr="20" {more}/>'

    gone = box(2, 'outside="1"')
    track = f'<track id="0" label="nut">{box(0)}{box(1)}{gone}</track>'
    for number in range(3):
        image(tmp_path / "images" / f"frame_{number:06d}.png")
    (tmp_path / "annotations.xml").write_text(f"<annotations>{track}</annotations>")
    split = read_cvat(tmp_path).splits["all"]
    assert [len(split.targets(i)) for i in range(3)] == [1, 1, 0] and split.path(2).is_file()
    entry = '<image id="1" name="images/frame_000001.png" width="64" height="48"/>'
    (tmp_path / "annotations.xml").write_text(f"<annotations>{entry}{track}</annotations>")
    data = read_cvat(tmp_path)
    assert data.splits["all"].targets(0).masks.area().tolist() == [225]
    assert "1 shapes of tracks are of frames without an image" in data.problems[0].what
