"""COCO's compressed run-length strings, for many masks at once.

A mask is runs of pixels in column-major order, background first. COCO writes every run, from the fourth on as
the difference to the run two before it, in groups of five bits, lowest first, with a continuation bit
and the sign in the last group's highest bit, offset by 48 into printable characters (pycocotools
``maskApi.c``, ``rleToString`` / ``rleFrString``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.uint32]
Offsets = NDArray[np.int64]

_MORE, _SIGN, _BITS, _BASE = 0x20, 0x10, 5, 48
_MAX_GROUPS = 8
"""Of five bits, beyond the first: 2^44 pixels either way are enough."""
_RUNS_CHUNK_SIZE = 1 << 18
"""Of ragged masks there are millions, and each needs some fifty bytes while it is translated."""


def offsets_of(lengths: Sequence[int] | NDArray[np.integer[Any] | np.bool_]) -> Offsets:
    """Lengths (N,) of stretches behind one another -> where each begins, and the end (N + 1,).

    >>> offsets_of([2, 3]).tolist()
    [0, 2, 5]
    """
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def encode_strings(counts: Counts, offsets: Offsets) -> list[str]:
    """Packed runs -> one string per mask.

    Args:
        counts: (R,) runs of all masks behind one another.
        offsets: (N + 1,) where each mask's runs begin.

    >>> encode_strings(np.array([4, 8, 4], np.uint32), np.array([0, 3]))
    ['484']
    """
    strings: list[str] = []
    for first, last in _groups(offsets):
        own = offsets[first : last + 1]
        strings += _encode(counts[own[0] : own[-1]], own - own[0])
    return strings


def _encode(counts: Counts, offsets: Offsets) -> list[str]:
    values = counts.astype(np.int64)
    place = _place_in_mask(offsets)
    later = np.flatnonzero(place > 2)
    values[later] -= counts[later - 2].astype(np.int64)
    groups = []
    open_ = np.ones(len(values), bool)
    while open_.any():
        low = values & 0x1F
        values >>= _BITS
        more = np.where(low & _SIGN, values != -1, values != 0)
        groups.append(np.where(open_, (low | np.where(more, _MORE, 0)) + _BASE, 0).astype(np.uint8))
        open_ = open_ & more
    if not groups:
        return [""] * (len(offsets) - 1)
    characters = np.stack(groups, axis=1)
    used = characters > 0
    ends = offsets_of(used.sum(1))[offsets]
    text = characters[used].tobytes().decode("ascii")
    return [text[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]


def decode_strings(strings: Sequence[str | bytes]) -> tuple[Counts, Offsets]:
    """One string per mask -> packed runs; undo of :func:`encode_strings`.

    Raises:
        ValueError: a string ends in the middle of a number, has a foreign character or a negative run.

    >>> counts, offsets = decode_strings(["484"])
    >>> counts.tolist(), offsets.tolist()
    ([4, 8, 4], [0, 3])
    """
    characters = offsets_of([len(s) for s in strings])
    parts = [_decode(strings[first:last]) for first, last in _groups(characters)]
    if not parts:
        return np.zeros(0, np.uint32), np.zeros(1, np.int64)
    lengths = np.concatenate([np.diff(offsets) for _, offsets in parts])
    return np.concatenate([counts for counts, _ in parts]), offsets_of(lengths)


def _decode(strings: Sequence[str | bytes]) -> tuple[Counts, Offsets]:
    joined = b"".join(s.encode("ascii") if isinstance(s, str) else s for s in strings)
    lengths = np.array([len(s) for s in strings], np.int64)
    codes = np.frombuffer(joined, np.uint8).astype(np.int64) - _BASE
    if codes.size and (codes.min() < 0 or codes.max() > 0x3F):
        raise ValueError("a run-length string holds a character that COCO never writes")
    last = (codes & _MORE) == 0
    if not last[np.cumsum(lengths)[lengths > 0] - 1].all():
        raise ValueError("a run-length string ends in the middle of a number")
    number = np.cumsum(last) - last  # which number a character belongs to
    first = np.flatnonzero(np.diff(number, prepend=-1))
    group = np.arange(len(codes)) - first[number]
    if codes.size and group.max() > _MAX_GROUPS:
        raise ValueError("a run-length string holds a number that is too large")
    values = np.add.reduceat((codes & 0x1F) << (_BITS * group), first) if codes.size else codes
    final = np.flatnonzero(last)
    negative = (codes[final] & _SIGN) > 0
    values[negative] -= np.int64(1) << (_BITS * (group[final[negative]] + 1))
    offsets = offsets_of(last)[offsets_of(lengths)]
    counts = _undo_differences(values, offsets)
    if (counts < 0).any():
        raise ValueError("a run-length string holds a run of negative length")
    return counts.astype(np.uint32), offsets


def _groups(offsets: Offsets) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) mask of groups of so few runs or characters; a mask of more is a group."""
    first = 0
    while first < len(offsets) - 1:
        last = int(np.searchsorted(offsets, offsets[first] + _RUNS_CHUNK_SIZE, side="right")) - 1
        last = max(first + 1, last)
        yield first, last
        first = last


def _place_in_mask(offsets: Offsets) -> NDArray[np.int64]:
    lengths = np.diff(offsets)
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)


def _undo_differences(values: NDArray[np.int64], offsets: Offsets) -> NDArray[np.int64]:
    """Runs 3, 5, 7 ... add up from run 1, runs 4, 6, 8 ... from run 2; run 0 stands alone."""
    place = _place_in_mask(offsets)
    result = values.copy()
    for start in (1, 2):
        chosen = np.flatnonzero((place >= start) & ((place - start) % 2 == 0))
        total = np.cumsum(values[chosen])
        begins = place[chosen] == start
        before = (total - values[chosen])[begins]
        result[chosen] = total - np.repeat(before, np.diff(np.append(np.flatnonzero(begins), len(chosen))))
    return result
