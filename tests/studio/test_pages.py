"""Pages of stacks, frames of videos, channels: each page has objects of its own, wherever these are read or written."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

pytest.importorskip("fastapi", reason="the extra `studio` is not installed")
pytest.importorskip("httpx", reason="the extra `serve` is not installed")

from fastapi.testclient import TestClient  # noqa: E402

from eachmask.data.images.read import num_channels  # noqa: E402
from eachmask.studio.app import Studio, create_app  # noqa: E402
from eachmask.studio.items import Shade, mixed  # noqa: E402
from eachmask.studio.project import HIDDEN, Project  # noqa: E402
from eachmask.studio.save import dataset_of  # noqa: E402
from eachmask.studio.schemas import JobIn  # noqa: E402

BASE, KEY = "http://127.0.0.1", "a key that nobody can guess"
SIZE = (60, 80)
SQUARES = [[10.0, 10, 30, 10, 30, 30, 10, 30], [40.0, 20, 60, 20, 60, 50, 40, 50]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    pages = np.arange(1, 4, dtype=np.uint16)[:, None, None] * np.full(SIZE, 1000, np.uint16)
    tifffile.imwrite(folder / "cells.tif", pages, photometric="minisblack")
    frames = [Image.fromarray(np.full((*SIZE, 3), 60 * t, np.uint8)) for t in range(4)]
    frames[0].save(folder / "clip.gif", save_all=True, append_images=frames[1:], duration=40)
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(folder / "photo.png")
    return folder


@pytest.fixture
def project(folder: Path) -> Iterator[Project]:
    made = Project(folder)
    yield made
    made.journal.close()


def client_of(project: Project) -> TestClient:
    headers = {"authorization": f"Bearer {KEY}", "origin": BASE}
    return TestClient(create_app(Studio(project, key=KEY)), base_url=BASE, headers=headers)


def add(client: TestClient, index: int, ring: list[float]) -> None:
    revision = client.get(f"/api/images/{index}").json()["revision"]
    action = {"kind": "add", "category": 1, "rings": [ring]}
    answer = client.post(f"/api/images/{index}/actions", json={"revision": revision, "action": action})
    assert answer.status_code == 200, answer.text


def exported(client: TestClient, form: str) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(client.get(f"/api/export?format={form}").content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_each_page_and_each_frame_is_an_image(project: Project) -> None:
    assert project.names[:3] == [f"cells.tif#page={k}" for k in (1, 2, 3)], "as eachmask predict calls them"
    assert project.names[3:] == [*(f"clip.gif#frame={k}" for k in (1, 2, 3, 4)), "photo.png"]
    client = client_of(project)
    add(client, 1, SQUARES[0])
    add(client, 5, SQUARES[1])
    counts = [client.get(f"/api/images/{index}").json()["counts"] for index in (0, 4, 7)]
    assert counts == [[0, 1, 0], [0, 0, 1, 0], []]
    assert [row["objects"] for row in client.get("/api/images").json()["images"]] == [0, 1, 0, 0, 0, 1, 0, 0]
    assert client.get("/api/images/5").json()["first"] == 3
    tile = cv2.imdecode(np.frombuffer(client.get("/api/images/6/tile/0/0/0").content, np.uint8), 1)
    assert abs(int(tile[5, 5, 0]) - 180) < 3
    assert client.get("/api/images/6/thumbnail").status_code == 200


def test_pages_survive_a_restart_and_are_read_back_from_what_was_saved(project: Project, folder: Path) -> None:
    client = client_of(project)
    add(client, 1, SQUARES[0])
    project.journal.close()
    again = Project(folder)
    client = client_of(again)
    assert len(again.history(1).objects) == 1 and not again.history(0).objects
    add(client, 6, SQUARES[1])
    saved = Path(client.post("/api/save", json={}).json()["path"])
    names = [image["file_name"] for image in json.loads((saved / "instances_all.json").read_text())["images"]]
    assert names == ["cells_page2.tif", "clip_frame4.png"], "data sets know no pages"
    again.journal.close()
    (folder / HIDDEN / "actions.jsonl").unlink()
    third = Project(folder)
    assert [third.counts(index)[0] for index in range(8)] == [0, 1, 0, 0, 0, 0, 1, 0]
    third.journal.close()


def test_exports_know_pages(project: Project) -> None:
    client = client_of(project)
    add(client, 0, SQUARES[0])
    add(client, 2, SQUARES[0])
    add(client, 2, SQUARES[1])
    add(client, 7, SQUARES[1])
    files = exported(client, "label-tiff")
    assert sorted(files) == ["cells.tif.tif", "photo.png.tif"], "a stack of labels for a stack"
    stack = tifffile.imread(io.BytesIO(files["cells.tif.tif"]))
    assert stack.shape == (3, *SIZE) and [page.max() for page in stack] == [1, 0, 2]
    files = exported(client, "coco")
    images = json.loads(files["instances_all.json"])["images"]
    assert [image["file_name"] for image in images] == ["cells_page1.tif", "cells_page3.tif", "photo.png"]
    page = tifffile.imread(io.BytesIO(files["images/all/cells_page3.tif"]))
    assert page.shape == (*SIZE, 3) and (page == 3000).all() and "images/all/photo.png" not in files
    assert "cells_page1.tif.geojson" in exported(client, "geojson")
    labels = [name for name in exported(client, "yolo") if name.endswith("page1.txt") or name.endswith("page3.txt")]
    assert len(labels) == 2
    names = [row.split(",")[0] for row in client.get("/api/export?format=csv").text.splitlines()[1:]]
    assert names == ["cells.tif#page=1", *["cells.tif#page=3"] * 2, "photo.png"]


def test_a_model_sees_the_page_and_its_proposals_lie_there(project: Project, folder: Path) -> None:
    coins = np.asarray(data.coins()[16:158, :128])
    tifffile.imwrite(folder / "coins.tif", np.stack([np.zeros_like(coins), coins]), photometric="minisblack")
    project.journal.close()
    again = Project(folder)
    studio = Studio(again, key=KEY)
    index = again.names.index("coins.tif#page=2")
    job = studio.jobs.start(JobIn(kind="predict", model="nuclei", indices=[index]))
    assert job.watcher is not None
    job.watcher.join()
    assert job.state == "done", job.message
    assert len(again.history(index).proposals) == job.result["proposals"] > 0 and not again.history(index - 1).proposals
    again.journal.close()


def test_a_model_learns_from_the_page(project: Project, tmp_path: Path) -> None:
    add(client_of(project), 5, SQUARES[0])
    add(client_of(project), 1, SQUARES[0])
    split = dataset_of(project, tmp_path / "pages").splits["all"]
    assert [int(split.image(k).max()) for k in range(2)] == [2000, 120]
    assert [int(split.image(k).min()) for k in range(2)] == [2000, 120]


def channels(path: Path, number: int, dtype: Any = np.uint16) -> np.ndarray:
    values = np.zeros((number, *SIZE), dtype)
    for k in range(number):
        values[k, 10 * k : 10 * k + 10] = 100 * (k + 1)
    tifffile.imwrite(path, np.moveaxis(values, 0, -1), photometric="minisblack", planarconfig="contig")
    return values


def test_channels_are_chosen_and_have_colors(tmp_path: Path) -> None:
    values = channels(tmp_path / "dyes.tif", 5)
    tifffile.imwrite(tmp_path / "ome.ome.tif", np.stack([values[:4]] * 2), metadata={"axes": "TCYX"})
    project = Project(tmp_path)
    assert project.names == ["dyes.tif", "ome.ome.tif#page=1", "ome.ome.tif#page=2"]
    client = client_of(project)
    about = client.get("/api/images/0").json()
    assert [one["color"] for one in about["channels"]][:3] == ["#ff0000", "#00ff00", "#0000ff"]
    assert about["channels"][4]["span"] == [0, 500] and about["bits"] == 16
    assert len(client.get("/api/images/1").json()["channels"]) == 4
    answer = client.get("/api/images/0/tile/0/0/0?shades=1:00ff00:0:400,4:ff0000::")
    tile = cv2.cvtColor(cv2.imdecode(np.frombuffer(answer.content, np.uint8), 1), cv2.COLOR_BGR2RGB).astype(int)
    np.testing.assert_allclose(tile[[15, 45], 40], [[0, 127, 0], [255, 0, 0]], atol=12)
    assert tile[5, 40].max() < 12, "channel 1 is not shown"
    assert client.get("/api/images/0/tile/0/0/0?shades=9:00ff00::").status_code == 422
    assert client.get("/api/images/0/tile/0/0/0?shades=red").status_code == 422
    assert client.get("/api/images/0/thumbnail").status_code == 200
    add(client, 0, SQUARES[0])
    assert client.get("/api/measure").json()["objects"][0]["area"] == 400
    assert project.item(0).seen().shape == (*SIZE, 3) and project.item(0).seen()[25, 5].tolist() == [0, 0, 255]
    project.journal.close()


def test_what_is_seen_as_it_is_has_no_channels_to_choose(tmp_path: Path, folder: Path) -> None:
    tifffile.imwrite(tmp_path / "rgba.tif", np.full((*SIZE, 4), 255, np.uint8), extrasamples=["unassalpha"])
    tifffile.imwrite(tmp_path / "nir.tif", np.full((*SIZE, 4), 9, np.uint8), photometric="rgb", extrasamples=[0])
    assert num_channels(tmp_path / "rgba.tif") == num_channels(folder / "photo.png") == 0
    assert num_channels(folder / "cells.tif") == num_channels(tmp_path / "none.tif") == 0
    assert num_channels(tmp_path / "nir.tif") == 4


def test_light_adds_up() -> None:
    pixels = np.array([[[0, 10], [10, 10], [20, 5]]])
    shades = [Shade(0, "ff0000"), Shade(1, "800000", 0, 10)]
    assert mixed(pixels, shades, [(0, 10), (0, 1)])[0].tolist() == [[128, 0, 0], [255, 0, 0], [255, 0, 0]]


def test_a_video_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "torn.mp4").write_bytes(b"no video at all")
    project = Project(tmp_path)
    answer = client_of(project).get("/api/images/0")
    assert answer.status_code == 422 and "torn.mp4" in answer.json()["detail"]
    project.journal.close()


def test_a_file_is_opened_first(folder: Path, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.place_of(folder / "clip.gif") == 3
    (folder / "notes.txt").write_text("none")
    project.journal.close()
    from eachmask.cli import main

    assert main(["studio", str(folder / "notes.txt"), "--port", "0", "--no-browser"]) == 2
    assert "notes.txt is no image or video" in capsys.readouterr().err
