"""Annotations that nobody had to draw: something proposes, a model that answers prompts draws, rules keep.

The data engine of Segment Anything (Kirillov et al., ICCV 2023, arXiv 2304.02643, section 4): what the model is sure of
becomes an annotation, what it is not sure of is left for people, the most doubtful first.

Shapes: N objects of one image.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.inference.predictor import Predictor
from eachmask.inference.prompt_predictor import PromptPredictor
from eachmask.models.protocol import PointPromptable
from eachmask.structures import Category, DecodeOptions, Instances, Masks, Prompts, UserError
from eachmask.structures.checks import check_number


@dataclass(frozen=True)
class Rules:
    """What an object needs to become an annotation without anybody looking at it.

    Raises:
        UserError: a number outside 0..1.
    """

    iou: float = 0.8
    """The IoU that the drawing model expects of its mask is at least this."""
    stability: float = 0.9
    """See :mod:`eachmask.inference.stability`; at least this."""
    score: float = 0.5
    """What a detector proposes scores at least this."""
    duplicate: float = 0.7
    """Of two masks of a higher IoU, the more doubtful one goes, for good."""
    inside: float = 0.8
    """Where everything is looked for, the more doubtful one goes too if more than this share of the smaller one lies in
    the other: parts of what is annotated, and what holds several such. 1: they stay."""
    slack: float = 0.2
    """What misses a rule by more than this goes, for good; by less, it is left for review."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            check_number(name, value, 0, 1)


class Labeled(NamedTuple):
    """What was found in an image, the surest first."""

    instances: Instances
    """``scores`` are the predicted IoU."""
    stability: NDArray[np.float64]  # (N,)
    proposed: NDArray[np.float64]  # (N,) score of the proposal; 1 where nobody scored it
    doubt: NDArray[np.float64]  # (N,) 0..1: 1 minus the product of the three
    reasons: tuple[str, ...]
    """Why each has to be reviewed; empty: it need not be."""


class Proposals(NamedTuple):
    """Masks before any rule."""

    instances: Instances
    stability: NDArray[np.float64]
    proposed: NDArray[np.float64]


@dataclass
class Labeler:
    """An image -> annotations, and what is to be reviewed.

    Args:
        drawer: draws what is in a box, or finds everything.
        detector: proposes boxes; None: the drawer finds everything.
        rules: what is kept.
        name: of the class, where there is no detector.
    """

    drawer: PromptPredictor
    detector: Predictor[Instances] | None = None
    rules: Rules = Rules()
    name: str = "object"

    def __post_init__(self) -> None:
        if self.detector is None and not self.drawer.finds_everything:
            own = self.drawer.info.name or self.drawer.info.variant
            raise UserError(f"{own} finds nothing by itself: name a detector with --model, or draw with clicks")

    @property
    def categories(self) -> tuple[Category, ...]:
        """Classes of the annotations."""
        return (Category(1, self.name),) if self.detector is None else self.detector.categories

    def __call__(self, image: NDArray[Any], classes: tuple[str, ...] = ()) -> Labeled:
        """Label one image.

        Args:
            image: (H, W, 3).
            classes: of the detector's; all by default.
        """
        found = self._everything(image) if self.detector is None else self._detected(image, self.detector, classes)
        return judged(found, self.rules, nested=self.detector is not None)

    @property
    def _asks_points(self) -> bool:
        return isinstance(self.drawer.model, PointPromptable)

    def _everything(self, image: NDArray[Any]) -> Proposals:
        if not self._asks_points:
            found = self.drawer.everything(image)
            stability = np.ones(len(found))
        else:
            rules = self.rules
            config = replace(
                self.drawer.everything_config,
                iou_threshold=max(0.0, rules.iou - rules.slack),
                stability_threshold=max(0.0, rules.stability - rules.slack),
            )
            masks = self.drawer.looking(config).all_masks(image)
            masks = masks.take(np.argsort(-masks.ious, kind="stable"))
            found, stability = masks.instances(), masks.stability.astype(np.float64)
        labels = torch.zeros(len(found), dtype=torch.int64)
        named = replace(found, labels=labels, categories=self.categories)
        return Proposals(named, stability, np.ones(len(found)))

    def _detected(self, image: NDArray[Any], detector: Predictor[Instances], classes: tuple[str, ...]) -> Proposals:
        least = DecodeOptions(score_threshold=max(0.0, self.rules.score - self.rules.slack))
        boxes = detector.predict(image, options=least, classes=list(classes))
        boxes = boxes[(boxes.boxes[:, 2:] - boxes.boxes[:, :2] >= 1).all(1)]
        if not len(boxes):
            empty = replace(Instances.empty(boxes.image_size), scores=torch.zeros(0), categories=self.categories)
            return Proposals(empty, np.zeros(0), np.zeros(0))
        drawn, stability = self.drawer.stable_answers(image, Prompts(boxes.image_size, boxes=boxes.boxes))
        assert drawn.track_ids is not None and boxes.scores is not None
        rows = drawn.track_ids
        named = replace(drawn, labels=boxes.labels[rows], track_ids=None, categories=self.categories)
        return Proposals(named, stability, boxes.scores[rows].double().numpy())


def judged(found: Proposals, rules: Rules, *, nested: bool = True) -> Labeled:
    """The rules applied: duplicates and what is far too doubtful go, the rest is kept or left for review.

    Args:
        nested: objects may lie in others.
    """
    instances, stability, proposed = found
    assert instances.scores is not None
    measures = {
        "predicted IoU": (instances.scores.double().numpy(), rules.iou),
        "stability": (stability, rules.stability),
        "score": (proposed, rules.score),
    }
    enough = instances.gt_masks.area() > 0
    for values, least in measures.values():
        enough &= values >= least - rules.slack
    doubt = 1 - np.prod([values for values, _ in measures.values()], axis=0)
    order = np.flatnonzero(enough)[np.argsort(doubt[enough], kind="stable")]
    order = order[distinct(instances.gt_masks[order], rules.duplicate, 1.0 if nested else rules.inside)]
    reasons = []
    for i in order.tolist():
        missed = [f"{name} {v[i]:.2f} below {least:g}" for name, (v, least) in measures.items() if v[i] < least]
        reasons.append(", ".join(missed))
    kept = replace(instances[order], track_ids=None)
    return Labeled(kept.with_boxes_from_masks(), stability[order], proposed[order], doubt[order], tuple(reasons))


def distinct(masks: Masks, threshold: float, inside: float = 1.0) -> NDArray[np.int64]:
    """Numbers of the masks that none before them overlaps too much, in their order.

    Args:
        threshold: largest IoU.
        inside: largest share of the smaller one of two masks that may lie in the other.
    """
    iou, areas = masks.to_rle().iou(masks), masks.area().astype(np.float64)
    common = iou / (1 + iou) * (areas[:, None] + areas)
    share = common / np.maximum(np.minimum(areas[:, None], areas), 1)
    alike = (iou > threshold) | (share > inside + 1e-6)
    kept: list[int] = []
    for i in range(len(masks)):
        if not alike[i, kept].any():
            kept.append(i)
    return np.array(kept, np.int64)
