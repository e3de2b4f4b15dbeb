"""``eachmask evaluate``: a model or its predictions against annotations; numbers, charts and an exit status."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from eachmask.files.atomic import write_text
from eachmask.structures.errors import UserError

if TYPE_CHECKING:
    from eachmask.data.formats.coco import CocoDataset
    from eachmask.data.formats.coco_merge import Merged
    from eachmask.evaluation.evaluation import Evaluation

_SHOWN_NOTES = 5
MERGED = "merged"
"""Folder beside the report for annotations and results with merged classes: the originals may lie there too."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure a model, or the predictions of any tool, against annotated images.

    Gives COCO's average precision of masks, boxes and keypoints, boundary AP, panoptic quality, mIoU, Dice, counts,
    coverage, kinds of error, a confusion matrix, calibration, the best score threshold of each class and confidence
    intervals. The results folder gets report.html, evaluation.json and, of a model, predictions.json.

    A model's predictions are kept as they come: after a crash the same command goes on where it was. Images that cannot
    be read are left out, named and counted.

    Exit status: 0 measured; 1 a measure is below --fail-under, or images could not be read (it says which); 2 a mistake
    in the call or in a file.

    Examples:
      eachmask evaluate nuclei --data dsb2018 --split test --out results
      eachmask evaluate runs/mine/model.safetensors --data my-labelme-folder --out results
      eachmask evaluate mask_rcnn_r50_fpn --data instances.json --images photos --out results
      eachmask evaluate --predictions results.json --data instances.json --fail-under ap=0.3 bbox.ap50=0.5
      eachmask evaluate --predictions new.json --compare old.json --data instances.json
      eachmask evaluate objects --data coco-folder --merge supercategories
    """

    model: Annotated[str | None, tyro.conf.Positional] = None
    """Name of a model (`eachmask models` lists them) or a .safetensors file; not with --predictions."""
    data: Path = Path(".")
    """Annotations in any format that `eachmask convert` reads: a COCO file (.json), or a folder."""
    split: str = "val"
    """Part of a folder to measure on; all of it where it has no parts."""
    images: Path | None = None
    """Folder of the images, where --data is a file; by default the one the file lies in."""
    predictions: Path | None = None
    """Results of any tool in COCO's format: a list of image_id, category_id, score and segmentation. If the file names
    its images, as that of `eachmask predict` does, names and not ids say which is which."""
    merge: Literal["supercategories", "all"] | None = None
    """Measure fewer classes than are annotated: the categories' supercategories, which `objects` knows, or all as one
    class, whether objects are found at all."""
    compare: Path | None = None
    """Results of a second model on the same images; the report has both side by side."""
    out: Path = Path("evaluation")
    """Folder of the report; made if missing."""
    fail_under: tuple[str, ...] = ()
    """Exit with 1 where a measure is below a value: ap=0.3 boundary.ap=0.2 pq=0.4 (names as in evaluation.json)."""
    score: float = 0.5
    """Score threshold of the measures that do not rank by score: PQ, Dice, counts, confusion."""
    resamples: int = 200
    """Draws of images for the confidence intervals; 0 for none."""
    boundary: bool = True
    """Also boundary AP, the slowest of all."""
    seed: int = 0
    """Of the resampling."""
    gallery: Annotated[int, tyro.conf.arg(aliases=["--pictures"])] = 5
    """So many of the best images and of the worst ones are shown in the report."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps or auto."""
    precision: str = "auto"
    """auto, fp32, bf16 or fp16, as in `eachmask predict`."""
    side: int | None = None
    """Longer side of every image as the model sees it, px, instead of its own choice."""


