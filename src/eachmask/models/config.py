"""What a variant may change: frozen dataclasses, nested by the part of the network that they are about.

A variant function takes its settings as keyword arguments, those of a part as a mapping of what changes in it:

>>> from eachmask import models
>>> model = models.mask_rcnn_lite0_fpn(num_classes=3, box_head={"width": 128}, roi={"pooling": "pool"})
>>> model.config.box_head.width, model.config.box_head.layers
(128, 2)

The same mappings are what model files hold. Whatever does not fit is refused, with the settings that it may have meant.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from eachmask.structures import UserError
from eachmask.structures.errors import nearest

C = TypeVar("C")


def changed(config: C, changes: Mapping[str, Any]) -> C:
    """A config with other values in it.

    Args:
        config: a frozen dataclass, in which dataclasses may be nested.
        changes: field -> value; for a nested dataclass another one, or a mapping of what changes in it. Lists stand
            for tuples, as JSON has no others.

    Raises:
        UserError: there is no such field, or the value is none that it can have; the message has the nearest ones.
    """
    return _changed(config, changes, "", tuple(_paths(config)))


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings of two, the second's where both have a value.

    >>> merged({"roi": {"levels": 3}, "max_detections": 10}, {"roi": {"jitter": 0.1}})
    {'roi': {'levels': 3, 'jitter': 0.1}, 'max_detections': 10}
    """
    result = dict(first)
    for name, value in second.items():
        before = result.get(name)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        result[name] = merged(before, value) if both else value  # type: ignore[arg-type]
    return result


def _changed(config: C, changes: Mapping[str, Any], where: str, known: Sequence[str]) -> C:
    hints = _hints(type(config))  # type: ignore[arg-type]
    values = {}
    for name, value in changes.items():
        path = where + name
        if name not in hints:
            raise UserError(f"there is no setting {path!r}; did you mean {_nearest(path, known)}?")
        before = getattr(config, name)
        if dataclasses.is_dataclass(before) and isinstance(value, Mapping):
            values[name] = _changed(before, value, f"{path}.", known)
        else:
            values[name] = _fitting(value, hints[name], path)
    return dataclasses.replace(config, **values)  # type: ignore[type-var]


@cache
def _hints(config_type: type) -> dict[str, Any]:
    return get_type_hints(config_type)


def _paths(config: Any, where: str = "") -> Iterator[str]:
    """Dotted names of all settings."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _paths(value, f"{where}{field.name}.")
        else:
            yield where + field.name


def _nearest(path: str, known: Sequence[str]) -> str:
    """Settings that are called alike, whatever part they are of."""
    by_leaf = [name for name in known if name.rsplit(".", 1)[-1] == path.rsplit(".", 1)[-1]]
    return " or ".join(by_leaf) if by_leaf else nearest(path, known)


def _fitting(value: Any, hint: Any, path: str) -> Any:
    """The value as the field's type wants it.

    Raises:
        UserError: it cannot be of that type.
    """
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value in options:
            return value
        near = difflib.get_close_matches(str(value), [str(o) for o in options], n=1) or [str(o) for o in options]
        raise UserError(f"{path} cannot be {value!r}; did you mean {' or '.join(map(repr, near))}?")
    if origin in (Union, UnionType):
        if value is None and type(None) in options:
            return None
        return _fitting(value, next(o for o in options if o is not type(None)), path)
    if origin is tuple:
        return _fitting_tuple(value, options, path)
    if hint is float and type(value) is int:
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)):
        raise UserError(f"{path} cannot be {value!r}: it is {_described(hint)}")
    return value


def _fitting_tuple(value: Any, options: tuple[Any, ...], path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{path} cannot be {value!r}: it is a list")
    hints = options[:1] * len(value) if options[-1] is ... else options
    if len(hints) != len(value):
        raise UserError(f"{path} cannot be {value!r}: it has {len(hints)} values")
    return tuple(_fitting(v, hint, f"{path}[{i}]") for i, (v, hint) in enumerate(zip(value, hints, strict=True)))


def _described(hint: type) -> str:
    if dataclasses.is_dataclass(hint):
        return f"a mapping of {', '.join(field.name for field in dataclasses.fields(hint))}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}.get(hint, hint.__name__)
