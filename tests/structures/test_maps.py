from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask.structures import RLE, Category, Instances, PanopticMap, Segment, SemanticMap

ROAD, SKY, CAR = Category(1, "road", is_thing=False), Category(2, "sky", is_thing=False), Category(3, "car")
KINDS = (ROAD, SKY, CAR)


def two_cars(scores=(0.5, 0.9)) -> Instances:
    masks = np.zeros((2, 4, 6), bool)
    masks[0, 1:3, 0:4] = masks[1, 1:4, 3:6] = True
    rle = RLE.from_bitmaps(masks)
    given = None if scores is None else torch.tensor(scores)
    return Instances((4, 6), torch.from_numpy(rle.boxes()), rle, torch.tensor([2, 2]), given, categories=KINDS)


def test_one_byte_per_pixel_up_to_255_classes():
    assert SemanticMap(torch.zeros(3, 4, dtype=torch.int64), KINDS).labels.dtype == torch.uint8
    many = tuple(Category(i, str(i)) for i in range(300))
    large = SemanticMap(torch.tensor([[299, 65535]]), many, ignore=65535)
    assert large.labels.dtype == torch.int32 and large.counts()[299] == 1
    with pytest.raises(ValueError, match="ignore=255 is the label of a class"):
        SemanticMap(torch.zeros(3, 4, dtype=torch.int64), many)
    assert SemanticMap(torch.tensor([[254]]), many[:255]).labels.tolist() == [[254]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(3, 4), "whole numbers"),
        (torch.zeros(3, 4, dtype=torch.bool), "whole numbers"),
        (torch.zeros(1, 3, 4, dtype=torch.uint8), r"must be \(H, W\)"),
        (torch.tensor([[0, 3]]), "label 3 is neither one of 3 classes nor ignore=255"),
        (torch.tensor([[0, -1]]), "label -1"),
        (torch.tensor([[0, 256]]), "label 256"),  # in one byte it would be 0
    ],
)
def test_labels_are_classes_or_ignored(labels, message):
    with pytest.raises(ValueError, match=message):
        SemanticMap(labels, KINDS)


def test_labels_are_taken_at_the_centers_of_pixels():
    labels = torch.tensor([[0, 1, 2, 255]])
    assert SemanticMap(labels, KINDS).resize((1, 8)).labels.tolist() == [[0, 0, 1, 1, 2, 2, 255, 255]]
    assert SemanticMap(labels, KINDS).resize((2, 2)).labels.tolist() == [[1, 255], [1, 255]]
    assert SemanticMap(labels, KINDS).resize((1, 3)).labels.tolist() == [[0, 2, 255]]


def test_what_is_shifted_in_is_ignored():
    moved = SemanticMap(torch.tensor([[0, 1]]), KINDS).shift(1, 0, (1, 4)).labels
    assert moved.tolist() == [[255, 0, 1, 255]]


def test_semantic_map_to_instances_and_back():
    seen = SemanticMap(torch.tensor([[0, 0, 2], [255, 2, 2]]), KINDS)
    objects = seen.to_instances()
    assert objects.label_names == ["road", "car"] and objects.masks.area().tolist() == [2, 3]
    assert SemanticMap.from_instances(objects).labels.tolist() == seen.labels.tolist()
    assert seen.counts().tolist() == [2, 0, 3]
    nothing = SemanticMap(torch.full((2, 3), 255), KINDS)
    assert len(nothing.to_instances()) == 0 and repr(nothing) == "SemanticMap(0 classes on 2 x 3)"


def test_the_better_object_is_seen_where_two_overlap():
    seen = PanopticMap.from_instances(two_cars())
    assert (seen.ids[1, 3], seen.ids[1, 0]) == (1, 2) and [s.score for s in seen.segments] == pytest.approx([0.9, 0.5])
    assert PanopticMap.from_instances(two_cars(None)).ids[1, 3] == 1
    again = seen.to_instances()
    assert again.scores.tolist() == pytest.approx([0.9, 0.5]) and again.label_names == ["car", "car"]
    assert PanopticMap.from_instances(two_cars(None)).to_instances().scores is None


def test_stuff_fills_what_is_around_the_things():
    around = SemanticMap(torch.tensor([[1] * 6, [0] * 6, [0] * 6, [255] * 6]), KINDS)
    seen = PanopticMap.from_instances(two_cars(), around)
    assert {KINDS[s.label].name for s in seen.segments} == {"car", "sky"}, "no road can be seen"
    assert seen.to_semantic().labels.tolist() == [[1] * 6, [2] * 6, [2] * 6, [255] * 3 + [2] * 3]
    assert len(seen.to_instances()) == 2, "stuff is no object"
    assert repr(seen) == "PanopticMap(3 segments on 4 x 6: 2 things, 1 of stuff)"
    with pytest.raises(ValueError, match="around objects"):
        PanopticMap.from_instances(two_cars(), around.resize((8, 12)))


@pytest.mark.parametrize(
    ("ids", "segments", "message"),
    [
        ([[1, 4]], (Segment(1, 0),), "pixels have the id 4, which no segment has"),
        ([[1, 0]], (Segment(1, 3),), "label 3, but there are 3 categories"),
        ([[1, 0]], (Segment(1, 0), Segment(1, 1)), "ids of their own"),
        ([[0, 0]], (Segment(0, 0),), "from 1 on"),
        ([[1.0, 0.0]], (Segment(1, 0),), "whole numbers"),
        ([1, 0], (Segment(1, 0),), r"must be \(H, W\)"),
    ],
)
def test_segments_and_pixels_must_agree(ids, segments, message):
    with pytest.raises(ValueError, match=message):
        PanopticMap(torch.tensor(ids), segments, KINDS)


def test_segments_that_are_cut_off_are_gone():
    seen = PanopticMap.from_instances(two_cars())
    left = seen.crop((0, 0, 2, 4))
    assert len(left) == 1 and left.segments[0].score == pytest.approx(0.5)
    crowd = PanopticMap(torch.tensor([[7]]), (Segment(7, 2, crowd=True),), KINDS)
    assert crowd.to_instances().crowd.tolist() == [True]
    assert len(PanopticMap(torch.zeros(2, 2, dtype=torch.int32), ()).to_instances()) == 0
