from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eachmask.structures import RLE, Category, Instances, RoIMasks, UserError


def some(num: int = 3) -> Instances:
    masks = np.zeros((num, 40, 50), bool)
    for i in range(num):
        masks[i, 2 + 10 * i : 10 + 10 * i, 5 : 15 + i] = True
    rle = RLE.from_bitmaps(masks)
    return Instances(
        image_size=(40, 50), boxes=torch.from_numpy(rle.boxes()), masks=rle, labels=torch.arange(num) % 2,
        scores=torch.linspace(0.9, 0.3, num), keypoints=torch.rand(num, 4, 3) * 30,
        categories=(Category(7, "cat", "animal"), Category(9, "<dog>")),
    )  # fmt: skip


def test_lengths_and_canvases_must_agree():
    with pytest.raises(ValueError, match="2 scores for 3 boxes"):
        Instances((4, 5), torch.zeros(3, 4), scores=torch.zeros(2))
    with pytest.raises(ValueError, match=r"masks on \(4, 5\) in an image of \(5, 4\)"):
        Instances((5, 4), torch.zeros(0, 4), masks=RLE.empty((4, 5)))
    with pytest.raises(ValueError, match=r"must be \(N, 4\)"):
        Instances((5, 4), torch.zeros(4))


def test_indexing_keeps_all_fields_in_step():
    picked = some()[torch.tensor([2, 0])]
    assert picked.labels.tolist() == [0, 0] and picked.masks.area().tolist() == [96, 80]
    assert picked.boxes.tolist() == [[5, 22, 17, 30], [5, 2, 15, 10]]
    assert len(some()[1]) == 1 and len(some()[some().scores > 0.5]) == 2 and len(some()[:0]) == 0


def test_filter_by_score_label_and_name():
    assert len(some().filter(score=0.6)) == 2
    assert some().filter(classes=["<dog>"]).labels.tolist() == [1]
    assert some().filter(classes=[0]).label_names == ["cat", "cat"]
    assert some().filter(classes="cat").label_names == ["cat", "cat"], "one name is a name, not its letters"
    assert some().filter(classes="animal").label_names == ["cat", "cat"], "a name means all that is below it"
    assert len(Instances((4, 4), torch.zeros(2, 4)).filter(classes=[1])) == 0


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["dog"], "there is no class 'dog': did you mean <dog>"),
        ("Cat", "did you mean cat"),
        (["zebra"], "choose among <dog>, animal, cat"),
        ([2], "there is no class '2'"),
        ([0.5], "a name or a label, not 0.5"),
        ([None], "a name or a label, not nothing"),
        ([True], "a name or a label, not True"),
    ],
)
def test_an_unknown_class_is_said(classes, message):
    with pytest.raises(UserError, match=message):
        some().filter(classes=classes)


def test_classes_without_names_are_chosen_by_label():
    with pytest.raises(UserError, match="these classes have no names"):
        Instances((4, 4), torch.zeros(2, 4)).filter(classes=["cat"])


def test_resize_flip_and_crop_move_everything_together():
    before = some()
    twice = before.resize((80, 100))
    assert torch.equal(twice.boxes, before.boxes * 2) and twice.masks.boxes().tolist() == twice.boxes.tolist()
    assert torch.allclose(twice.keypoints[..., :2], before.keypoints[..., :2] * 2)
    mirrored = before.flip()
    assert mirrored.masks.boxes().tolist() == mirrored.boxes.tolist()
    assert torch.equal(mirrored.flip().boxes, before.boxes)
    window = before.crop((6, 5, 30, 25))
    assert window.image_size == (20, 24) and len(window) == 3
    assert window.masks.boxes().tolist() == window.boxes.tolist()
    assert len(before.crop((6, 0, 30, 9))) == 1


