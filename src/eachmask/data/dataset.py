"""AnnotatedSet: a whole data set between two formats, every object as packed runs.

Each format's file has a ``read_...`` that returns one and a ``write_...`` that takes one. Reading never
stops at one bad annotation: what cannot be used is left out and written down as a :class:`Problem`.
"""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from eachmask.data.formats.segmentations import Rasterized
from eachmask.data.images.read import SUFFIXES, open_with_pillow
from eachmask.structures import RLE, Category, Instances, UserError

_ORIENTATION = 274
_PNG_EXIF = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")
"""One of these is in every PNG that has an orientation, in plain letters."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file or one of its annotations, and what to do about it."""

    file: str
    annotation: str
    """Which annotation of the file; "" where it is the file itself."""
    what: str
    remedy: str
    kind: str = "annotation"
    """What sort of problem, for counting."""
    severity: str = "error"
    """``error``, ``warning`` or ``note``."""

    def __str__(self) -> str:
        where = f"{self.file}, {self.annotation}" if self.annotation else self.file
        return f"{where}: {self.what}; {self.remedy}"


def only_boxes(file: Path, number: int) -> Iterator[Problem]:
    """What to say of a file, or a folder, with so many objects that have no outline; nothing where there are none."""
    if number:
        what, remedy = f"objects with a box and no outline: {number}", "their boxes are taken for masks; outline them"
        yield Problem(str(file), "", what, remedy, "box only", "warning")


class _Packed:
    """Keeps an image's objects as one string of bytes, and gives them anew whenever they are asked for.

    In sets of many images with few objects each, tensors and arrays of their own would take more room than what is
    in them. Pickle serves in memory only: nothing that was written elsewhere is read.
    """

    def __set__(self, image: AnnotatedImage, targets: Instances) -> None:
        parts = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in vars(targets).items() if v is not None}
        vars(image)["_categories"] = parts.pop("categories")
        vars(image)["_objects"] = pickle.dumps(parts, protocol=5)

    def __get__(self, image: AnnotatedImage | None, owner: type[AnnotatedImage]) -> Instances:
        if image is None:
            raise AttributeError  # so a dataclass learns that there is no default
        packed: dict[str, Any] = pickle.loads(vars(image)["_objects"])
        parts: dict[str, Any] = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in packed.items()}
        return Instances(**parts, categories=vars(image)["_categories"])


@dataclass(frozen=True)
class AnnotatedImage:
    """One image of a data set: its name there, its file, its objects."""

    name: str
    """Relative POSIX path, unique within its split, with a suffix."""
    path: Path
    """The image file; it may be missing."""
    targets: _Packed = _Packed()
    """:class:`Instances` with ``masks`` (RLE), ``labels`` and ``crowd``: new ones each time, so keep them at hand."""
    object_ids: tuple[str, ...] = ()
    """What the source calls each object, for messages; () where it has no names."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What else a COCO file says of the image: LVIS's lists of absent and not exhaustively annotated classes ..."""

    def object_name(self, index: int) -> str:
        """``annotation 17``, or ``object 3`` by the place in the image."""
        return f"annotation {self.object_ids[index]}" if self.object_ids else f"object {index + 1}"

    @property
    def stem(self) -> str:
        """The name without its suffix, folders kept."""
        return str(PurePosixPath(self.name).with_suffix(""))


@dataclass
class AnnotatedSet:
    """Images by split (``train``, ``val`` ...; ``all`` where the format has none)."""

    categories: tuple[Category, ...]
    splits: dict[str, list[AnnotatedImage]]
    problems: list[Problem] = field(default_factory=list)
    category_fields: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By category id, what else a COCO file says of it: LVIS's ``frequency``, ``synset`` ..."""

    def __len__(self) -> int:
        return sum(len(images) for images in self.splits.values())

    def images(self) -> Iterator[tuple[str, AnnotatedImage]]:
        """(split, image) of every image."""
        for split, images in self.splits.items():
            yield from ((split, image) for image in images)


