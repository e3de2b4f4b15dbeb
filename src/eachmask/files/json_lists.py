"""Long lists in JSON files: where each entry lies is noted once, and it is parsed when it is asked for.

Python's objects of an annotation file take many times the room of its text. A list here takes 16 bytes an entry.
"""

from __future__ import annotations

import codecs
import json
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, overload

from eachmask.structures import UserError

_CHUNK = 1 << 18
"""Bytes read together."""
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


class JsonList(Sequence[Any]):
    """The entries of a list in a file, which must stay as it is while they are read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin, self._end = array("q"), array("q")
        self.named = False
        """Whether each entry has a name before it in the file, as those of an object have."""

    def append(self, begin: int, end: int, entry: Any) -> None:
        """An entry that was found.

        Args:
            begin: where it begins in the file, bytes.
            end: where it ends.
            entry: what it is; classes built upon this one look at it in passing.
        """
        del entry
        self._begin.append(begin)
        self._end.append(end)

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
        with open(self._path, "rb") as file:
            for begin, end in zip(self._begin, self._end, strict=True):
                yield _parsed(file, begin, end)

    def take(self, places: Sequence[int]) -> list[Any]:
        """The entries at these places."""
        if not len(places):
            return []
        with open(self._path, "rb") as file:
            first, last = places[0], places[-1]
            with_commas_between = not self.named and list(places) == list(range(first, last + 1))
            if with_commas_between:  # parsed together
                return list(_parsed(file, self._begin[first], self._end[last], "[%s]"))
            return [_parsed(file, self._begin[i], self._end[i]) for i in places]


def _parsed(file: BinaryIO, begin: int, end: int, within: str = "%s") -> Any:
    file.seek(begin)
    return _DECODER.decode(within % file.read(end - begin).decode("utf-8"))


def read_object(path: Path, lists: Mapping[str, Callable[[Path], JsonList]]) -> dict[str, Any]:
    """A JSON object, some of whose lists are not held in memory; {} where the file is no object.

    Args:
        lists: what to note the entries of lists of these names in; of objects, which some tools write instead, the
            values.

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
                text.value()
            if text.next():
                text.fail("there is more behind its end")
            return found
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file") from None


def _members(text: _Text, path: Path, lists: Mapping[str, Callable[[Path], JsonList]]) -> Iterator[tuple[str, Any]]:
    for _ in text.items("{", "}"):
        name = text.value()[2]
        if not isinstance(name, str):
            text.fail("expecting a name in quotes")
        text.expect(":")
        if name not in lists or text.next() not in ("[", "{"):
            yield name, text.value()[2]
            continue
        entries = lists[name](path)
        entries.named = text.next() == "{"
        for _ in text.items(*("{}" if entries.named else "[]")):
            if entries.named:
                text.value()
                text.expect(":")
            entries.append(*text.value())
        yield name, entries


class _Text:
    """A JSON file seen through a window that moves on."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._window, self._at, self._ascii = "", 0, True
        self._place = 0
        """Of ``_at`` in the file, bytes."""
        while not self._window and self._more():
            pass
        self._go_to(1 if self._window.startswith("\ufeff") else 0)

    def next(self) -> str:
        """The next character that is no space; "" at the end of the file."""
        while True:
            match = _SPACE.match(self._window, self._at)
            self._go_to(match.end() if match else self._at)
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._more():
                return ""

    def expect(self, marks: str) -> str:
        """Goes past one of these characters."""
        found = self.next()
        if not found or found not in marks:
            self.fail(f"expecting {' or '.join(marks)}")
        self._go_to(self._at + 1)
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

    def value(self) -> tuple[int, int, Any]:
        """Goes past the next value: where it begins and ends, bytes, and what it is."""
        self.next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._window, self._at)
            except json.JSONDecodeError as error:
                if not self._more():
                    self._go_to(error.pos)
                    self.fail(error.msg)
                continue
            except RecursionError:
                self.fail("it is nested too deep")
            except ValueError:  # Python's own limit
                self.fail("a whole number has thousands of digits")
            # a number at the window's end may go on behind it
            if (end < len(self._window) and self._window[end] not in ".eE") or not self._more():
                break
        begin = self._place
        self._go_to(end)
        return begin, self._place, value

    def fail(self, what: str) -> NoReturn:
        where = f"{what}, at byte {self._place}"
        raise UserError(f"{self._path} is not valid JSON ({where}): if it was cut off, copy or export it again")

    def _go_to(self, at: int) -> None:
        self._place += at - self._at if self._ascii else len(self._window[self._at : at].encode("utf-8"))
        self._at = at

    def _more(self) -> bool:
        """Lets go of what lies behind and reads on, twice as far each time if one value does not end."""
        data = self._file.read(max(_CHUNK, len(self._window) - self._at))
        read = self._utf8.decode(data, final=not data)  # raises where the file is no text
        if data:
            self._window, self._at = self._window[self._at :] + read, 0
            self._ascii = self._window.isascii()
        return bool(data)
