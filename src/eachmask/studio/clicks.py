"""Clicks: a promptable model looks at an image once and then answers at once."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from pathlib import Path

from eachmask.data.images.read import read_image, unit_range
from eachmask.inference.embedding_cache import EmbeddingCache
from eachmask.inference.load import load
from eachmask.inference.prompt_predictor import Embedded, PromptPredictor
from eachmask.structures import RLE, DecodeOptions, Prompts, UserError
from eachmask.studio.objects import rings_of
from eachmask.studio.schemas import AnswerOut, Click, ClickOut

KEPT = 4
"""Images whose embeddings stay in memory; all are on disk."""


class Clicks:
    """Answers clicks on the images of a folder.

    Args:
        model: name of a promptable model; loaded when it is first needed.
        cache: folder of what it saw of images; by default the package's.
    """

    def __init__(self, model: str = "clicks", cache: Path | None = None) -> None:
        self.model, self.cache = model, cache
        self._predictor: PromptPredictor | None = None
        self._known: OrderedDict[tuple[Path, int], Embedded] = OrderedDict()
        self._lock = threading.Lock()

    def look(self, path: Path) -> Embedded:
        """What the model sees of an image; slow once, at once afterwards.

        Raises:
            UserError: the image cannot be read, or the model takes no prompts.
        """
        key = (path, path.stat().st_mtime_ns if path.exists() else 0)
        with self._lock:
            if key not in self._known:
                self._known[key] = self._loaded().embed(unit_range(read_image(path)))
                while len(self._known) > KEPT:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return self._known[key]

    def answer(self, path: Path, click: Click, rough: RLE | None = None) -> ClickOut:
        """The object that is meant, the best answer first.

        Args:
            rough: one mask that the prompts correct.

        Raises:
            UserError: nothing is meant, or it does not lie in the image.
        """
        begin = time.perf_counter()
        embedded = self.look(path)
        lines = [[line[i : i + 2] for i in range(0, len(line) - 1, 2)] for line in click.scribbles]
        prompts = Prompts(
            embedded.image_size,
            points=click.points,  # type: ignore[arg-type]
            signs=click.signs or [True] * len(click.points),  # type: ignore[arg-type]
            boxes=[] if click.box is None else [click.box],  # type: ignore[arg-type]
            box_objects=[] if click.box is None else [0],  # type: ignore[arg-type]
            scribbles=lines,  # type: ignore[arg-type]
            masks=rough,
        )
        with self._lock:
            found = self._loaded().predict(embedded, prompts, options=DecodeOptions(alternatives=True))
        if not len(found) or found.masks is None:
            raise UserError("the model finds nothing there: click elsewhere, or draw a box")
        scores = [1.0] * len(found) if found.scores is None else found.scores.tolist()
        masks = found.masks.to_rle()
        answers = [AnswerOut(rings=rings_of(masks[i]), score=score) for i, score in enumerate(scores)]
        ms = 1000 * (time.perf_counter() - begin)
        return ClickOut(rings=answers[0].rings, score=answers[0].score, alternatives=answers[1:], ms=ms)

    def _loaded(self) -> PromptPredictor:
        if self._predictor is None:
            predictor = load(self.model)
            if not isinstance(predictor, PromptPredictor):
                raise UserError(f"{self.model} takes no prompts: choose a model such as clicks")
            predictor.cache = EmbeddingCache(self.cache)
            self._predictor = predictor
        return self._predictor