def instances_of(
    masks: RLE | Rasterized, labels: Sequence[int], crowd: Sequence[bool], categories: tuple[Category, ...]
) -> Instances:
    """Targets of one image from its masks; boxes are tight. Masks without a pixel are left out."""
    drawn = masks if isinstance(masks, Rasterized) else Rasterized(masks, masks.area(), masks.boxes())
    keep = drawn.area > 0
    return Instances(
        image_size=drawn.masks.size,
        boxes=torch.from_numpy(drawn.boxes[keep]),
        masks=drawn.masks[keep],  # a copy: what the masks have worked out about themselves stays behind
        labels=torch.from_numpy(np.asarray(labels, np.int64).reshape(-1)[keep]),
        crowd=torch.from_numpy(np.asarray(crowd, bool).reshape(-1)[keep]),
        categories=categories,
    )


def masks_of(targets: Instances) -> RLE:
    """The masks; an object without one gets its box, rounded to whole pixels.

    They are new each time, over the same packed arrays: what a mask works out about itself and keeps, several times
    its own size, goes with them and does not pile up over a data set.
    """
    if targets.masks is not None:
        masks = targets.masks.to_rle()
        return RLE(masks.counts, masks.offsets, masks.size)
    height, width = targets.image_size
    boxes = np.rint(targets.boxes.numpy()).astype(np.int64)
    return RLE.from_column_runs(_box_runs(boxes), len(boxes), (height, width))


def _box_runs(boxes: NDArray[np.int64]) -> Any:
    from eachmask.structures.runs import ColumnRuns, ranges

    widths = np.maximum(boxes[:, 2] - boxes[:, 0], 0)
    owner = np.repeat(np.arange(len(boxes)), widths)
    return ColumnRuns(owner, ranges(boxes[:, 0], widths), boxes[owner, 1], boxes[owner, 3])


def named_categories(names: Iterable[str], first_id: int = 1) -> tuple[Category, ...]:
    """Names -> categories with consecutive ids; each name once, in the order given."""
    return tuple(Category(i, name) for i, name in enumerate(dict.fromkeys(names), start=first_id))


def find_image(folder: Path, stem: str) -> Path | None:
    """The image file of that name (without suffix) in a folder, or None."""
    for suffix in (".jpg", ".png", *sorted(SUFFIXES)):
        for spelling in (suffix, suffix.upper()):
            if (folder / (stem + spelling)).is_file():
                return folder / (stem + spelling)
    return None


