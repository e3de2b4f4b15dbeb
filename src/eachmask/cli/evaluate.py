"""``eachmask evaluate``: a model or its predictions against annotations; numbers, charts and an exit status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from eachmask.files.text import counted, say
from eachmask.structures.errors import UserError

if TYPE_CHECKING:
    from eachmask.evaluation.evaluation import Evaluation
    from eachmask.evaluation.interactive import SectionEvaluation
    from eachmask.tasks.task import Task

_SHOWN_NOTES = 5


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure a model, or the predictions of any tool, against annotated images.

    Gives COCO's average precision of masks, boxes and keypoints, boundary AP, panoptic quality, mIoU, Dice, counts,
    coverage, kinds of error, a confusion matrix, calibration, the best score threshold of each class and confidence
    intervals. The results folder gets report.html, evaluation.json and, of a model, predictions.json.

    A model's predictions are kept as they come: after a crash the same command resumes where it was. Images that cannot
    be read are left out, named and counted.

    Exit status: 0 measured; 1 a measure is below --fail-under, or images could not be read (it says which); 2 a mistake
    in the call or in a file.

    Examples:
      eachmask evaluate nuclei --data dsb2018 --split test --out results
      eachmask evaluate runs/mine --data my-labelme-folder --out results
      eachmask evaluate mask_rcnn_r50_fpn --data instances.json --images photos --out results
      eachmask evaluate --predictions results.json --data instances.json --fail-under ap=0.3 bbox.ap50=0.5
      eachmask evaluate --predictions runs/segment/predict/labels --data mine
      eachmask evaluate --predictions new.json --compare old.json --data instances.json
      eachmask evaluate --predictions results --task semantic --data camvid --split test
      eachmask evaluate --predictions mattes --task matting --data clip --video
      eachmask evaluate --predictions followed --task marked --data DAVIS/Annotations/480p
      eachmask evaluate objects --data coco-folder --merge supercategories
      eachmask evaluate runs/leaves --data leaves --known-foreground
      eachmask evaluate clicks --data coco-folder --prompts clicks
      eachmask evaluate memory --data DAVIS --prompts scribbles --rounds 4
    """

    model: Annotated[str | None, tyro.conf.Positional] = None
    """Name of a model (`eachmask models` lists them), a .safetensors file or a run's folder; not with
    --predictions."""
    data: Path = Path(".")
    """Annotations in any format that `eachmask convert` reads: a COCO file (.json), or a folder."""
    split: str = "val"
    """Part of a folder to measure on; all of it where it has no parts."""
    images: Path | None = None
    """Folder of the images, where they are not in the data set's own; by default that of a file given as --data."""
    predictions: Path | None = None
    """Results of any tool in COCO's format: a list of image_id, category_id, score and segmentation. If the file names
    its images, as that of `eachmask predict` does, names and not ids say which is which. Or a folder of YOLO's texts
    (save_txt=True save_conf=True). Of maps and mattes (--task)
    the folder of their files, or of a finished `eachmask predict --save labels`, panoptic or alpha."""
    task: Literal["semantic", "panoptic", "matting", "tracks", "marked"] | None = None
    """What --predictions are, where they are no objects; a model says it itself. Of videos, folders of label maps, one
    PNG per frame, or such a folder per clip, in --predictions and --data: tracks, or what was marked in the first
    frame."""
    merge: Literal["supercategories", "all"] | None = None
    """Measure fewer classes than are annotated: the categories' supercategories, which `objects` knows, or all as one
    class, whether objects are found at all."""
    known_foreground: bool = False
    """Hand the annotated foreground to a model that takes one (discriminative_lite0): how well it tells objects
    apart."""
    prompts: Literal["clicks", "boxes", "scribbles"] | None = None
    """Measure how well the model answers: simulated clicks until an answer is good enough (NoC), or the objects'
    boxes; of a model that follows marked objects through clips (memory), scribbles in rounds on the worst frame."""
    rounds: int = 8
    """Of scribbles, at most."""
    min_area: int = 1
    """Smaller objects are not asked about, px; with --prompts."""
    most: int | None = None
    """Ask about so many objects of each image at most, the largest first; with --prompts."""
    compare: Path | None = None
    """Results of a second model on the same images; the report has both side by side."""
    out: Path = Path("evaluation")
    """Folder of the report; made if missing."""
    fail_under: tuple[str, ...] = ()
    """Exit with 1 where a measure is below a value: ap=0.3 boundary.ap=0.2 pq=0.4 (names as in evaluation.json)."""
    score: float | None = None
    """Score threshold of the measures that do not rank by score: PQ, Dice, counts, confusion. The model's own by
    default, and that of the best F1 on these images where only predictions are given."""
    resamples: int = 200
    """Draws of images for the confidence intervals; 0 for none."""
    boundary: bool = True
    """Also boundary AP, the slowest of all."""
    seed: int = 0
    """Of the resampling."""
    gallery: Annotated[int, tyro.conf.arg(aliases=["--pictures"])] = 5
    """So many of the best images and of the worst ones are shown in the report."""
    video: bool = False
    """The images are the frames of one video, in the order of their names: mattes are also measured by how much they
    flicker (dtSSD)."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps or auto."""
    precision: str = "auto"
    """auto, fp32, bf16 or fp16, as in `eachmask predict`."""
    side: int | None = None
    """Longer side of every image as the model sees it, px, instead of its own choice."""
    nms: Literal["hard", "soft", "fast", "matrix"] | None = None
    """How the model suppresses duplicates, as in `eachmask predict`."""
    paste: Literal["accurate", "torchvision"] = "accurate"
    """How masks that were predicted in boxes reach the image, as in `eachmask predict`."""


