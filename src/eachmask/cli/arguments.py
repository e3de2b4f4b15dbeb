"""The words of a command line as its options: what may be left out is described by its text, not by a Python value."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

T = TypeVar("T")
REGISTRY = ConstructorRegistry()
_EXPECTED = {"INT": "a whole number", "FLOAT": "a number"}
_PLACEHOLDERS = {
    "MODEL": "model models_of pretrained detector encoder clicks",
    "FORMAT": "format from_ to",
    "DEVICE": "device",
    "PRECISION": "precision",
    "SPLIT": "split",
    "ADDRESS": "host on",
    "VIDEO": "video",
    "VARIANT": "variant",
    "COLOR|PATH": "onto",
    "MEASURE=NUMBER ...": "fail_under",
    "PATH ...": "partial",
    "0..1": "score low iou overlap mosaic copy_paste stability duplicates inside",
    "PX": "tile stride side size min_area",
    "PORT": "port",
}
"""What stands for an option's value in the help, where its kind alone says little: placeholder -> options."""


def parse(options: type[T], prog: str, arguments: Sequence[str]) -> T:
    """The options that these words mean; with ``--help`` or a mistake it prints and exits."""
    hints = get_type_hints(options, include_extras=True)
    options.__annotations__ = {name: _described(name, kind) for name, kind in hints.items()}
    # tyro on its own would leave out a docstring's examples.
    return tyro.cli(options, prog=prog, description=inspect.getdoc(options), args=arguments, registry=REGISTRY)


def _described(name: str, hint: Any) -> Any:
    """The kind of an option's value with what the help says of it."""
    placeholder = next((text for text, names in _PLACEHOLDERS.items() if name in names.split()), None)
    kind, *own = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if kind is bool or get_origin(kind) is Literal or any(getattr(one, "metavar", None) for one in own):
        placeholder = None
    elif placeholder is None and str in (kind, *get_args(kind)):
        placeholder = "NAME"
    return Annotated[hint, tyro.conf.arg(metavar=placeholder, help_behavior_hint=_default)]


def _default(label: str) -> str:
    """What an option is when it is left out; its text says it where that is no value."""
    return "" if label in ("", "None") else f"(default: {label})"


class _Address(ValueError):
    """An address where a path belongs."""


@REGISTRY.primitive_rule
def _path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """A path on this machine. Of ``s3://bucket/x`` pathlib makes ``s3:/bucket/x``, a folder nobody meant."""
    if info.type is not Path:
        return None

    def read(words: list[str]) -> Path:
        scheme, found, _ = words[0].partition("://")
        if found and len(scheme) > 1:  # one letter is a drive of Windows
            raise _Address(
                f"{words[0]} is an address, and here belongs a path on this machine: mount the bucket or copy the files"
            )
        return Path(words[0])

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


@REGISTRY.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """``X | None`` is given as an X, or not at all."""
    kinds = get_args(info.type)
    if get_origin(info.type) not in (Union, UnionType) or NoneType not in kinds:
        return None
    kind: Any = functools.reduce(operator.or_, (one for one in kinds if one is not NoneType))
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))
    if not isinstance(spec, PrimitiveConstructorSpec):
        return None

    def read(words: list[str]) -> Any:
        try:
            return spec.instance_from_str(words)
        except _Address:
            raise
        except ValueError as error:
            words_for = (_EXPECTED.get(part, part.strip("{}")) for part in spec.metavar.split("|"))
            expected = " or ".join(words_for)
            raise ValueError(f"{' '.join(words)!r} is not {expected}") from error

    def shown(value: Any) -> list[str]:
        return [] if value is None else spec.str_from_instance(value)

    return replace(
        spec,
        instance_from_str=read,
        str_from_instance=shown,
        is_instance=lambda value: value is None or spec.is_instance(value),
    )