def image_files(folder: Path) -> list[Path]:
    """All images below a folder, sorted; hidden entries and system clutter left out."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted(p for p in found if p.is_file())


def image_size(path: Path, upright: bool = True) -> tuple[int, int]:
    """(height, width) from the header alone, turned by the EXIF orientation where ``upright``.

    Raises:
        UserError: the file is missing or no image.
    """
    try:
        with open_with_pillow(path) as image:
            width, height = image.size
            turned = upright and _may_be_turned(image, path) and image.getexif().get(_ORIENTATION, 1) >= 5
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: put the image there or remove its annotations") from None
    except Exception:
        from eachmask.data.images.read import read_image  # a kind of TIFF that Pillow does not know

        height, width = read_image(path, upright=upright).shape[:2]
        turned = False
    return (width, height) if turned else (height, width)


def _may_be_turned(image: Image.Image, path: Path) -> bool:
    """Whether the EXIF orientation is worth asking for: Pillow decodes all of a PNG to find that there is none."""
    return image.format != "PNG" or any(mark in path.read_bytes() for mark in _PNG_EXIF)


def safe_name(name: str, file: Path) -> str:
    """A file name out of a data set, as a relative POSIX path that cannot leave its folder.

    Raises:
        UserError: it is absolute, climbs out with ``..``, or is empty.
    """
    plain = PurePosixPath(name.replace("\\", "/"))
    if plain.is_absolute() or ".." in plain.parts or not plain.name or ":" in plain.parts[0]:
        raise UserError(f"{file}: the image name {name!r} leads out of the data set: make it relative")
    return str(plain)


def merged_categories(data: AnnotatedSet, merge: Callable[[Category], str]) -> AnnotatedSet:
    """The set with classes merged under new names, in the order in which the names first come.

    Further fields of the old classes (LVIS's frequency) are left behind: they say nothing of the new.

    Args:
        merge: category -> name of the class it becomes part of.
    """
    names = [merge(category) for category in data.categories]
    categories = named_categories(names)
    place = {category.name: label for label, category in enumerate(categories)}
    lookup = torch.tensor([place[name] for name in names], dtype=torch.int64)
    return with_targets(data, categories, lambda targets: replace(
        targets, labels=lookup[targets.labels], categories=categories
    ))  # fmt: skip


def supercategories(data: AnnotatedSet) -> AnnotatedSet:
    """The set with each class merged into its supercategory, where it has one: COCO's 80 classes become 12."""
    return merged_categories(data, lambda category: category.parent or category.name)


def one_class(data: AnnotatedSet) -> AnnotatedSet:
    """The set with all classes merged into one, ``object``."""
    return merged_categories(data, lambda category: "object")


def with_the_rest_ignored(data: AnnotatedSet) -> AnnotatedSet:
    """The set with everything that is not annotated made an ignore region: for sets that name only some classes.

    Each image gets one more object, a crowd region all over it, so that what lies there counts neither as object
    nor as background.
    """

    def ignore(targets: Instances) -> Instances:
        height, width = targets.image_size
        all_of_it = instances_of(RLE.from_bitmaps(np.ones((1, height, width), bool)), [0], [True], data.categories)
        known = instances_of(masks_of(targets), targets.labels.tolist(), targets.crowd.tolist(), data.categories)
        return Instances.cat([known, all_of_it])

    return with_targets(data, data.categories, ignore)


def with_targets(
    data: AnnotatedSet, categories: tuple[Category, ...], change: Callable[[Instances], Instances]
) -> AnnotatedSet:
    """The set with other classes and every image's objects changed."""
    splits = {
        split: [replace(image, targets=change(image.targets)) for image in images]
        for split, images in data.splits.items()
    }
    return AnnotatedSet(categories, splits, data.problems)


def contained(data: AnnotatedSet) -> AnnotatedSet:
    """The set with splits and images whose names are safe to be written under, whatever the source says."""
    splits: dict[str, list[AnnotatedImage]] = {}
    for split, images in data.splits.items():
        kept = splits.setdefault(re.sub(r"[^\w.-]+", "_", split).strip(".") or "all", [])
        for image in images:
            try:
                safe_name(image.name, image.path)
                kept.append(image)
            except UserError as error:
                data.problems.append(Problem(str(image.path), "", str(error), "rename it", "image"))
    return AnnotatedSet(data.categories, splits, data.problems, data.category_fields)


def copy_image(image: AnnotatedImage, target: Path) -> bool:
    """Copy an image's file; False where it is missing.

    Annotations made on the pixels as stored, in a file that EXIF turns, would no longer fit for a reader
    that turns it: then the copy loses its orientation tag.
    """
    if not image.path.is_file():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        turned = image_size(image.path) != image.targets.image_size
        if turned and image_size(image.path, upright=False) == image.targets.image_size:
            _without_orientation(image.path, target)
            return True
    except UserError:
        pass  # a damaged image is copied as it is
    shutil.copyfile(image.path, target)
    return True


def _without_orientation(source: Path, target: Path) -> None:
    with Image.open(source) as image:
        exif = image.getexif()
        exif[_ORIENTATION] = 1
        extra: dict[str, Any] = {"quality": "keep"} if image.format == "JPEG" else {}
        image.save(target, format=image.format, exif=exif, **extra)