OWN = ("model", "predictions", "task", "fail_under", "prompts", "rounds", "min_area", "most")
"""Options that measuring without prompts does not know."""


def evaluate(options: EvaluateOptions) -> int:
    """Run the command; returns the exit status."""
    from rich.console import Console

    from eachmask.cli.warning_notes import warnings_as_notes
    from eachmask.evaluation.measure import evaluate as measure
    from eachmask.files.progress import bar_after_a_while

    limits = [_limit(text) for text in options.fail_under]
    if (options.model is None) == (options.predictions is None):
        raise UserError("give either a model or --predictions FILE: eachmask evaluate MODEL --data ANNOTATIONS")
    if options.prompts == "scribbles":
        return _rounds(options, limits)
    if options.prompts is not None:
        return _prompts(options, options.prompts, limits)
    if options.min_area != 1 or options.most is not None:
        raise UserError("--min-area and --most say which objects are asked about: add --prompts")
    if options.rounds != EvaluateOptions.rounds:
        raise UserError("--rounds says how often scribbles are drawn: add --prompts scribbles")
    if options.task in ("tracks", "marked"):
        return _videos(options, options.task, limits)
    task = _task(options)
    model = options.model or options.predictions
    assert model is not None
    wishes = {name: value for name, value in vars(options).items() if name not in OWN}
    with warnings_as_notes(Console(stderr=True, highlight=False)), bar_after_a_while() as progress:
        found = measure(model, **wishes, task=task, say=say, progress=progress)
    say(_summary(found))
    say(f"Report: {options.out / 'report.html'}; numbers: {options.out / 'evaluation.json'}")
    return max(_status(found, limits), 1 if found.unread else 0)


def _task(options: EvaluateOptions) -> Task[Any] | None:
    """What the predictions are."""
    from eachmask.data.formats.yolo_texts import is_texts
    from eachmask.tasks.matting import MATTING
    from eachmask.tasks.panoptic import PANOPTIC
    from eachmask.tasks.semantic import SEMANTIC

    if options.task is not None and options.predictions is None:
        raise UserError("--task says what --predictions are, and a model says it itself: leave it out")
    folder = options.predictions if options.task is None and options.predictions is not None else None
    if folder is not None and folder.is_dir() and not is_texts(folder):
        raise UserError(
            f"{folder} is a folder, and holds no results as YOLO's texts: of objects name the file in it "
            "(predictions.json), of maps and mattes add --task semantic, panoptic or matting"
        )
    return next((task for task in (SEMANTIC, PANOPTIC, MATTING) if task.name == options.task), None)


