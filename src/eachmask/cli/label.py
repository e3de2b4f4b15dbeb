"""``eachmask label``: images in, an annotated data set and a queue for review out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from eachmask.files.text import printable, say
from eachmask.structures.errors import UserError

if TYPE_CHECKING:
    from eachmask.inference.labeling import Labeler
    from eachmask.inference.prompt_predictor import PromptPredictor


@dataclass(frozen=True)
class LabelOptions:
    """Make annotations: a detector proposes, or everything is looked for; a model that takes prompts draws.

    What is drawn surely is kept: predicted IoU, stability and the detector's score are high enough, and nothing surer
    covers the same pixels. The rest is a queue, the most doubtful first: look at queue.html, write yes or no in the
    first column of queue.csv, and start the same command again.

    The results folder gets data/ (images and annotations as --format says, ready for `eachmask train`), queue.csv
    and queue.html. Started again after an interruption, or with more images, the same command does only what is
    missing. A file in data/ that somebody has changed since is never written again: its new version goes to new/.

    Exit status: 0 all images done; 1 some could not be used; 2 a mistake in the call.

    Examples:
      eachmask label photos/ --out labeled
      eachmask label coins/ --name coin --points-per-side 24 --format labelme --out coins-labeled
      eachmask label street/ --model mask_rcnn_r50_fpn_v2 --draw sam_vit_b --classes car person --out labeled
    """

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER ...")]
    """Images: files, folders, patterns, lists, as `eachmask predict` takes them."""
    out: Path = Path("labeled")
    """Results folder; made if missing."""
    format: str = "coco"
    """Of the annotations: any that `eachmask convert` writes, such as coco, labelme, yolo, voc, cvat."""
    model: str | None = None
    """A detector that proposes boxes: a name, a .safetensors file or a run's folder. Without one everything is looked
    for on a grid of points."""
    draw: str = "clicks"
    """The model that draws: one that takes prompts, such as clicks or sam_vit_b."""
    name: str = "object"
    """Class of the objects, where there is no detector."""
    classes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Only these classes of the detector."""
    iou: float | None = None
    """Least predicted IoU of what is kept, 0 to 1. The drawing model's own by default."""
    stability: float | None = None
    """Least stability of what is kept, 0 to 1. The drawing model's own by default."""
    score: float = 0.5
    """Least score of the detector for what is kept, 0 to 1."""
    duplicates: float = 0.7
    """Of two masks of a higher IoU the surer one stays."""
    inside: float = 0.8
    """Without a detector: of two masks the smaller one of which lies in the other by more than this share, the surer
    one stays. 1: parts are annotated too."""
    slack: float = 0.2
    """What misses one of these by no more is left for review; by more, it is dropped."""
    points_per_side: int | None = None
    """Without a detector: points along each side of the grid. The drawing model's own by default."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: str = "auto"
    """auto, fp32, bf16 or fp16."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Label everything anew, also where --out holds annotations by other models or rules; what somebody has corrected
    stays."""


def label(options: LabelOptions) -> int:
    """Run the command; returns the exit status."""
    from eachmask.batch.label import label_images, said
    from eachmask.data.images.inputs import find_inputs
    from eachmask.data.reading import format_named
    from eachmask.files.progress import bar_after_a_while

    inputs = find_inputs(options.inputs, exclude=options.out)
    format_named(options.format)  # a mistake is said before a model is loaded
    labeler = labeler_of(options)
    classes = tuple(name.strip() for word in options.classes for name in word.split(",") if name.strip())
    with bar_after_a_while() as progress:
        summary = label_images(
            labeler,
            inputs,
            options.out,
            options.format,
            classes=classes,
            overwrite=options.overwrite,
            progress=progress,
        )
    for sentence in summary.failed.values():
        say(printable(sentence), error=True)
    for sentence in said(summary, options.out):
        say(sentence)
    return 1 if summary.failed else 0


def labeler_of(options: LabelOptions) -> Labeler:
    """What the options say that proposes, draws and keeps.

    Raises:
        UserError: the drawing model takes no prompts, or an option means nothing.
    """
    from eachmask.inference.labeling import Labeler, Rules
    from eachmask.inference.load import load
    from eachmask.inference.prompt_predictor import PromptPredictor

    if options.model is None and options.classes:
        raise UserError("--classes are those of a detector: name it with --model, or say --name for the class")
    if options.model is not None and options.points_per_side is not None:
        raise UserError("--points-per-side is of a grid of points: leave it out, or leave out --model")
    drawer = load(options.draw, device=options.device, precision=options.precision)
    if not isinstance(drawer, PromptPredictor):
        raise UserError(f"{options.draw} takes no prompts: draw with clicks or sam_vit_b, and name it as --model")
    detector = None
    if options.model is not None:
        detector = load(options.model, device=options.device, precision=options.precision)
    own = drawer.everything_config
    rules = Rules(
        own.iou_threshold if options.iou is None else options.iou,
        own.stability_threshold if options.stability is None else options.stability,
        options.score,
        options.duplicates,
        options.inside,
        options.slack,
    )
    return Labeler(_looking(drawer, options), detector, rules, options.name)


def _looking(drawer: PromptPredictor, options: LabelOptions) -> PromptPredictor:
    """The drawing model with the grid of --points-per-side."""
    from eachmask.structures.checks import check_whole

    if options.points_per_side is None:
        return drawer
    check_whole("points per side", options.points_per_side, 1)
    return drawer.looking(replace(drawer.everything_config, points_per_side=options.points_per_side))
