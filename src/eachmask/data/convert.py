"""Any annotation format to any other, through packed runs; what is lost on the way is measured, not guessed.

After writing, the target is read again and every object is compared with its original, pixel by pixel.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from eachmask.data.dataset import AnnotatedImage, AnnotatedSet, Problem, contained, masks_of
from eachmask.data.formats.cityscapes import read_cityscapes, write_cityscapes
from eachmask.data.formats.coco_folder import find_coco_files, read_coco_folder, write_coco_folder
from eachmask.data.formats.cvat import read_cvat, write_cvat
from eachmask.data.formats.folder import (
    read_label_map_folder,
    read_mask_files,
    write_label_map_folder,
    write_mask_files,
)
from eachmask.data.formats.labelme import read_labelme, write_labelme
from eachmask.data.formats.voc import read_voc, write_voc
from eachmask.data.formats.yolo import read_yolo, write_yolo
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import Instances, UserError

REPORT = "convert-report.json"


@dataclass(frozen=True)
class Format:
    """One annotation format: how to read and to write it."""

    name: str
    read: Callable[[Path, Progress], AnnotatedSet]
    write: Callable[[Path, AnnotatedSet, Progress], list[str]]


FORMATS = (
    Format("coco", read_coco_folder, write_coco_folder),
    Format("yolo", read_yolo, write_yolo),
    Format("voc", read_voc, write_voc),
    Format("cityscapes", read_cityscapes, write_cityscapes),
    Format("labelme", read_labelme, write_labelme),
    Format("cvat", read_cvat, write_cvat),
    Format("label-maps", read_label_map_folder, write_label_map_folder),
    Format("mask-files", read_mask_files, write_mask_files),
)


@dataclass
class Loss:
    """What the target holds of the source, measured by reading it back."""

    images: int = 0
    images_missing: int = 0
    objects: int = 0
    objects_missing: int = 0
    objects_changed: int = 0
    """Objects whose pixels differ."""
    objects_added: int = 0
    pixels: int = 0
    """Pixels of all objects of the source."""
    pixels_lost: int = 0
    pixels_added: int = 0
    mean_iou: float = 1.0
    """Over all objects of the source; a missing one counts 0."""
    min_iou: float = 1.0
    class_changed: int = 0
    crowd: int = 0
    crowd_lost: int = 0
    keypoints_lost: int = 0
    """Objects whose keypoints are gone."""

    @property
    def exact(self) -> bool:
        """Nothing is lost, added or changed."""
        gone = self.images_missing + self.objects_missing + self.objects_changed + self.objects_added
        return gone + self.class_changed + self.crowd_lost + self.keypoints_lost == 0


@dataclass
class Conversion:
    """The report of one conversion."""

    source: str
    source_format: str
    target: str
    target_format: str
    loss: Loss
    with_holes: int
    """Objects of the source with holes."""
    with_parts: int
    """Objects of the source with several parts."""
    notes: list[str]
    problems: list[Problem]
    worst: list[tuple[str, int, float]] = field(default_factory=list)
    """(image, object from 1, IoU) of the most changed objects."""

    def write(self, path: Path) -> None:
        """As JSON."""
        content = asdict(self) | {"problems": [str(problem) for problem in self.problems]}
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def format_named(name: str) -> Format:
    """The format of that name.

    Raises:
        UserError: there is none.
    """
    for known in FORMATS:
        if known.name == name:
            return known
    raise UserError(f"there is no format {name!r}: choose one of {', '.join(f.name for f in FORMATS)}")


def detect_format(source: Path) -> Format:
    """The format of a data set, by the files that mark it.

    Raises:
        UserError: nothing is there, or nothing known.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist")
    return format_named(_detect_file(source) if source.is_file() else _detect_folder(source))


def _detect_file(source: Path) -> str:
    by_suffix = {".json": "coco", ".yaml": "yolo", ".yml": "yolo", ".xml": "cvat"}
    name = by_suffix.get(source.suffix.lower())
    if name is None:
        raise UserError(f"{source} is no annotation file that is known: pass the data set's folder")
    return name


