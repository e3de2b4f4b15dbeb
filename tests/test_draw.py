from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eachmask import draw
from eachmask.draw import maps
from eachmask.draw.labels import captions
from eachmask.structures import RLE, Category, Instances, Matte, PanopticMap, Segment, SemanticMap, UserError
from eachmask.tasks.panoptic import PANOPTIC
from eachmask.tasks.semantic import SEMANTIC


def _discs(size: tuple[int, int], num: int, seed: int = 0) -> Instances:
    height, width = size
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[:height, :width]
    radius = max(1.0, min(size) / 12)
    masks = RLE.from_bitmaps(
        np.stack([
            (xs - rng.uniform(0, width)) ** 2 + (ys - rng.uniform(0, height)) ** 2 <= radius**2 for _ in range(num)
        ]) if num else np.zeros((0, height, width), bool)
    )  # fmt: skip
    return Instances(
        size, torch.from_numpy(masks.boxes()), masks, torch.arange(num) % 2, torch.linspace(0.9, 0.1, num),
        categories=(Category(1, "cat"), Category(2, "dog")),
    )  # fmt: skip


@pytest.mark.parametrize("num", [0, 1, 7, 80])
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (33, 47), (240, 320)])
def test_any_size_any_number(size: tuple[int, int], num: int) -> None:
    image = np.full((*size, 3), 90, np.uint8)
    before = image.copy()
    drawn = draw.overlay(image, _discs(size, num))
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    if num == 0:
        np.testing.assert_array_equal(drawn, image)


@pytest.mark.parametrize("crowded", [0, 50])
def test_only_the_masks_change(crowded: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (120, 160, 3)).astype(np.uint8)
    instances = _discs((120, 160), 6)
    drawn = draw.overlay(image, instances, draw.DrawOptions(names=False, outline=0, fill=0.5, crowded=crowded))
    inside = instances.masks.to_label_map() > 0
    assert (drawn != image).any(-1)[inside].mean() > 0.99
    np.testing.assert_array_equal(drawn[~inside], image[~inside])


def test_colors_are_stable_and_differ() -> None:
    colors = [draw.color(i) for i in range(60)]
    assert colors == [draw.color(i) for i in range(60)]
    assert len(set(colors)) == 60
    assert min(sum(c) for c in colors) > 200
    instances = _discs((60, 60), 4)
    assert draw.instance_colors(instances, draw.DrawOptions(color_by="class")) == [
        draw.color(0), draw.color(1), draw.color(0), draw.color(1),
    ]  # fmt: skip
    instances.track_ids = torch.tensor([5, 9, 1, 0])
    assert draw.instance_colors(instances, draw.DrawOptions())[1] == draw.color(9)


def test_names_are_inside_the_image_and_readable() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    box = torch.tensor([[380.0, 0.0, 400.0, 6.0]])
    instances = Instances(
        (300, 400),
        box,
        None,
        torch.tensor([0]),
        torch.tensor([0.87]),
        categories=(Category(1, "cat"), Category(2, "dog")),
    )
    drawn = draw.overlay(image, instances, draw.DrawOptions(outline=0))
    plate = (drawn == draw.color(0)).all(-1)
    ys, xs = np.nonzero(plate)
    assert xs.max() == 399 and ys.min() < 12 and xs.max() - xs.min() > 30
    assert (drawn[ys.min() : ys.max(), xs.min() : xs.max()].sum(-1) < 100).any()  # dark letters on a bright plate


def test_names_do_not_cover_a_small_image() -> None:
    image = np.full((40, 40, 3), 128, np.uint8)
    instances = _discs((40, 40), 3)
    named = draw.overlay(image, instances, draw.DrawOptions(names=True))
    np.testing.assert_array_equal(named, draw.overlay(image, instances, draw.DrawOptions(names=False)))


