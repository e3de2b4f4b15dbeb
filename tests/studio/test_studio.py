"""The studio's server: what is drawn survives, what is saved is read back, and strangers get nothing."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra `studio` is not installed")
pytest.importorskip("httpx", reason="the extra `serve` is not installed")

from fastapi.testclient import TestClient  # noqa: E402

import eachmask  # noqa: E402
from eachmask.data.images.read import read_image  # noqa: E402
from eachmask.data.reading import read_any  # noqa: E402
from eachmask.files.atomic import write_bytes  # noqa: E402
from eachmask.structures import Instances  # noqa: E402
from eachmask.studio.app import Studio, create_app  # noqa: E402
from eachmask.studio.project import HIDDEN, Project  # noqa: E402

KEY = "a key that nobody can guess"
BASE = "http://127.0.0.1"
SQUARE = [10.0, 10, 30, 10, 30, 30, 10, 30]
HOLE = [15.0, 15, 20, 15, 20, 20, 15, 20]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\nno image at all")
    return folder


@pytest.fixture
def studio(folder: Path) -> Iterator[Studio]:
    made = Studio(Project(folder), key=KEY, token="T")
    yield made
    made.project.journal.close()


def client_of(studio: Studio, **headers: str) -> TestClient:
    own = {"authorization": f"Bearer {KEY}", "origin": BASE, "content-type": "application/json"} | headers
    return TestClient(create_app(studio), base_url=BASE, headers=own, follow_redirects=False)


@pytest.fixture
def client(studio: Studio) -> TestClient:
    return client_of(studio)


def act(client: TestClient, index: int, revision: int, **action: Any) -> Any:
    return client.post(f"/api/images/{index}/actions", json={"revision": revision, "action": action})


def add(client: TestClient, index: int = 0, revision: int = 0, rings: Any = (SQUARE,)) -> Any:
    return act(client, index, revision, kind="add", category=1, rings=list(rings)).json()


def test_an_object_is_drawn_undone_and_drawn_again(client: TestClient) -> None:
    first = add(client, rings=[SQUARE, HOLE])
    (one,) = first["objects"]
    assert one["area"] == 400 - 25 and one["box"] == [10, 10, 30, 30] and len(one["rings"]) == 2
    undone = client.post("/api/images/0/undo", json={"revision": 1}).json()
    assert undone["removed"] == [one["id"]] and undone["can_redo"] and not undone["can_undo"]
    again = client.post("/api/images/0/redo", json={"revision": 2}).json()
    assert again["objects"] == [one]
    assert client.post("/api/images/0/redo", json={"revision": 3}).status_code == 422


def test_every_edit(client: TestClient) -> None:
    key = add(client)["objects"][0]["id"]
    painted = act(client, 0, 1, kind="paint", id=key, category=1, stroke=[30.0, 20, 40, 20], radius=3, erase=False)
    assert painted.json()["objects"][0]["area"] > 430
    erased = act(client, 0, 2, kind="paint", id=key, category=1, stroke=[30.0, 20, 50, 20], radius=5, erase=True)
    assert erased.json()["objects"][0]["area"] < 400
    cut = act(client, 0, 3, kind="split", id=key, line=[20.0, 0, 20, 50]).json()
    assert len(cut["objects"]) == 2
    parts = [one["id"] for one in cut["objects"]]
    merged = act(client, 0, 4, kind="merge", ids=parts).json()
    assert merged["objects"][0]["area"] == erased.json()["objects"][0]["area"] and merged["removed"] == parts[1:]
    reshaped = act(client, 0, 5, kind="reshape", id=key, rings=[SQUARE, HOLE]).json()
    assert reshaped["objects"][0]["area"] == 375
    assert act(client, 0, 6, kind="fill_holes", ids=[key]).json()["objects"][0]["area"] == 400
    changed = act(client, 0, 7, kind="change", id=key, crowd=True, comment="many").json()["objects"][0]
    assert changed["crowd"] and changed["comment"] == "many"
    assert len(act(client, 2, 0, kind="copy_from", image=0).json()["objects"]) == 1
    assert act(client, 0, 8, kind="remove", ids=[key]).json()["removed"] == [key]
    act(client, 0, 9, kind="review", reviewed=True)
    assert client.get("/api/images").json()["images"][0]["reviewed"]
    assert act(client, 0, 10, kind="add", category=99, rings=[SQUARE]).status_code == 422
    assert act(client, 0, 10, kind="add", category=1, rings=[[1.0, 2]]).status_code == 422


def test_another_tabs_change_is_not_overwritten(client: TestClient) -> None:
    add(client)
    answer = act(client, 0, 0, kind="add", category=1, rings=[SQUARE])
    assert answer.status_code == 409 and "load it again" in answer.json()["detail"]
    assert len(client.get("/api/images/0").json()["objects"]) == 1


def test_a_restart_keeps_all_and_undo_too(folder: Path) -> None:
    project = Project(folder)
    add(client_of(Studio(project, key=KEY)))
    with pytest.raises(eachmask.UserError, match="another process"):
        Project(folder)
    project.journal.close()
    with open(folder / HIDDEN / "actions.jsonl", "ab") as file:
        file.write(b"0000 torn by a kill")
    again = Project(folder)
    client = client_of(Studio(again, key=KEY))
    seen = client.get("/api/images/0").json()
    assert len(seen["objects"]) == 1 and seen["revision"] == 1 and seen["can_undo"]
    assert client.post("/api/images/0/undo", json={"revision": 1}).json()["removed"]
    again.journal.close()


@pytest.mark.parametrize("left", [None, "instances_all.json.part"])
def test_a_first_save_that_was_killed_leaves_a_folder_that_opens(folder: Path, left: str | None) -> None:
    """What was drawn is in the journal; the folder of annotations may have nothing in it but part of a file."""
    below = Project(folder).labels / "annotations"
    below.mkdir(parents=True)
    if left:
        (below / left).write_text('{"images": [')
    assert Project(folder).known == {}


def test_saved_annotations_are_read_back(folder: Path, studio: Studio, client: TestClient) -> None:
    add(client, rings=[SQUARE, HOLE])
    assert client.get("/api/project").json()["unsaved"] == 1
    answer = client.post("/api/save", json={}).json()
    assert answer["written"] == 1 and client.get("/api/project").json()["unsaved"] == 0
    split = eachmask.data.read(answer["path"], images=folder).splits["all"]
    assert split.targets(0).masks.area().tolist() == [375]
    file = Path(answer["path"]) / "instances_all.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"info": {"by": "another"}}))
    act(client, 0, 1, kind="review", reviewed=True)
    refused = client.post("/api/save", json={})
    assert refused.status_code == 409 and str(file.resolve()) in refused.json()["changed_on_disk"]
    assert json.loads(file.read_text())["info"]
    assert client.post("/api/save", json={"overwrite": True}).status_code == 200
    assert not json.loads(file.read_text())["info"]


def test_annotations_that_were_there_are_shown_and_undo_works_after_saving(folder: Path) -> None:
    first = Project(folder)
    client = client_of(Studio(first, key=KEY))
    add(client)
    client.post("/api/save", json={"format": "yolo"})
    first.journal.close()
    (folder / HIDDEN / "actions.jsonl").unlink()
    second = Project(folder)
    client = client_of(Studio(second, key=KEY))
    assert client.get("/api/project").json()["format"] == "yolo"
    (one,) = client.get("/api/images/0").json()["objects"]
    assert one["source"] == "file" and one["area"] == 400 and one["score"] is None
    second.journal.close()


def test_proposals_are_accepted_above_a_score(studio: Studio, client: TestClient) -> None:
    add(client, index=2)
    found = studio.project.targets(2)
    found = eachmask.Instances.cat([found, found])
    found.scores = __import__("torch").tensor([0.9, 0.4])
    studio.project.propose(0, found)
    row = client.get("/api/images?order=doubt").json()["images"][0]
    assert row["index"] == 0 and row["proposals"] == 2 and row["doubt"] == pytest.approx(0.8)
    taken = act(client, 0, 1, kind="accept_above", score=0.5).json()
    assert len(taken["objects"]) == 1 and taken["objects"][0]["source"] == "model" and len(taken["proposals"]) == 1
    measures = client.get("/api/measure").json()
    (row,) = measures["rows"]  # the other annotated image was not looked at
    name = row.pop("name")
    assert row == {"image": 0, "matched": 1, "missed": 0, "invented": 1, "poor": 0}
    assert measures["objects"][0]["name"] == name == studio.project.names[0]
    assert measures["objects"][0]["area"] == 400
    left = taken["proposals"][0]["id"]
    assert act(client, 0, 2, kind="reject", ids=[left]).json()["proposals"] == []


def test_a_comparison_is_told_by_size(folder: Path) -> None:
    for name in ("a.png", "sub/b.png"):
        Image.new("L", (300, 300)).save(folder / name)

    def rectangle(left: float, top: float, width: float, height: float) -> list[float]:
        return [left, top, left + width, top, left + width, top + height, left, top + height]

    project = Project(folder)
    client = client_of(Studio(project, key=KEY))
    small, medium, large = rectangle(10, 10, 20, 20), rectangle(50, 10, 32, 32), rectangle(10, 100, 100, 100)
    for revision, ring in enumerate([small, rectangle(200, 10, 31, 33), rectangle(10, 100, 100, 60)]):
        add(client, 2, revision, [ring])
    project.propose(0, project.targets(2))
    for revision, ring in enumerate([small, medium, large]):
        add(client, 0, revision + 1, [ring])
    measures = client.get("/api/measure").json()
    assert measures["by_size"] == [
        {"size": "small", "matched": 1, "missed": 0, "invented": 1, "poor": 0},
        {"size": "medium", "matched": 0, "missed": 1, "invented": 0, "poor": 0},
        {"size": "large", "matched": 1, "missed": 0, "invented": 0, "poor": 1},
    ]
    counts = {"matched": 2, "missed": 1, "invented": 1, "poor": 1}
    assert measures["by_category"] == [{"category": "object"} | counts]
    assert measures["rows"] == [{"image": 0, "name": "a.png"} | counts]
    project.journal.close()


def test_doubled_objects_and_missed_ones_are_found(studio: Studio, client: TestClient) -> None:
    assert client.get("/api/images/0/check").json() == {"doubled": [], "missed": []}
    add(client, index=2, rings=[SQUARE])
    add(client, index=2, revision=1, rings=[[50.0, 40, 60, 40, 60, 50, 50, 50]])
    studio.project.propose(0, studio.project.targets(2))
    larger = [9.0, 9, 31, 9, 31, 31, 9, 31]
    own = [add(client, revision=1 + i, rings=[ring])["objects"][0]["id"] for i, ring in enumerate((SQUARE, larger))]
    square, other = studio.project.history(0).proposals
    assert client.get("/api/images/0/check").json() == {"doubled": [own[0]], "missed": [other]} and square != other


def test_one_image_is_too_few_to_learn_from(client: TestClient) -> None:
    add(client)
    refused = client.post("/api/jobs", json={"kind": "train"})
    assert refused.status_code == 422 and "two images at least" in refused.json()["detail"]
    assert client.get("/api/jobs").json() == []


@pytest.mark.parametrize("form", ["csv", "coco", "yolo", "geojson", "label-tiff"])
def test_exports(client: TestClient, form: str) -> None:
    add(client)
    answer = client.get(f"/api/export?format={form}")
    assert answer.status_code == 200 and answer.content[:2] == (b"im" if form == "csv" else b"PK")


@pytest.mark.parametrize("form", ["coco", "yolo", "geojson", "label-tiff"])
def test_exports_open_again_with_the_images(client: TestClient, folder: Path, tmp_path: Path, form: str) -> None:
    for index in (0, 2):
        add(client, index)
    with zipfile.ZipFile(io.BytesIO(client.get(f"/api/export?format={form}").content)) as archive:
        archive.extractall(tmp_path / "export")
    source = "label-maps" if form == "label-tiff" else None
    data, _ = read_any(tmp_path / "export", source, target=Instances, images=folder)
    found = {image.path: image.targets.masks.area().tolist() for _, image in data.images()}
    assert found == {folder / "a.png": [400], folder / "sub" / "b.png": [400]}


def test_a_broken_image_is_said_and_stops_nothing(client: TestClient) -> None:
    assert client.get("/api/images/1").status_code == 422
    assert client.get("/api/images/1/thumbnail").status_code == 422
    rows = client.get("/api/images").json()["images"]
    assert rows[1]["problem"] and rows[0]["problem"] is None
    add(client)
    assert client.post("/api/save", json={}).status_code == 200


def test_tiles_of_deep_images_and_pages(tmp_path: Path) -> None:
    import tifffile

    stack = np.stack([np.full((700, 600), value, np.uint16) for value in (1000, 3000)])
    stack[:, :100] = 500
    tifffile.imwrite(tmp_path / "stack.tif", stack)
    project = Project(tmp_path)
    client = client_of(Studio(project, key=KEY))
    about = client.get("/api/images/0").json()
    assert (about["counts"], about["bits"], about["levels"]) == ([0, 0], 16, 2)
    tile = client.get("/api/images/1/tile/0/1/1?low=0&high=6000")
    import cv2

    pixels = cv2.imdecode(np.frombuffer(tile.content, np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == (188, 88, 3) and abs(int(pixels[50, 50, 0]) - 127) < 4
    assert client.get("/api/images/0/tile/0/9/9").status_code == 422
    project.journal.close()


def test_strangers_get_nothing(studio: Studio) -> None:
    client = client_of(studio)
    bare = TestClient(create_app(studio), base_url=BASE)
    assert bare.get("/api/project").status_code == 401
    assert client.get("/api/project", headers={"host": "evil.example"}).status_code == 421
    assert client.get("/api/project", headers={"origin": "http://evil.example"}).status_code == 403
    post = {"url": "/api/categories", "json": {"name": "x"}}
    assert client.post(**post, headers={"origin": "http://evil.example"}).status_code == 403
    assert client_of(studio, origin="").post(**post).status_code == 403
    assert client.post("/api/categories", content="name=x", headers={"content-type": "text/plain"}).status_code == 415
    assert "default-src 'self'" in client.get("/").headers["content-security-policy"]
    small = TestClient(create_app(studio, max_bytes=100), base_url=BASE, headers=client.headers)
    assert small.post("/api/categories", json={"name": "x" * 150}).status_code == 413
    assert client.get("/api/images/99").status_code == 422
    for path in ("/../pyproject.toml", "/%2e%2e/app.py", "/..%2fapp.py"):
        assert client.get(path).status_code in (404, 405)


def test_the_link_opens_once(studio: Studio) -> None:
    with TestClient(create_app(studio), base_url=BASE, follow_redirects=False) as browser:
        first = browser.get("/?token=T")
        assert first.status_code == 303 and "HttpOnly" in first.headers["set-cookie"]
        assert "samesite=strict" in first.headers["set-cookie"].lower()
        assert browser.get("/api/project").status_code == 200
    other = TestClient(create_app(studio), base_url=BASE, follow_redirects=False)
    assert other.get("/?token=T").status_code == 401 and other.get("/api/project").status_code == 401


def test_links_that_lead_out_are_no_images(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    project = Project(folder)
    assert project.names == ["a.png", "broken.png", "sub/b.png"]
    project.journal.close()


def test_thousands_of_images_are_listed_without_reading_them(tmp_path: Path) -> None:
    for i in range(5000):
        (tmp_path / f"{i:04}.png").touch()
    project = Project(tmp_path)
    rows = client_of(Studio(project, key=KEY)).get("/api/images?start=4990&count=200").json()
    assert rows["total"] == 5000 and len(rows["images"]) == 10 and rows["images"][0]["width"] is None
    project.journal.close()


def test_a_killed_server_loses_nothing(folder: Path) -> None:
    httpx = pytest.importorskip("httpx")
    command = [sys.executable, "-m", "eachmask", "studio", str(folder), "--port", "0", "--no-browser"]
    environment = os.environ | {"EACHMASK_KEY": KEY, "PYTHONPATH": str(Path(eachmask.__file__).parents[1])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split("once: ")[1].split("?")[0].rstrip("/")
        headers = {"authorization": f"Bearer {KEY}", "origin": address}
        body = {"revision": 0, "action": {"kind": "add", "category": 1, "rings": [SQUARE]}}
        with httpx.Client(base_url=address, headers=headers, timeout=60) as client:
            for _ in range(100):
                try:
                    answer = client.post("/api/images/0/actions", json=body)
                    break
                except httpx.ConnectError:
                    time.sleep(0.1)
        assert answer.status_code == 200
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    project = Project(folder)
    assert len(project.history(0).objects) == 1 and project.history(0).done
    project.journal.close()


def test_a_mistake_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from eachmask.cli import main

    assert main(["studio", str(tmp_path), "--pixel-size", "0"]) == 2 and "above 0" in capsys.readouterr().err
    assert main(["studio"]) == 2 and "--sample" in capsys.readouterr().err
    assert main(["studio", str(tmp_path / "none")]) == 2 and "is no folder" in capsys.readouterr().err
    assert main(["studio", str(tmp_path)]) == 2 and "holds no images" in capsys.readouterr().err
    for option in ("--clicks", "--model"):
        assert main(["studio", str(tmp_path), option, "nocleus"]) == 2 and "nuclei" in capsys.readouterr().err
    for option, name, why in [
        ("--clicks", "nuclei", "nuclei takes no prompts"),
        ("--clicks", "closed_form", "closed_form takes no prompts"),
        ("--model", "grabcut", "name it as --clicks"),
        ("--model", "closed_form", "finds no single objects"),
    ]:
        assert main(["studio", str(tmp_path), option, name]) == 2 and why in capsys.readouterr().err
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    first = Project(tmp_path)
    assert main(["studio", str(tmp_path), "--port", "0", "--no-browser"]) == 2
    assert "go on in the page of the studio that has it" in capsys.readouterr().err
    first.journal.close()


def test_answers_do_not_wait_for_more_to_be_sent() -> None:
    import asyncio
    import socket

    from eachmask.cli.studio import _listening

    async def delayed() -> bool:
        seen: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        with _listening(0) as listening:
            place = listening.getsockname()

            def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                seen.set_result(writer.get_extra_info("socket"))

            async with await asyncio.start_server(connected, sock=listening):
                _, writer = await asyncio.open_connection(*place)
                found = (await seen).getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                writer.close()
        return not found

    assert not asyncio.run(delayed())


def test_what_a_full_disk_did_not_take_was_not_done(
    folder: Path, studio: Studio, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(client)

    def half(file: int, data: bytes, write: Any = os.write) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(write(file, data[: len(data) // 2]))

    with monkeypatch.context() as full:
        full.setattr("eachmask.files.record_lines.os.write", half)
        refused = act(client, 0, 1, kind="add", category=1, rings=[SQUARE])
        assert refused.status_code == 507 and "space" in refused.json()["detail"]
    assert act(client, 0, 1, kind="review", reviewed=True).json()["revision"] == 2
    studio.project.journal.close()
    again = Project(folder)
    history = again.history(0)
    assert (len(history.objects), history.revision, len(history.done)) == (1, 2, 2) and history.fields["reviewed"]
    again.journal.close()


def test_a_disk_that_is_full_between_two_files_is_not_somebody_elses_change(
    folder: Path, studio: Studio, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(client)
    written: list[Path] = []

    def second_fails(path: Path, content: bytes, write: Any = write_bytes) -> None:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        write(path, content)

    with monkeypatch.context() as full:
        full.setattr("eachmask.studio.save.write_bytes", second_fails)
        assert client.post("/api/save", json={"format": "yolo"}).status_code == 507
    assert client.post("/api/save", json={"format": "yolo"}).status_code == 200


def test_an_image_is_measured_again_only_once_it_was_changed(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def noted(path: Path, **how: Any) -> Any:
        read.append(path)
        return read_image(path, **how)

    monkeypatch.setattr("eachmask.studio.items.read_image", noted)
    add(client)
    add(client, index=2)
    first = client.get("/api/measure").json()
    assert len(read) == 2 and len(first["objects"]) == 2
    assert client.get("/api/measure").json() == first and client.get("/api/export?format=csv").status_code == 200
    assert len(read) == 2
    add(client, revision=1, rings=[HOLE])
    assert [row["area"] for row in client.get("/api/measure").json()["objects"]] == [400, 25, 400]
    assert [path.name for path in read] == ["a.png", "b.png", "a.png"]


def test_measures_are_in_micrometers_where_the_size_of_a_pixel_is_known(folder: Path) -> None:
    project = Project(folder)
    client = client_of(Studio(project, key=KEY, pixel_size=0.5))
    add(client)
    measures = client.get("/api/measure").json()
    assert measures["unit"] == "µm" and measures["objects"][0]["area_um2"] == 100
    head, row = client.get("/api/export?format=csv").text.splitlines()
    assert dict(zip(head.split(","), row.split(","), strict=True))["area_um2"] == "100"
    project.journal.close()


def test_saving_leaves_images_where_they_are(folder: Path, client: TestClient) -> None:
    add(client)
    written = Path(client.post("/api/save", json={"format": "via"}).json()["path"])
    (file,) = written.rglob("via_region_data.json")
    assert not [*written.rglob("*.png")]
    (entry,) = json.loads(file.read_text()).values()
    assert entry["filename"] == "a.png" and entry["size"] == (folder / "a.png").stat().st_size
    (folder / "a.png").unlink()
    assert client.post("/api/save", json={"format": "via", "overwrite": True}).status_code == 200
