"""A server answers what a predictor on this machine answers, and refuses what it should."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data as images

import eachmask
from eachmask.structures import Prompts

uvicorn = pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
httpx = pytest.importorskip("httpx", reason="the extra `serve` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")


from eachmask.server.app import create_app  # noqa: E402 (after the extra is known to be there)
from eachmask.server.client import Client, ServerError, content_of, instances_of  # noqa: E402
from eachmask.server.settings import Limits, ServerSettings  # noqa: E402

KEY = "a key that nobody can guess"
COINS = images.coins()[:150, :200]
CAT = images.chelsea()[::2, ::2]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in a thread of this process, as ``eachmask serve`` runs it."""
    folder = tmp_path_factory.mktemp("embeddings")
    settings = ServerSettings(
        ("nuclei", "clicks"), ("another key of this server", KEY), device="cpu", precision="fp32",
        embeddings=str(folder), limits=Limits(max_bytes=300_000, max_pixels=200_000),
    )  # fmt: skip
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(settings), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def server(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Client]:
    with Client(url, KEY) as client:
        yield client


@pytest.fixture(scope="module")
def nuclei() -> Any:
    return eachmask.load("nuclei", device="cpu", precision="fp32")


def same(found: eachmask.Instances, wanted: eachmask.Instances) -> None:
    """Up to the digits that files have."""
    assert len(found) == len(wanted) > 0
    assert (found.boxes - wanted.boxes).abs().max() < 0.02  # two digits of a corner and of a side
    assert (found.scores - wanted.scores).abs().max() < 1e-5
    assert found.label_names == wanted.label_names
    assert (found.masks.area() == wanted.masks.area()).all()


def test_the_answer_is_the_predictors(client: Client, nuclei: Any) -> None:
    same(client.predict(COINS, score=0.6), nuclei.predict(COINS, score=0.6))


def test_many_clients_at_once_get_their_own_answers(client: Client, nuclei: Any) -> None:
    windows = [COINS[y : y + 100, x : x + 100] for y in (0, 50) for x in (0, 50, 100)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(client.predict, windows))
    for mine, window in zip(found, windows, strict=True):
        same(mine, nuclei.predict(window))


def test_formats_are_those_of_predict(client: Client, server: httpx.Client) -> None:
    assert Image.open(io.BytesIO(client.predict_as(COINS, "overlay"))).size == (200, 150)
    labels = np.asarray(Image.open(io.BytesIO(client.predict_as(COINS, "labels"))))
    assert labels.max() == len(client.predict(COINS))
    assert json.loads(client.predict_as(COINS, "geojson"))["type"] == "FeatureCollection"
    assert zipfile.ZipFile(io.BytesIO(client.predict_as(COINS, "crops"))).namelist()
    assert client.predict_as(COINS, "csv").startswith(b"image,")


def test_a_session_answers_as_one_on_this_machine_does(client: Client) -> None:
    session = client.look_at(CAT)
    own = eachmask.load("clicks", device="cpu", precision="fp32").look_at(CAT)
    points, boxes = [[100.0, 70.0], [10.0, 10.0]], [[40.0, 20.0, 200.0, 140.0]]
    same(
        session.predict(points, [True, False]), own.predict(Prompts(CAT.shape[:2], points=points, signs=[True, False]))
    )
    same(session.predict(boxes=boxes), own.predict(Prompts(CAT.shape[:2], boxes=boxes)))
    assert len(session.predict(points[:1], boxes=boxes)) == 2, "points and a box are two objects"


def test_a_forgotten_image_is_to_be_sent_again(client: Client, server: httpx.Client) -> None:
    for key in ("0" * 64, "../../etc/passwd", "x"):
        answer = server.post(f"/sessions/{key}/predict", json={"points": [[1, 1]]})
        assert answer.status_code == 404


@pytest.mark.parametrize(
    "content, status, words",
    [
        (b"", 422, "empty"),
        (b"not an image at all", 422, "the image is not an image in a known format"),
        (content_of(COINS)[:2000], 422, "damaged"),
        (b"\x89PNG" + bytes(300_000), 413, "0.3 MB at most"),
        (content_of(np.zeros((500, 500, 3), np.uint8)), 422, "pixels"),
    ],
)
def test_bodies_that_are_refused(server: httpx.Client, content: bytes, status: int, words: str) -> None:
    answer = server.post("/predict", content=content)
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert "/tmp" not in answer.text


