"""Downloads, against a server on this machine that misbehaves on request."""

from __future__ import annotations

import hashlib
import http.server
import os
import pickle
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import detection

from eachmask import models
from eachmask.structures import Preprocess, UserError
from eachmask.weights import download, fetch
from eachmask.weights.catalogue import Entry, bundled, find, followers
from eachmask.weights.file import ModelInfo, load_model, read_info, save_model

CONTENT = np.random.default_rng(0).bytes(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server holds, how it behaves, and what it was asked."""

    content: bytes = CONTENT
    ranges: bool = True
    breaks_after: list[int] = field(default_factory=list)
    """Bytes that each of the next answers sends before it hangs up."""
    statuses: list[int] = field(default_factory=list)
    """Status codes of the next answers, instead of the content."""
    asked: list[str | None] = field(default_factory=list)
    """The Range header of every request."""
    url: str = ""


def handler_for(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.asked.append(asked)
            if server.statuses:
                self.send_error(server.statuses.pop(0))
                return
            first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
            if first and first >= len(server.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.content)}")
                self.end_headers()
                return
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(server.content) - first))
            self.end_headers()
            end = first + server.breaks_after.pop(0) if server.breaks_after else None
            self.wfile.write(server.content[first:end])

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler_for(state))
    thread = threading.Thread(target=http_server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http_server.server_address[1]}/weights-0123.pth"
    yield state
    http_server.shutdown()
    http_server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the user's cache or leaves this machine."""
    monkeypatch.setenv("EACHMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    return tmp_path / "cache"


def closed_url() -> str:
    """An address on this machine where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/weights.pth"


# download -----------------------------------------------------------------------------------------


def test_whole_download(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "new folder" / "w.pth"
    assert download.download(server.url, target, DIGEST, lambda *at: seen.append(at)) == DIGEST
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and len(seen) > 1
    assert os.listdir(target.parent) == ["w.pth"]


def test_published_prefix_is_enough_and_is_checked(server: Server, tmp_path: Path) -> None:
    assert download.download(server.url, tmp_path / "w", DIGEST[:8]) == DIGEST
    with pytest.raises(UserError, match="checksum"):
        download.download(server.url, tmp_path / "v", "00000000")
    assert os.listdir(tmp_path) == ["w"], "nothing of a wrong file stays"


def test_broken_connections_are_continued(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [1_000_000, 500_000]
    download.download(server.url, tmp_path / "w", DIGEST)
    assert server.asked == [None, "bytes=1000000-", "bytes=1500000-"]
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_next_run_continues(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.part").write_bytes(CONTENT[:2_000_000])
    download.download(server.url, tmp_path / "w", DIGEST)
    assert server.asked == ["bytes=2000000-"]
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges, server.breaks_after = False, [1_000_000]
    download.download(server.url, tmp_path / "w", DIGEST)
    assert server.asked == [None, "bytes=1000000-"]
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_finished_part_needs_no_byte_more(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.part").write_bytes(CONTENT)
    download.download(server.url, tmp_path / "w", DIGEST)
    assert server.asked == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("stale", [b"of another file" * 1000, CONTENT + b"too long"])
def test_stale_part_is_replaced(server: Server, tmp_path: Path, stale: bytes) -> None:
    (tmp_path / "w.part").write_bytes(stale)
    download.download(server.url, tmp_path / "w", DIGEST)
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    download.download(server.url, tmp_path / "w", DIGEST)
    assert len(server.asked) == 3


def test_refusal_is_final(server: Server, tmp_path: Path) -> None:
    server.statuses = [404]
    with pytest.raises(UserError, match="refuses .*404"):
        download.download(server.url, tmp_path / "w", DIGEST)
    assert len(server.asked) == 1


def test_gives_up_and_keeps_what_came(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [1_000_000] + [0] * download.MAX_ATTEMPTS
    with pytest.raises(download.Broken, match="1000000 of 3000000"):
        download.download(server.url, tmp_path / "w", DIGEST)
    assert (tmp_path / "w.part").stat().st_size == 1_000_000


# fetch --------------------------------------------------------------------------------------------


@pytest.fixture
def entry(server: Server, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """An entry of the catalogue that the test's server has, with a light network in place of the big one."""
    plain = {"weight": torch.arange(3.0)}
    file = Path(os.environ["EACHMASK_CACHE"]).parent / "plain.pth"
    torch.save(plain, file)
    server.content = file.read_bytes()
    monkeypatch.setattr(models, "variant", lambda name: lambda num_classes, **config: TinyModel())
    monkeypatch.setattr("eachmask.weights.from_torchvision.convert", lambda state: dict(state))
    digest = hashlib.sha256(server.content).hexdigest()
    return replace(find("mask_rcnn_r50_fpn"), url=server.url, sha256=digest[:8])


class TinyModel(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))


def test_fetch_converts_and_caches(server: Server, entry: Entry, own_cache: Path) -> None:
    path = fetch.fetch(entry)
    info = read_info(path)
    assert info.variant == info.name == entry.name and info.config == {"norm_eps": 0.0}
    assert info.training["sha256"] == hashlib.sha256(server.content).hexdigest()
    assert fetch.cached(entry) == path == fetch.fetch(entry)
    assert len(server.asked) == 1, "the second time comes from the cache"
    assert not list(own_cache.glob("*.pth*")), "the original is not kept twice"
    model, _ = load_model(path)
    assert model.weight.tolist() == [0, 1, 2]


def test_a_damaged_cache_is_fetched_again(server: Server, entry: Entry) -> None:
    path = fetch.fetch(entry)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # one bit of one weight
    assert fetch.fetch(entry).read_bytes() == whole
    assert len(server.asked) == 2


def test_a_damaged_cache_without_a_network_is_named(entry: Entry) -> None:
    path = fetch.fetch(entry)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="mask_rcnn_r50_fpn"):
        fetch.fetch(replace(entry, url=closed_url()))


