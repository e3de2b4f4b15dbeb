"""Panoptic segmentation: every pixel has a class, and things are told apart (Kirillov et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch

from eachmask.data.formats import coco_panoptic
from eachmask.files.sections import Section, Table, number_text
from eachmask.metrics.label_maps import confusion, numbers
from eachmask.metrics.panoptic_maps import map_quality
from eachmask.metrics.panoptic_quality import Quality, mean_quality
from eachmask.ops.tile_seams import join_labels
from eachmask.ops.tiles import merge_tiles
from eachmask.structures import Category, PanopticMap, Segment, SemanticMap, UserError
from eachmask.tasks.kept import Arrays, Kept
from eachmask.tasks.panoptic_outputs import OUTPUTS
from eachmask.tasks.settings import Settings
from eachmask.tasks.task import Box, Scoring, Task, overlay

# Training -------------------------------------------------------------------------------------------------------------


def scores(predictions: Sequence[PanopticMap], targets: Sequence[PanopticMap]) -> dict[str, float]:
    """PQ (chooses the weights), SQ and RQ of all classes, PQ of things and of stuff; 0 where there are none."""
    found = mean_quality(_totals(predictions, targets))
    found |= {f"pq_{kind}": mean_quality(part)["pq"] for kind, part in _kinds(predictions, targets).items()}
    return {name: 0.0 if np.isnan(value) else value for name, value in found.items()}


def quality(shown: PanopticMap, target: PanopticMap) -> float:
    """PQ of one image over the classes that are in it or found in it; 1 where both are empty."""
    pq = mean_quality(_totals([shown], [target]))["pq"]
    return 1.0 if np.isnan(pq) else pq


def _totals(predictions: Sequence[PanopticMap], targets: Sequence[PanopticMap]) -> list[Quality]:
    labels = [segment.label for seen in (*predictions, *targets) for segment in seen.segments]
    known = max((len(seen.categories) for seen in targets), default=0)
    return map_quality(zip(predictions, targets, strict=True), max([known, *(label + 1 for label in labels)]))


def _kinds(predictions: Sequence[PanopticMap], targets: Sequence[PanopticMap]) -> dict[str, list[Quality]]:
    """The counts of things and those of stuff."""
    totals, categories = _totals(predictions, targets), targets[0].categories if targets else ()
    thing = [category.is_thing for category in categories] + [True] * (len(totals) - len(categories))
    pairs = list(zip(totals, thing, strict=True))
    return {"things": [q for q, is_thing in pairs if is_thing], "stuff": [q for q, is_thing in pairs if not is_thing]}


# Prediction -----------------------------------------------------------------------------------------------------------


def sure(seen: PanopticMap, score: float) -> PanopticMap:
    """Without the segments that score less; those without a score stay."""
    return only(seen, (s for s in seen.segments if s.score is None or s.score >= score))


def choose(seen: PanopticMap, classes: Sequence[str], most: int | None) -> PanopticMap:
    """Some classes, of them the best segments; all other pixels are of no segment.

    Raises:
        UserError: there is no such class.
    """
    names = [seen.name_of(label) for label in range(len(seen.categories))]
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise UserError(f"there is no class {unknown[0]!r}; the classes are {', '.join(names[:20])}")
    kept = [s for s in seen.segments if not classes or seen.name_of(s.label) in classes]
    if most is not None:
        kept = sorted(kept, key=lambda s: -(1.0 if s.score is None else s.score))[:most]
    return only(seen, kept)


def only(seen: PanopticMap, segments: Iterable[Segment]) -> PanopticMap:
    """Some of its segments; all other pixels are of none."""
    kept = tuple(segments)
    ids = torch.tensor([segment.id for segment in kept], dtype=seen.ids.dtype, device=seen.ids.device)
    return replace(seen, ids=torch.where(torch.isin(seen.ids, ids), seen.ids, 0), segments=kept, view=None)


def merge(parts: Sequence[PanopticMap], tiles: Sequence[Box], size: tuple[int, int]) -> PanopticMap:
    """Things that a seam has cut are joined; around them each pixel is of the tile in which it lies deepest."""
    things = [part.to_instances().shift(tile[0], tile[1], size) for part, tile in zip(parts, tiles, strict=True)]
    ignore = max(255, len(parts[0].categories))
    stuff = [only(part, (s for s in part.segments if not part.is_thing(s))).to_semantic(ignore) for part in parts]
    labels = join_labels([part.labels for part in stuff], tiles, size)
    around = SemanticMap(labels, parts[0].categories, ignore)
    whole = PanopticMap.from_instances(merge_tiles(things, tiles), around)
    best = {label: _best_score(parts, label) for label in {s.label for s in whole.segments}}
    segments = tuple(s if whole.is_thing(s) else replace(s, score=best[s.label]) for s in whole.segments)
    return replace(whole, segments=segments, categories=parts[0].categories)


def _best_score(parts: Sequence[PanopticMap], label: int) -> float | None:
    found = [s.score for part in parts for s in part.segments if s.label == label and s.score is not None]
    return max(found, default=None)


def packed(seen: PanopticMap) -> PanopticMap:
    """On the CPU."""
    return seen.to("cpu")


def with_categories(seen: PanopticMap, categories: tuple[Category, ...]) -> PanopticMap:
    """Named by the model's categories."""
    return replace(seen, categories=categories)