def evaluate(options: EvaluateOptions) -> int:
    """Run the command; returns the exit status."""
    from eachmask.evaluation.evaluate import Settings
    from eachmask.evaluation.evaluate import evaluate as measure
    from eachmask.evaluation.report import evaluation_html

    limits = [_limit(text) for text in options.fail_under]
    settings = Settings(options.score, options.resamples, options.boundary, options.seed, options.gallery)
    if (options.model is None) == (options.predictions is None):
        raise UserError("give either a model or --predictions FILE: eachmask evaluate MODEL --data ANNOTATIONS")
    if options.model is None and (options.side is not None or options.precision != "auto"):
        raise UserError("--side and --precision say how a model predicts; the predictions of a file are as they are")
    dataset = _dataset(options)
    options.out.mkdir(parents=True, exist_ok=True)
    merged = _merged(options, dataset)
    if merged is not None:
        dataset = merged.dataset
    unread: list[str] = []
    results, compare = options.predictions, options.compare
    notes: list[str] = []
    name = Path(options.model or results or "").name
    if results is None:
        results, dataset, notes, unread = _predict(options, dataset, merged)
    elif merged is not None:
        results, notes = _with_merged_classes(results, merged, options.out / MERGED / "predictions.json")
    if compare is not None and merged is not None:
        compare, _ = _with_merged_classes(compare, merged, options.out / MERGED / "compared" / compare.name)
    published = {} if merged is not None else _published(options.model)  # the makers' numbers are of their own classes
    found = measure(dataset, results, name=name, settings=settings, compare=compare, published=published)
    found = replace(found, notes=notes + found.notes)
    write_text(options.out / "evaluation.json", json.dumps(found.to_json(), indent=1))
    write_text(options.out / "report.html", evaluation_html(found))
    print(_summary(found))
    print(f"Report: {options.out / 'report.html'}; numbers: {options.out / 'evaluation.json'}")
    return max(_judge(found, limits), 1 if unread else 0)


def _limit(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        least = float(value)
    except ValueError:
        least = nan
    if isnan(least):  # nothing is below it
        raise UserError(f"--fail-under wants NAME=NUMBER, for example ap=0.3, not {text!r}")
    return name.strip(), least


def _judge(found: Evaluation, limits: Sequence[tuple[str, float]]) -> int:
    """1 where a measure is too small, or not there to be judged."""
    short = []
    for name, least in limits:
        value = found.value(name)
        if isnan(value) or value < least:
            short.append(f"{name} is {'not measurable' if isnan(value) else f'{value:.4f}'}, wanted {least:g}")
    for line in short:
        print(f"below the limit: {line}")
    return 1 if short else 0


def _dataset(options: EvaluateOptions) -> CocoDataset:
    from eachmask.data.formats.coco import CocoDataset

    annotations, images = options.data, options.images
    if annotations.is_dir():
        ready = annotations / f"instances_{options.split}.json"
        if not ready.is_file():
            return _as_coco(options)
        annotations, images = ready, images or annotations / "images" / options.split
    if not annotations.is_file():
        raise UserError(f"{annotations} does not exist: --data must be a COCO annotations file or a data set's folder")
    if annotations.suffix.lower() != ".json":
        return _as_coco(options)
    return CocoDataset(annotations, images or annotations.parent)


def _as_coco(options: EvaluateOptions) -> CocoDataset:
    """A data set of another format, written as COCO beside the report."""
    from eachmask.data.formats.coco import CocoDataset
    from eachmask.data.formats.coco_write import write_coco
    from eachmask.data.reading import read_any

    data, form = read_any(options.data)
    if options.split in data.splits:
        images = data.splits[options.split]
    elif set(data.splits) <= {"all"}:
        images = data.splits["all"]
    else:
        raise UserError(f"{options.data} has no split {options.split!r}: choose --split {' or '.join(data.splits)}")
    for problem in data.problems[:5]:
        print(f"{problem.severity}: {problem}")
    if len(data.problems) > 5:
        print(f"... and {len(data.problems) - 5} more; eachmask doctor {options.data} names them all")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "annotations.json"
    rows = [(str(images.path(i).resolve()), images.targets(i)) for i in range(len(images))]
    write_coco(path, rows, info={"description": f"{options.data}, {form.name}"})
    return CocoDataset(path, options.out)


def _merged(options: EvaluateOptions, dataset: CocoDataset) -> Merged | None:
    from eachmask.data.formats.coco_merge import merge_classes

    if options.merge is None:
        return None
    return merge_classes(dataset, options.merge, options.out / MERGED / "annotations.json")


def _with_merged_classes(results: Path, merged: Merged, path: Path) -> tuple[Path, list[str]]:
    content, notes = merged.results(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content))
    return path, notes


