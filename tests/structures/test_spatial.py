"""What lies on an image obeys one protocol, whatever it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask.structures import (
    RLE,
    Category,
    Instances,
    Matte,
    PanopticMap,
    Prompts,
    Segment,
    SemanticMap,
    Spatial,
    Trimap,
)

SIZE = (12, 20)


def instances() -> Instances:
    masks = np.zeros((2, *SIZE), bool)
    masks[0, 2:6, 3:9] = masks[1, 7:11, 10:18] = True
    rle = RLE.from_bitmaps(masks)
    return Instances(SIZE, torch.from_numpy(rle.boxes()), rle, keypoints=torch.tensor([[[4.0, 3, 2]], [[12, 8, 2]]]))


def nouns() -> list[Spatial]:
    ids = torch.from_numpy(instances().masks.to_label_map())
    kinds = (Category(1, "sky", is_thing=False), Category(2, "kite"), Category(3, "dog"))
    return [
        instances(),
        SemanticMap(ids, kinds),
        PanopticMap(ids, (Segment(1, 1), Segment(2, 2)), kinds),
        Matte(ids.float() / 2, torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0))),
        Trimap((ids * 128).clamp(max=255).byte()),
        Prompts(
            SIZE,
            points=[[4, 3], [12, 8]],
            point_objects=[0, 1],
            boxes=instances().boxes,
            extremes=[[[3, 4], [9, 4], [5, 2], [5, 6]]],
            scribbles=[[[4, 4], [5, 5]]],
            masks=instances().masks,
            texts=["kite"],
        ),
    ]


def layers(noun: Spatial) -> list[torch.Tensor]:
    """Everything that has a place, as tensors to compare."""
    values = [v for v in vars(noun).values() if isinstance(v, torch.Tensor)]
    masks = getattr(noun, "masks", None)
    return values if masks is None else [*values, torch.from_numpy(masks.to_rle().decode())]


def same(a: Spatial, b: Spatial) -> bool:
    pairs = list(zip(layers(a), layers(b), strict=True))
    return a.image_size == b.image_size and all(torch.equal(x, y) for x, y in pairs)


EACH = pytest.mark.parametrize("noun", nouns(), ids=lambda noun: type(noun).__name__)


@EACH
def test_obeys_the_protocol(noun):
    assert isinstance(noun, Spatial) and noun.image_size == SIZE
    assert type(noun.to("cpu")) is type(noun) and same(noun.to("cpu"), noun)


@EACH
def test_mirrored_twice_is_the_same(noun):
    assert not same(noun.flip(), noun)
    assert same(noun.flip().flip(), noun)


@EACH
def test_placed_on_a_larger_canvas_and_cut_out_again(noun):
    placed = noun.shift(5, 7, (40, 50))
    assert placed.image_size == (40, 50) and not same(placed, noun)
    assert same(placed.crop((5, 7, 25, 19)), noun)


@EACH
def test_a_crop_is_a_shift_onto_a_smaller_canvas(noun):
    cut = noun.crop((2, 1, 16, 10))
    assert cut.image_size == (9, 14)
    assert same(cut.shift(2, 1, SIZE).crop((2, 1, 16, 10)), cut)
    with pytest.raises(ValueError, match="empty"):
        noun.crop((3, 3, 3, 9))


@EACH
def test_resized(noun):
    large = noun.resize((24, 40))
    assert large.image_size == (24, 40)
    if not isinstance(noun, Matte):  # which is smoothed
        assert same(large.resize(SIZE), noun)


def test_something_else_does_not_obey():
    assert not isinstance(RLE.empty(SIZE), Spatial)
