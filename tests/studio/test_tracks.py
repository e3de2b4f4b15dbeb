"""Objects are followed through a video, and what a person corrects repairs what comes after, and only that."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

pytest.importorskip("fastapi", reason="the extra `studio` is not installed")

from eachmask.files.atomic import write_bytes  # noqa: E402
from eachmask.files.png import png  # noqa: E402
from eachmask.structures import RLE, UserError  # noqa: E402
from eachmask.studio import tracks  # noqa: E402
from eachmask.studio.app import Studio  # noqa: E402
from eachmask.studio.export import exported  # noqa: E402
from eachmask.studio.measure import Measures  # noqa: E402
from eachmask.studio.objects import mask_of  # noqa: E402
from eachmask.studio.project import Project  # noqa: E402
from eachmask.studio.schemas import Action, JobIn  # noqa: E402

SIZE, NUMBER = (60, 80), 6


def square(left: float, top: float, side: float = 20) -> list[float]:
    return [left, top, left + side, top, left + side, top + side, left, top + side]


def moving_coin(folder: Path, frames: int) -> Path:
    """A coin that moves to the right by 4 px a frame, over its own background."""
    coins = np.asarray(data.coins())
    coin, ground = coins[168:232, 16:80], np.full((96, 160), 60, np.uint8)
    inside = np.hypot(*np.mgrid[-32:32, -32:32]) < 24
    images = []
    for t in range(frames):
        image = ground.copy()
        part = image[16:80, 20 + 4 * t : 84 + 4 * t]
        part[inside] = coin[inside]
        images.append(Image.fromarray(np.repeat(image[..., None], 3, 2)))
    folder.mkdir(exist_ok=True)
    images[0].save(folder / "coin.gif", save_all=True, append_images=images[1:], duration=40)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    folder = tmp_path / "frames"
    folder.mkdir()
    for k in range(NUMBER):
        Image.fromarray(np.full((*SIZE, 3), 20 * k, np.uint8)).save(folder / f"{k:03}.png")
    made = Project(folder)
    yield made
    made.journal.close()


def add(project: Project, index: int, ring: list[float]) -> int:
    delta = project.act(index, project.history(index).revision, Action(kind="add", category=1, rings=[ring]))
    return int(next(iter(delta["objects"])))


def followed(project: Project, index: int, folder: Path, back: bool = False, chosen: list[int] | None = None) -> None:
    """As a network that finds all that is marked on each image where it was, 5 px further to the right."""
    folder.mkdir(parents=True)
    places = tracks.way(project, index, back)
    tracks.mark(project, index, chosen, folder)
    first = np.asarray(Image.open(folder / tracks.FIRST))
    maps = []
    for step in range(len(places)):
        maps.append(folder / f"{step:05}.png")
        write_bytes(maps[-1], png(np.roll(first, 5 * step, 1)))
    tracks.take(project, places, folder, maps)


def lefts(project: Project, track: int) -> list[int | None]:
    """Where a track's object begins on each image."""
    result: list[int | None] = []
    for index in range(NUMBER):
        own = [one for one in project.history(index).objects.values() if one.track == track]
        assert len(own) < 2
        result.append(int(mask_of(own[0], SIZE).boxes()[0][0]) if own else None)
    return result


def test_an_object_is_on_all_frames_with_one_number(project: Project, tmp_path: Path) -> None:
    add(project, 2, square(20, 10))
    followed(project, 2, tmp_path / "a")
    assert lefts(project, 1) == [None, None, 20, 25, 30, 35]
    followed(project, 2, tmp_path / "b", back=True)
    assert lefts(project, 1) == [30, 25, 20, 25, 30, 35]
    assert [one.source for one in project.history(3).objects.values()] == ["model"]


def test_a_correction_repairs_what_comes_after_it_and_only_that(project: Project, tmp_path: Path) -> None:
    key = add(project, 0, square(10, 10))
    followed(project, 0, tmp_path / "a")
    assert lefts(project, 1) == [10, 15, 20, 25, 30, 35]
    key = next(iter(project.history(3).objects))
    project.act(3, project.history(3).revision, Action(kind="reshape", id=key, rings=[square(5, 10)]))
    followed(project, 3, tmp_path / "b")
    assert lefts(project, 1) == [10, 15, 20, 5, 10, 15], "what lies before is as it was"
    key = next(iter(project.history(1).objects))
    project.act(1, project.history(1).revision, Action(kind="reshape", id=key, rings=[square(40, 10)]))
    followed(project, 1, tmp_path / "c")
    assert lefts(project, 1) == [10, 40, 45, 5, 10, 15], "the correction on a later frame stays, and what follows it"
    project.step(2, project.history(2).revision, "undo")
    assert lefts(project, 1)[2] == 20


