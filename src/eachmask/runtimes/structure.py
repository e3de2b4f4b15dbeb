"""What a network said as a flat list of tensors and a description, and back.

A graph has tensors alone. What a model's verb gives is a NamedTuple of tensors, tuples of them, sizes and settings; the
description (JSON) says where each tensor belongs and keeps all else.

- ``{"tensor": i}``: the i-th output of the graph; ``{"number": i}``: a whole number that the graph computes
- ``{"value": x}``: the same for every image
- ``{"layer": name}``: a layer of the model, which is applied later to what has been found
- ``{"items": [...]}``: a tuple; with ``"record": "module:Name"`` a NamedTuple; with ``"each": true`` one item for every
  image of the batch, of which the first stands for all
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eachmask.structures import UserError

Description = dict[str, Any]


def flat(value: Any, model: nn.Module | None = None) -> tuple[list[Any], Description]:
    """All tensors in tuples and records, in order, and where they belong.

    Args:
        model: whose layers may be among them.

    >>> tensors, description = flat((torch.zeros(2), 5, None))
    >>> len(tensors), rebuilt(tensors, description)
    (1, (tensor([0., 0.]), 5, None))

    Raises:
        UserError: there is something else in it, which no graph can give.
    """
    tensors: list[Any] = []
    names = {layer: name for name, layer in model.named_modules()} if model is not None else {}
    return tensors, _described(value, tensors, names)


def _described(value: Any, tensors: list[Any], names: Mapping[nn.Module, str]) -> Description:
    if isinstance(value, Tensor | torch.SymInt):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if isinstance(value, tuple | list):
        kind = type(value)
        record = {"record": f"{kind.__module__}:{kind.__qualname__}"} if _is_record(kind) else {}
        return record | {"items": [_described(item, tensors, names) for item in value]}
    if isinstance(value, nn.Module) and value in names:
        return {"layer": names[value]}
    raise UserError(f"the network gives a {type(value).__name__}, which a graph of tensors cannot")


def merged(traced: Description, one: Description, two: Description) -> Description:
    """The description of a traced batch of one, from those of a plain run on one image and on two.

    What is a tensor while tracing and was a whole number is a number that depends on the image's size; tuples that are
    longer on two images have an item for each.
    """
    if "tensor" in traced and "value" in one:
        return {"number": traced["tensor"]}
    if "items" not in traced:
        return traced
    each = len(two["items"]) != len(one["items"])
    others = one["items"] if each else two["items"]
    triples = zip(traced["items"], one["items"], others, strict=True)
    return traced | {"items": [merged(*triple) for triple in triples]} | ({"each": True} if each else {})


def pruned(description: Description, kept: set[int]) -> Description:
    """Without the tensors that nobody reads; the others get the numbers 0, 1, ... in order."""
    number = {old: new for new, old in enumerate(sorted(kept))}

    def walk(node: Description) -> Description:
        if "tensor" in node:
            return {"tensor": number[node["tensor"]]} if node["tensor"] in number else {"value": None}
        if "number" in node:
            return {"number": number[node["number"]]}
        return node | {"items": [walk(item) for item in node["items"]]} if "items" in node else node

    return walk(description)


def leaves(description: Description) -> Iterator[Description]:
    """All that is not made of others."""
    for item in description.get("items", ()):
        yield from leaves(item)
    if "items" not in description:
        yield description


def batches(description: Description) -> bool:
    """Whether one run can take several images: no tensor belongs to one of them alone."""
    if description.get("each"):
        return not any("tensor" in leaf for leaf in leaves(description))
    return all(batches(item) for item in description.get("items", ()))


def rebuilt(runs: Sequence[Any], description: Description, images: int = 1, model: nn.Module | None = None) -> Any:
    """Undo of :func:`flat`.

    Args:
        runs: the graph's outputs.
        images: of the batch; those of one run share their sizes.
        model: has the layers.

    Raises:
        UserError: a record that this version does not have.
    """
    if "tensor" in description:
        return runs[description["tensor"]]
    if "number" in description:
        return int(runs[description["number"]])
    if "value" in description:
        return description["value"]
    if "layer" in description:
        assert model is not None
        return model.get_submodule(description["layer"])
    items = [rebuilt(runs, item, images, model) for item in description["items"]]
    if description.get("each"):
        items = items * images
    return _record(description["record"])(*items) if "record" in description else tuple(items)


def joined(parts: Sequence[Any], description: Description) -> Any:
    """What was said of images one by one, as if they had been a batch."""
    if len(parts) == 1 or not {"value", "number", "layer"}.isdisjoint(description):
        return parts[0]
    if "tensor" in description:
        return torch.cat(list(parts))
    if description.get("each"):
        return tuple(item for part in parts for item in part)
    columns = zip(*parts, strict=True)
    items = [joined(column, item) for column, item in zip(columns, description["items"], strict=True)]
    return type(parts[0])(*items) if _is_record(type(parts[0])) else tuple(items)


def _is_record(kind: type) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


def _record(name: str) -> type:
    """A NamedTuple of ours: a file cannot make us import anything else."""
    module, _, attribute = name.partition(":")
    found = None
    if module.startswith(("eachmask.models.", "eachmask.backbones.", "eachmask.ops.")):
        try:
            found = getattr(importlib.import_module(module), attribute, None)
        except ImportError:
            found = None
    if not (isinstance(found, type) and _is_record(found)):
        raise UserError(f"the exported file speaks of {name}, which this version of eachmask lacks: export it again")
    return found
