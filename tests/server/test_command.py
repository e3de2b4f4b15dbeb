"""``eachmask serve`` as a user starts and ends it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from skimage import data

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")
pytest.importorskip("httpx", reason="the extra `serve` is not installed")

from eachmask.server.client import Client, ServerError, content_of  # noqa: E402 (after the extra is known to be there)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def started(*options: str) -> tuple[subprocess.Popen[str], int, str]:
    """A server, its port and its key."""
    port = free_port()
    command = [sys.executable, "-m", "eachmask", "serve", "nuclei", "--device", "cpu", "--port", str(port), *options]
    environment = {name: value for name, value in os.environ.items() if name != "EACHMASK_KEY"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    said = [process.stdout.readline(), process.stdout.readline()]
    assert f"http://127.0.0.1:{port}/" in said[0]
    return process, port, re.fullmatch(r"Key: (\S{32,})\n", said[1])[1]


def until_ready(client: Client) -> None:
    for _ in range(1200):
        try:
            client.models()
            return
        except ServerError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


def test_a_request_that_runs_is_answered_before_it_ends() -> None:
    process, port, key = started()
    image = content_of(data.coins())
    head = ["POST /predict HTTP/1.1", "Host: localhost", f"Authorization: Bearer {key}", "Connection: close"]
    head += [f"Content-Length: {len(image)}", "Expect: 100-continue", "", ""]
    with process, Client(f"http://127.0.0.1:{port}", key) as client:
        until_ready(client)
        with socket.create_connection(("127.0.0.1", port), timeout=120) as line:
            line.sendall("\r\n".join(head).encode())
            assert b"100" in line.recv(1000), "the server has begun with it"
            process.send_signal(signal.SIGTERM)
            line.sendall(image)
            answer = b"".join(iter(lambda: line.recv(1 << 16), b""))
        assert process.wait(120) in (0, -signal.SIGTERM)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"segmentation") > 10


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced() -> None:
    import psutil

    process, port, key = started("--workers", "2")
    with process, Client(f"http://127.0.0.1:{port}", key) as client:
        until_ready(client)
        # The workers are the children that hold a network.
        worker = max(psutil.Process(process.pid).children(), key=lambda child: child.memory_info().rss)
        worker.kill()
        time.sleep(1)
        until_ready(client)
        assert len(client.predict(data.coins())) > 10
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--port", "99999"], "--port is a number"),
        (["--certificate", "none.pem"], "both --certificate and --private-key"),
        (["--keys", "none.txt"], "none.txt cannot be read"),
        (["--host", "no.such.host.invalid"], "cannot listen on"),
    ],
)
def test_wrong_calls_are_sentences(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    from eachmask.cli import main

    assert main(["serve", "nuclei", *options]) == 2
    assert words in capsys.readouterr().err
    assert main(["serve", "no-such-model", "--port", str(free_port())]) == 2
    assert "no-such-model" in capsys.readouterr().err
