"""LabelMe: one JSON file per image, with shapes.

Objects of one part without holes are written as ``polygon``. All others are ``mask`` shapes, a PNG of the object's
window in base64 (known to LabelMe since 5.2), so nothing is lost. Crowd regions carry the flag ``crowd``.
Read are also ``rectangle``, ``circle``, and shapes that one ``group_id`` makes parts of one object.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.data.annotated import (
    AnnotatedSet,
    Picture,
    Problem,
    copy_image,
    crowd_of,
    find_image,
    instances_of,
    labels_of,
    masks_of,
)
from eachmask.data.watch import Watch, unwatched
from eachmask.structures import RLE, Category, Polygons, UserError

_CLASSES = "classes.json"


def read_labelme(source: Path, watch: Watch = unwatched) -> AnnotatedSet:
    """Read all LabelMe files below a folder; its own folders are the splits.

    Raises:
        UserError: there is none.
    """
    contents: dict[Path, dict[str, Any]] = {}
    result = AnnotatedSet((), {})
    for path in watch("parsing", sorted(source.rglob("*.json"))):
        if path.parent == source and path.name in (_CLASSES, "convert-report.json"):
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
            if not isinstance(content.get("shapes"), list):
                raise ValueError("it has no list of shapes")
            contents[path] = content
        except (OSError, ValueError, AttributeError) as error:
            result.problems.append(Problem(str(path), "", f"no LabelMe file ({error})", "mend or remove it", "file"))
    if not contents:
        raise UserError(f"{source} holds no LabelMe files (JSON with a list named shapes)")
    result.categories = _categories(source, contents)
    for path, content in watch("reading", contents.items()):
        relative = path.relative_to(source)
        split = relative.parts[0] if len(relative.parts) > 1 else "all"
        picture = _read_picture(path, content, source / split if split != "all" else source, result)
        if picture is not None:
            result.splits.setdefault(split, []).append(picture)
    return result


def write_labelme(target: Path, data: AnnotatedSet, watch: Watch = unwatched) -> list[str]:
    """Write SPLIT/NAME.json beside the images, and classes.json with the data set's ids."""
    target.mkdir(parents=True, exist_ok=True)
    ids = [{"id": c.id, "name": c.name} for c in data.categories]
    (target / _CLASSES).write_text(json.dumps(ids), encoding="utf-8")
    for split, picture in watch("writing", list(data.pictures())):
        copy_image(picture, target / split / picture.name)
        height, width = picture.targets.image_size
        content: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": _shapes(picture, data.categories),
            "imagePath": Path(picture.name).name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        path = target / split / f"{picture.stem}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    return []


def _shapes(picture: Picture, categories: tuple[Category, ...]) -> list[dict[str, Any]]:
    masks = masks_of(picture.targets)
    polygons, bitmaps = masks.to_polygons(), masks.to_bitmaps()
    shapes = []
    for i, (label, crowd) in enumerate(zip(labels_of(picture.targets), crowd_of(picture.targets), strict=True)):
        outers, holes = polygons.outers[i], polygons.holes[i]
        shape: dict[str, Any] = {"label": categories[label].name, "group_id": None, "flags": {}, "description": ""}
        if crowd:
            shape["flags"] = {"crowd": True}
        if len(outers) == 1 and not holes:
            shape |= {"shape_type": "polygon", "points": outers[0].astype(float).tolist(), "mask": None}
        else:
            shape |= _mask_shape(bitmaps.crops[i], *bitmaps.origins[i].tolist())
        shapes.append(shape)
    return shapes


def _mask_shape(crop: NDArray[np.bool_], x: int, y: int) -> dict[str, Any]:
    """The window's corners, both inside it, and its pixels as PNG."""
    data = bytes(cv2.imencode(".png", crop.astype(np.uint8) * np.uint8(255))[1])
    points = [[float(x), float(y)], [float(x + crop.shape[1] - 1), float(y + crop.shape[0] - 1)]]
    return {"shape_type": "mask", "points": points, "mask": base64.b64encode(data).decode("ascii")}


# Reading ------------------------------------------------------------------------------------------


