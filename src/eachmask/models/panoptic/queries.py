"""Masks by queries: what MaskFormer and Mask2Former share, from two tensors to semantic, instance or panoptic results.

Cheng, Schwing, Kirillov: "Per-Pixel Classification is Not All You Need for Semantic Segmentation", NeurIPS 2021, arXiv
2107.06278. Each of Q queries says a class (or that it means nothing) and a mask. Summed over the queries, probabilities
of classes times those of masks are a semantic map; the best pairs of query and class are instances; and where
every pixel goes to the query that claims it most, the map is panoptic (section 3.4). One network answers all three.

Shapes: B images, Q queries, K classes, (h, w) the masks at stride 4 of the padded batch, N queries that are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.models.protocol import Network
from eachmask.ops.query_losses import LossWeights, class_loss
from eachmask.structures import DecodeOptions, Instances, PanopticMap, Segment, SemanticMap
from eachmask.structures.soft_masks import SoftMasks
from eachmask.tasks.instances import INSTANCES
from eachmask.tasks.panoptic import PANOPTIC
from eachmask.tasks.semantic import SEMANTIC

ROWS_CHUNK_SIZE = 64
"""Rows of the image for which the scores of all classes exist at once."""

MASKS_CHUNK_SIZE = 8
"""Masks that exist at full size at once."""

Said = tuple[Tensor, Tensor]
"""Logits of classes (B, Q, K + 1), the last "no object", and of masks (B, Q, h, w)."""


class Raw(NamedTuple):
    """What the network says."""

    classes: Tensor  # (B, Q, K + 1) logits
    masks: Tensor  # (B, Q, h, w) logits
    earlier: tuple[Said, ...]  # the same of earlier layers, for their losses
    padded: tuple[int, int]  # (height, width) of the batch
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image


class Selected(NamedTuple):
    """What is kept of each image's queries."""

    padded: tuple[int, int]
    sizes: tuple[tuple[int, int], ...]
    masks: tuple[Tensor, ...]  # (N, h, w) logits
    scores: tuple[Tensor, ...]  # (N,), for semantic maps (N, K)
    labels: tuple[Tensor, ...]  # (N,) int64, for semantic maps empty


@dataclass(frozen=True)
class QueryConfig:
    """What is decided after the network has spoken, and how it learns."""

    queries: int = 100
    stuff: tuple[int, ...] = ()
    """Labels of stuff, of which an image has one region each; filled in from the data when training."""
    object_threshold: float = 0.8
    """Panoptic: queries less sure of their class claim no pixels, unless a user asks for another score."""
    overlap_threshold: float = 0.8
    """Panoptic: a query that wins a smaller share of its mask is dropped."""
    score_threshold: float = 0.0
    max_detections: int = 100
    """Instances: so many pairs of query and class."""
    loss: LossWeights = LossWeights()