def to_arrays(seen: PanopticMap) -> Arrays:
    """The map, and a row for each segment."""
    rows = [(s.id, s.label, s.crowd) for s in seen.segments]
    scores_of = [np.nan if s.score is None else s.score for s in seen.segments]
    return {
        "ids": seen.ids.cpu().numpy(),
        "segments": np.array(rows, np.int64).reshape(-1, 3),
        "scores": np.array(scores_of, np.float64),
    }


def from_arrays(arrays: Arrays, size: tuple[int, int]) -> PanopticMap:
    """Undo of :func:`to_arrays`.

    Raises:
        ValueError: the arrays do not fit each other or the image.
        KeyError: one is missing.
    """
    ids, rows, values = arrays["ids"], arrays["segments"], arrays["scores"]
    if ids.shape != size or rows.ndim != 2 or rows.shape != (len(values), 3):
        raise ValueError("the segments do not fit the map")
    parts = zip(rows.tolist(), values.tolist(), strict=True)
    segments = (Segment(i, label, None if np.isnan(s) else s, bool(crowd)) for (i, label, crowd), s in parts)
    return PanopticMap(torch.from_numpy(ids), tuple(segments))


# Evaluation -----------------------------------------------------------------------------------------------------------


def sections(
    predictions: Sequence[PanopticMap], targets: Sequence[PanopticMap], settings: Settings
) -> tuple[Section, ...]:
    """PQ, SQ and RQ of all classes, of things and of stuff, as panopticapi has them; a row for each class."""
    totals, kinds = _totals(predictions, targets), _kinds(predictions, targets)
    means = {kind: mean_quality(part) for kind, part in {"all": totals, **kinds}.items()}
    values = means["all"] | {f"{name}_{kind}": means[kind][name] for kind in kinds for name in ("pq", "sq", "rq")}
    ignore = max(255, len(totals))
    semantic = ([seen.to_semantic(ignore) for seen in side] for side in (predictions, targets))
    values |= {"miou": numbers(confusion(*semantic))["miou"]}
    rows = [[kind, *(number_text(mean[name]) for name in ("pq", "sq", "rq"))] for kind, mean in means.items()]
    names = [targets[0].name_of(label) for label in range(len(totals))]
    per_class = {name: None if np.isnan(q.pq) else q.pq for name, q in zip(names, totals, strict=True)}
    note = "PQ = SQ x RQ: the mean IoU of matched segments, and the F1 of finding them. Only classes that occur count."
    return (
        Section("panoptic", "Panoptic quality", values, [Table(["Classes", "PQ", "SQ", "RQ"], rows)], note=note),
        Section("pq_per_class", "Classes", per_class, [_class_table(names, totals)]),
    )  # fmt: skip


def _class_table(names: Sequence[str], totals: Sequence[Quality]) -> Table:
    heads = ["Class", "PQ", "SQ", "RQ", "matched", "false", "missed"]
    rows = [
        [
            name,
            *(number_text(value) for value in (q.pq, q.sq, q.rq)),
            *(str(count) for count in (q.true_positives, q.false_positives, q.false_negatives)),
        ]
        for name, q in zip(names, totals, strict=True)
    ]
    return Table(heads, rows)


PANOPTIC: Task[PanopticMap] = Task(
    name="panoptic",
    target=PanopticMap,
    scoring=Scoring(scores, "pq", quality, "panoptic quality"),
    shown=sure,
    choose=choose,
    merge=merge,
    render=overlay,
    outputs=OUTPUTS,
    sections=sections,
    packed=packed,
    with_categories=with_categories,
    kept=Kept(to_arrays, from_arrays),
    files=coco_panoptic.FORMAT,
)
