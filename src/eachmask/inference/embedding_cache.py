"""EmbeddingCache: what a network knows of images, kept on disk: the second question about one costs no first look.

An entry is a ``.safetensors`` file named by the weights and by the image's content. The folder is bounded in size: what
was not used for longest goes. Files appear whole or not at all, and one that is damaged counts as not there.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from eachmask.files.tensors import write_tensors

if TYPE_CHECKING:
    from eachmask.inference.prompt_predictor import Embedded

MAX_BYTES = 2 << 30


@dataclass(frozen=True)
class EmbeddingCache:
    """A folder of embeddings."""

    folder: Path | None = None
    """By default ``embeddings`` in the folder of downloaded models."""
    max_bytes: int = MAX_BYTES

    def get(self, key: str) -> Embedded | None:
        """The entry of :attr:`Embedded.key`, if it is there and whole."""
        from safetensors import SafetensorError, safe_open

        from eachmask.inference.prompt_predictor import Embedded

        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads(file.metadata()["embedded"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            os.utime(path)
            embedding = _rebuilt(about["embedding"], tensors)
            sizes = [tuple(about[name]) for name in ("image_size", "seen_size")]
            return Embedded(embedding, sizes[0], sizes[1], key)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError):
            return None

    def put(self, embedded: Embedded) -> None:
        """Keep an entry, and drop what was not used for longest where that is too much.

        A disk that is full or may not be written to is no error: the entry is not kept then.

        Raises:
            TypeError: the embedding is not made of tensors, numbers and texts alone.
        """
        tensors: dict[str, Tensor] = {}
        about = {
            "embedding": _described(embedded.embedding, tensors),
            "image_size": embedded.image_size,
            "seen_size": embedded.seen_size,
        }
        path = self._path(embedded.key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.{os.getpid()}.part")
            write_tensors(path, tensors, {"embedded": json.dumps(about)}, part)
        except OSError:
            return
        self._prune()

    def _path(self, key: str) -> Path:
        from eachmask.weights.fetch import cache_dir

        return (self.folder or cache_dir() / "embeddings") / f"{key}.safetensors"

    def _prune(self) -> None:
        entries = []
        for path in self._path("").parent.glob("*.safetensors"):
            try:
                stat = path.stat()
            except OSError:  # another process has just removed it
                continue
            entries.append((stat.st_mtime_ns, stat.st_size, path))
        left = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries)[:-1]:  # the newest stays, however large
            if left <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            left -= size


def _described(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Nested tuples of tensors and plain values for JSON, the tensors taken out.

    Raises:
        TypeError: there is something else in it.
    """
    if isinstance(value, Tensor):
        tensors[str(len(tensors))] = value.contiguous().clone()
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(value, tuple | list):
        kind = type(value)
        named = f"{kind.__module__}:{kind.__qualname__}" if hasattr(value, "_fields") else kind.__name__
        return {"kind": named, "items": [_described(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"an embedding holds a {type(value).__name__}, which the cache cannot keep")


def _rebuilt(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    items = [_rebuilt(item, tensors) for item in value["items"]]
    if value["kind"] in ("tuple", "list"):
        return tuple(items) if value["kind"] == "tuple" else items
    module, name = value["kind"].split(":")
    # Only what this package has loaded already, and only tuples with names: a file cannot make anything else run.
    kind = getattr(sys.modules[module], name) if module.startswith("eachmask.") else None
    if not (isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")):
        raise ValueError(f"{value['kind']} is no tuple of this package")
    return kind(*items)