def test_a_body_of_unknown_length_is_bounded_too(server: httpx.Client) -> None:
    answer = server.post("/predict", content=(bytes(10_000) for _ in range(100)))
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "query, status, words",
    [
        ("model=objects", 404, "no model 'objects' is served"),
        ("format=yolo", 422, "no format 'yolo'"),
        ("score=2", 422, ""),
        ("classes=unicorn", 422, "unicorn"),
        ("max_detections=0", 422, ""),
    ],
)
def test_wishes_that_are_refused(server: httpx.Client, query: str, status: int, words: str) -> None:
    answer = server.post(f"/predict?{query}", content=content_of(COINS))
    assert answer.status_code == status
    assert words in answer.text


@pytest.mark.parametrize(
    "question, words",
    [({}, "no prompt"), ({"points": [[900, 1]]}, "outside"), ({"points": [[1, 1]], "signs": [True, True]}, "2 signs")],
)
def test_questions_that_mean_nothing(server: httpx.Client, question: dict[str, Any], words: str) -> None:
    session = server.post("/sessions", content=content_of(CAT)).json()["session"]
    answer = server.post(f"/sessions/{session}/predict", json=question)
    assert answer.status_code == 422
    assert words in answer.json()["error"]


NO_KEY = ({"Authorization": ""}, {"Authorization": "Bearer wrong"}, {"X-API-Key": "", "Authorization": "Basic x"})


@pytest.mark.parametrize("headers", NO_KEY)
@pytest.mark.parametrize("path", ["/models", "/metrics", "/", "/openapi.json"])
def test_who_shows_no_key_gets_nothing(server: httpx.Client, headers: dict[str, str], path: str) -> None:
    assert server.get(path, headers=headers).status_code == 401


def test_another_header_takes_the_key_too(server: httpx.Client) -> None:
    assert server.get("/models", headers={"Authorization": "", "X-API-Key": KEY}).status_code == 200


def test_pages_of_others_cannot_use_it(server: httpx.Client) -> None:
    assert server.get("/health", headers={"Host": "evil.example"}).status_code == 421
    assert server.get("/models", headers={"Origin": "http://evil.example"}).status_code == 403
    assert server.get("/models", headers={"Origin": str(server.base_url).rstrip("/")}).status_code == 200


def test_an_operator_sees_how_it_is_doing(server: httpx.Client) -> None:
    assert server.get("/health", headers={"Authorization": ""}).json()["status"] == "alive"
    assert server.get("/ready", headers={"Authorization": ""}).json() == {"status": "ready"}
    server.post("/predict", content=content_of(COINS), headers={"X-Request-ID": "mine-1"})
    text = server.get("/metrics").text
    assert 'eachmask_requests_total{method="POST",route="/predict",status="200"}' in text
    assert "eachmask_images_total" in text
    assert server.get("/health", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert server.get("/health", headers={"X-Request-ID": "a b<c>"}).headers["x-request-id"] != "a\x1b[31m"


def test_a_model_is_read_anew_without_a_gap(server: httpx.Client) -> None:
    assert server.post("/models/reload?model=nuclei").json() == {"reloaded": "nuclei"}
    assert server.post("/models/reload?model=objects").status_code == 404
    assert server.post("/predict", content=content_of(COINS)).status_code == 200


def test_the_page_lists_every_route(server: httpx.Client) -> None:
    page = server.get("/").text
    assert all(path in page for path in server.get("/openapi.json").json()["paths"])


def test_the_client_says_what_went_wrong(client: Client) -> None:
    with pytest.raises(ServerError, match="404.*no model 'objects'") as caught:
        client.predict(COINS, model="objects")
    assert caught.value.status == 404
    with pytest.raises(eachmask.UserError, match="nowhere.png cannot be read"):
        client.predict(Path("nowhere.png"))
    with pytest.raises(ServerError, match="cannot be reached"):
        Client("http://127.0.0.1:9", KEY).models()


def test_no_objects_are_an_answer(client: Client) -> None:
    assert len(client.predict(np.zeros((64, 64, 3), np.uint8))) == 0
    content = {"images": [{"width": 4, "height": 3}], "annotations": [], "categories": []}
    assert instances_of(content).image_size == (3, 4)


def test_the_process_with_the_connections_needs_no_torch() -> None:
    """With ``--workers`` it would be half a gigabyte for nothing."""
    code = "import sys, eachmask.cli.serve, eachmask.server.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
