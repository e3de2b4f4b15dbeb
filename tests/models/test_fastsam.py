"""FastSAM's prompts choose among masks; its network knows one class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask.models.promptable.fastsam import answers, by_box, by_points, by_text, fastsam_lite0
from eachmask.models.protocol import Promptable
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances, Prompts, UserError

SIZE = (60, 80)


def rectangle(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    bitmap = np.zeros(SIZE, bool)
    bitmap[y1:y2, x1:x2] = True
    return bitmap


@pytest.fixture
def found() -> Instances:
    """A house, its left half, its window, and a tree of which the trunk stands 2 px below the crown."""
    bitmaps = [
        rectangle(5, 20, 45, 55),
        rectangle(5, 20, 25, 55),
        rectangle(30, 30, 38, 38),
        rectangle(50, 5, 75, 30),
        rectangle(60, 32, 65, 55),
    ]
    masks = RLE.from_bitmaps(np.stack(bitmaps))
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    return Instances(SIZE, torch.from_numpy(masks.boxes()), masks, torch.zeros(5, dtype=torch.int64), scores)


def same(one: Instances, *bitmaps: np.ndarray) -> bool:
    assert one.masks is not None
    return np.array_equal(one.masks.to_rle().decode(), np.stack(bitmaps))


def test_a_point_takes_what_it_lies_in(found):
    assert same(by_points(found, [[34.5, 34.5]], which="smallest"), rectangle(30, 30, 38, 38))
    each = by_points(found, [[34.5, 34.5]], which="each")
    assert each.scores.tolist() == pytest.approx([0.7, 0.9])
    union = by_points(found, [[34.5, 34.5]])
    assert same(union, rectangle(5, 20, 45, 55)) and float(union.scores) == pytest.approx(0.9)
    assert len(by_points(found, [[79.5, 59.5]])) == 0


def test_a_background_point_takes_masks_away(found):
    points = [[34, 34], [10, 50]]
    assert same(by_points(found, points, [True, False]), rectangle(30, 30, 38, 38))
    assert same(by_points(found, [[10, 50], [40, 50]], [True, False], closing=0), rectangle(5, 20, 25, 55))
    assert len(by_points(found, [[10, 50]], [False])) == 0


def test_several_points_join_parts_and_close_gaps(found):
    tree = rectangle(50, 5, 75, 30) | rectangle(60, 32, 65, 55)
    assert same(by_points(found, [[62, 10], [62, 50]], closing=0), tree)
    (closed,) = by_points(found, [[62, 10], [62, 50]], closing=2).masks.to_rle().decode()
    gap = rectangle(61, 30, 64, 32)
    assert closed[gap].all() and not (tree & ~closed).any()
    assert len(by_points(found, [[62, 10], [62, 50]], which="smallest")) == 2


def test_a_closing_stays_on_the_canvas():
    masks = RLE.from_bitmaps(np.ones((1, 5, 4), bool))
    whole = Instances((5, 4), torch.from_numpy(masks.boxes()), masks, scores=torch.ones(1))
    assert by_points(whole, [[0, 0]], closing=3).masks.area().tolist() == [20]


def test_points_are_checked(found):
    with pytest.raises(ValueError, match="outside"):
        by_points(found, [[80, 10]])
    with pytest.raises(ValueError, match="2 marks for 1 points"):
        by_points(found, [[8, 10]], [True, False])


def test_a_box_takes_the_best_fit(found):
    assert same(by_box(found, [4, 19, 24, 56]), rectangle(5, 20, 25, 55))
    assert same(by_box(found, [29, 29, 39, 39]), rectangle(30, 30, 38, 38))
    assert len(by_box(found, [0, 0, 3, 3])) == 0
    assert len(by_box(found[:0], [0, 0, 3, 3])) == 0


def test_each_object_that_is_asked_for_has_an_answer(found):
    prompts = Prompts(
        SIZE,
        points=[[34, 34], [10, 50]],
        signs=[True, False],
        boxes=[[4, 19, 24, 56], [0, 0, 3, 3]],
        box_objects=[1, 2],
    )
    chosen = answers(found, prompts)
    assert same(chosen, rectangle(30, 30, 38, 38), rectangle(5, 20, 25, 55))
    assert chosen.track_ids.tolist() == [0, 1], "nothing lies in the third one's box"


def test_prompts_of_one_object_hold_together(found):
    box = [[5, 20, 45, 55]]
    assert same(answers(found, Prompts(SIZE, boxes=box)), rectangle(5, 20, 45, 55))
    left = Prompts(SIZE, boxes=box, points=[[10, 30], [40, 30]], signs=[True, False])
    assert same(answers(found, left), rectangle(5, 20, 25, 55))
    line = Prompts(SIZE, boxes=box, scribbles=[[[40, 22], [40, 54]]], scribble_signs=[False])
    assert same(answers(found, line), rectangle(5, 20, 25, 55))
    extremes = Prompts(SIZE, extremes=[[[30, 32], [38, 34], [33, 30], [35, 38]]])
    assert same(answers(found, extremes), rectangle(30, 30, 38, 38))
    rough = Prompts(SIZE, masks=RLE.from_bitmaps(rectangle(52, 4, 78, 28)[None]))
    assert same(answers(found, rough), rectangle(50, 5, 75, 30))
    assert len(answers(found, Prompts(SIZE, points=[[80, 60]]))) == 0


def test_prompts_choose_among_what_was_found_once():
    torch.manual_seed(0)
    model = fastsam_lite0(score_threshold=0.0, max_detections=20).eval()
    assert isinstance(model, Promptable)
    batch = ImageBatch.from_tensors([torch.rand(3, *SIZE)])
    with torch.inference_mode():
        (everything,) = model.decode(model(batch), DecodeOptions())
        embedding = model.encode(batch)
        box = everything.boxes[3].tolist()
        (one,) = model.decode(model.prompted(embedding, [Prompts(SIZE, boxes=[box])]), DecodeOptions())
        asked = model.prompted(embedding, [Prompts(SIZE, boxes=[box])])
        assert len(model.decode(asked, DecodeOptions(score_threshold=1.0))[0]) == 0
    assert torch.equal(one.boxes, by_box(everything, box).boxes) and len(one) == 1
    assert np.array_equal(one.masks.to_rle().decode(), by_box(everything, box).masks.to_rle().decode())
    with pytest.raises(UserError, match="by_text"):
        model.prompted(embedding, [Prompts(SIZE, texts=["a cat"])])


class Colors:
    """An encoder whose space is the mean color, for images and for three words."""

    def images(self, crops):
        return torch.stack([torch.from_numpy(crop.reshape(-1, 3).mean(0)) - 128 for crop in crops])

    def texts(self, sentences):
        words = {"red": [1, -1, -1], "green": [-1, 1, -1], "blue": [-1, -1, 1]}
        return torch.tensor([words[sentence] for sentence in sentences])


def test_text_takes_what_looks_like_it(found):
    image = np.zeros((*SIZE, 3), np.uint8)
    image[20:55, 5:45, 0] = 255
    image[30:38, 30:38] = (0, 0, 255)
    image[5:30, 50:75, 1] = 255
    one, similarity = by_text(found, image, "blue", Colors())
    assert same(one, rectangle(30, 30, 38, 38)) and float(similarity) > 0.9
    two, similarity = by_text(found, image, "red", Colors(), num=2)
    assert set(two.masks.area().tolist()) == {20 * 35, 40 * 35} and (similarity.diff() <= 0).all()
    assert len(by_text(found[:0], image, "red", Colors())[0]) == 0
    with pytest.raises(ValueError, match="height, width"):
        by_text(found, image[:10], "red", Colors())


def test_knows_one_class_and_learns_from_objects_of_any(found):
    with pytest.raises(UserError, match="without naming"):
        fastsam_lite0(num_classes=2)
    torch.manual_seed(0)
    model = fastsam_lite0().eval()
    raw = model(ImageBatch.from_tensors([torch.rand(3, *SIZE)]))
    found.labels = torch.arange(5) * 10
    named = model.losses(raw, [found])
    found.labels = torch.zeros(5, dtype=torch.int64)
    assert named == model.losses(raw, [found])