class QueryNetwork(Network[Raw, Selected, Any]):
    """Subclasses say what is matched with what, and name the task whose answers they give."""

    suppresses = False
    config: QueryConfig

    @property
    def max_objects(self) -> int | None:
        """As many as there are queries."""
        return self.config.queries

    def losses(self, raw: Raw, targets: list[Any]) -> dict[str, Tensor]:
        """Class, mask and Dice losses of every layer, weighted; ``class_0`` is of the first layer."""
        pairs = [masks_of(target, raw.padded, raw.masks.device) for target in targets]
        labels, masks = [p[0] for p in pairs], [p[1] for p in pairs]
        result = {}
        for number, said in enumerate(((raw.classes, raw.masks), *raw.earlier)):
            suffix = "" if number == 0 else f"_{number - 1}"
            matched = self.match(said, labels, masks)
            terms = self.mask_losses(said[1], matched, masks) if any(len(m[0]) for m in matched) else _nothing(said[1])
            classes = class_loss(said[0], matched, labels, self.config.loss.no_object)
            weights = self.config.loss
            result[f"class{suffix}"] = weights.classes * classes
            result[f"mask{suffix}"] = weights.mask * terms[0]
            result[f"dice{suffix}"] = weights.dice * terms[1]
        return result

    def match(self, said: Said, labels: list[Tensor], masks: list[Tensor]) -> list[Said]:
        """Queries and targets of each image that belong together."""
        raise NotImplementedError

    def mask_losses(self, logits: Tensor, matched: list[Said], masks: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Mask and Dice loss of what was matched, per target."""
        raise NotImplementedError

    # Panoptic ---------------------------------------------------------------------------------------------------------

    def select_panoptic(self, raw: Raw, options: DecodeOptions) -> Selected:
        """Queries that are sure of a class."""
        least = self.config.object_threshold if options.score_threshold is None else options.score_threshold
        kept = []
        for logits, masks in zip(raw.classes, raw.masks, strict=True):
            scores, labels = logits.float().softmax(-1).max(-1)
            sure = (labels < self.num_classes) & (scores > least)
            kept.append((masks[sure], scores[sure], labels[sure]))
        return selected_of(raw, kept)

    def pack_panoptic(self, selected: Selected, options: DecodeOptions) -> list[PanopticMap]:
        """Every pixel to the query that claims it most."""
        return [
            merge_queries(scores, labels, masks, self.config.stuff, self.config.overlap_threshold)
            for scores, labels, masks in zip(selected.scores, selected.labels, pixels(selected), strict=True)
        ]

    # Instances --------------------------------------------------------------------------------------------------------

    def select_instances(self, raw: Raw, options: DecodeOptions) -> Selected:
        """The best pairs of query and class, scored by class and by how sure the mask is of its pixels."""
        c = self.config
        least = c.score_threshold if options.score_threshold is None else options.score_threshold
        most = c.max_detections if options.max_detections is None else options.max_detections
        kept = []
        for logits, masks, size in zip(raw.classes, raw.masks, raw.sizes, strict=True):
            scores, labels, queries = best_pairs(logits, c.max_detections, c.stuff)
            chosen = masks[queries]
            scores = scores * confidence(masks, raw.padded, size, size)[queries]
            order = scores.argsort(descending=True, stable=True)
            order = order[scores[order] >= least][:most]
            kept.append((chosen[order], scores[order], labels[order]))
        return selected_of(raw, kept)

    def pack_instances(self, selected: Selected, options: DecodeOptions) -> list[Instances]:
        """Masks stay coarse until somebody needs the pixels."""
        found = []
        columns = zip(selected.sizes, selected.masks, selected.scores, selected.labels, strict=True)
        for size, logits, scores, labels in columns:
            masks = SoftMasks.from_maps(logits.float(), selected.padded, size, 0.0)
            found.append(Instances(size, masks.rough_boxes(), masks, labels=labels, scores=scores))
        return found

    # Semantic ---------------------------------------------------------------------------------------------------------

    def select_semantic(self, raw: Raw, options: DecodeOptions) -> Selected:
        """All queries, with the probabilities of the classes."""
        none = raw.classes.new_zeros(0, dtype=torch.int64)
        probabilities = raw.classes.float().softmax(-1)[..., :-1]
        return selected_of(raw, [(m, p, none) for m, p in zip(raw.masks, probabilities, strict=True)])

    def pack_semantic(self, selected: Selected, options: DecodeOptions) -> list[SemanticMap]:
        """The class with the largest sum over the queries, strip by strip."""
        ignore = max(255, self.num_classes)
        return [
            SemanticMap(
                torch.cat([semantic_scores(p, rows).argmax(0) for rows in masks.split(ROWS_CHUNK_SIZE, dim=1)]),
                ignore=ignore,
            )
            for p, masks in zip(selected.scores, pixels(selected), strict=True)
        ]


class PanopticAnswers(QueryNetwork):
    """Panoptic maps."""

    task = PANOPTIC
    select = QueryNetwork.select_panoptic
    pack = QueryNetwork.pack_panoptic


class InstanceAnswers(QueryNetwork):
    """Instances alone."""

    task = INSTANCES
    needs = frozenset({"masks"})
    select = QueryNetwork.select_instances
    pack = QueryNetwork.pack_instances


class SemanticAnswers(QueryNetwork):
    """Semantic maps alone."""

    task = SEMANTIC
    select = QueryNetwork.select_semantic
    pack = QueryNetwork.pack_semantic


def semantic_scores(probabilities: Tensor, masks: Tensor) -> Tensor:
    """(K, H, W) sums over the queries, from probabilities of classes (Q, K) and logits of masks (Q, H, W)."""
    return torch.einsum("qk,qhw->khw", probabilities, masks.float().sigmoid())


def best_pairs(logits: Tensor, most: int, stuff: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, labels and queries of the best pairs of query and class; those of stuff are left out at last.

    Args:
        logits: (Q, K + 1).
    """
    probabilities = logits.float().softmax(-1)[:, :-1]
    num_classes = probabilities.shape[1]
    scores, places = probabilities.flatten().topk(min(most, probabilities.numel()))
    labels, queries = places % num_classes, places // num_classes
    things = ~torch.isin(labels, torch.tensor(stuff, dtype=torch.int64, device=labels.device))
    return scores[things], labels[things], queries[things]


def confidence(masks: Tensor, padded: tuple[int, int], valid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(Q,) mean probability of the pixels inside each mask (Q, h, w); sizes as in :func:`at_size`.

    The authors measure at the size of the original image; :meth:`QueryNetwork.select_instances` does not know it and
    takes the valid area's, which moves scores by 0.004 where an image is 1.3 times as large as the network saw it.
    """
    found = []
    for some in masks.split(MASKS_CHUNK_SIZE):
        logits = at_size(some, padded, valid, size).flatten(1)
        inside = logits > 0
        found.append((logits.sigmoid() * inside).sum(1) / (inside.sum(1) + 1e-6))
    return torch.cat(found)


def merge_queries(
    scores: Tensor, labels: Tensor, masks: Tensor, stuff: Sequence[int], overlap_threshold: float
) -> PanopticMap:
    """Queries that compete for pixels (MaskFormer, section 3.4).

    Args:
        scores, labels: (N,).
        masks: (N, H, W) logits.
        stuff: labels of which all queries are one segment.
        overlap_threshold: least share of a query's own pixels, those of probability 0.5 and more, that it wins.
    """
    ids = torch.zeros(masks.shape[1:], dtype=torch.int32, device=masks.device)
    segments: list[Segment] = []
    stuff_ids: dict[int, int] = {}
    if len(masks):
        probabilities = masks.float().sigmoid()
        winner = (scores[:, None, None] * probabilities).argmax(0)
        for query, (score, label) in enumerate(zip(scores.tolist(), labels.tolist(), strict=True)):
            own, won = probabilities[query] >= 0.5, winner == query
            visible = won & own
            if not visible.any() or int(won.sum()) / int(own.sum()) < overlap_threshold:
                continue
            if label in stuff_ids:
                ids[visible] = stuff_ids[label]
                continue
            segments.append(Segment(len(segments) + 1, label, score))
            if label in stuff:
                stuff_ids[label] = len(segments)
            ids[visible] = len(segments)
    return PanopticMap(ids, tuple(segments))


def pixels(selected: Selected) -> Iterator[Tensor]:
    """The masks of each image (N, H, W) at the size of its valid area."""
    for masks, size in zip(selected.masks, selected.sizes, strict=True):
        yield at_size(masks, selected.padded, size, size)


def at_size(masks: Tensor, padded: tuple[int, int], valid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Logits (N, h, w) stretched to the padded batch, cut to the valid area, and stretched to the image (N, H, W)."""
    if not len(masks):
        return masks.new_zeros(0, *size)
    whole = F.interpolate(masks[None].float(), padded, mode="bilinear", align_corners=False)[
        ..., : valid[0], : valid[1]
    ]
    return whole[0] if size == valid else F.interpolate(whole, size, mode="bilinear", align_corners=False)[0]


def masks_of(target: Any, padded: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Labels (N,) and masks (N, H, W) bool of what an image holds, on the padded batch; without crowds."""
    if isinstance(target, PanopticMap):
        segments = [segment for segment in target.segments if not segment.crowd]
        numbers = torch.tensor([segment.id for segment in segments], dtype=torch.int32)
        masks = target.ids.cpu()[None] == numbers[:, None, None]
        labels = torch.tensor([segment.label for segment in segments], dtype=torch.int64)
    elif isinstance(target, SemanticMap):
        labels = target.labels.unique().long().cpu()
        labels = labels[labels != target.ignore]
        masks = target.labels.cpu()[None] == labels[:, None, None]
    else:
        solid = target[~target.crowd]
        labels, masks = solid.labels, torch.from_numpy(solid.gt_masks.to_rle().decode())
    height, width = masks.shape[1:]
    return labels.to(device), F.pad(masks, (0, padded[1] - width, 0, padded[0] - height)).to(device)


def selected_of(raw: Raw, kept: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Selected:
    """Masks, scores and labels that are kept of each image, as one value."""
    masks, scores, labels = zip(*kept, strict=True)
    return Selected(raw.padded, raw.sizes, masks, scores, labels)


def _nothing(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of 0 in which the masks have a part."""
    return logits.sum() * 0, logits.sum() * 0
