"""Several splits as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from eachmask.data.file_split import FileSplit
from eachmask.data.image_files import ImageFiles
from eachmask.data.packed import Texts
from eachmask.data.split import Split
from eachmask.structures.rle_codec import offsets_of

F = TypeVar("F", bound=ImageFiles[Any])


def joined(parts: Sequence[F]) -> F:
    """The images of all, of the first's categories; what not every part knows (ids, boxes as stated) is left behind.

    Raises:
        ValueError: no parts, or targets that are read in different ways.
    """
    if not parts:
        raise ValueError("nothing to join: the classes would be unknown")
    first: Any = parts[0]
    own = _of_files(cast(Any, parts)) if isinstance(first, FileSplit) else _of_objects(cast(Any, parts))
    result: F = replace(
        first,
        names=Texts.cat([part.names for part in parts]),
        files=Texts.cat([part.files for part in parts]),
        numbers=np.concatenate([part.numbers for part in parts]),
        sizes=np.concatenate([part.sizes for part in parts]),
        **own,
    )
    return result


def _of_objects(parts: Sequence[Split]) -> dict[str, Any]:
    keypoints = joined_keypoints([part.keypoints for part in parts], [len(part.labels) for part in parts])
    return dict(
        first=_offsets([part.first for part in parts]),
        counts=np.concatenate([part.counts for part in parts]),
        offsets=_offsets([part.offsets for part in parts]),
        boxes=np.concatenate([part.boxes for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        crowd=np.concatenate([part.crowd for part in parts]),
        keypoints=keypoints,
        ids=_texts([part.ids for part in parts]),
        stated=_arrays([part.stated for part in parts]),
        entries=_texts([part.entries for part in parts]),
        scores=_arrays([part.scores for part in parts]),
    )


def _of_files(parts: Sequence[FileSplit[Any]]) -> dict[str, Any]:
    if any((part.read, part.known, part.labels) != (parts[0].read, parts[0].known, parts[0].labels) for part in parts):
        raise ValueError("the parts' targets are read in different ways")
    return dict(
        targets_in=Texts.cat([part.targets_in for part in parts]),
        entries=_texts([part.entries for part in parts]),
        given_in=_texts([part.given_in for part in parts]),
    )


def _offsets(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return offsets_of(np.concatenate([np.diff(part) for part in parts]))


def _texts(parts: Sequence[Texts | None]) -> Texts | None:
    known = [part for part in parts if part is not None]
    return Texts.cat(known) if len(known) == len(parts) else None


def _arrays(parts: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None


def joined_keypoints(known: Sequence[NDArray[np.float32] | None], numbers: Sequence[int]) -> NDArray[np.float32] | None:
    """(N, P, 3) keypoints where the set has some; objects without them get points of visibility 0.

    Args:
        known: (n, P, 3) of each image, or None.
        numbers: of objects in each image.
    """
    num_points = max((k.shape[1] for k in known if k is not None), default=0)
    if not num_points:
        return None
    joined = np.zeros((sum(numbers), num_points, 3), np.float32)
    for own, first in zip(known, offsets_of(numbers), strict=False):
        if own is not None and own.shape[1] == num_points:
            joined[first : first + len(own)] = own
    return joined
