from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_model import Spots, spots_image, spots_info

from eachmask.data.images.inputs import find_inputs
from eachmask.data.images.url import fetch, is_url, place
from eachmask.inference.predictor import Predictor
from eachmask.structures import UserError


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/ftp":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/x.png")
            self.end_headers()
            return
        self.send_response(200 if self.path in ("/a%20b.png", "/large", "/slow") else 404)
        self.end_headers()
        if self.path == "/a%20b.png":
            buffer = BytesIO()
            Image.fromarray(spots_image(3)).save(buffer, "PNG")
            self.wfile.write(buffer.getvalue())
        elif self.path == "/large":
            self.wfile.write(bytes(300_000))
        elif self.path == "/slow":
            for _ in range(20):
                self.wfile.write(b".")
                time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_url_is_an_image(server: str) -> None:
    predictor = Predictor(Spots(), spots_info(), device="cpu", precision="fp32")
    found, same = predictor.predict(f"{server}/a%20b.png"), predictor.predict(spots_image(3))
    assert len(found) == len(same) > 2 and np.array_equal(found.render(), same.render())
    assert len(predictor.predict([f"{server}/a%20b.png", spots_image(3)])) == 2


def test_what_is_no_sound_answer_is_refused(server: str) -> None:
    assert len(fetch(f"{server}/large")) == 300_000
    with pytest.raises(UserError, match="large is larger than 0 MB: download it"):
        fetch(f"{server}/large", max_bytes=100_000)
    with pytest.raises(UserError, match="did not come within 0.3 seconds"):
        fetch(f"{server}/slow", timeout=0.3)
    with pytest.raises(UserError, match=r"none\.png cannot be fetched \(Not Found\)"):
        fetch(f"{server}/none.png")
    with pytest.raises(UserError, match="/ftp cannot be fetched"):
        fetch(f"{server}/ftp")
    with pytest.raises(UserError, match="is no http or https address"):
        fetch("file:///etc/passwd")


def test_addresses_among_the_inputs_only_where_they_are_let_in(server: str, tmp_path: Path) -> None:
    good, bad = f"{server}/a%20b.png", f"{server}/none.png"
    found = find_inputs([good, bad], downloads=tmp_path).sources
    assert [Path(source.name).name for source in found] == ["a b.png", "none.png"]
    assert not found[0].problem and "was not fetched" in found[1].problem and found[0].path.is_file()
    with pytest.raises(UserError, match="does not exist$"):
        find_inputs([good])


def test_files_of_addresses_stay_in_their_folder(tmp_path: Path) -> None:
    for url in ("http://x/../../..", "http://x/%2e%2e", "http://x/a/..%2f..%2fb.png", "http://x", "http://x/?a=/b.png"):
        assert is_url(url) and place(url, tmp_path).parent.parent == tmp_path
        assert place(url, tmp_path).name not in ("", ".", "..")
