"""A model's ``forward`` (or ``encode``) as a graph of tensors, found by running it once and writing down what it does.

The network, with all that depends on every pixel, is in the graph; what looks at single objects (suppression, the
heads of a second stage, the answers to prompts) stays behind in our own code, which can do it for any number of
objects, none included. Images come in unpadded, so that their size, which decides where boxes are cut, is known
inside. What a trace has frozen at the traced size shows when the file is compared with the model at other sizes
(:mod:`eachmask.exporting.compare`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.exporting.substitutes import substituted
from eachmask.models.protocol import PointPromptable, Promptable
from eachmask.runtimes.structure import Description, flat, leaves, merged, pruned
from eachmask.runtimes.watching import watched
from eachmask.structures import DecodeOptions, ImageBatch, Preprocess, UserError
from eachmask.weights.header import ModelInfo

OPSET = 17
"""Of ONNX's operations."""


class Graph(nn.Module):
    """(B, 3, h, w) normalized -> the tensors that the rest of the model reads, in their order.

    Args:
        verb: "forward" or "encode".
        divisor: sides are padded to multiples of it.
    """

    def __init__(self, model: nn.Module, verb: str, divisor: int) -> None:
        super().__init__()
        self.model, self.verb, self.divisor = model, verb, divisor
        self.description: Description = {}
        self.outputs: set[int] | None = None
        """Numbers of the tensors that are given; None: all."""

    def said(self, images: Tensor) -> Any:
        """What the verb gives."""
        return getattr(self.model, self.verb)(padded(images, self.divisor))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        tensors, self.description = flat(self.said(images), self.model)
        return tuple(t for i, t in enumerate(tensors) if self.outputs is None or i in self.outputs)


def padded(images: Tensor, divisor: int) -> ImageBatch:
    """Zeros at the right and at the bottom, as :class:`Preprocess` has them; while tracing, sizes are tensors."""
    height, width = images.shape[-2:]
    tensor = F.pad(images, (0, -width % divisor, 0, -height % divisor)) if divisor > 1 else images
    return ImageBatch(tensor, ((height, width),) * images.shape[0])


@dataclass(frozen=True)
class Traced:
    """A graph and what belongs to it."""

    graph: Graph
    description: Description
    weights: dict[str, Tensor]
    """Of the layers that are not in it, or not only."""
    example: Tensor
    """(1, 3, h, w)"""


@torch.no_grad()
def prepare(model: nn.Module, info: ModelInfo) -> Traced:
    """What there is to trace, and what is left to our own code.

    Raises:
        UserError: the model cannot be run on an image alone, or gives something else than tensors.
    """
    graph = Graph(model, verb_of(model), info.preprocess.divisor).eval()
    encodes = graph.verb == "encode"
    example = example_image(info.preprocess)
    try:
        one, two = graph.said(example), graph.said(example.repeat(2, 1, 1, 1))
    except Exception as error:  # whatever it is that the network misses
        name = info.name or info.variant
        raise UserError(f"{name} cannot be exported, for an image alone does not do: {first_line(error)}") from error
    inside = watched(lambda: graph.said(example))
    outside = set() if encodes else watched(lambda: decoded(model, one))
    try:
        with tracing(info.preprocess):
            torch.jit.trace(graph, (example,), check_trace=False)
    except Exception as error:  # whatever a network does with sizes that are no numbers
        raise UserError(
            f"{info.name} cannot be exported{for_any_size(info.preprocess)}: {first_line(error)}"
        ) from error
    description = merged(graph.description, flat(one, model)[1], flat(two, model)[1])
    numbers = {leaf["number"] for leaf in leaves(description) if "number" in leaf}
    graph.outputs = numbers | _read(model, one, description, outside, everything=encodes)
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    kept = {name: t.detach() for name, t in state.items() if id(t) not in inside or id(t) in outside}
    return Traced(graph, pruned(description, graph.outputs), kept, example)


def verb_of(model: nn.Module) -> str:
    """``encode`` of a model that must be asked; one that finds everything by itself is asked to choose among that."""
    asked = isinstance(model, PointPromptable) or getattr(model, "answers_only", False)
    return "encode" if isinstance(model, Promptable) and asked else "forward"


def _read(model: nn.Module, raw: Any, description: Description, seen: set[int], everything: bool) -> set[int]:
    """The numbers of the tensors that the rest of the model reads."""
    places = [leaf["tensor"] for leaf in leaves(description) if "tensor" in leaf]
    tensors = flat(raw, model)[0]
    return {place for place, tensor in zip(places, tensors, strict=True) if everything or id(tensor) in seen}


def decoded(model: nn.Module, raw: Any) -> Any:
    """What the rest of the model makes of it, with as many objects as there may be."""
    return model.decode(raw, DecodeOptions(score_threshold=0.0))  # type: ignore[operator]


def is_dynamic(preprocess: Preprocess) -> bool:
    """Whether the graph is to take any number of images of any size."""
    return preprocess.fixed_size is None and preprocess.divisor <= 256


def for_any_size(preprocess: Preprocess) -> str:
    """The remedy, where a network can be written down for one size alone."""
    return " for images of any size (give --size HEIGHT WIDTH)" if is_dynamic(preprocess) else ""


@contextmanager
def tracing(preprocess: Preprocess) -> Iterator[None]:
    """While a network is run to write down what it does."""
    with warnings.catch_warnings(), torch.no_grad(), substituted(fixed=not is_dynamic(preprocess)):
        warnings.simplefilter("ignore")  # of numbers that may freeze: the file is compared with the model
        yield


def example_image(preprocess: Preprocess, size: tuple[int, int] = (96, 160)) -> Tensor:
    """(1, 3, h, w) noise with a bright square, of the only size or of this."""
    height, width = preprocess.fixed_size or size
    if preprocess.divisor > 256:  # always seen in one size: larger than what is padded
        height = width = preprocess.divisor
    image = torch.randn((1, 3, height, width), generator=torch.Generator().manual_seed(0)) / 4
    image[:, :, height // 4 : height // 2, width // 4 : width // 2] += 2
    return image


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]