def _detect_folder(source: Path) -> str:
    marks = (
        ("cityscapes", (source / "gtFine").is_dir()),
        ("voc", (source / "SegmentationObject").is_dir()),
        ("cvat", (source / "annotations.xml").is_file()),
        ("yolo", any(source.glob("*.y*ml"))),
        ("coco", bool(find_coco_files(source))),
        ("label-maps", (source / "images").is_dir() and any((source / n).is_dir() for n in ("labels", "masks"))),
        ("mask-files", any(p.is_dir() for pattern in ("*/masks", "*/*/masks") for p in source.glob(pattern))),
        ("labelme", any('"shapes"' in _head(path) for path in sorted(source.rglob("*.json"))[:20])),
    )
    found = [name for name, present in marks if present]
    if not found:
        raise UserError(f"{source} holds no data set in a known format: name it with --from, or see docs/data.md")
    return found[0]


def _head(path: Path) -> str:
    with open(path, encoding="utf-8", errors="replace") as handle:
        return handle.read(1 << 16)


def read_any(
    source: Path, source_format: str | None = None, progress: Progress = no_progress
) -> tuple[AnnotatedSet, Format]:
    """Read a data set in the given or the detected format.

    Raises:
        UserError: as :func:`detect_format` and the format's own reader; or there is not one image.
    """
    chosen = detect_format(source) if source_format is None else format_named(source_format)
    data = contained(chosen.read(source, progress))
    if not len(data):
        more = f" ({data.problems[0]})" if data.problems else ""
        raise UserError(f"{source} holds no usable image in the format {chosen.name}{more}")
    return data, chosen


def convert(
    source: Path, target: Path, to: str, source_format: str | None = None, progress: Progress = no_progress
) -> Conversion:
    """Read ``source``, write it to the new folder ``target``, read that again and compare.

    Both sets are held as packed runs; pixels are looked at one image at a time.

    Raises:
        UserError: unknown or undetectable format, or the target is not empty.
    """
    wanted = format_named(to)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise UserError(f"{target} is not empty: choose a new folder")
    data, found = read_any(source, source_format, progress)
    notes = _unique_names(data)
    problems = list(data.problems)
    for _, image in data.images():
        if not image.path.is_file():
            what, remedy = "the image is missing", "put it there; its annotations are kept where the format can"
            problems.append(Problem(str(image.path), "", what, remedy, "missing"))
    target.mkdir(parents=True, exist_ok=True)
    notes += wanted.write(target, data, progress)
    try:
        again = wanted.read(target, lambda what, items: progress(f"{what} back", items))
    except UserError as error:  # formats without sizes of their own hold nothing where all images are missing
        again = AnnotatedSet(data.categories, {})
        problems.append(Problem(str(target), "", f"it cannot be read back ({error})", "add the images first", "file"))
    loss, worst = compare(data, again, progress)
    holes, parts = _count_shapes(data, progress)
    report = Conversion(
        str(source), found.name, str(target), wanted.name, loss, holes, parts, notes, problems, worst[:20]
    )
    report.write(target / REPORT)
    return report


def _unique_names(data: AnnotatedSet) -> list[str]:
    """What had to be renamed before it can be written."""
    cleaned = _clean_class_names(data)
    renamed, doubled = make_images_unique(data), make_classes_unique(data)
    notes = [f"class names that not every format can hold were changed: {', '.join(cleaned)}"] if cleaned else []
    notes += [f"{renamed} images had the same name as another but for the suffix and got a number"] if renamed else []
    return notes + ([f"classes of one name got their ids added: {', '.join(doubled)}"] if doubled else [])


def _clean_class_names(data: AnnotatedSet) -> list[str]:
    """Names without line breaks and spaces at their ends, and none that is empty; returns what they are now."""
    plain = [replace(c, name=" ".join(c.name.split()) or f"class {c.id}") for c in data.categories]
    changed = [new.name for old, new in zip(data.categories, plain, strict=True) if new != old]
    data.categories = tuple(plain)
    return changed


def make_images_unique(data: AnnotatedSet) -> int:
    """a.jpg and a.png would share one label file: the later gets another name. Returns how many did."""
    renamed = 0
    for split, images in data.splits.items():
        taken: set[str] = set()
        for i, image in enumerate(images):
            stem, number = image.stem, 1
            while stem.casefold() in taken:
                number += 1
                stem = f"{image.stem}_{number}"
            taken.add(stem.casefold())
            if number > 1:
                images[i] = replace(image, name=f"{stem}{PurePosixPath(image.name).suffix}")
                renamed += 1
        data.splits[split] = images
    return renamed


