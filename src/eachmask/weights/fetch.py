"""Getting weights by name: bundled, from the cache, or downloaded once.

A download goes to a ``.part`` file, continues where a broken one stopped, is checked against its SHA-256, converted and
kept as one of our model files; the foreign file is then removed. Foreign pickles are only read with
``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

from eachmask.structures import UserError
from eachmask.weights.catalogue import Entry, bundled, find
from eachmask.weights.file import save_model

CHUNK = 1 << 20
TIMEOUT = 30.0
"""Seconds without an answer after which a server counts as out of reach."""


def cache_folder() -> Path:
    """``$EACHMASK_CACHE``, or the user's cache directory."""
    chosen = os.environ.get("EACHMASK_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "eachmask"


def locate(name_or_path: str | Path) -> Path:
    """The model file of a name or path; downloads it when it must.

    Raises:
        UserError: no such model, out of reach, or the download does not match its checksum.
    """
    if is_path(name_or_path):
        return Path(name_or_path)  # reading it says what is wrong with it
    found = find(str(name_or_path))
    if isinstance(found, Path):
        return found
    converted = _cache_file(found)
    if not converted.is_file():
        _convert(found, fetch(found), converted)
    return converted


def is_path(name_or_path: str | Path) -> bool:
    """Whether a model file is meant, rather than a name."""
    path = Path(name_or_path)
    return path.suffix == ".safetensors" or path.is_file()


def cached(entry: Entry) -> bool:
    """Whether a download is already here, converted."""
    return _cache_file(entry).is_file()


def _cache_file(entry: Entry) -> Path:
    return cache_folder() / f"{entry.name}-{entry.sha256[:8]}.safetensors"


def fetch(entry: Entry) -> Path:
    """Download a checkpoint into the cache, checked; an earlier part is continued.

    Raises:
        UserError: the server is out of reach, or what it sent is not what the catalogue expects.
    """
    target = cache_folder() / "downloads" / entry.url.rsplit("/", 1)[1]
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        _download(entry, part)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{entry.name} is not on this machine and {entry.url} is out of reach ({reason}); "
            f"without a network these work: {', '.join(bundled()) or 'model files given by path'}"
        ) from error
    digest = _sha256(part)
    if not digest.startswith(entry.sha256):
        part.unlink()
        raise UserError(
            f"what {entry.url} sent has SHA-256 {digest[:16]}..., expected {entry.sha256}...: "
            "the download was discarded; try again, and if it happens twice do not trust the source"
        )
    os.replace(part, target)
    return target


def _download(entry: Entry, part: Path) -> None:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(entry.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310 - the catalogue's own https addresses
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: there is nothing after what we have, so it is all here
            raise
        return
    with answer:
        resumed = answer.status == 206
        have = have if resumed else 0  # a server that ignores Range sends the file from its beginning
        total = have + int(answer.headers.get("Content-Length") or 0)
        columns = (
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
        )  # fmt: skip
        with Progress(*columns) as progress, open(part, "ab" if resumed else "wb") as handle:
            bar = progress.add_task(entry.name, total=total or None, completed=have)
            while chunk := answer.read(CHUNK):
                handle.write(chunk)
                progress.update(bar, advance=len(chunk))
    if total and part.stat().st_size < total:
        raise OSError(f"the connection broke after {part.stat().st_size} of {total} bytes; run again to continue")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _convert(entry: Entry, checkpoint: Path, target: Path) -> None:
    """Foreign tensors -> our variant -> one model file in the cache."""
    import torch

    from eachmask import models

    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = models.variant(entry.name)(num_classes=len(entry.categories), **entry.config)
    model.load_state_dict(importlib.import_module(entry.converter).convert(entry.name, state))
    save_model(target, model, replace(entry.info(), training={**entry.info().training, "sha256": _sha256(checkpoint)}))
    checkpoint.unlink()
