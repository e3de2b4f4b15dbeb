"""Texts and JSON objects by the million, packed: one buffer, and where each begins.

Data-loader processes share it untouched, which they cannot a list of strings or dicts: every look at an object of
Python's writes its reference count, and the page it lies on is copied.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from eachmask.structures.rle_codec import offsets_of
from eachmask.structures.runs import ranges


class Texts(Sequence[str]):
    """Strings in one buffer.

    Args:
        data: (B,) uint8, all of them behind one another, as UTF-8.
        offsets: (N + 1,) int64, where each begins.
    """

    def __init__(self, data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self._data, self._offsets = data, offsets

    @staticmethod
    def of(texts: Iterable[str]) -> Texts:
        """Packed."""
        packer = TextPacker()
        for text in texts:
            packer.append(text)
        return packer.packed()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        place = range(len(self))[index]
        return self._data[self._offsets[place] : self._offsets[place + 1]].tobytes().decode("utf-8", "surrogateescape")

    def take(self, places: NDArray[np.int64]) -> Texts:
        """Those at these places, in that order."""
        lengths = np.diff(self._offsets)[places]
        return Texts(self._data[ranges(self._offsets[:-1][places], lengths)], offsets_of(lengths))

    @staticmethod
    def cat(parts: Sequence[Texts]) -> Texts:
        """All of them behind one another."""
        lengths = [np.diff(part._offsets) for part in parts]
        return Texts(np.concatenate([part._data for part in parts]), offsets_of(np.concatenate(lengths)))

    def tobytes(self) -> bytes:
        """All of it, equal for equal texts."""
        return self._offsets.tobytes() + self._data.tobytes()

    @property
    def nbytes(self) -> int:
        """Memory, bytes."""
        return int(self._data.nbytes + self._offsets.nbytes)


class TextPacker:
    """Packs strings one by one."""

    def __init__(self) -> None:
        self._data, self._lengths = bytearray(), array("q")

    def __len__(self) -> int:
        return len(self._lengths)

    def append(self, text: str) -> None:
        """One more."""
        encoded = text.encode("utf-8", "surrogateescape")  # names of files need not be text
        self._data += encoded
        self._lengths.append(len(encoded))

    def packed(self) -> Texts:
        """What was appended."""
        return Texts(np.frombuffer(self._data, np.uint8), offsets_of(np.array(self._lengths, np.int64)))


class Records(Sequence[dict[str, Any]]):
    """JSON objects, parsed one by one when they are asked for."""

    def __init__(self, records: Iterable[Mapping[str, Any]] | Texts) -> None:
        rows = (json.dumps(record, separators=(",", ":")) for record in records)
        self._rows = records if isinstance(records, Texts) else Texts.of(rows)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """A copy of the entry; changing it changes nothing here."""
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        found: dict[str, Any] = json.loads(self._rows[index])
        return found

    @property
    def nbytes(self) -> int:
        """Memory, bytes."""
        return self._rows.nbytes
