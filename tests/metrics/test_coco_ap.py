from __future__ import annotations

import contextlib
import io
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from eachmask.metrics.coco_ap import NAMES, coco_ap, to_coco_annotations
from eachmask.structures import RLE, Instances


def scene(rng: np.random.Generator, num: int, *, jitter: int = 0, scores: bool = False) -> Instances:
    masks = np.zeros((num, 120, 160), bool)
    for mask in masks:
        y, x = rng.integers(0, 80), rng.integers(0, 110)
        h, w = rng.integers(4, 40), rng.integers(4, 50)
        dy, dx = (rng.integers(-jitter, jitter + 1) if jitter else 0 for _ in range(2))
        mask[max(y + dy, 0) : y + dy + h, max(x + dx, 0) : x + dx + w] = True
    rle = RLE.from_bitmaps(masks)
    return Instances(
        image_size=(120, 160),
        boxes=torch.from_numpy(rle.boxes()),
        masks=rle,
        labels=torch.from_numpy(rng.integers(0, 3, num)),
        scores=torch.from_numpy(rng.random(num).astype(np.float32)) if scores else None,
    )


def pairs(seed: int) -> tuple[list[Instances], list[Instances]]:
    targets = [scene(np.random.default_rng([seed, i]), 5 + i) for i in range(6)]
    predictions = [scene(np.random.default_rng([seed, i]), 5 + i, jitter=3, scores=True) for i in range(6)]
    targets[0].crowd = torch.tensor([True] + [False] * 4)
    return predictions, targets


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_equals_pycocotools(kind):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    predictions, targets = pairs(1)
    ours = coco_ap(predictions, targets, kind=kind)
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = {
            "images": [{"id": i + 1, "height": 120, "width": 160} for i in range(6)],
            "categories": [{"id": k} for k in (1, 2, 3)],
            "annotations": [a for i, t in enumerate(targets) for a in to_coco_annotations(t, i + 1)],
        }
        for number, annotation in enumerate(gt.dataset["annotations"], start=1):
            annotation["id"] = number
        gt.createIndex()
        rows = [a for i, p in enumerate(predictions) for a in to_coco_annotations(p, i + 1)]
        if kind == "segm":  # of a result with both it takes the box's area for the mask's size
            rows = [{key: value for key, value in row.items() if key not in ("bbox", "area")} for row in rows]
        found = gt.loadRes(rows)
        evaluation = COCOeval(gt, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    for name, theirs in zip(NAMES, evaluation.stats, strict=True):
        assert (math.isnan(ours[name]) and theirs == -1) or ours[name] == pytest.approx(theirs, abs=1e-12), name


def test_larger_limit_finds_more():
    rng = np.random.default_rng(2)
    label = np.zeros((300, 300), int)
    for i in range(225):
        y, x = divmod(i, 15)
        label[y * 20 : y * 20 + 12, x * 20 : x * 20 + 12] = i + 1
    masks = RLE.from_label_map(label)
    boxes = torch.from_numpy(masks.boxes())
    gt = Instances(image_size=(300, 300), boxes=boxes, masks=masks, labels=torch.zeros(225, dtype=torch.int64))
    found = Instances(
        image_size=(300, 300), boxes=boxes, masks=masks, labels=torch.zeros(225, dtype=torch.int64),
        scores=torch.from_numpy(rng.random(225).astype(np.float32)),
    )  # fmt: skip
    assert coco_ap([found], [gt], max_detections=1000)["ap"] == pytest.approx(1, abs=1e-6)
    assert coco_ap([found], [gt])["ar100"] < 0.5


def test_no_predictions_is_zero_not_an_error():
    _, targets = pairs(3)
    assert coco_ap([Instances.empty(t.image_size) for t in targets], targets)["ap"] == 0


def test_lists_must_match():
    predictions, targets = pairs(4)
    with pytest.raises(ValueError, match="6 predictions for 5"):
        coco_ap(predictions, targets[:5])


def test_the_size_of_a_mask_is_not_that_of_its_box():
    """A diagonal bar of 40 px^2 in a box of 1600 px^2 is small; and the library warns nobody."""
    label = np.eye(40, dtype=int)
    masks = RLE.from_label_map(label)
    target = Instances(image_size=(40, 40), boxes=torch.tensor([[0.0, 0, 40, 40]]), masks=masks)
    false = Instances(image_size=(40, 40), boxes=target.boxes, masks=RLE.from_label_map(label[::-1].copy()))
    found = Instances.cat([replace(false, scores=torch.tensor([0.9])), replace(target, scores=torch.tensor([0.8]))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numbers = coco_ap([found], [target])
        coco_ap([found], [target], class_agnostic=True)
    assert numbers["ap_small"] == pytest.approx(0.5, abs=0.01) and math.isnan(numbers["ap_medium"])
