"""An exported file as the model that it was: the same class, in which one verb is run by another runtime.

Everything else of the model stays as it is (thresholds, suppression, pasting, prompts), so that whatever takes a model
takes an exported one too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from eachmask.models.crop_classifier import Config, CropClassifier
from eachmask.models.protocol import Recurrent
from eachmask.runtimes.header import AnswerGraph, Header
from eachmask.runtimes.sessions import Session
from eachmask.runtimes.structure import batches, flat, joined, rebuilt
from eachmask.structures import ImageBatch, UserError
from eachmask.weights.file import CLASSIFIER, build
from eachmask.weights.header import SCHEMA, ModelInfo

DIGEST = "exported_digest"
"""A buffer that tells the weights in the graph from others."""


class Verb:
    """``forward`` or ``encode`` of a model, run by a runtime.

    Args:
        session: holds the graph.
        header: what the file says about it.
        model: whose verb it is.
    """

    def __init__(self, session: Session, header: Header, model: nn.Module) -> None:
        self.session, self.description, self.model = session, header.description, model
        self.at_once = header.batched and batches(header.description)

    def __call__(self, images: ImageBatch, given: Any = None) -> Any:
        """What the network says of a batch.

        Raises:
            UserError: something is given with the images, which the graph has no input for.
        """
        if given is not None:
            raise UserError("an exported model takes nothing besides the image: use the model itself")
        if self.at_once and len(set(images.sizes)) == 1:
            return self._run(images.tensor, images.sizes[0])
        parts = [self._run(one[None], size) for one, size in zip(images.tensor, images.sizes, strict=True)]
        return joined(parts, self.description)

    def _run(self, padded: Tensor, size: tuple[int, int]) -> Any:
        images = padded[:, :, : size[0], : size[1]].float()
        return rebuilt(self.session.run(images), self.description, len(images), self.model)


class Answer:
    """A method that answers prompts, run by a runtime; opened when it is first called."""

    def __init__(self, session: Session, graph: AnswerGraph) -> None:
        self.session, self.graph = session, graph
        self._run: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """What the method gives."""
        if self._run is None:
            self._run = self.session.opened_graph(self.graph.onnx)
        tensors = flat(arguments)[0]
        return rebuilt(self._run([t.float() if t.is_floating_point() else t for t in tensors]), self.graph.description)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_run": None}


def load_exported(session: Session) -> tuple[nn.Module, ModelInfo, CropClassifier | None]:
    """The model in an exported file, and what gives its objects narrower names; in eval mode on the CPU.

    Raises:
        UserError: see :class:`~eachmask.runtimes.sessions.Session`; or it does not fit this version.
    """
    header = session.header()
    with torch.device("meta"):
        model = build(header.info, session.path)
    _fill(model, header.weights)
    model.register_buffer(DIGEST, torch.frombuffer(bytearray(session.digest()), dtype=torch.uint8))
    setattr(model, header.verb, Verb(session, header, model))
    model.__dict__["exported_precision"] = header.precision
    other = set(header.answers) ^ set(getattr(model, "answered_by", ()))
    if header.answers and other:
        paths = ", ".join(sorted(other))
        raise UserError(f"{session.path} answers prompts in another version's way ({paths}): export the model again")
    for path, graph in header.answers.items():
        layer, _, name = path.rpartition(".")
        setattr(model.get_submodule(layer), name, Answer(session, graph))
    if isinstance(model, Recurrent) and header.verb == "forward":
        model.__dict__["step"] = _forgetful
    return model.eval().requires_grad_(False), header.info, _classifier(header)


def _forgetful(*_: Any) -> Any:
    raise UserError("an exported model remembers nothing of earlier frames: use the model itself for videos")


def _classifier(header: Header) -> CropClassifier | None:
    settings = header.info.crop_classifier
    if settings is None:
        return None
    classifier = CropClassifier(SCHEMA.read(Config, settings, "crop_classifier"))
    classifier.load_state_dict(
        {n.removeprefix(CLASSIFIER): t for n, t in header.weights.items() if n.startswith(CLASSIFIER)}
    )
    return classifier.eval()


def _fill(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """The weights that the file has; all others are in the graph, and take no memory here."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for table in (module._parameters, module._buffers):
            for name, old in table.items():
                if old is not None:
                    new = weights.get(prefix + name, torch.zeros(0, dtype=old.dtype))
                    table[name] = nn.Parameter(new, requires_grad=False) if table is module._parameters else new
