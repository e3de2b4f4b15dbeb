"""Models: what a server serves, in the process that computes; no route and no queue in here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eachmask.inference.embedding_cache import EmbeddingCache
from eachmask.inference.load import load
from eachmask.inference.matting import check_alone
from eachmask.inference.predictor import Predictor
from eachmask.inference.prompt_predictor import PromptPredictor
from eachmask.server.answers import formats
from eachmask.server.batcher import answered
from eachmask.server.guard import Refusal
from eachmask.server.settings import ServerSettings
from eachmask.server.works import Work

SESSION_BYTES = 2 << 30
"""Of what models saw of images, on disk; what was not used for longest goes."""


class Models:
    """The models that are served, by the names that they were asked for.

    Raises:
        UserError: one of them cannot be loaded.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._loaded: dict[str, Predictor[Any]] = {}
        for name in settings.models:
            self.load(name)

    def load(self, name: str) -> None:
        """Take a model in, or anew: what has begun ends with the one before."""
        predictor = load(name, device=self.settings.device, precision=self.settings.precision)
        check_alone(predictor.model, name)
        if isinstance(predictor, PromptPredictor):
            folder = Path(self.settings.embeddings) if self.settings.embeddings else None
            predictor.cache = EmbeddingCache(folder, SESSION_BYTES)
        self._loaded[name] = predictor

    def get(self, name: str | None) -> Predictor[Any]:
        """The model of this name, or the first one."""
        return self._loaded[name or self.settings.models[0]]

    def prompted(self, name: str | None) -> PromptPredictor:
        """The same of a model that takes prompts; without a name the first that does.

        Raises:
            Refusal: there is none.
        """
        if name is None:
            name = next((n for n, model in self._loaded.items() if isinstance(model, PromptPredictor)), None)
        predictor = self.get(name)
        if not isinstance(predictor, PromptPredictor):
            raise Refusal(422, f"{name or self.settings.models[0]} takes no prompts: serve a model such as clicks too")
        return predictor

    def described(self) -> list[dict[str, Any]]:
        """The models, what they find, and the formats of their results."""
        return [_described(name, predictor) for name, predictor in self._loaded.items()]

    def run(self, work: Work, items: Sequence[Any]) -> list[Any]:
        """An answer or an exception for each item."""
        return answered(lambda some: work.run(self, some), items)


def _described(name: str, predictor: Predictor[Any]) -> dict[str, Any]:
    return {
        "name": name,
        "task": predictor.task.name,
        "prompts": isinstance(predictor, PromptPredictor),
        "categories": [category.name for category in predictor.categories],
        "formats": list(formats(predictor.task)),
        "license": predictor.info.license,
    }
