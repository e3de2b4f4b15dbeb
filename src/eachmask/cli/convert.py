"""``eachmask convert``: a data set in one annotation format -> another, with the loss in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from eachmask.files.text import counted, say

if TYPE_CHECKING:
    from eachmask.data.convert import Conversion


@dataclass(frozen=True)
class ConvertOptions:
    """Convert a data set, or what a model has predicted, to another annotation format.

    Formats: coco, yolo, darknet (boxes; CVAT's YOLO 1.1), voc, voc-boxes (no outlines), cityscapes, labelme, cvat,
    datumaro, label-studio, via, qupath, imagej, cellpose, cvppp (leaves), label-maps (one number per pixel),
    mask-files (one file per mask); of classes class-maps, voc-classes, pascal-context, cityscapes-classes, ade20k,
    indoor-maps (SUN RGB-D, NYUv2) and color-maps (CamVid, any table of colors); coco-panoptic and
    cityscapes-panoptic; and mattes; each to its own kind. The source's is found out. The images are copied along. The
    target is read again and compared with the source, object by object; the table and convert-report.json say what
    the format could not hold.

    Examples:
      eachmask convert balloon balloon-yolo --to yolo
      eachmask convert cvat-export/annotations.xml mine --to coco
      eachmask convert stage1_train nuclei --from mask-files --to coco
      eachmask convert CamVid camvid-maps --from color-maps --to class-maps
      eachmask convert cityscapes streets --from cityscapes-panoptic --to coco-panoptic
      eachmask convert results to-correct --to cvat
      eachmask convert results boxes --to darknet
      eachmask convert their-results.json to-correct --images photos --to label-studio
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Folder of the data set, or its annotation file."""
    target: Annotated[Path, tyro.conf.Positional]
    """New folder."""
    to: str
    """Format to write."""
    from_: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """Format of the source, if it is not to be found out."""
    images: Path | None = None
    """Folder of the images, where they are not in the data set's own. Of the results of `eachmask predict` they are
    found where they were."""
    show: int = 10
    """Print at most so many of the problems found."""


def convert(options: ConvertOptions) -> int:
    """Run the command; exit status 1 if annotations or images had to be left out."""
    from eachmask.data.convert import REPORT
    from eachmask.data.convert import convert as run_conversion
    from eachmask.files.progress import bar_after_a_while

    with bar_after_a_while() as progress:
        report = run_conversion(options.source, options.target, options.to, options.from_, progress, options.images)
    say(summary(report))
    for problem in report.problems[: options.show]:
        say(f"  {problem}")
    if len(report.problems) > options.show:
        say(f"  ... and {len(report.problems) - options.show} more, see {options.target / REPORT}")
    return 1 if any(problem.severity == "error" for problem in report.problems) else 0


def summary(report: Conversion) -> str:
    """The table that the command prints."""
    loss = report.loss
    rows = [
        ("images", f"{loss.images - loss.images_missing} of {loss.images}"),
        ("objects", f"{loss.objects - loss.objects_missing} of {loss.objects}"),
        ("  with holes / several parts", f"{report.with_holes} / {report.with_parts}"),
        ("  crowd regions", f"{loss.crowd - loss.crowd_lost} of {loss.crowd}"),
        ("objects whose pixels changed", str(loss.objects_changed)),
        ("pixels lost / added", f"{loss.pixels_lost} / {loss.pixels_added} of {loss.pixels}"),
        ("IoU with the source, mean / least", f"{loss.mean_iou:.6f} / {loss.min_iou:.6f}"),
        ("objects of another class", str(loss.class_changed)),
        ("objects without their keypoints", str(loss.keypoints_lost)),
        *([("scores", f"{loss.scores - loss.scores_lost} of {loss.scores}")] if loss.scores else []),
    ]
    if not report.of_objects:
        changed = f"{loss.objects_changed} of {loss.objects}"
        rows = [
            rows[0],
            ("maps that changed", changed),
            ("pixels that changed", f"{loss.pixels_lost} of {loss.pixels}"),
        ]
    lines = [f"{report.source_format} -> {report.target_format}: {report.target}"]
    lines += [f"  {name:<36}{value}" for name, value in rows]
    lines.append(f"  {_verdict(report)}")
    lines += [f"  note: {note}" for note in report.notes]
    if report.problems:
        lines.append(f"  {counted(len(report.problems), 'problem')} in the source:")
    return "\n".join(lines)


def _verdict(report: Conversion) -> str:
    """One sentence that no line below it contradicts."""
    if not report.loss.exact:
        return "not everything could be held (measured by reading it back)"
    if any(problem.severity == "error" for problem in report.problems):
        return "what could be read of the source is read back as it was; what could not is named below"
    if report.notes:
        return "every object is read back as it was; what other programs may miss is noted below"
    return "every object is read back as it was"