def _videos(options: EvaluateOptions, kind: Literal["tracks", "marked"], limits: Sequence[tuple[str, float]]) -> int:
    """Measure label maps of videos."""
    from eachmask.evaluation.videos import evaluate_videos

    if options.predictions is None:
        raise UserError(f"--task {kind} measures --predictions, folders of label maps as `eachmask track` leaves them")
    return _said(evaluate_videos(options.predictions, options.data, kind, options.out), options, limits)


def _rounds(options: EvaluateOptions, limits: Sequence[tuple[str, float]]) -> int:
    """Measure answers to scribbles on clips."""
    from eachmask.evaluation.rounds import evaluate_rounds
    from eachmask.files.progress import bar_after_a_while

    model = _asked(options, ("min_area", "most", "images", "side"))
    with bar_after_a_while() as progress:
        found = evaluate_rounds(
            model, options.data, options.out, split=options.split, rounds=options.rounds,
            device=options.device, precision=options.precision, progress=progress,
        )  # fmt: skip
    return _said(found, options, limits)


def _prompts(options: EvaluateOptions, prompts: Literal["clicks", "boxes"], limits: Sequence[tuple[str, float]]) -> int:
    """Measure answers to prompts."""
    from eachmask.evaluation.interactive import evaluate_prompts
    from eachmask.files.progress import bar_after_a_while

    model = _asked(options, ("rounds",))
    names = ("out", "split", "images", "min_area", "most", "device", "precision", "side")
    asked = {name: getattr(options, name) for name in names}
    with bar_after_a_while() as progress:
        found = evaluate_prompts(model, options.data, prompts=prompts, **asked, say=print, progress=progress)
    return _said(found, options, limits)


def _asked(options: EvaluateOptions, more: Sequence[str]) -> str:
    """The model that is asked; options that mean nothing to it are refused.

    Args:
        more: further names of such options.
    """
    if options.model is None:
        raise UserError("--prompts asks a model: give one in place of --predictions")
    names = ("merge", "compare", "score", "nms", "known_foreground", "video", *more)
    unused = [name for name in names if getattr(options, name) != getattr(EvaluateOptions, name)]
    if unused:
        name = min(unused).replace("_", "-")
        raise UserError(f"--{name} means nothing to answers that are asked for: leave it out, or --prompts")
    return options.model


def _said(found: SectionEvaluation, options: EvaluateOptions, limits: Sequence[tuple[str, float]]) -> int:
    """Print the numbers; the exit status."""
    numbers = {name: value for name, value in found.section.values.items() if isinstance(value, int | float)}
    say(f"{found.name} on {found.data}: {'  '.join(f'{name} {value:.4g}' for name, value in numbers.items())}")
    say(f"Report: {options.out / 'report.html'}; numbers: {options.out / 'evaluation.json'}")
    return _status(found, limits)


def _limit(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        least = float(value)
    except ValueError:
        least = nan
    if isnan(least):  # nothing is below it
        raise UserError(f"--fail-under wants NAME=NUMBER, for example ap=0.3, not {text!r}")
    return name.strip(), least


def _status(found: Evaluation | SectionEvaluation, limits: Sequence[tuple[str, float]]) -> int:
    """1 where a measure is too small, or not there to be measured."""
    short = []
    for name, least in limits:
        value = found.value(name)
        if isnan(value) or value < least:
            short.append(f"{name} is {'not measurable' if isnan(value) else f'{value:.4f}'}, wanted {least:g}")
    for line in short:
        say(f"below the limit: {line}")
    return 1 if short else 0


def _summary(found: Evaluation) -> str:
    objects = f", {counted(found.num_objects, 'object')}" if found.measures.about() else ""
    lines = [f"{found.name} on {found.data}: {counted(found.num_images, 'image')}{objects}"]
    lines += [f"  {line}" for line in found.measures.summary()]
    lines += [] if found.comparison is None else [f"  {line}" for line in found.comparison.summary()]
    lines += [f"  note: {note}" for note in found.notes[:_SHOWN_NOTES]]
    if len(found.notes) > _SHOWN_NOTES:
        lines.append(f"  ... and {len(found.notes) - _SHOWN_NOTES} more notes in the report")
    return "\n".join(lines)
