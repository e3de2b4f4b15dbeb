"""The arithmetic of answers to prompts as graphs of their own, beside that of ``encode``, in the same file.

A model names the methods that do it (:attr:`~eachmask.models.protocol.Network.answered_by`). The model is asked twice,
about a few objects and about more of which more is said; what differs between the calls of a method (objects, tokens)
may have any length in its graph.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eachmask.exporting.graph import OPSET, example_image, first_line, padded
from eachmask.exporting.substitutes import substituted
from eachmask.runtimes.header import AnswerGraph
from eachmask.runtimes.structure import Description, flat, rebuilt
from eachmask.runtimes.watching import watched
from eachmask.structures import RLE, DecodeOptions, Preprocess, Prompts, UserError
from eachmask.weights.header import ModelInfo

Calls = Mapping[str, Sequence[tuple[Any, ...]]]
"""Path of a method -> the arguments of each of its calls."""


class _Method(nn.Module):
    """A method of a layer, from tensors to tensors."""

    def __init__(self, model: nn.Module, path: str, arguments: Description) -> None:
        super().__init__()
        self.layer, name = owner(model, path)
        self.method, self.arguments = getattr(self.layer, name), arguments
        self.description: Description = {}

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        found, self.description = flat(self.method(*rebuilt(tensors, self.arguments)))
        return tuple(found)


def owner(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The layer that has a method, and the method's name: "decoder.forward" -> (the decoder, "forward")."""
    layer, _, name = path.rpartition(".")
    return model.get_submodule(layer), name


@torch.no_grad()
def calls(model: Any, preprocess: Preprocess) -> Calls:
    """How the methods of ``answered_by`` are called when the model is asked twice about an image."""
    with _listening(model) as heard:
        _ask(model, preprocess)
    return heard


def answer_graphs(model: Any, info: ModelInfo) -> tuple[dict[str, AnswerGraph], set[str]]:
    """The methods as graphs, by their paths, and the names of the weights that nothing else reads.

    Raises:
        UserError: a method cannot be written down.
    """
    heard = calls(model, info.preprocess)
    try:
        graphs = {path: _graph(model, path, arguments) for path, arguments in heard.items()}
    except Exception as error:  # whatever a converter stumbles over
        raise UserError(f"{info.name} cannot be exported: its answers to prompts: {first_line(error)}") from error
    return graphs, _read_there_alone(model, info.preprocess, heard)


@torch.no_grad()
def _read_there_alone(model: Any, preprocess: Preprocess, heard: Calls) -> set[str]:
    inside: set[int] = set()
    for path, arguments in heard.items():
        layer, name = owner(model, path)
        inside |= watched(partial(getattr(layer, name), *arguments[0]))
    with _listening(model):
        outside = watched(lambda: _ask(model, preprocess))
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name for name, tensor in state.items() if id(tensor) in inside and id(tensor) not in outside}


def _graph(model: nn.Module, path: str, arguments: Sequence[tuple[Any, ...]]) -> AnswerGraph:
    tensors, description = flat(arguments[0])
    method = _Method(model, path, description).eval()
    names = [f"input_{i}" for i in range(len(tensors))]
    every = [flat(one)[0] for one in arguments]
    axes = {name: differing([one[i] for one in every]) for i, name in enumerate(names)}
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad(), substituted(fixed=False):
        warnings.simplefilter("ignore")
        torch._C._jit_set_onnx_log_enabled(False)
        torch.onnx.export(
            method, tuple(tensors), buffer, dynamo=False, opset_version=OPSET, input_names=names,
            dynamic_axes={name: found for name, found in axes.items() if found},
        )  # fmt: skip
    return AnswerGraph(buffer.getvalue(), method.description)


def differing(tensors: Sequence[Tensor]) -> dict[int, str]:
    """The axes in which tensors of as many axes differ, each with a name.

    >>> differing([torch.zeros(2, 5, 8), torch.zeros(3, 5, 8)])
    {0: 'axis_0'}
    """
    return {axis: f"axis_{axis}" for axis in range(tensors[0].ndim) if len({t.shape[axis] for t in tensors}) > 1}


def _ask(model: Any, preprocess: Preprocess) -> None:
    images = example_image(preprocess)
    embedding = model.encode(padded(images, preprocess.divisor))
    size = (int(images.shape[2]), int(images.shape[3]))
    for questions in (_few(size), _more(size)):
        model.decode(_first_answer(model, embedding, questions), DecodeOptions())


def _first_answer(model: Any, embedding: Any, questions: Sequence[Prompts]) -> Any:
    """To the first of these that the model understands."""
    for asked in questions[:-1]:
        try:
            return model.prompted(embedding, [asked])
        except UserError:
            continue
    return model.prompted(embedding, [questions[-1]])


def _few(size: tuple[int, int]) -> list[Prompts]:
    """Two objects: a click on each, or their outermost points."""
    middle = torch.tensor([[0.375, 0.375], [0.7, 0.6]]) * torch.tensor([size[1], size[0]])
    return [Prompts(size, points=middle, point_objects=torch.arange(2)), Prompts(size, extremes=_extremes(middle))]


def _more(size: tuple[int, int]) -> list[Prompts]:
    """Three objects: two clicks on each and a rough mask, or fewer of these, or their outermost points."""
    shares = torch.tensor([[0.3, 0.3], [0.35, 0.4], [0.6, 0.6], [0.7, 0.6], [0.2, 0.7], [0.25, 0.8]])
    places, numbers = shares * torch.tensor([size[1], size[0]]), torch.arange(6) // 2
    rough = np.zeros((3, *size), dtype=bool)
    rough[:, size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = True
    return [
        Prompts(size, points=places, point_objects=numbers, masks=RLE.from_bitmaps(rough)),
        Prompts(size, points=places, point_objects=numbers),
        Prompts(size, extremes=_extremes(places[::2])),
    ]


def _extremes(middle: Tensor) -> Tensor:
    """(N, 2) -> (N, 4, 2): left, top, right, bottom."""
    return middle[:, None] + torch.tensor([[-9.0, 0], [0, -7], [9, 0], [0, 7]])


@contextmanager
def _listening(model: Any) -> Iterator[dict[str, list[tuple[Any, ...]]]]:
    """While this is entered, calls of the methods are noted; who watches tensors sees nothing of what they do."""
    heard: dict[str, list[tuple[Any, ...]]] = {path: [] for path in model.answered_by}
    with ExitStack() as stack:
        for path, found in heard.items():
            stack.enter_context(_noted(*owner(model, path), found))
        yield heard


@contextmanager
def _noted(layer: nn.Module, name: str, found: list[tuple[Any, ...]]) -> Iterator[None]:
    method = getattr(layer, name)

    def noting(*arguments: Any) -> Any:
        found.append(arguments)
        with torch._C.DisableTorchFunction():
            return method(*arguments)

    layer.__dict__[name] = noting
    try:
        yield
    finally:
        del layer.__dict__[name]
