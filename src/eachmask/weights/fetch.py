"""From a name to a model file on this machine: bundled, in the cache, or downloaded once.

Foreign formats become one of our model files at once, so that everything after this module sees one kind of file. The
digest of that file is kept beside it and checked whenever it is loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from eachmask.files.atomic import write_text
from eachmask.structures import UserError
from eachmask.structures.checks import told
from eachmask.weights.catalogue import Checkpoint, Entry, bundled, entries, find
from eachmask.weights.download import Broken, download, sha256_of

RUN_MODEL = "model.safetensors"
"""The model file in the folder of a training run."""
EXPORTED = (".onnx", ".xml", ".pt2")
"""Suffixes of what `eachmask export` writes: no weights to train or to export."""


def locate(name_or_path: str | Path) -> Path:
    """The model file of a name, the given path, or the best model of a training run's folder.

    Raises:
        UserError: no such file, no such name, or the download failed.
    """
    if not isinstance(name_or_path, str | Path):
        raise UserError(f"a model is named by its name or its file, not by {told(name_or_path)}")
    name = str(name_or_path)
    return given_file(name_or_path) or bundled().get(name) or fetch(find(name))


def given_file(name_or_path: str | Path) -> Path | None:
    """The model file that a path means, of its own or in a run's folder; None where it is a name.

    A path ends in ``.safetensors``, has a folder on the way, or is a folder that no model has the name of.

    Raises:
        UserError: there is no such file.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix in EXPORTED:
        raise UserError(f"{path.name} is an exported file, which can only be run: give the model that it was made from")
    if path.suffix != ".safetensors" and len(path.parts) == 1:
        if str(name_or_path) in (*bundled(), *entries()) or not path.is_dir():
            return None
    if path.is_dir():
        if not (path / RUN_MODEL).is_file():
            raise UserError(f"the folder {path} holds no {RUN_MODEL}: give a model file or a finished run")
        return path / RUN_MODEL
    if not path.is_file():
        raise UserError(f"the model file {path} does not exist")
    return path


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
    if is_whole(target):
        return target
    original = target.parent / entry.url.rsplit("/", 1)[-1]
    with _told(entry), _one_at_a_time(target):
        if not is_whole(target):  # another process may have been faster
            digest = _download(entry, original)
            _record(target).unlink(missing_ok=True)
            _convert(entry, original, digest, target)
            write_text(_record(target), sha256_of(target) + "\n")
            original.unlink()
    return target


def fetch_checkpoint(known: Checkpoint) -> Path:
    """The file as its authors publish it, downloaded if it is not in the cache.

    Raises:
        UserError: no network, a damaged download, or no room for it.
    """
    target = checkpoint_file(known)
    with _told(known), _one_at_a_time(target):
        if not target.is_file() or not sha256_of(target).startswith(known.sha256):
            _download(known, target)
    return target


def checkpoint_file(known: Checkpoint) -> Path:
    """Where in the cache it is, or would be."""
    return cache_dir() / f"{known.name}-{known.sha256[:8]}{Path(known.url).suffix}"


def _download(known: Checkpoint, target: Path) -> str:
    """The file's digest."""
    print(f"Fetching {known.name} ({known.size_mb:.0f} MB) from {known.host}", file=sys.stderr)
    return download(known.url, target, known.sha256)


@contextlib.contextmanager
def _told(known: Checkpoint) -> Iterator[None]:
    """What goes wrong with a download, in words."""
    try:
        yield
    except Broken as error:
        raise UserError(
            f"the weights of {known.name} ({known.size_mb:.0f} MB) are not on this machine and {known.host} cannot "
            f"be reached ({error}): try again with a network, or use what works without one: "
            f"{', '.join(bundled()) or 'a model file of your own'}"
        ) from error
    except OSError as error:
        raise UserError(
            f"the weights of {known.name} cannot be stored in {cache_dir()} ({error.strerror or error}): "
            "make room there or set EACHMASK_CACHE to another folder"
        ) from error


def is_whole(path: Path) -> bool:
    """Whether the model file is in the cache as it was written: what disks do to files shows here, not in results."""
    record = _record(path)
    return path.is_file() and (not record.is_file() or record.read_text().strip() == sha256_of(path))


def _record(path: Path) -> Path:
    """Where the digest of a converted file is kept."""
    return path.with_name(path.name + ".sha256")


def _convert(entry: Entry, original: Path, digest: str, target: Path) -> None:
    """The source's checkpoint -> one model file."""
    from eachmask import models
    from eachmask.weights.adopt import read_checkpoint
    from eachmask.weights.file import save_model
    from eachmask.weights.renaming import fill

    state = read_checkpoint(original, entry.url)
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