def make_classes_unique(data: AnnotatedSet) -> list[str]:
    """Classes of one name get their ids added; returns these names."""
    names = Counter(c.name for c in data.categories)
    doubled = [name for name, count in names.items() if count > 1]
    if doubled:
        data.categories = tuple(
            replace(c, name=f"{c.name} {c.id}") if names[c.name] > 1 else c for c in data.categories
        )
    return doubled


def _count_shapes(data: AnnotatedSet, progress: Progress) -> tuple[int, int]:
    """How many objects have holes, and how many several parts."""
    holes = parts = 0
    for _, image in progress("counting", list(data.images())):
        polygons = masks_of(image.targets).to_polygons()
        holes += sum(bool(rings) for rings in polygons.holes)
        parts += sum(len(rings) > 1 for rings in polygons.outers)
    return holes, parts


# Measuring ----------------------------------------------------------------------------------------


def compare(
    before: AnnotatedSet, after: AnnotatedSet, progress: Progress = no_progress
) -> tuple[Loss, list[tuple[str, int, float]]]:
    """What ``after`` holds of ``before``, and the objects that changed most (image, number from 1, IoU)."""
    written = {_key(split, image): image for split, image in after.images()}
    loss, ious, worst = Loss(), [], []
    for split, image in progress("comparing", list(before.images())):
        loss.images += 1
        there = written.get(_key(split, image))
        loss.images_missing += there is None
        targets, other = image.targets, None if there is None else there.targets
        if other is None or other.image_size != targets.image_size:
            other = Instances.empty(targets.image_size)
        own = _compare_targets(targets, other, (before, after), loss)
        ious.append(own)
        worst += [(f"{split}/{image.name}", i + 1, float(v)) for i, v in enumerate(own) if v < 1]
    joined = np.concatenate([np.zeros(0), *ious])
    if len(joined):
        loss.mean_iou, loss.min_iou = float(joined.mean()), float(joined.min())
    return loss, sorted(worst, key=lambda row: row[2])


def _key(split: str, image: AnnotatedImage) -> tuple[str, str]:
    return split.casefold(), image.stem.replace("/", "__")


def _compare_targets(here: Instances, there: Instances, sets: tuple[AnnotatedSet, AnnotatedSet], loss: Loss) -> Any:
    """(N,) IoU of each object with its counterpart; adds to ``loss``."""
    own, other = masks_of(here), masks_of(there)
    names = [_class_names(sets[0], here), _class_names(sets[1], there)]
    crowds = [here.crowd.tolist(), there.crowd.tolist()]
    area, area_there = own.area(), other.area()
    overlaps = own.overlaps(other)
    iou = overlaps.pixels / (area[overlaps.rows] + area_there[overlaps.columns] - overlaps.pixels)
    # of equal masks the one of the same class, and then of the same place in the list, is the counterpart
    pairs = list(zip(overlaps.rows.tolist(), overlaps.columns.tolist(), strict=True))
    alike = [(names[0][i] == names[1][j]) + (crowds[0][i] == crowds[1][j]) for i, j in pairs]
    order = np.lexsort((np.abs(overlaps.rows - overlaps.columns), -np.array(alike, np.float64), -iou))
    partner = np.full(len(own), -1)
    result, common, used = np.zeros(len(own)), np.zeros(len(own), np.int64), set()
    for k in order:
        i, j = pairs[k]
        if partner[i] < 0 and j not in used:
            partner[i], result[i], common[i] = j, iou[k], overlaps.pixels[k]
            used.add(j)
    met = partner >= 0
    loss.objects += len(own)
    loss.objects_missing += int((~met).sum())
    loss.objects_changed += int((met & (result < 1)).sum())
    loss.objects_added += len(other) - len(used)
    loss.pixels += int(area.sum())
    loss.pixels_lost += int((area - common).sum())
    loss.pixels_added += int((area_there[partner[met]] - common[met]).sum())
    loss.class_changed += sum(names[0][i] != names[1][partner[i]] for i in np.flatnonzero(met))
    loss.crowd += sum(crowds[0])
    loss.crowd_lost += sum(crowds[0][i] and not (met[i] and crowds[1][partner[i]]) for i in range(len(own)))
    if here.keypoints is not None and there.keypoints is None:
        loss.keypoints_lost += int((here.keypoints[:, :, 2] > 0).any(1).sum())
    return result


def _class_names(data: AnnotatedSet, targets: Instances) -> list[str]:
    return [data.categories[label].name for label in targets.labels.tolist()]