def test_sixteen_bits_are_stretched() -> None:
    image = np.linspace(1000, 3000, 100 * 90 * 3).reshape(100, 90, 3).astype(np.uint16)
    shown = draw.to_display(image)
    assert shown.dtype == np.uint8 and shown.min() == 0 and shown.max() == 255
    assert draw.to_display(image, stretch=False).max() == 12
    assert draw.to_display(image.astype(np.float32)).max() == 255


def test_eight_bits_stay_unless_very_dark() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3)).astype(np.uint8)
    np.testing.assert_array_equal(draw.to_display(image), image)
    assert draw.to_display(image // 8).max() == 255
    assert draw.to_display(np.zeros((5, 5, 3), np.uint8)).max() == 0
    assert draw.to_display(np.full((5, 5, 3), 40_000, np.uint16)).max() == 255


def test_boxes_are_drawn_where_there_are_no_masks() -> None:
    instances = Instances((50, 60), torch.tensor([[10.0, 12.0, 30.0, 40.0]]))
    drawn = draw.overlay(np.zeros((50, 60, 3), np.uint8), instances, draw.DrawOptions(outline=1))
    ys, xs = np.nonzero(drawn.any(-1))
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == (10, 12, 29, 39)


def test_shrink_keeps_what_is_small_enough() -> None:
    image, instances = np.zeros((120, 160, 3), np.uint16), _discs((120, 160), 3)
    assert draw.shrink(image, instances, 160) == (image, instances)
    small, objects = draw.shrink(image, instances, 80)
    assert small.shape == (60, 80, 3) and objects.image_size == (60, 80)


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="for instances on"):
        draw.overlay(np.zeros((5, 6, 3), np.uint8), _discs((6, 5), 1))


def test_save(tmp_path: Path) -> None:
    image = np.full((60, 80, 3), 100, np.uint8)
    Image.fromarray(image).save(tmp_path / "in.png")
    instances = _discs((60, 80), 3)
    draw.save(tmp_path / "out.png", tmp_path / "in.png", instances)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), draw.overlay(image, instances))
    with pytest.raises(UserError, match="out.xyz"):
        draw.save(tmp_path / "out.xyz", image, instances)


def _stick(*sure: float) -> Instances:
    """Three keypoints on a line, two limbs; each as sure or visible as said."""
    points = torch.tensor([[[20.5, 50.5, sure[0]], [60.5, 50.5, sure[1]], [100.5, 50.5, sure[2]]]])
    person = Category(1, "person", keypoints=("a", "b", "c"), skeleton=((0, 1), (1, 2)))
    box, label = torch.tensor([[10.0, 10, 150, 90]]), torch.zeros(1, dtype=torch.int64)
    return Instances((100, 160), box, labels=label, keypoints=points, categories=(person,))


def test_skeletons_join_the_keypoints_that_are_sure_enough() -> None:
    image = np.full((100, 160, 3), 128, np.uint8)
    found = _stick(0.9, 0.5, 0.01)
    drawn = draw.overlay(image, found, draw.DrawOptions(names=False))
    tint = np.array(draw.color(0))
    assert (drawn[50, [20, 60]] > 240).all(), "joints are white"
    assert np.array_equal(drawn[50, 40], tint), "a limb has the color of its object"
    assert (drawn[50, 70:148] == 128).all(), "no limb ends in a keypoint that is not sure"
    everything = draw.overlay(image, found, draw.DrawOptions(names=False, keypoint_score=0))
    assert np.array_equal(everything[50, 80], tint) and (everything[50, 100] > 240).all()


def test_annotated_keypoints_are_drawn_and_missing_ones_are_not() -> None:
    image = np.full((100, 160, 3), 128, np.uint8)
    targets = _stick(2, 1, 0)
    drawn = draw.overlay(image, targets, draw.DrawOptions(names=False, keypoint_score=0))
    assert (drawn[50, [20, 60]] > 240).all() and (drawn[50, 70:148] == 128).all()
    without = draw.overlay(image, replace(targets, categories=()), draw.DrawOptions(names=False))
    assert (without[50, 60] > 240).all() and (without[50, 40] == 128).all(), "points alone where no skeleton is known"