def _predict(
    options: EvaluateOptions, dataset: CocoDataset, merged: Merged | None
) -> tuple[Path, CocoDataset, list[str], list[str]]:
    """Predict all images into predictions.json: its path, what is measured, what to note, why images are missing."""
    from rich.console import Console

    from eachmask.cli.warning_notes import warnings_as_notes
    from eachmask.data.formats.coco_results import left_out, match_categories
    from eachmask.evaluation.predictions import of_categories, predict_dataset, without_images
    from eachmask.files.progress import bar_after_a_while
    from eachmask.inference.load import load

    assert options.model is not None
    predictor = load(options.model, device=options.device, precision=options.precision, side=options.side)
    known = predictor.categories
    labels, notes = match_categories(known, dataset.categories) if merged is None else merged.of_model(known)
    kinds = {c.parent for c in dataset.categories} - {c.name for c in dataset.categories}
    if merged is None and any(c.name in kinds for c in known):
        notes.append("the model knows supercategories of the annotated classes: --merge supercategories measures these")
    with warnings_as_notes(Console(stderr=True, highlight=False)), bar_after_a_while() as progress:
        predicted = predict_dataset(predictor, dataset, options.out / "predicted", progress)
    if predicted.resumed:
        print(f"{predicted.resumed} images had been predicted before the last run ended.")
    notes.append(f"predicted by {predictor!r}" + (f", longer side {options.side} px" if options.side else ""))
    unread = list(predicted.unread.values())
    if unread:
        if options.compare is not None:
            raise UserError(f"the two models would not be compared on the same images: {unread[0]}; mend that first")
        notes += [f"{len(unread)} of {len(dataset)} images were left out, for they could not be predicted:", *unread]
        dataset = without_images(dataset, set(predicted.unread), options.out / "read" / dataset.path.name)
    ids = {known[label].id: dataset.categories[theirs].id for label, theirs in labels.items()}
    rows, foreign = of_categories(predicted.rows, ids)
    notes += left_out(foreign)
    path = options.out / "predictions.json"
    write_text(path, json.dumps(rows))
    return path, dataset, notes, unread


def _published(model: str | None) -> dict[str, float]:
    from eachmask.weights.catalogue import entries

    entry = entries().get(model or "")
    return {} if entry is None else entry.by_metric()


def _summary(found: Evaluation) -> str:
    lines = [f"{found.name} on {found.data}: {found.num_images} images, {found.num_objects} objects"]
    for kind, group in (*found.coco.items(), *([("boundary", found.boundary)] if found.boundary else [])):
        lines.append(f"  {kind:<10}" + "  ".join(f"{name} {group[name]:.3f}" for name in ("ap", "ap50", "ap75")))
    if found.intervals:
        gap = found.intervals["ap"]
        lines.append(f"  mask ap is between {gap.low:.3f} and {gap.high:.3f} on 95% of resampled sets of images")
    names = ("pq", "miou", "dice", "sbd", "abs_dic", "weighted_coverage")
    lines.append(f"  at score {found.score:g}: " + "  ".join(f"{n} {found.quality[n]:.3f}" for n in names))
    best = found.sweeps.get("")
    if best is not None:
        lines.append(f"  best F1 {best.best_f1:.3f} at a score of {best.best_threshold:.2f}")
    if found.comparison is not None:
        gap = found.comparison.difference["ap"]
        sure = "" if gap.excludes_zero else ", which these images cannot tell from 0"
        gap_words = f"{gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}){sure}"
        lines.append(f"  mask ap minus that of {found.comparison.name}: {gap_words}")
    lines += [f"  note: {note}" for note in found.notes[:_SHOWN_NOTES]]
    if len(found.notes) > _SHOWN_NOTES:
        lines.append(f"  ... and {len(found.notes) - _SHOWN_NOTES} more notes in the report")
    return "\n".join(lines)
