"""Results as arrays, to be kept until the work they belong to is done: the tiles of a large image, the predictions of
an evaluation. What was interrupted resumes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.structures import RLE, Instances

T = TypeVar("T")
Arrays = Mapping[str, NDArray[Any]]

_PLAIN = ("labels", "scores", "keypoints", "track_ids", "crowd")


@dataclass(frozen=True)
class Kept(Generic[T]):
    """A result as arrays, and back; what is read may come from anybody."""

    to_arrays: Callable[[T], Arrays]
    from_arrays: Callable[[Arrays, tuple[int, int]], T]
    """(arrays, (height, width) that the result must have) -> the result; ValueError or KeyError where it has not."""

    def to_bytes(self, result: T) -> bytes:
        """The result as a file."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **cast("Any", self.to_arrays(result)))
        return buffer.getvalue()

    def from_bytes(self, data: bytes, size: tuple[int, int]) -> T:
        """Undo of :meth:`to_bytes`, for an image of (height, width).

        Raises:
            ValueError: the file is damaged, or another result's.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return self.from_arrays({name: arrays[name] for name in arrays.files}, size)
        except (OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"a kept result is damaged: {error}") from None


def to_arrays(found: Instances) -> Arrays:
    """Objects, their masks as runs."""
    arrays = {"boxes": found.boxes.numpy()}
    arrays |= {name: value.numpy() for name in _PLAIN if (value := getattr(found, name)) is not None}
    if found.masks is not None:
        rle = found.masks.to_rle()
        arrays |= {"counts": rle.counts, "offsets": rle.offsets}
    return arrays


def from_arrays(arrays: Arrays, size: tuple[int, int]) -> Instances:
    """Undo of :func:`to_arrays`, for an image of (height, width).

    Raises:
        ValueError: the arrays do not fit each other or the image.
        KeyError: one is missing.
    """
    masks = None
    if "counts" in arrays:
        counts, offsets = arrays["counts"], arrays["offsets"]
        fit = counts.ndim == offsets.ndim == 1 and len(offsets) and offsets[0] == 0 and offsets[-1] == len(counts)
        if not fit or counts.dtype != np.uint32 or offsets.dtype != np.int64 or (np.diff(offsets) < 1).any():
            raise ValueError("the masks' runs are damaged")
        masks = RLE(counts, offsets, size)
    tensors = {name: torch.from_numpy(arrays[name]) for name in ("boxes", *_PLAIN) if name in arrays}
    if tensors["labels"].dtype != torch.int64 or (tensors["labels"] < 0).any():
        raise ValueError("labels are whole numbers from 0")
    return Instances(size, masks=masks, **cast("Any", tensors))


INSTANCES_KEPT = Kept(to_arrays, from_arrays)