def test_a_crop_forgets_objects_and_keypoints_outside():
    boxes = torch.tensor([[0.0, 0, 5, 5], [10, 10, 20, 20]])
    keypoints = torch.tensor([[[1.0, 1, 2]], [[12, 12, 2]]])
    window = Instances((30, 30), boxes, keypoints=keypoints).crop((8, 8, 15, 30))
    assert window.boxes.tolist() == [[2, 2, 7, 12]] and window.keypoints.tolist() == [[[4, 4, 2]]]
    with pytest.raises(ValueError, match="empty"):
        window.crop((3, 3, 3, 9))


def test_flip_swaps_paired_keypoints():
    before = some()
    swapped = before.flip(keypoint_pairs=[(0, 1)]).keypoints
    assert torch.equal(swapped[:, [1, 0, 2, 3]], before.flip().keypoints)


def test_flip_swaps_what_the_categories_name_left_and_right():
    def animal(*names: str) -> Category:
        return Category(1, "animal", keypoints=names)

    ears, bear = animal("left_ear", "right_ear", "tail"), animal("tail", "L_paw", "R_paw")
    points = torch.tensor([[[1.0, 1, 2], [3, 1, 2], [5, 1, 0]]]).repeat(2, 1, 1)
    two = Instances((4, 10), torch.zeros(2, 4), labels=torch.tensor([0, 1]), keypoints=points, categories=(ears, bear))
    mirrored = two.flip().keypoints[..., 0]
    assert mirrored.tolist() == [[7, 9, 5], [9, 5, 7]]
    assert two.flip(()).keypoints[0, :, 0].tolist() == [9, 7, 5]
    assert torch.equal(two.flip().flip().keypoints, points)


def test_shifting_moves_everything():
    masks = RLE.from_bitmaps(np.ones((1, 2, 3), bool))
    tile = Instances((2, 3), torch.tensor([[0.0, 0, 3, 2]]), masks, keypoints=torch.tensor([[[1.0, 1, 0.5]]]))
    moved = tile.shift(10, 20, (50, 60))
    assert moved.boxes.tolist() == [[10, 20, 13, 22]] and moved.masks.boxes().tolist() == [[10, 20, 13, 22]]
    assert moved.keypoints.tolist() == [[[11, 21, 0.5]]] and moved.image_size == (50, 60)


def test_what_is_shifted_off_the_canvas_is_cut():
    before = some()
    moved = before.shift(-8, -9, (22, 30))
    assert len(moved) == 3 and moved.boxes[0].tolist() == [0, 0, 7, 1] and moved.masks.area()[0] == 7
    assert moved.masks.boxes().tolist() == moved.boxes.tolist()
    assert before.shift(0, -15, (40, 50)).labels.tolist() == [1, 0]
    empty = Instances((4, 4), torch.zeros(1, 4), RLE.from_bitmaps(np.zeros((1, 4, 4), bool)))
    assert len(empty.shift(1, 1, (9, 9))) == 1


def test_labels_and_crowd_are_zeros_where_they_are_left_out():
    plain = Instances((4, 5), torch.zeros(2, 4))
    assert plain.labels.tolist() == [0, 0] and plain.labels.dtype == torch.int64
    assert plain.crowd.tolist() == [False, False] and plain.crowd.dtype == torch.bool
    assert Instances((4, 5), torch.zeros(2, 4), labels=None, crowd=None).labels is not None
    assert repr(plain) == "Instances(2 objects on 4 x 5: boxes, labels)"
    with pytest.raises(ValueError, match="1 labels for 2 boxes"):
        Instances((4, 5), torch.zeros(2, 4), labels=torch.zeros(1))


def test_iteration_and_repr():
    assert [len(one) for one in some()] == [1, 1, 1]
    assert repr(some()) == "Instances(3 objects on 40 x 50: boxes, masks, labels, scores, keypoints)"
    assert some() != some()  # compared by identity: tensors have no one truth value


def test_cat_keeps_common_fields():
    joined = Instances.cat([some(), some(2)])
    assert len(joined) == 5 and len(joined.masks) == 5 and joined.categories
    plain = Instances((40, 50), torch.zeros(1, 4))
    assert Instances.cat([some(), plain]).masks is None
    with pytest.raises(ValueError, match="different sizes"):
        Instances.cat([some(), Instances.empty((4, 4))])


