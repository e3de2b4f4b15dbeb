"""The server's application as a deployment of Ray Serve, on a cluster of this machine alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from skimage import data

import eachmask

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
serve = pytest.importorskip("ray.serve", reason="ray[serve] is not installed", exc_type=ImportError)

from eachmask.server.client import Client, ServerError  # noqa: E402 (after the extras are known to be there)
from eachmask.server.on_ray import deployment  # noqa: E402
from eachmask.server.settings import ServerSettings  # noqa: E402

KEY = "a key that nobody can guess"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = ServerSettings(("nuclei",), (KEY,), device="cpu", precision="fp32", embeddings=str(tmp_path))
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200_000_000, logging_level="error")
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(deployment(settings, replicas=2, ray_actor_options={"num_cpus": 0.5}), route_prefix="/")
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.mark.slow
def test_replicas_answer_as_the_predictor_does(address: str) -> None:
    image = data.coins()[:150, :200]
    number = len(eachmask.load("nuclei", device="cpu", precision="fp32").predict(image))
    with Client(address, KEY, seconds=300) as client, ThreadPoolExecutor(6) as pool:
        assert [model["name"] for model in client.models()] == ["nuclei"]
        assert [len(one) for one in pool.map(lambda _: client.predict(image), range(12))] == [number] * 12
    with Client(address, "wrong") as stranger, pytest.raises(ServerError, match="show a key"):
        stranger.models()
