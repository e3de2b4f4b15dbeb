"""Values that were read from a file (JSON, TOML) as the types that the code declares, or a sentence that says what is
wrong.

The annotations of a dataclass are its schema: nothing is written twice, and a field that is added is checked at once.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


_SCALARS = {type(None): "null", bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class SchemaError(ValueError):
    """A value has another type than its field, or lies out of its range: ``FIELD must be ..., not ...``."""


@dataclass(frozen=True)
class Range:
    """What a number may be, both ends included."""

    least: float = -math.inf
    most: float = math.inf

    def __str__(self) -> str:
        if self.most == math.inf:
            return f"at least {self.least:g}"
        return f"in {self.least:g}..{self.most:g}"


@dataclass(frozen=True)
class Schema:
    """How strictly values are read.

    Args:
        ranges: dotted field (``preprocess.short_side``; of lists, that of their items) -> what its numbers may be.
        surplus: keys that no field has are passed over; they are of later versions.
    """

    ranges: Mapping[str, Range] = dataclasses.field(default_factory=dict)
    surplus: bool = False

    def read(self, kind: Any, value: Any, where: str = "") -> Any:
        """The value as what the annotation ``kind`` says: dataclasses of mappings, tuples of lists.

        Args:
            where: the dotted field, for messages; "" for the whole file.

        Raises:
            SchemaError: it cannot be that.
        """
        origin, inner = get_origin(kind), get_args(kind)
        if kind is Any:
            return self._plain(value, where)
        if origin in (Union, types.UnionType):
            return self._one_of(inner, value, where)
        if origin is Literal:
            return value if _is_one_of(value, inner) else _refuse(where, " or ".join(map(repr, inner)), value)
        if origin in (tuple, Sequence):
            return self._tuple(inner, value, where)
        if origin in (dict, Mapping):
            return self._dict(inner[1], value, where)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            return self._record(kind, value, where)
        return self._scalar(kind, value, where)

    def _scalar(self, kind: Any, value: Any, where: str) -> Any:
        if kind not in _SCALARS:
            return value  # no kind of value that a file can hold
        if kind is float and type(value) is int and abs(value) < 2**53:
            value = float(value)
        if type(value) is not kind or (kind is float and not math.isfinite(value)):
            _refuse(where, _SCALARS[kind], value)
        allowed = self.ranges.get(where.replace("[]", ""))
        if kind in (int, float) and allowed is not None and not allowed.least <= value <= allowed.most:
            _refuse(where, str(allowed), value)
        return value

    def _one_of(self, kinds: Sequence[Any], value: Any, where: str) -> Any:
        if value is None and type(None) in kinds:
            return None
        rest = [kind for kind in kinds if kind is not type(None)]
        for kind in rest[:-1]:
            try:
                return self.read(kind, value, where)
            except SchemaError:
                continue
        return self.read(rest[-1], value, where)

    def _tuple(self, kinds: Sequence[Any], value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            _refuse(where, "a list", value)
        if len(kinds) == 1 or kinds[1:] == (...,):
            return tuple(self.read(kinds[0], item, f"{where}[]") for item in value)
        if len(value) != len(kinds):
            _refuse(where, f"a list of {len(kinds)}", value)
        return tuple(self.read(kind, item, f"{where}[]") for kind, item in zip(kinds, value, strict=True))

    def _dict(self, kind: Any, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            _refuse(where, "a table of names and values", value)
        return {key: self.read(kind, item, _below(where, key)) for key, item in value.items()}

    def _record(self, kind: Callable[..., T], value: Any, where: str) -> T:
        if dataclasses.is_dataclass(value):  # it was built already: only its values are looked at
            value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if not isinstance(value, Mapping):
            _refuse(where, "a table of names and values", value)
        hints = get_type_hints(kind)
        fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        for name, field in fields.items():
            no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if name not in value and no_default:
                raise SchemaError(f"{_below(where, name)} is missing")
        if unknown := [key for key in value if key not in fields and not self.surplus]:
            raise SchemaError(f"{_below(where, str(unknown[0]))} is none of {', '.join(fields)}")
        known = {name: self.read(hints[name], value[name], _below(where, name)) for name in fields if name in value}
        try:
            return kind(**known)
        except ValueError as error:  # the record's own rules
            raise SchemaError(f"{where}: {error}".removeprefix(": ")) from error

    def _plain(self, value: Any, where: str) -> Any:
        """Whatever JSON can say, with numbers that are numbers."""
        if isinstance(value, Mapping):
            return {key: self._plain(item, _below(where, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return tuple(map(partial(self._plain, where=f"{where}[]"), value))
        if value is None or isinstance(value, bool | str):
            return value
        return self._scalar(float if isinstance(value, float) else int, value, where)


def _is_one_of(value: Any, allowed: Sequence[Any]) -> bool:
    return any(type(value) is type(one) and value == one for one in allowed)


def _below(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _refuse(where: str, expected: str, value: Any) -> Any:
    shown = repr(value)
    raise SchemaError(f"{where or 'it'} must be {expected}, not {shown if len(shown) < 60 else shown[:57] + '...'}")
