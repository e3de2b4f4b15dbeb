"""``eachmask show``: the card of a model and everything that its file says about itself."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from eachmask.files.text import printable, say

if TYPE_CHECKING:
    from eachmask.weights.file import ModelInfo


@dataclass(frozen=True)
class ShowOptions:
    """Print a model's card and settings. Nothing is downloaded.

    Examples:
      eachmask show nuclei
      eachmask show runs/mine
      eachmask show nuclei.onnx
    """

    model: Annotated[str, tyro.conf.Positional]
    """A name from `eachmask models`, a model file, an exported file, or the folder of a run."""
    json: bool = False
    """Print the settings as JSON, the card among them, for programs."""


def show(options: ShowOptions) -> int:
    """Run the command; returns the exit status."""
    info = find_info(options.model)
    if options.json:
        print(json.dumps(asdict(info), indent=2))
        return 0
    _print_card(info.card or f"# {info.name or info.variant}\n\nThis model has no card.\n")
    for name, value in settings(info).items():
        say(f"{name + ':':<13}{value}")
    return 0


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


def settings(info: ModelInfo) -> dict[str, str]:
    """The fields of the header, one line each; empty ones are left out."""
    names = [category.name for category in info.categories if category.name != "N/A"]
    shown: dict[str, Any] = asdict(info) | {"categories": f"{len(names)}: {', '.join(names)}"}
    del shown["card"]
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
