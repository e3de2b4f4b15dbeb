"""The words of a command line as its options: what may be left out is described by its text, not by a Python value."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

T = TypeVar("T")
REGISTRY = ConstructorRegistry()
_EXPECTED = {"INT": "a whole number", "FLOAT": "a number"}


def parse(options: type[T], prog: str, arguments: Sequence[str]) -> T:
    """The options that these words mean; with ``--help`` or a mistake it prints and exits."""
    hints = get_type_hints(options, include_extras=True)
    hint = tyro.conf.arg(help_behavior_hint=_default)
    options.__annotations__ = {name: Annotated[kind, hint] for name, kind in hints.items()}
    # tyro on its own would leave out a docstring's examples.
    return tyro.cli(options, prog=prog, description=inspect.getdoc(options), args=arguments, registry=REGISTRY)


def _default(label: str) -> str:
    """What an option is when it is left out; its text says it where that is no value."""
    return "" if label in ("", "None") else f"(default: {label})"


@REGISTRY.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """``X | None`` is given as an X, or not at all."""
    kinds = get_args(info.type)
    if get_origin(info.type) not in (Union, UnionType) or NoneType not in kinds or len(kinds) != 2:
        return None
    (kind,) = (one for one in kinds if one is not NoneType)
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))
    if not isinstance(spec, PrimitiveConstructorSpec):
        return None

    def read(words: list[str]) -> Any:
        try:
            return spec.instance_from_str(words)
        except ValueError as error:
            expected = _EXPECTED.get(spec.metavar, spec.metavar)
            raise ValueError(f"{' '.join(words)!r} is not {expected}") from error

    def shown(value: Any) -> list[str]:
        return [] if value is None else spec.str_from_instance(value)

    return replace(
        spec,
        instance_from_str=read,
        str_from_instance=shown,
        is_instance=lambda value: value is None or spec.is_instance(value),
    )