def test_what_is_deleted_is_gone_after_it_and_others_stay(project: Project, tmp_path: Path) -> None:
    add(project, 0, square(10, 10))
    add(project, 0, square(50, 30))
    followed(project, 0, tmp_path / "a")
    key = next(key for key, one in project.history(2).objects.items() if one.track == 2)
    project.act(2, project.history(2).revision, Action(kind="remove", ids=[key]))
    followed(project, 2, tmp_path / "b")
    assert lefts(project, 2) == [50, 55, None, None, None, None]
    assert lefts(project, 1) == [10, 15, 20, 25, 30, 35]


def test_the_selected_objects_are_followed_and_others_are_not_touched(project: Project, tmp_path: Path) -> None:
    first, second = add(project, 0, square(10, 10)), add(project, 0, square(50, 30))
    followed(project, 0, tmp_path / "a", chosen=[second])
    assert lefts(project, 1)[:3] == [50, 55, 60] and project.history(0).objects[first].track == 0
    followed(project, 0, tmp_path / "b", chosen=[first])
    assert lefts(project, 1)[:3] == [50, 55, 60] and lefts(project, 2)[:3] == [10, 15, 20]


def test_tracks_are_exported_as_eachmask_track_writes_them(project: Project, tmp_path: Path) -> None:
    add(project, 1, square(20, 10))
    add(project, 1, square(50, 35))
    with pytest.raises(UserError, match="follow one first"):
        exported(Measures(project), "tracks")
    first = next(iter(project.history(1).objects))
    followed(project, 1, tmp_path / "a", chosen=[first])
    with zipfile.ZipFile(io.BytesIO(exported(Measures(project), "tracks")[1])) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert sorted(files) == sorted(
        [*(f"000/davis/{k:05}.png" for k in range(NUMBER)), "000/mots.txt", "000/tracks.csv", "000/tracks.json"]
    )
    (annotation,) = json.loads(files["000/tracks.json"])["annotations"]
    assert [one is None for one in annotation["segmentations"]] == [True, *[False] * 5] and annotation["id"] == 1
    rows = files["000/tracks.csv"].decode().splitlines()
    assert len(rows) == 6 and rows[1].startswith("1,0.0400,1,object,1,20,10,40,30,400")
    assert np.asarray(Image.open(io.BytesIO(files["000/davis/00002.png"])))[15, 25:46].tolist() == [1] * 20 + [0]


def test_what_cannot_be_followed_is_a_sentence(project: Project, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mark an object first"):
        followed(project, 0, tmp_path / "a")
    add(project, NUMBER - 1, square(10, 10))
    with pytest.raises(UserError, match="comes after"):
        followed(project, NUMBER - 1, tmp_path / "b")


def test_the_memory_network_follows_a_coin_in_the_background(tmp_path: Path) -> None:
    project = Project(moving_coin(tmp_path / "video", 4))
    studio = Studio(project)
    circle = [[52 + 24 * np.cos(a), 48 + 24 * np.sin(a)] for a in np.linspace(0, 2 * np.pi, 40)]
    add(project, 0, [float(v) for point in circle for v in point])
    job = studio.jobs.start(JobIn(kind="follow", indices=[0]))
    assert job.watcher is not None
    job.watcher.join()
    assert job.state == "done", job.message
    assert job.result == {"objects": 1, "images": 3}
    masks: list[Any] = [mask_of(*project.history(k).objects.values(), (96, 160)) for k in range(4)]
    inside = np.zeros((96, 160), bool)
    inside[np.hypot(*np.mgrid[-48:48, -64:96]) < 24] = True
    assert masks[3].iou(RLE.from_bitmaps(inside[None]))[0, 0] > 0.8, "it moved by 12 px"
    assert not list((job.folder / "pages").glob("*")), "the frames are not kept"
    project.journal.close()
