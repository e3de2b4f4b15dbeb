"""Long lists in JSON files: where each entry lies is noted once, and it is parsed when it is asked for.

Python's objects of an annotation file take many times the room of its text. A list here takes 16 bytes an entry.
"""

from __future__ import annotations

import codecs
import json
import re
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, overload

from eachmask.structures import UserError

_CHUNK = 1 << 20
"""Bytes read together."""
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


class JsonList(Sequence[Any]):
    """The entries of a list in a file, which must stay as it is while they are read.

    Args:
        path: the file.
        begin: (N,) where each entry begins, bytes.
        end: (N,) where each ends.
    """

    def __init__(self, path: Path, begin: Sequence[int], end: Sequence[int]) -> None:
        self._path, self._begin, self._end = path, begin, end

    def __len__(self) -> int:
        return len(self._begin)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        places = range(len(self))[index]
        return self.take([places])[0] if isinstance(places, int) else self.take(places)

    def __iter__(self) -> Iterator[Any]:
        return self._read(range(len(self)))

    def take(self, places: Iterable[int]) -> list[Any]:
        """The entries at these places."""
        return list(self._read(places))

    def _read(self, places: Iterable[int]) -> Iterator[Any]:
        with open(self._path, "rb") as file:
            for i in places:
                file.seek(self._begin[i])
                yield json.loads(file.read(self._end[i] - self._begin[i]))


def read_object(path: Path, lists: Collection[str]) -> dict[str, Any]:
    """A JSON object whose entries of these names, where they are lists, come as :class:`JsonList`; {} for no object.

    Memory is that of the longest entry of the lists, or of the longest other value.

    Raises:
        UserError: the file cannot be read, or is no JSON from its beginning to its end.
    """
    try:
        with open(path, "rb") as file:
            text = _Text(path, file)
            if text.next() == "{":
                found = dict(_members(text, path, lists))
            else:
                found = {}
                text.skip()
            if text.next():
                text.fail("there is more behind its end")
            return found
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file") from None


def _members(text: _Text, path: Path, lists: Collection[str]) -> Iterator[tuple[str, Any]]:
    for _ in text.items("{", "}"):
        name = text.value()
        if not isinstance(name, str):
            text.fail("expecting a name in quotes")
        text.expect(":")
        if name not in lists or text.next() != "[":
            yield name, text.value()
            continue
        begins, ends = array("q"), array("q")
        for _ in text.items("[", "]"):
            begin, end = text.skip()
            begins.append(begin)
            ends.append(end)
        yield name, JsonList(path, begins, ends)


class _Text:
    """A JSON file seen through a window that moves on.

    Its bytes are taken for characters one by one (latin-1), so that places in the window are places in the file:
    JSON's own marks look the same so, and what is between quotes is looked at only to find its end.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._window, self._start, self._at = "", 0, 0
        self._more()
        if self._window.startswith(codecs.BOM_UTF8.decode("latin-1")):
            self._at = len(codecs.BOM_UTF8)

    def next(self) -> str:
        """The next character that is no space; "" at the end of the file."""
        while True:
            match = _SPACE.match(self._window, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._more():
                return ""

    def expect(self, marks: str) -> str:
        """Goes past one of these characters."""
        found = self.next()
        if not found or found not in marks:
            self.fail(f"expecting {' or '.join(marks)}")
        self._at += 1
        return found

    def items(self, opening: str, closing: str) -> Iterator[None]:
        """Stops before each item of a list or an object; the caller reads it."""
        self.expect(opening)
        if self.next() == closing:
            self.expect(closing)
            return
        yield
        while self.expect("," + closing) == ",":
            yield

    def value(self) -> Any:
        """The next value."""
        begin, end = self.skip()
        return json.loads(self._window[begin - self._start : end - self._start].encode("latin-1"))

    def skip(self) -> tuple[int, int]:
        """Goes past the next value; where it begins and ends, bytes."""
        self.next()
        while True:
            try:
                _, end = _DECODER.raw_decode(self._window, self._at)
            except json.JSONDecodeError as error:
                if not self._more():
                    self._at = error.pos
                    self.fail(error.msg)
                continue
            if end < len(self._window) or not self._more():  # a number at the window's end may go on behind it
                break
        begin, self._at = self._at, end
        return self._start + begin, self._start + end

    def fail(self, what: str) -> NoReturn:
        place = self._start + self._at
        raise UserError(
            f"{self._path} is not valid JSON ({what}, at byte {place}): if it was cut off, copy or export it again"
        )

    def _more(self) -> bool:
        """Lets go of what lies behind and reads on, twice as far each time if one value does not end."""
        data = self._file.read(max(_CHUNK, len(self._window) - self._at))
        self._utf8.decode(data, final=not data)  # raises where the file is no text
        if data:
            self._window = self._window[self._at :] + data.decode("latin-1")
            self._start, self._at = self._start + self._at, 0
        return bool(data)
