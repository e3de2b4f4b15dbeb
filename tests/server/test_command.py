"""``eachmask serve`` as a user starts and ends it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

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


def started(*options: str, scheme: str = "http") -> tuple[subprocess.Popen[str], int, str]:
    """A server, its port and its key."""
    port = free_port()
    command = [sys.executable, "-m", "eachmask", "serve", "nuclei", "--device", "cpu", "--port", str(port), *options]
    environment = {name: value for name, value in os.environ.items() if name != "EACHMASK_KEY"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    said = [process.stdout.readline(), process.stdout.readline()]
    assert f"{scheme}://127.0.0.1:{port}/" in said[0]
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


def status_of(client: Client) -> int:
    """Of a request; 0 is a connection that was cut."""
    try:
        assert len(client.predict(data.coins())) > 10
    except ServerError as error:
        return error.status
    return 200


@pytest.mark.slow
def test_a_killed_worker_loses_the_request_that_it_ran_and_no_other() -> None:
    process, port, key = started("--workers", "2", "--batch", "1", "--seconds", "600")
    with Client(f"http://127.0.0.1:{port}", key, seconds=600) as client:
        try:
            until_ready(client)
            until(client, "eachmask_workers 2.0")
            first, second = workers_of(process.pid)
            first.suspend()
            second.suspend()
            with ThreadPoolExecutor(6) as pool:
                asked = [pool.submit(status_of, client) for _ in range(6)]
                until(client, "eachmask_waiting 4.0")  # so that each worker runs one
                first.kill()
                second.resume()
                assert sorted(one.result() for one in asked) == [200] * 5 + [502]
            for worker in workers_of(process.pid):
                worker.kill()
                worker.wait(60)  # until then it may be given a request
            until_ready(client)
            assert status_of(client) == 200, "others have taken their places"
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) in (0, -signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="nothing here makes a certificate")
def test_a_certificate_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, private = tmp_path / "server.pem", tmp_path / "server.key"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(private), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    process, port, key = started("--certificate", str(certificate), "--private-key", str(private), scheme="https")
    try:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with Client(f"https://127.0.0.1:{port}", key) as client:
            until_ready(client)
            assert status_of(client) == 200
        monkeypatch.delenv("SSL_CERT_FILE")
        with Client(f"https://127.0.0.1:{port}", key) as client, pytest.raises(ServerError, match="CERTIFICATE"):
            client.models()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) in (0, -signal.SIGTERM)


@pytest.mark.slow
def test_an_idle_connection_outlives_those_that_clients_keep() -> None:
    """httpx keeps one for 5 seconds: a server that closed it just then would lose the request that is on its way."""
    process, port, key = started()
    try:
        with Client(f"http://127.0.0.1:{port}", key) as client:
            until_ready(client)
        line = HTTPConnection("127.0.0.1", port, timeout=60)
        line.connect()
        line.auto_open = 0  # no second connection behind our back
        for pause in (7, 0):
            line.request("GET", "/health")
            assert b"alive" in line.getresponse().read()
            time.sleep(pause)
        line.close()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) in (0, -signal.SIGTERM)


def workers_of(server: int) -> list[Any]:
    """The processes that compute."""
    import psutil

    return [child for child in psutil.Process(server).children() if "spawn_main" in " ".join(child.cmdline())]


def until(client: Client, line: str) -> None:
    """Until the server's counters say so."""
    for _ in range(1200):
        if line in client._send("GET", "/metrics").text:
            return
        time.sleep(0.5)
    raise AssertionError(f"the server never said {line}")


@pytest.mark.parametrize(
    "options, words",
    [
        (["--port", "99999"], "--port is a number"),
        (["--certificate", "none.pem"], "both --certificate and --private-key"),
        (["--keys", "none.txt"], "none.txt cannot be read"),
        (["--certificate", __file__, "--private-key", "none.pem"], "none.pem is no file"),
        (["--certificate", __file__, "--private-key", __file__], "are not a certificate and its private key"),
        (["--host", "no.such.host.invalid"], "cannot listen on"),
    ],
)
def test_wrong_calls_are_sentences(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    from eachmask.cli import main

    assert main(["serve", "nuclei", *options]) == 2
    assert words in capsys.readouterr().err
    assert main(["serve", "no-such-model", "--port", str(free_port())]) == 2
    assert "no-such-model" in capsys.readouterr().err
