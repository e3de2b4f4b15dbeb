"""``eachmask show``: the card of a model and everything that its file says about itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from eachmask.files.text import printable, say

if TYPE_CHECKING:
    from torch import Tensor

    from eachmask.weights.catalogue import Follower
    from eachmask.weights.file import ModelInfo


@dataclass(frozen=True)
class ShowOptions:
    """Print a model's card and settings. Nothing is downloaded.

    Examples:
      eachmask show nuclei
      eachmask show runs/mine
      eachmask show nuclei.onnx
      eachmask show fcn32s_vgg16 --field
    """

    model: Annotated[str, tyro.conf.Positional]
    """A name from `eachmask models`, a model file, an exported file, or the folder of a run."""
    json: bool = False
    """Print the settings as JSON, the card among them, for programs."""
    field: bool = False
    """Print instead how much of an image a cell of the network's maps sees; also of a variant that can be trained."""


def show(options: ShowOptions) -> int:
    """Run the command; returns the exit status."""
    if options.field:
        say("\n".join(fields(options.model)))
        return 0
    follower = _follower(options.model)
    if follower is not None:
        if options.json:
            print(json.dumps(asdict(follower), indent=2))
        else:
            _print_card(follower.card())
        return 0
    info = find_info(options.model)
    if options.json:
        print(json.dumps(asdict(info), indent=2))
        return 0
    _print_card(info.card or f"# {info.name or info.variant}\n\nThis model has no card.\n")
    for name, value in settings(info).items():
        say(f"{name + ':':<13}{value}")
    return 0


def _follower(model: str) -> Follower | None:
    """What alone follows marked objects, and is no model file of ours."""
    from eachmask.weights.catalogue import entries, followers

    return None if model in entries() else followers().get(model)


def find_info(model: str) -> ModelInfo:
    """What is known about a model by name or path, whether or not its weights are here.

    Raises:
        UserError: there is no such name, or no readable model file at the path.
    """
    from eachmask.runtimes.sessions import session_of
    from eachmask.weights.catalogue import bundled, find
    from eachmask.weights.fetch import cached, given_file
    from eachmask.weights.file import read_info

    session = session_of(model)
    if session is not None:
        return session.header().info
    path = given_file(model) or bundled().get(model)
    if path is not None:
        return read_info(path)
    entry = find(model)
    path = cached(entry)
    return read_info(path) if path else entry.info()


def fields(model: str) -> list[str]:
    """A line for the scores of a network that labels pixels, else for each map of its backbone.

    Raises:
        UserError: there is no such model, or it has no maps to look at.
    """
    from eachmask.models import VARIANTS, variant
    from eachmask.ops.receptive_field import reach_of

    info = None if model in VARIANTS else find_info(model)
    build = variant(model if info is None else info.variant)
    network = build() if info is None else build(num_classes=len(info.categories), **info.config)
    lines = []
    for name, map_ in _maps(network.eval()).items():
        reach = reach_of(map_)
        sees = "an image as a whole"
        if reach is not None:
            sees = f"{reach.field} x {reach.field} px, the next one {reach.stride} px on"
        lines.append(f"{name}: one cell sees {sees}")
    return lines


def _maps(network: Any) -> dict[str, Callable[[Tensor], Tensor]]:
    """What can be looked at: functions from an image to a map, by name."""
    from eachmask.models.semantic.labeling import Labeling
    from eachmask.structures import ImageBatch, UserError

    if isinstance(network, Labeling):
        return {"scores": lambda x: network(ImageBatch(x, (tuple(x.shape[-2:]),))).logits}
    backbone = getattr(network, "backbone", None)
    strides = getattr(backbone, "strides", ())
    if not strides:
        raise UserError("this model has no maps to look at: take one with a backbone, or one that labels pixels")
    return {f"map of stride {stride}": partial(_map, backbone, i) for i, stride in enumerate(strides)}


def _map(backbone: Any, level: int, x: Tensor) -> Tensor:
    found: Tensor = backbone(x).maps[level]
    return found


def settings(info: ModelInfo) -> dict[str, str]:
    """The fields of the header, one line each; empty ones are left out."""
    names = [category.name for category in info.categories if category.name != "N/A"]
    shown: dict[str, Any] = asdict(info) | {"categories": f"{len(names)}: {', '.join(names)}"}
    del shown["card"]
    shown["scales"] = f"{', '.join(f'{scale:g}' for scale in info.scales)}, joined" if info.scales else ""
    shown["tile"] = f"{info.tile} px, for larger images" if info.tile else ""
    return {name: _line(value) for name, value in shown.items() if value}


def _line(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {_number(one)}" for name, one in value.items() if one is not None)


def _number(value: Any) -> str:
    if isinstance(value, dict):
        return f"({_line(value)})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_card(card: str) -> None:
    if not sys.stdout.isatty():
        say(card)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(printable(card)))
    say("")
