"""A turned window takes along whatever lies on the image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from eachmask.data.sample import Sample
from eachmask.data.transforms.geometry import AffineCrop
from eachmask.structures import (
    RLE,
    Category,
    Instances,
    Matte,
    PanopticMap,
    Prompts,
    Segment,
    SemanticMap,
    Trimap,
    UserError,
)

SIZE = (50, 70)
KINDS = (Category(1, "ground", is_thing=False), Category(2, "thing"))
TURN = AffineCrop(size=64, scale=(0.9, 1.3), min_area=1)


def thing() -> np.ndarray:
    """(H, W) bool: an L, which no turn or mirror leaves as it is."""
    bitmap = np.zeros(SIZE, bool)
    bitmap[12:40, 20:30] = bitmap[30:40, 20:55] = True
    return bitmap


def turned(targets: Any, given: Any = None, seed: int = 0) -> Sample[Any]:
    image = np.where(thing()[..., None], np.float32(0.9), np.float32(0.1)).repeat(3, 2)
    return TURN(Sample(image, targets, given=given), np.random.default_rng(seed))


def bright(sample: Sample[Any]) -> np.ndarray:
    return sample.image[..., 0] > 0.5


def agree(one: np.ndarray, other: np.ndarray) -> bool:
    """But for pixels at the edge, where an interpolated image and nearest labels differ."""
    assert 100 < one.sum() < one.size - 100
    return bool((one ^ other).sum() < 0.06 * one.sum())


@pytest.mark.parametrize("seed", range(3))
def test_maps_of_every_kind_stay_on_their_pixels(seed):
    labels = torch.from_numpy(thing().astype(np.uint8))
    semantic = turned(SemanticMap(labels, KINDS), seed=seed)
    assert semantic.targets.image_size == (64, 64) and agree(bright(semantic), semantic.targets.labels.numpy() == 1)
    panoptic = turned(PanopticMap(labels + 1, (Segment(1, 0), Segment(2, 1)), KINDS), seed=seed)
    assert agree(bright(panoptic), panoptic.targets.ids.numpy() == 2)
    matte = turned(Matte(labels.float(), labels.float().expand(3, -1, -1).clone()), seed=seed)
    assert np.abs(matte.image[..., 0] - 0.1 - 0.8 * matte.targets.alpha.numpy()).max() < 0.02
    assert torch.equal(matte.targets.alpha, matte.targets.foreground[0])
    assert torch.equal(
        semantic.targets.labels == 1, turned(Instances.empty(SIZE), SemanticMap(labels), seed).given.labels == 1
    )
    trimap = turned(Trimap(labels * 255), seed=seed)
    assert agree(bright(trimap), trimap.targets.values.numpy() == 255)


@pytest.mark.parametrize("seed", range(4))
def test_prompts_go_with_the_image(seed):
    masks = RLE.from_bitmaps(thing()[None])
    prompts = Prompts(
        SIZE, points=[[25.0, 20.0], [45.0, 10.0]], signs=[True, False], boxes=masks.boxes(), masks=masks,
        box_objects=[0], mask_objects=[0], scribbles=([[25.0, 15.0], [25.0, 35.0], [50.0, 35.0]],),
    )  # fmt: skip
    found = turned(SemanticMap(torch.from_numpy(thing().astype(np.uint8)), KINDS), prompts, seed)
    assert found.given.image_size == (64, 64)
    on = bright(found)
    for (x, y), sign in zip(found.given.points.tolist(), found.given.signs.tolist(), strict=True):
        assert on[int(y), int(x)] == sign
    assert all(on[int(y), int(x)] for line in found.given.scribbles for x, y in line.tolist())
    warped = found.given.masks.decode()[0]
    assert (warped & ~on).sum() < 0.06 * warped.sum(), "masks are not mirrored at the border as the image is"
    (x1, y1, x2, y2), (mx1, my1, mx2, my2) = found.given.boxes[0].tolist(), found.given.masks.boxes()[0].tolist()
    assert x1 <= mx1 + 1 and y1 <= my1 + 1 and x2 >= mx2 - 1 and y2 >= my2 - 1


def test_boxes_alone_are_those_around_the_turned_ones():
    masks = RLE.from_bitmaps(thing()[None])
    objects = Instances(SIZE, torch.from_numpy(masks.boxes()), masks, labels=torch.tensor([1]))
    with_masks = turned(objects, seed=1).targets
    (x1, y1, x2, y2), (mx1, my1, mx2, my2) = (
        found.boxes[0].tolist() for found in (turned(replace(objects, masks=None), seed=1).targets, with_masks)
    )
    assert x1 <= mx1 + 1 and y1 <= my1 + 1 and x2 >= mx2 - 1 and y2 >= my2 - 1


def test_what_cannot_be_turned_is_said():
    points = Instances(SIZE, torch.tensor([[1.0, 1, 9, 9]]), keypoints=torch.zeros(1, 2, 3))
    with pytest.raises(UserError, match="does not turn keypoints"):
        turned(points)
    with pytest.raises(UserError, match="give it a method warp"):
        turned(object())