def _boxes(size: tuple[int, int], *boxes: tuple[int, int, int, int], names: tuple[str, ...] = ("a", "b")) -> Instances:
    corners = torch.tensor(boxes, dtype=torch.float32)
    kinds = tuple(Category(i + 1, name) for i, name in enumerate(names))
    return Instances(size, corners, scores=torch.full((len(boxes),), 0.5), categories=kinds)


def test_plates_do_not_hide_small_objects() -> None:
    """A row of small objects below one another: each plate would lie on the object above."""
    size = (300, 400)
    small = _boxes(size, *((200, 60 + 14 * i, 212, 72 + 14 * i) for i in range(4)))
    canvas = np.zeros((*size, 3), np.uint8)
    drawn = draw.write_names(canvas, small)
    assert drawn.any()
    for x1, y1, x2, y2 in small.boxes.int().tolist():
        assert (drawn[y1:y2, x1:x2].any(-1)).mean() < 0.35, "at most the end of a line"
    lone = draw.write_names(canvas, small[:1]).any(-1)
    assert np.nonzero(lone)[0].max() < 60, "without neighbors it stands right above"


def test_what_is_smaller_than_letters_goes_without_a_name() -> None:
    canvas = np.zeros((300, 400, 3), np.uint8)
    assert not draw.write_names(canvas, _boxes((300, 400), (100, 100, 104, 104))).any()
    assert draw.write_names(canvas, _boxes((300, 400), (100, 100, 120, 104))).any()


def test_the_name_of_the_only_class_is_written_once() -> None:
    three = _boxes((60, 60), *((5, 5, 20, 20),) * 3, names=("cell",))
    assert captions(three) == ["cell 0.50", "0.50", "0.50"]
    assert captions(replace(three, scores=None)) == ["cell", "", ""]
    assert captions(replace(three, categories=())) == ["0.50"] * 3
    assert captions(_boxes((60, 60), (5, 5, 20, 20))) == ["a 0.50"]


SKY, ROAD, CAR = Category(1, "sky", is_thing=False), Category(2, "road", is_thing=False), Category(3, "car")


def _street(size: tuple[int, int] = (200, 300)) -> SemanticMap:
    labels = torch.full(size, 255)
    labels[:60], labels[100:] = 0, 1
    return SemanticMap(labels, (SKY, ROAD, CAR))


def test_classes_of_a_map_have_their_colors() -> None:
    image = np.full((200, 300, 3), 128, np.uint8)
    drawn = draw.overlay(image, _street(), draw.DrawOptions(names=False, outline=0, fill=1.0))
    assert (drawn[:60] == draw.color(0)).all() and (drawn[100:] == draw.color(1)).all()
    np.testing.assert_array_equal(drawn[60:100], image[60:100], "what is of no class stays")
    half = draw.overlay(image, _street(), draw.DrawOptions(names=False, outline=0, fill=0.5))
    assert np.abs(half[10, 10].astype(int) - (128 + np.array(draw.color(0))) / 2).max() <= 1
    with pytest.raises(ValueError, match="for semanticmap on"):
        draw.overlay(image[:5], _street())


def test_a_legend_names_the_classes_that_are_there() -> None:
    image = np.full((200, 300, 3), 128, np.uint8)
    plain, named = (draw.overlay(image, _street(), draw.DrawOptions(names=n)) for n in (False, True))
    ys, xs = np.nonzero((plain != named).any(-1))
    assert xs.min() == 0 and ys.max() == 199 and xs.max() < 135 and ys.min() > 110, "in the lower left corner"
    assert (named[ys.min() :, : xs.max()] == draw.color(1)).all(-1).any()
    tiny = _street((200, 300)).resize((12, 20))
    np.testing.assert_array_equal(
        draw.overlay(image[:12, :20], tiny), draw.overlay(image[:12, :20], tiny, draw.DrawOptions(names=False))
    )


