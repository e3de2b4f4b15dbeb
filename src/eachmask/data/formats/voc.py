"""Pascal VOC segmentation (Everingham et al., IJCV 2010): palette PNGs of objects and classes, XML per image.

``SegmentationObject/NAME.png`` numbers the objects, and the i-th ``<object>`` of ``Annotations/NAME.xml`` says
what number i is; ``SegmentationClass`` paints classes; 255 is void (border or ignored). Beyond 254 objects or
classes the PNGs are 16-bit and void is 65,535. A crowd region is an object with ``<crowd>1</crowd>`` and
``<difficult>1</difficult>``, void in the class map. What the numbers of classes mean, and whose
they are, is :mod:`~eachmask.data.formats.voc_classes`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eachmask.data.builder import DatasetBuilder
from eachmask.data.dataset import Dataset
from eachmask.data.formats.format import Format
from eachmask.data.formats.painted import painted
from eachmask.data.formats.voc_classes import (
    PALETTE,
    ClassList,
    Color,
    labelmap,
    numbers_of_colors,
    objects_of,
    palette,
    read_classes,
)
from eachmask.data.images.files import copy_image, files_below, find_image, is_clutter, matching
from eachmask.data.problems import Problem
from eachmask.data.split import AnnotatedImage
from eachmask.data.targets import instances_of, masks_of
from eachmask.files.png import png
from eachmask.files.progress import Progress, no_progress
from eachmask.files.text import read_text
from eachmask.files.untrusted_xml import write_xml
from eachmask.structures import RLE, Category, UserError


def read_voc(source: Path, progress: Progress = no_progress) -> Dataset:
    """Read a folder with JPEGImages, SegmentationObject, SegmentationClass and Annotations.

    Raises:
        UserError: there are no maps in SegmentationObject.
    """
    if not _looks_like(source):
        raise UserError(f"{source} has no maps in SegmentationObject: boxes alone are read as voc-boxes")
    classes = read_classes(source)
    result = DatasetBuilder(classes.categories)
    for split, name in progress("reading", _names(source)):
        _read_image(source, name, split, result, classes)
    return result.build()


def write_voc(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
    """Write the five folders, and the classes for this package, CVAT and Datumaro; where objects overlap the smaller
    keeps the pixel."""
    images = write_images(target, data, progress, lists=("Segmentation", "Main"))
    wide = sum(_write_maps(target, name, record, data.categories) for name, record in images)
    rows = "".join(f"{c.id} {c.name}\n" for c in data.categories)
    (target / "classes.txt").write_text(rows, encoding="utf-8")
    if len(data.categories) < len(PALETTE):
        (target / "labelmap.txt").write_text(labelmap(data.categories), encoding="utf-8")
    return [f"{wide} images have more than 254 objects or classes and got 16-bit PNGs"] if wide else []


def write_images(
    target: Path, data: Dataset, progress: Progress, lists: Sequence[str]
) -> list[tuple[str, AnnotatedImage]]:
    """Write JPEGImages, Annotations, and the named kinds of lists in ImageSets; returns the images with their names
    there, where all splits are in one folder. Images in subfolders keep these, in all folders and lists, as what joins
    names to paths (torchvision, Datumaro) finds them."""
    written: list[tuple[str, AnnotatedImage]] = []
    names: dict[str, list[str]] = {split: [] for split in data.splits}
    stems = Counter(record.stem for _, record in data.images())
    for split, record in progress("writing", list(data.images())):
        name = f"{split}__{record.stem}" if stems[record.stem] > 1 else record.stem
        names[split].append(name)
        written.append((name, record))
        copy_image(record, target / "JPEGImages" / f"{name}{Path(record.name).suffix}")
        _write_xml(target, name, record, data.categories)
    for split, lines in names.items():
        for kind in lists:
            path = target / "ImageSets" / kind / f"{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return written


def _write_maps(target: Path, name: str, record: AnnotatedImage, categories: tuple[Category, ...]) -> bool:
    targets = record.targets
    numbers = painted(masks_of(targets))
    ids = np.array([0, *(k + 1 for k in targets.labels.tolist())])
    wide = len(targets) > 254 or len(categories) > 254
    ids[1:][targets.crowd.numpy()] = 65535 if wide else 255
    for folder, pixels in (("SegmentationObject", numbers), ("SegmentationClass", ids[numbers])):
        path = target / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if wide:
            path.write_bytes(png(pixels.astype(np.uint16)))
            continue
        image = Image.fromarray(pixels.astype(np.uint8))
        image.putpalette(palette())
        image.save(path)
    return wide


def _write_xml(target: Path, name: str, record: AnnotatedImage, categories: tuple[Category, ...]) -> None:
    targets = record.targets
    height, width = targets.image_size
    root = Element("annotation")
    SubElement(root, "folder").text = target.name
    SubElement(root, "filename").text = f"{name}{Path(record.name).suffix}"
    size = SubElement(root, "size")
    for tag, value in (("width", width), ("height", height), ("depth", 3)):
        SubElement(size, tag).text = str(value)
    SubElement(root, "segmented").text = "1"
    boxes = masks_of(targets).boxes().astype(int).tolist()
    for box, label, crowd in zip(boxes, targets.labels.tolist(), targets.crowd.tolist(), strict=True):
        entry = SubElement(root, "object")
        SubElement(entry, "name").text = categories[label].name
        for tag in ("truncated", "difficult", "crowd"):
            SubElement(entry, tag).text = str(int(crowd and tag != "truncated"))
        corners = SubElement(entry, "bndbox")
        # VOC counts pixels from 1, both corners inside
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, *box[2:]), strict=True):
            SubElement(corners, tag).text = str(value)
    write_xml(target / "Annotations" / f"{name}.xml", root)


# Reading ------------------------------------------------------------------------------------------


def _names(source: Path) -> list[tuple[str, str]]:
    """(split, name): by the lists in ImageSets/Segmentation, else all maps."""
    folder = source / "SegmentationObject"
    maps = (path.relative_to(folder).with_suffix("") for path in files_below(folder, "*.png"))
    found = listed(source, "Segmentation") or {path.as_posix(): "all" for path in maps}
    return [(split, name) for name, split in found.items()]


def listed(source: Path, kind: str) -> dict[str, str]:
    """Name -> split, by the lists of a kind in ImageSets, where lists for single classes have a second word. A name is
    taken once."""
    found: dict[str, str] = {}
    for path in sorted(matching(source / "ImageSets" / kind, "*.txt"), key=lambda p: p.stem in ("trainval", "all")):
        lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        if kind == "Segmentation" or not all(line.endswith((" 1", " 0", "-1")) for line in lines):
            found |= {line: path.stem for line in lines if line not in found}
    return found


def _read_map(path: Path, colors: Mapping[Color, int]) -> tuple[NDArray[np.int32], int]:
    """Numbers of a palette or gray PNG, or of the colors that stand for them, and its void number."""
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in ("RGB", "RGBA"):
                return numbers_of_colors(np.array(image.convert("RGB")), colors, path), 255
            if image.mode not in ("P", "L", "I;16", "I"):
                raise UserError(f"{path} must be a palette PNG, not {image.mode}: save the indices, not the colors")
            return np.array(image).astype(np.int32), 65535 if image.mode.startswith("I") else 255
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} cannot be read ({error})") from None


def _read_image(source: Path, name: str, split: str, result: DatasetBuilder, known: ClassList) -> None:
    file = source / "SegmentationObject" / f"{name}.png"
    try:
        numbers, void = _read_map(file, PALETTE)
        classes = source / "SegmentationClass" / f"{name}.png"
        kinds = _read_map(classes, known.colors)[0] if classes.is_file() else np.zeros_like(numbers)
        xml = source / "Annotations" / f"{name}.xml"
        listed = objects_of(xml) if xml.is_file() else []
    except UserError as error:
        result.report(Problem(str(file), "", str(error), "restore the file", "file"))
        return
    if kinds.shape != numbers.shape:
        what = "object and class map differ in size"
        result.report(Problem(str(file), "", what, "export both again", "size"))
        return
    if set(np.unique(numbers).tolist()) - {0} == {void}:
        what = f"its object map has only 0 and {void}, which is void in VOC: it is read as an image without objects"
        remedy = "number the objects 1, 2, 3 ..., or put the maps into labels/ beside images/ to get connected parts"
        result.report(Problem(str(file), "", what, remedy, "binary map", "warning"))
    numbers[numbers == void] = 0
    values = [int(v) for v in np.unique(numbers) if v > 0]
    masks = RLE.from_label_map(numbers)
    label_of = {category.name: i for i, category in enumerate(result.categories)}
    majority = _majority(numbers, kinds, void)
    keep, labels, crowd = [], [], []
    for i, value in enumerate(values):
        own, is_crowd = listed[value - 1] if value <= len(listed) else ("", False)
        kind = 0 if known.only_names else majority.get(value, 0)
        if not is_crowd and 1 <= kind <= len(result.categories):
            label = kind - 1
        elif own in label_of:
            label = label_of[own]
        else:
            what = "its class is neither in the class map nor in the XML"
            result.report(Problem(str(file), f"object {value}", what, "paint its class", "category"))
            continue
        keep.append(i)
        labels.append(label)
        crowd.append(is_crowd)
    image = find_image(source / "JPEGImages", name) or source / "JPEGImages" / f"{name}.jpg"
    targets = instances_of(masks[keep], labels, crowd, result.categories)
    own_name = name.removeprefix(f"{split}__")
    result.add(split, f"{own_name}{image.suffix}", image, targets)


def _majority(numbers: NDArray[np.int32], kinds: NDArray[np.int32], void: int) -> dict[int, int]:
    """Object number -> the class that most of its pixels have."""
    chosen = (numbers > 0) & (kinds > 0) & (kinds != void)
    base = 1 << 16
    pairs, count = np.unique(numbers[chosen].astype(np.int64) * base + kinds[chosen], return_counts=True)
    order = np.argsort(count, kind="stable")
    return {int(pair // base): int(pair % base) for pair in pairs[order]}


def _looks_like(source: Path) -> bool:
    folder = source / "SegmentationObject"  # CVAT and Datumaro leave it empty beside boxes
    return any(not is_clutter(path.relative_to(folder)) for path in folder.rglob("*.png"))


FORMAT = Format("voc", _looks_like, "maps in SegmentationObject", read_voc, write_voc)