def test_notebook_preview_is_safe_html():
    html = some()._repr_html_()
    assert "3 objects" in html and "&lt;dog&gt;" in html and "<dog>" not in html and "data:image/png" in html
    crowd = Instances((3000, 4000), torch.zeros(1, 4), RLE.from_coco([{"counts": [7, 1, 11_999_992]}], (3000, 4000)))
    assert len(crowd._repr_html_()) < 3000
    assert "0 objects" in Instances.empty((10, 10))._repr_html_()
    assert "<b>1 object</b>" in some()[0]._repr_html_() and repr(some()[0]).startswith("Instances(1 object on")


def test_notebook_preview_shows_the_photograph():
    class Red:
        def render(self, result):
            return np.full((*result.image_size, 3), (200, 0, 0), np.uint8)

    html = replace(some(), view=Red())._repr_html_()
    assert "data:image/jpeg" in html and "image/png" not in html and "3 objects" in html


def test_a_coco_file():
    content = some().to_coco("a.jpg", 7)
    assert content["images"] == [{"id": 7, "file_name": "a.jpg", "width": 50, "height": 40}]
    assert content["categories"][0] == {"id": 7, "name": "cat", "supercategory": "animal"}
    rows = content["annotations"]
    assert [row["category_id"] for row in rows] == [7, 9, 7] and {row["image_id"] for row in rows} == {7}
    assert RLE.from_coco([row["segmentation"] for row in rows]).area().tolist() == some().masks.area().tolist()
    json.dumps(content)


def test_tables_of_other_libraries(monkeypatch):
    made = {}
    for name, record in (("pandas", "DataFrame"), ("supervision", "Detections")):
        monkeypatch.setitem(
            sys.modules, name, SimpleNamespace(**{record: lambda *a, n=name, **k: made.update({n: a or k})})
        )
    some().to_pandas()
    (columns,) = made["pandas"]
    assert columns["class"] == ["cat", "<dog>", "cat"] and columns["parent"] == ["animal", "", "animal"]
    assert columns["area"] == [80, 88, 96] and columns["x2"] == [15, 16, 17] and len(columns["score"]) == 3
    some().to_supervision()
    found = made["supervision"]
    assert found["mask"].shape == (3, 40, 50) and found["class_id"].tolist() == [0, 1, 0]
    assert found["xyxy"].dtype == np.float32 and found["data"]["class_name"].tolist() == ["cat", "<dog>", "cat"]
    boxes = Instances((4, 4), torch.tensor([[0.0, 0, 2, 3]]))
    boxes.to_supervision()
    assert made["supervision"]["mask"] is None and made["supervision"]["confidence"] is None
    boxes.to_pandas()
    assert made["pandas"][0]["area"] == [6.0] and "score" not in made["pandas"][0]


@pytest.mark.parametrize("name", ["pandas", "supervision"])
def test_a_library_that_is_not_there_is_said(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"to_{name} needs the package {name}: pip install {name}"):
        getattr(some(), f"to_{name}")()


def test_roi_masks_grow_by_their_boxes_only():
    grid = torch.zeros(1, 8, 8)
    grid[0, 2:6, 2:6] = 1
    masks = RoIMasks(grid, torch.tensor([[10.0, 10, 26, 26]]), (40, 50))
    large = masks.resize((400, 500))
    assert large.probabilities is masks.probabilities
    assert large.roi_boxes.tolist() == [[100, 100, 260, 260]]
    assert large.area()[0] == pytest.approx(80**2, rel=0.05)
    assert masks.area()[0] == pytest.approx(8**2, rel=0.05)
    assert len(masks[[]].to_rle()) == 0 and len(masks[0]) == 1


def test_boxes_from_masks():
    loose = some()
    loose.boxes = loose.boxes + 1
    assert loose.with_boxes_from_masks().boxes.tolist() == some().boxes.tolist()
    with pytest.raises(ValueError, match="no masks"):
        Instances((4, 4), torch.zeros(1, 4)).with_boxes_from_masks()