def test_maps_of_a_folder_get_the_legend_that_a_single_one_has() -> None:
    """`eachmask predict` draws without words, for the thumbnails, and names then."""
    image, street = np.full((200, 300, 3), 128, np.uint8), _street()
    ids = torch.where(street.labels == 255, 0, street.labels.int() + 5)
    panoptic = PanopticMap(ids, (Segment(5, 0), Segment(6, 2)), (SKY, ROAD, CAR))
    for task, seen in ((SEMANTIC, street), (PANOPTIC, panoptic)):
        plain = draw.overlay(image, seen, draw.DrawOptions(names=False))
        named = task.outputs.named(plain, seen)
        assert (named != plain).any()
        np.testing.assert_array_equal(named, draw.overlay(image, seen))


def test_a_panoptic_map_and_its_legend_are_numbered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    numbered: list[PanopticMap] = []
    number = maps._numbered
    monkeypatch.setattr(maps, "_numbered", lambda seen: number(numbered.append(seen) or seen))
    ids = torch.where(_street().labels == 255, 0, _street().labels.int() + 5)
    seen = PanopticMap(ids, (Segment(5, 0), Segment(6, 2)), (SKY, ROAD, CAR))
    draw.overlay(np.full((200, 300, 3), 128, np.uint8), seen)
    assert len(numbered) == 1


def test_a_long_legend_counts_what_it_leaves_out() -> None:
    canvas = np.zeros((100, 400, 3), np.uint8)
    some = draw.write_legend(canvas, [(f"class {i}", draw.color(i)) for i in range(40)])
    assert some[:55].max() == 0 and (some == draw.color(0)).all(-1).any() and not (some == draw.color(9)).all(-1).any()
    assert draw.write_legend(canvas, [("x" * 200, draw.color(0))]).max() == 0


def test_every_thing_of_a_panoptic_map_has_its_own_color() -> None:
    labels = _street().labels.int()
    ids = torch.where(labels == 255, 0, labels + 1)
    ids[120:140, 20:60], ids[120:140, 100:140] = 7, 9
    seen = PanopticMap(ids, (Segment(9, 2), Segment(1, 0), Segment(7, 2), Segment(2, 1)), (SKY, ROAD, CAR))
    image = np.full((200, 300, 3), 128, np.uint8)
    solid = draw.DrawOptions(names=False, outline=0, fill=1.0)
    drawn = draw.overlay(image, seen, solid)
    assert (drawn[0, 0] == draw.color(0)).all() and (drawn[150, 0] == draw.color(1)).all(), "stuff has its class's"
    cars = [tuple(drawn[130, x].tolist()) for x in (30, 110)]
    assert cars[0] != cars[1] and draw.color(2) not in cars
    assert (drawn[80] == 128).all()
    alike = draw.overlay(image, seen, replace(solid, color_by="class"))
    assert (alike[130, 30] == draw.color(2)).all() and (alike[130, 110] == draw.color(2)).all()
    assert draw.overlay(image, seen).shape == image.shape
    nothing = PanopticMap(torch.zeros(200, 300, dtype=torch.int32), ())
    np.testing.assert_array_equal(draw.overlay(image, nothing), image)


def test_a_matte_lies_before_a_checkerboard() -> None:
    image = np.full((80, 80, 3), 10, np.uint8)
    image[0, 0] = 200  # bright enough not to be stretched
    alpha = torch.zeros(80, 80)
    alpha[:40], alpha[40] = 1, 0.5
    drawn = draw.overlay(image, Matte(alpha), draw.DrawOptions(stretch=False))
    np.testing.assert_array_equal(drawn[:40], image[:40])
    assert {*np.unique(drawn[41:])} == {204, 255} and len(np.unique(drawn[41:], axis=0)) >= 2
    assert {*np.unique(drawn[40])} == {107, 132}
