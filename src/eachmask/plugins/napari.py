"""napari: results and label maps as labels layers, labels layers as label maps, and ``nuclei`` on an image layer.

``napari.yaml`` beside this file tells napari what is here (its plugin engine npe2 reads it by the package's entry
point). Layers travel as napari's plain tuples (data, settings, kind), so that nothing of napari is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eachmask.structures import UserError

if TYPE_CHECKING:
    import napari  # type: ignore[import-not-found,unused-ignore]

Layer = tuple[NDArray[Any], dict[str, Any], str]
"""What napari makes a layer of: data, settings, and its kind."""
MAX_OPENED = 100
"""Images of a folder that are opened."""


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list[Layer]] | None:
    """What opens ``path``: a results folder, its predictions.json or a label map; None for anything else."""
    paths = [Path(one) for one in ([path] if isinstance(path, str | Path) else path)]
    return read if paths and all(map(_is_ours, paths)) else None


def read(path: str | Sequence[str]) -> list[Layer]:
    """Image and labels layer of each image of results; a labels layer of each label map.

    Raises:
        UserError: a file cannot be read.
    """
    paths = [Path(one) for one in ([path] if isinstance(path, str | Path) else path)]
    return [layer for one in paths for layer in (_map(one) if _is_map(one) else _results(one))]


def write_labels(path: str, data: NDArray[Any], settings: dict[str, Any]) -> list[str]:
    """A labels layer as a label map, which `eachmask evaluate` and `eachmask train` read.

    Raises:
        UserError: the layer has more than two dimensions.
    """
    from eachmask.data.formats.label_maps import label_map_suffix, write_label_map
    from eachmask.structures import RLE

    if data.ndim != 2:
        raise UserError(f"a label map has two dimensions, this layer {data.ndim}: save its pages one by one")
    masks = RLE.from_label_map(np.ascontiguousarray(data, dtype=np.int32))
    target = Path(path).with_suffix(label_map_suffix(len(masks)))
    write_label_map(target, masks)
    return [str(target)]


def find_nuclei(image: napari.types.ImageData, diameter: float = 0.0) -> napari.types.LabelsData:
    """``nuclei`` on a layer: (H, W) or (H, W, 3) -> (H, W) labels from 1.

    Args:
        diameter: typical diameter of the objects, px; 0: what the image shows.
    """
    from eachmask.data.images.read import as_array
    from eachmask.inference.diameter import typical_diameter
    from eachmask.inference.load import load

    predictor = load("nuclei")
    diameter = diameter or typical_diameter(predictor, [as_array(np.asarray(image))]) or 0.0
    if diameter:
        predictor = predictor.at_diameter(diameter)
    return predictor.predict(np.asarray(image)).to_label_map()


def _is_map(path: Path) -> bool:
    return path.suffix.lower() in (".png", ".tif", ".tiff") and path.parent.name == "labels"


def _is_ours(path: Path) -> bool:
    return _is_map(path) or path.name == "predictions.json" or (path / "predictions.json").is_file()


def _map(path: Path) -> list[Layer]:
    from eachmask.data.formats.label_maps import numbers_in

    return [(numbers_in(path).astype(np.int32), {"name": path.stem}, "labels")]


def _results(path: Path) -> list[Layer]:
    """The first images of a results folder with their objects, whose features are classes and scores."""
    from eachmask.data.reading import read_any

    layers: list[Layer] = []
    data, _ = read_any(path if path.is_dir() else path.parent)
    for _, image in list(data.images())[:MAX_OPENED]:
        found = image.targets
        if found.masks is None:
            continue
        features: dict[str, list[Any]] = {"index": list(range(len(found) + 1)), "class": ["", *found.label_names]}
        features["score"] = [None, *image.scores]
        layers.append((image.split.image(image.index), {"name": image.name}, "image"))
        layers.append((found.to_label_map(), {"name": f"{image.name} objects", "features": features}, "labels"))
    return layers
