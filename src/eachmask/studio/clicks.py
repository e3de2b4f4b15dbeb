"""Clicks: a promptable model looks at an image once and then answers at once."""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from eachmask.data.images.read import unit_range
from eachmask.inference.devices import one_thread
from eachmask.inference.embedding_cache import EmbeddingCache
from eachmask.inference.load import load
from eachmask.inference.prompt_predictor import Embedded, PromptPredictor
from eachmask.ops.clicks import depths
from eachmask.structures import RLE, DecodeOptions, Prompts, UserError
from eachmask.studio.items import Item
from eachmask.studio.objects import rings_of
from eachmask.studio.project import StaleError
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
        self._known: OrderedDict[tuple[Path, int, int], Embedded] = OrderedDict()
        self._looks = ThreadPoolExecutor(1, "look")  # always the same thread: see eachmask.accel.spinning
        self._answering, self._knowing = threading.Lock(), threading.Lock()
        self._numbers, self._newest = itertools.count(), 0

    def look(self, item: Item) -> Embedded:
        """What the model sees of an image; slow once, at once afterwards.

        Raises:
            UserError: the image cannot be read, or the model takes no prompts.
        """
        path = item.path
        key = (path, item.place, path.stat().st_mtime_ns if path.exists() else 0)
        known = self._recall(key)
        if known is not None:
            return known

        def seen() -> Embedded:
            return self._recall(key) or self._loaded().embed(unit_range(item.seen()))

        known = self._looks.submit(seen).result()  # one image at a time; clicks on known ones are answered meanwhile
        with self._knowing:
            self._known[key] = known
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        return known

    def _recall(self, key: tuple[Path, int, int]) -> Embedded | None:
        with self._knowing:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)

    def answer(self, item: Item, click: Click, rough: RLE | None = None) -> ClickOut:
        """The object that is meant, the best answer first.

        Args:
            rough: one mask that the prompts correct.

        Raises:
            UserError: nothing is meant, or it does not lie in the image.
            StaleError: the pointer only rested there, and something else was asked meanwhile.
        """
        begin = time.perf_counter()
        number = self._newest = next(self._numbers)
        embedded = self.look(item)
        prompts = _prompts(click, rough, embedded.image_size)
        with self._answering, one_thread():  # its maps are small: further threads would wait for each other
            if click.hover and number != self._newest:
                raise StaleError("something else was asked meanwhile")
            options = DecodeOptions(alternatives=click.alternatives)
            found = self._loaded().predict(embedded, prompts, options=options)
        if not len(found) or found.masks is None:
            remedy = "click elsewhere, or draw a box" if click.box is None else "draw another box, or click"
            raise UserError(f"the model finds nothing there: {remedy}")
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


def _prompts(click: Click, rough: RLE | None, size: tuple[int, int]) -> Prompts:
    points, signs = list(click.points), click.signs or [True] * len(click.points)
    if rough is not None and not any(signs) and not click.scribbles and click.box is None:
        # Models have learned from corrections that follow a click on the object.
        points, signs = [*points, _middle(rough, points)], [*signs, True]
    lines = [[line[i : i + 2] for i in range(0, len(line) - 1, 2)] for line in click.scribbles]
    return Prompts(
        size,
        points=points,  # type: ignore[arg-type]
        signs=signs,  # type: ignore[arg-type]
        boxes=[] if click.box is None else [click.box],  # type: ignore[arg-type]
        box_objects=[] if click.box is None else [0],  # type: ignore[arg-type]
        scribbles=lines,  # type: ignore[arg-type]
        masks=rough,
    )


def _middle(mask: RLE, beside: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The place (x, y) that is deepest inside of a mask and far from points that are not on the object."""
    x1, y1, x2, y2 = (int(v) for v in mask.boxes()[0])
    inside = mask.crop((x1, y1, x2, y2)).decode()[0].astype(bool)
    for x, y in beside:
        if x1 <= x < x2 and y1 <= y < y2:
            inside[int(y) - y1, int(x) - x1] = False
    row, column = divmod(int(np.argmax(depths(inside, exact=False))), inside.shape[1])
    return x1 + column + 0.5, y1 + row + 0.5