def _categories(source: Path, contents: dict[Path, dict[str, Any]]) -> tuple[Category, ...]:
    """classes.json where there is one; further labels in alphabetical order, numbered on."""
    known: dict[str, Category] = {}
    try:
        for row in json.loads((source / _CLASSES).read_text(encoding="utf-8")):
            known[str(row["name"])] = Category(int(row["id"]), str(row["name"]))
    except FileNotFoundError:
        pass
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{source / _CLASSES} must be a list of objects with id and name") from None
    shapes = [s for content in contents.values() for s in content["shapes"] if isinstance(s, dict)]
    for name in sorted({str(s["label"]) for s in shapes if s.get("label")} - set(known)):
        known[name] = Category(max((c.id for c in known.values()), default=0) + 1, name)
    return tuple(known.values())


def _read_picture(path: Path, content: dict[str, Any], base: Path, result: AnnotatedSet) -> Picture | None:
    try:
        size = (int(content["imageHeight"]), int(content["imageWidth"]))
        if min(size) < 1:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        what = "imageHeight and imageWidth must be whole numbers above 0"
        result.problems.append(Problem(str(path), "", what, "save it anew in LabelMe", "image"))
        return None
    objects: dict[Any, tuple[list[RLE], str, bool]] = {}
    for number, shape in enumerate(content["shapes"], start=1):
        try:
            mask = _read_shape(shape, size)
            if not shape.get("label"):
                raise ValueError("it has no label")
            if not mask.area()[0]:
                raise ValueError("it covers no pixel")
            key = number if shape.get("group_id") is None else ("group", str(shape["group_id"]), str(shape["label"]))
            flags = shape.get("flags") or {}
            objects.setdefault(key, ([], str(shape["label"]), bool(flags.get("crowd"))))[0].append(mask)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"it cannot be read ({error})"
            result.problems.append(Problem(str(path), f"shape {number}", what, "draw it anew or delete it"))
    label_of = {category.name: i for i, category in enumerate(result.categories)}
    masks = RLE.cat([RLE.empty(size), *(RLE.cat(parts).union() for parts, _, _ in objects.values())])
    labels = [label_of[name] for _, name, _ in objects.values()]
    targets = instances_of(masks, labels, [crowd for _, _, crowd in objects.values()], result.categories)
    image = _image(path, content)
    name = path.with_suffix(image.suffix).relative_to(base).as_posix()
    return Picture(name, image, targets)


def _image(path: Path, content: dict[str, Any]) -> Path:
    """The image beside the file: by the name it gives, or by its own."""
    named = Path(str(content.get("imagePath") or "").replace("\\", "/")).name
    if named and (path.parent / named).is_file():
        return path.parent / named
    return find_image(path.parent, path.stem) or path.parent / (named or f"{path.stem}.jpg")


def _read_shape(shape: dict[str, Any], size: tuple[int, int]) -> RLE:
    kind = shape.get("shape_type", "polygon")
    points = np.asarray(shape["points"], np.float64).reshape(-1, 2)
    if kind == "mask":
        return _read_mask(shape, points, size)
    if kind == "rectangle":
        (x1, y1), (x2, y2) = points.min(0), points.max(0)
        points = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    elif kind == "circle":
        angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
        radius = np.hypot(*(points[1] - points[0]))
        points = points[0] + radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    elif kind != "polygon":
        raise ValueError(f"a {kind} has no area")
    return Polygons([[points]], (), size).to_rle()


def _read_mask(shape: dict[str, Any], points: NDArray[np.float64], size: tuple[int, int]) -> RLE:
    try:
        data = np.frombuffer(base64.b64decode(shape["mask"], validate=True), np.uint8)
    except (binascii.Error, TypeError):
        raise ValueError("its mask is not base64") from None
    pixels = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    if pixels is None:
        raise ValueError("its mask is no PNG")
    if not np.isfinite(points).all() or len(points) != 2:
        raise ValueError("a mask needs the two corners of its window")
    x, y = (round(float(v)) for v in points[0])
    return RLE.from_bitmaps((pixels > 0)[None]).shift(x, y, size)
