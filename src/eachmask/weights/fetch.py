"""From a name to a model file on this machine: bundled, in the cache, or downloaded once.

A download survives a broken connection (it goes on where it stopped, in this run or the next), is checked against
the published SHA-256, and only then takes its final name. Foreign formats become one of our model files at once,
so that everything after this module sees one kind of file.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from eachmask.structures import UserError
from eachmask.weights.catalogue import Entry, bundled, find

CHUNK = 1 << 20
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
ATTEMPTS = 5
"""Connections in a row that may fail without a new byte."""

Progress = Callable[[int, int | None], None]
"""Called with (bytes so far, bytes in all or None where the server does not say)."""


class Broken(OSError):
    """The connection ended early; what has arrived is kept."""


def locate(name_or_path: str | Path) -> Path:
    """The model file of a name, or the given path.

    Raises:
        UserError: no such file, no such name, or the download failed.
    """
    if is_path(name_or_path):
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise UserError(f"the model file {path} does not exist")
        return path
    return bundled().get(str(name_or_path)) or fetch(find(str(name_or_path)))


def is_path(name_or_path: str | Path) -> bool:
    """Whether a model file is meant: it ends in ``.safetensors`` or names a folder on the way; else it is a name."""
    path = Path(name_or_path)
    return path.suffix == ".safetensors" or len(path.parts) > 1


def cache_dir() -> Path:
    """Where downloaded models are kept: ``$EACHMASK_CACHE``, or ``eachmask`` in the user's cache folder."""
    chosen = os.environ.get("EACHMASK_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "eachmask"


def cached(entry: Entry) -> Path | None:
    """The entry's model file, if it is in the cache."""
    path = _target(entry)
    return path if path.is_file() else None


def _target(entry: Entry) -> Path:
    # The digest in the name retires files that were made of older weights.
    return cache_dir() / f"{entry.name}-{entry.sha256[:8]}.safetensors"


def fetch(entry: Entry) -> Path:
    """The entry's model file, downloaded and converted if it is not in the cache.

    Raises:
        UserError: no network, a damaged download, or no room for it.
    """
    target = _target(entry)
    if target.is_file():
        return target
    original = target.parent / entry.url.rsplit("/", 1)[-1]
    try:
        with _one_at_a_time(target):
            if not target.is_file():  # another process may have been faster
                print(f"Fetching {entry.name} ({entry.size_mb:.0f} MB) from {entry.host}", file=sys.stderr)
                digest = download(entry.url, original, entry.sha256)
                _convert(entry, original, digest, target)
                original.unlink()
    except Broken as error:
        raise UserError(
            f"the weights of {entry.name} ({entry.size_mb:.0f} MB) are not on this machine and {entry.host} cannot "
            f"be reached ({error}): try again with a network, or use what works without one: "
            f"{', '.join(bundled()) or 'a model file of your own'}"
        ) from error
    except OSError as error:
        raise UserError(
            f"the weights of {entry.name} cannot be stored in {target.parent} ({error.strerror or error}): "
            "make room there or set EACHMASK_CACHE to another folder"
        ) from error
    return target


def download(url: str, target: Path, sha256: str, progress: Progress | None = None) -> str:
    """Get ``url`` into ``target``, going on from an earlier unfinished attempt.

    Args:
        sha256: hexadecimal digest of the file, or its leading digits where no more is published.
        progress: by default a bar on standard error, if that is a terminal.

    Returns:
        the file's whole SHA-256.

    Raises:
        UserError: the server refuses, or sends other bytes than the published ones.
        Broken: the connection failed too often; the part that has arrived stays for the next time.
        OSError: the file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    resumed = part.exists()
    with contextlib.nullcontext(progress) if progress else _bar(target.name) as report:
        _receive(url, part, report)
        digest = _sha256(part)
        if resumed and not digest.startswith(sha256):  # what was there may be of another file
            part.unlink()
            _receive(url, part, report)
            digest = _sha256(part)
    if not digest.startswith(sha256):
        part.unlink()
        raise UserError(
            f"{url} does not have the published checksum (SHA-256 {sha256}..., got {digest[:16]}...), so it was "
            "deleted: try again; if it stays so, the file was changed at its source or on its way"
        )
    os.replace(part, target)
    return digest


def _receive(url: str, part: Path, progress: Progress) -> None:
    """Fill ``part`` to its end over as many connections as it takes."""
    failures = 0
    while True:
        before = _size(part)
        try:
            _one_connection(url, part, progress)
            return
        except (OSError, http.client.HTTPException) as error:
            reason = _give_up(error, url)
            failures = 0 if _size(part) > before else failures + 1
            # Nothing at all, not even a refusal: most likely there is no network, so say so at once.
            offline = not _size(part) and not isinstance(error, urllib.error.HTTPError)
            if offline or failures >= ATTEMPTS:
                raise Broken(reason) from error
            time.sleep(min(0.1 * 2**failures, 5.0))


def _one_connection(url: str, part: Path, progress: Progress) -> None:
    """Ask for what is missing and append it; raises where the connection ends early."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "eachmask"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        reply = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: the part is as long as the file, or longer
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return
        part.unlink()
        return _one_connection(url, part, progress)
    with reply:
        if have and reply.status != 206:  # the server does not know ranges: from the start
            have = 0
        length = reply.headers.get("Content-Length")
        total = have + int(length) if length else None
        with open(part, "ab" if have else "wb") as file:
            while chunk := reply.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                progress(have, total)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and have < total:
        raise Broken(f"the connection ended after {have} of {total} bytes")


def _give_up(error: Exception, url: str) -> str:
    """The reason in words; errors that another attempt cannot mend are raised from here.

    Raises:
        UserError: the server's answer is no.
        OSError: the trouble is with this machine's disk, not with the network.
    """
    if isinstance(error, urllib.error.HTTPError):
        if error.code < 500 and error.code not in (408, 429):
            raise UserError(f"the server refuses {url} ({error.code} {error.reason})") from error
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(getattr(error.reason, "strerror", None) or error.reason)
    if isinstance(error, Broken | ConnectionError | TimeoutError | http.client.HTTPException):
        return str(error) or type(error).__name__
    raise error


def _convert(entry: Entry, original: Path, digest: str, target: Path) -> None:
    """The source's checkpoint -> one model file."""
    import pickle

    import torch

    from eachmask import models
    from eachmask.weights.file import save_model
    from eachmask.weights.renaming import fill

    try:
        state = torch.load(original, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise UserError(f"{entry.url} holds something else than plain weights, so it was not read") from error
    model = models.variant(entry.name)(num_classes=len(entry.categories), **entry.config)
    fill(model, importlib.import_module(f"eachmask.weights.{entry.converter}").convert(state))
    save_model(target, model, entry.info(digest))


@contextlib.contextmanager
def _one_at_a_time(target: Path) -> Iterator[None]:
    """Let one process fetch while others wait, where the system has file locks."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows: two processes may both fetch; the last one's complete file stays
        yield
        return
    with open(target.with_name(target.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Progress]:
    """A progress bar with speed and time left on standard error."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
