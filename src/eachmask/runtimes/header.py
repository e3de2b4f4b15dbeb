"""What an exported file says about itself, and the weights that its graph has no use for."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from eachmask.structures import UserError
from eachmask.weights.header import ModelInfo
from eachmask.weights.schema import SchemaError

FORMAT = 2
"""Of exported files; those of format 1 have no graphs of answers."""
KEY = "eachmask"
"""In the file's metadata."""


@dataclass(frozen=True)
class AnswerGraph:
    """A method that answers prompts, as a graph of its own."""

    onnx: bytes = field(repr=False)
    description: dict[str, Any]
    """Where its outputs belong, as ``Header.description``."""

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"onnx": base64.b64encode(self.onnx).decode(), "description": self.description}

    @staticmethod
    def from_json(values: dict[str, Any]) -> AnswerGraph:
        """Undo of :meth:`to_json`."""
        return AnswerGraph(base64.b64decode(values["onnx"]), values["description"])


@dataclass(frozen=True)
class Header:
    """All that is needed to use a graph."""

    info: ModelInfo
    verb: str
    """Which of the model's verbs the graph is: ``forward`` or ``encode``."""
    description: dict[str, Any]
    """Where its outputs belong, see :mod:`eachmask.runtimes.structure`."""
    precision: str = "fp32"
    dynamic: bool = True
    """Any number of images of any size; else one of the size in ``info.preprocess``."""
    batched: bool = True
    """Several images of one size can be run at once."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    """Of the layers that run after the graph (heads that look at single objects, encoders of prompts)."""
    answers: dict[str, AnswerGraph] = field(default_factory=dict)
    """Methods that answer prompts, by their path in the model."""

    def to_json(self) -> str:
        """As text, in which the weights are base64 of a safetensors file."""
        return json.dumps(
            {
                "format": FORMAT,
                "model": json.loads(self.info.to_json()),
                "verb": self.verb,
                "description": self.description,
                "precision": self.precision,
                "dynamic": self.dynamic,
                "batched": self.batched,
                "weights": base64.b64encode(save(self.weights)).decode() if self.weights else "",
                "answers": {path: graph.to_json() for path, graph in self.answers.items()},
            }
        )

    @staticmethod
    def from_json(text: str | None, path: object) -> Header:
        """Undo of :meth:`to_json`.

        Raises:
            UserError: it is none of ours, damaged, or of a later version.
        """
        if not text:
            raise UserError(f"{path} was not written by eachmask export, so that nothing is known about what it gives")
        try:
            values = json.loads(text)
            if values["format"] > FORMAT:
                raise UserError(f"{path} was exported by a later version of eachmask: update eachmask, or export again")
            weights = load(base64.b64decode(values["weights"])) if values["weights"] else {}
            info = ModelInfo.from_json(json.dumps(values["model"]))
            said = {key: values[key] for key in ("verb", "description", "precision", "dynamic")}
            answers = {path: AnswerGraph.from_json(graph) for path, graph in values.get("answers", {}).items()}
            batched = values.get("batched", values["dynamic"])
            return Header(info, **said, batched=batched, weights=weights, answers=answers)
        except (KeyError, TypeError, ValueError, AttributeError, SchemaError, RecursionError, SafetensorError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"the header of {path} cannot be used ({error}): export the model again") from error
