"""Instances in the words of COCO's files (Lin et al., arXiv 1405.0312): dicts that are ready for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eachmask.structures.category import Category

if TYPE_CHECKING:
    from eachmask.structures.instances import Instances


def to_coco(instances: Instances, file_name: str, image_id: int) -> dict[str, Any]:
    """A whole file about one image: ``images``, ``annotations``, ``categories``.

    >>> from eachmask.structures import Instances
    >>> import torch
    >>> found = Instances((8, 8), torch.tensor([[1.0, 2, 5, 4]]), categories=(Category(3, "cat"),))
    >>> sorted(to_coco(found, "a.png", 1))
    ['annotations', 'categories', 'images']
    """
    height, width = instances.image_size
    image = {"id": image_id, "file_name": file_name, "width": width, "height": height}
    rows = [{"id": i, "image_id": image_id, **row} for i, row in enumerate(to_annotations(instances), start=1)]
    categories = [category_to_dict(category) for category in instances.categories]
    return {"images": [image], "annotations": rows, "categories": categories}


def to_annotations(instances: Instances) -> list[dict[str, Any]]:
    """COCO dicts: category_id, segmentation (RLE), bbox, area, iscrowd, score.

    ``id`` and ``image_id`` are the caller's business. Boxes are the instances' own, to 1/100 px; scores have
    six digits.

    >>> from eachmask.structures import Instances
    >>> import torch
    >>> found = Instances((8, 8), torch.tensor([[1.0, 2, 5, 4]]), categories=(Category(3, "cat"),))
    >>> to_annotations(found)
    [{'category_id': 3, 'bbox': [1.0, 2.0, 4.0, 2.0], 'area': 8.0, 'iscrowd': 0}]
    """
    boxes = instances.boxes.detach().cpu().double().numpy()
    # a copy, with which goes what it works out about itself: a whole data set passes through here
    masks = None if instances.masks is None else instances.masks.to_rle()[:]
    segmentations = None if masks is None else masks.to_coco()
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) if masks is None else masks.area()
    ids = category_ids(instances)
    rows = []
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        row: dict[str, Any] = {"category_id": ids[i]}
        if segmentations is not None:
            row["segmentation"] = segmentations[i]
        row["bbox"] = [round(float(v), 2) for v in (x1, y1, x2 - x1, y2 - y1)]
        row["area"] = round(float(areas[i]), 2) if masks is None else int(areas[i])
        row["iscrowd"] = int(instances.crowd[i])
        if instances.scores is not None:
            row["score"] = float(f"{float(instances.scores[i]):.6g}")
        if instances.keypoints is not None:
            row |= _keypoint_fields(instances.keypoints[i].detach().cpu().numpy())
        rows.append(row)
    return rows


def category_ids(instances: Instances) -> list[int]:
    """The data set's own category id of each instance; label + 1 where there are no categories.

    >>> from eachmask.structures import Instances
    >>> import torch
    >>> category_ids(Instances((8, 8), torch.tensor([[1.0, 2, 5, 4]]), categories=(Category(3, "cat"),)))
    [3]
    """
    labels = instances.labels.tolist()
    return [instances.categories[i].id if i < len(instances.categories) else i + 1 for i in labels]


def category_to_dict(category: Category) -> dict[str, Any]:
    """One entry of the ``categories`` block.

    >>> category_to_dict(Category(3, "cat", "animal"))
    {'id': 3, 'name': 'cat', 'supercategory': 'animal'}
    """
    entry: dict[str, Any] = {"id": category.id, "name": category.name}
    if category.parent:
        entry["supercategory"] = category.parent
    if not category.is_thing:
        entry["isthing"] = 0
    if category.keypoints:
        skeleton = [[a + 1, b + 1] for a, b in category.skeleton]  # COCO counts from 1
        entry |= {"keypoints": list(category.keypoints), "skeleton": skeleton}
    return entry


def _keypoint_fields(points: NDArray[np.float32]) -> dict[str, Any]:
    """Places to 1/100 px, visibility or score to six digits."""
    flat = [v for x, y, s in points.tolist() for v in (round(x, 2), round(y, 2), float(f"{s:.6g}"))]
    return {"keypoints": flat, "num_keypoints": int((points[:, 2] > 0).sum())}