def test_new_weights_do_not_meet_the_old_cache(entry: Entry) -> None:
    fetch.fetch(entry)
    assert fetch.cached(replace(entry, sha256="ffff0000")) is None


def test_offline_is_one_helpful_sentence(entry: Entry) -> None:
    with pytest.raises(UserError) as caught:
        fetch.fetch(replace(entry, url=closed_url()))
    said = str(caught.value)
    assert "mask_rcnn_r50_fpn (178 MB)" in said and "127.0.0.1" in said and "\n" not in said
    assert all(name in said for name in bundled())


def test_checkpoint_with_code_is_refused(server: Server, entry: Entry, own_cache: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(own_cache / "broken in"),)

    server.content = pickle.dumps(Attack())
    with pytest.raises(UserError, match="plain weights"):
        fetch.fetch(replace(entry, sha256=hashlib.sha256(server.content).hexdigest()))
    assert not (own_cache / "broken in").exists()
    assert fetch.cached(entry) is None


def test_cache_that_cannot_be_written(entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EACHMASK_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="EACHMASK_CACHE"):
        fetch.fetch(entry)


def test_waiting_process_finds_the_file(server: Server, entry: Entry) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch.fetch(entry))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 4 and len(server.asked) == 1


def test_official_checkpoint_end_to_end(server: Server, tmp_path: Path) -> None:
    """A checkpoint as torchvision publishes it -> by name -> a model with the same numbers in it."""
    theirs = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    server.content = (tmp_path / "theirs.pth").read_bytes()
    entry = replace(find("faster_rcnn_r50_fpn"), url=server.url, sha256=hashlib.sha256(server.content).hexdigest()[:8])
    model, info = load_model(fetch.fetch(entry))
    assert model.num_classes == 90 == len(info.categories) and info.preprocess == Preprocess()
    scores = theirs.roi_heads.box_predictor.cls_score.weight
    assert torch.equal(model.box_predictor.classes.weight, torch.roll(scores, -1, 0)), "background comes last here"


# locate -------------------------------------------------------------------------------------------


def test_locate_a_path(tmp_path: Path) -> None:
    path = save_model(tmp_path / "mine.safetensors", TinyModel(), ModelInfo("mask_rcnn_r50_fpn"))
    assert fetch.locate(path) == fetch.locate(str(path)) == path


@pytest.mark.parametrize("missing", ["absent.safetensors", "folder/absent", Path("a/b.safetensors")])
def test_locate_names_a_missing_file(missing: str | Path) -> None:
    with pytest.raises(UserError, match=f"{Path(missing).name} does not exist"):
        fetch.locate(missing)


def test_locate_the_folder_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_model(tmp_path / "mine" / "model.safetensors", TinyModel(), ModelInfo("mask_rcnn_r50_fpn"))
    assert fetch.locate(path.parent) == fetch.locate(str(path.parent)) == path
    monkeypatch.chdir(tmp_path)
    assert fetch.locate("mine") == Path("mine/model.safetensors")
    (tmp_path / "nuclei").mkdir()
    assert fetch.locate("nuclei") == bundled()["nuclei"], "a model's name stays a name"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"the folder empty holds no model\.safetensors"):
        fetch.locate("empty")


def test_locate_an_unknown_name() -> None:
    with pytest.raises(UserError, match="did you mean mask_rcnn_r50_fpn_v2"):
        fetch.locate("maskrcnn_r50_fpn_v2")


@pytest.mark.parametrize("name", sorted(bundled()))
def test_bundled_needs_no_network(name: str, own_cache: Path) -> None:
    assert fetch.locate(name) == bundled()[name]
    assert not own_cache.exists()


def test_cache_folder_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EACHMASK_CACHE", "~/models")
    assert fetch.cache_dir() == Path.home() / "models"
    monkeypatch.delenv("EACHMASK_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert fetch.cache_dir() == Path.home() / ".cache" / "eachmask"


# what is read as it is published ------------------------------------------------------------------


def test_a_checkpoint_stays_as_it_is_published(server: Server, own_cache: Path) -> None:
    known = replace(followers()["xmem"], url=server.url, sha256=DIGEST)
    path = fetch.fetch_checkpoint(known)
    assert path.read_bytes() == CONTENT and path == fetch.checkpoint_file(known)
    assert fetch.fetch_checkpoint(known) == path and len(server.asked) == 1, "it is fetched once"
    path.write_bytes(CONTENT[:-1] + b"!")
    assert fetch.fetch_checkpoint(known).read_bytes() == CONTENT and len(server.asked) == 2, "and again when it rots"
    with pytest.raises(UserError, match="published checksum"):
        fetch.fetch_checkpoint(replace(known, sha256="0" * 64))


def test_a_checkpoint_without_a_network() -> None:
    with pytest.raises(UserError, match=r"weights of xmem \(249 MB\) are not on this machine"):
        fetch.fetch_checkpoint(replace(followers()["xmem"], url=closed_url()))


def test_what_follows_is_told_from_what_finds() -> None:
    with pytest.raises(UserError, match="eachmask track VIDEO --first MASKS --model xmem"):
        find("xmem")
    assert followers()["sam2_hiera_t"].sha256 == find("sam2_hiera_t").sha256
    assert all(len(known.sha256) == 64 for known in followers().values())
    assert "MIT" in followers()["xmem"].card()
