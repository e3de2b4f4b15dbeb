from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eachmask import models
from eachmask.models.sequential.actor_critic import dice_gains
from eachmask.models.sequential.recurrent_attention import boxes_around, directions_of, gaussian_filters, next_object
from eachmask.models.sequential.recurrent_instance import RecurrentInstance
from eachmask.models.sequential.sequence import GridTargets, Raw, Said, grid_targets
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances, UserError

NAMES = ("recurrent_instance_lite0", "recurrent_attention_lite0", "actor_critic_lite0")
SMALL = {"backbone": "mobilenetv3_small_050", "decoder_channels": [16, 16, 16, 8]}


def blocks(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (64, 64)) -> Instances:
    bitmaps = np.zeros((len(boxes), *size), bool)
    for bitmap, (x1, y1, x2, y2) in zip(bitmaps, boxes, strict=True):
        bitmap[y1:y2, x1:x2] = True
    masks = RLE.from_bitmaps(bitmaps)
    return Instances(size, torch.from_numpy(masks.boxes()), masks)


class Told(RecurrentInstance):
    """Says what it is told: squares from left to right, with these scores."""

    told = (0.9, 0.95, 0.8, 0.6, 0.7)

    def begin(self, raw):
        return 0

    def next_object(self, raw, state):
        masks = torch.full((len(raw.sizes), *raw.features.shape[-2:]), -9.0)
        masks[:, 2:5, 3 * state : 3 * state + 3] = 9.0
        return Said(masks, torch.logit(torch.tensor([self.told[state]])).expand(len(raw.sizes))), state + 1


def told(**options) -> Instances:
    model = Told(1, models.recurrent_instance_lite0(**SMALL, max_detections=5).config)
    raw = Raw(torch.zeros(1, 3, 16, 16), torch.ones(1, 16, 16, dtype=torch.bool), ((64, 64),), (64, 64))
    (found,) = model.decode(raw, DecodeOptions(**options))
    return found


def test_scores_fall_and_the_sequence_ends_where_they_fall_below_the_threshold():
    assert told(score_threshold=0.75).scores.tolist() == pytest.approx([0.9, 0.9, 0.8])
    assert told().scores.tolist() == pytest.approx([0.9, 0.9, 0.8, 0.6, 0.6])
    assert len(told(max_detections=2)) == 2
    x1 = told(score_threshold=0.75).boxes[:, 0]
    assert x1.tolist() == pytest.approx([0, 12, 24], abs=2), "each step in its own place"


@pytest.mark.parametrize("name", NAMES)
def test_several_classes_are_refused(name):
    with pytest.raises(UserError, match="one class"):
        models.variant(name)(num_classes=2, **SMALL)


@pytest.mark.parametrize("name", NAMES)
def test_sequences_grow_while_training_alone(name):
    model = models.variant(name)(**SMALL, first_length=2, steps_per_length=3)
    grids = [GridTargets(torch.zeros(6, 4, 4), torch.ones(4, 4))]
    lengths = []
    for _ in range(8):
        lengths.append(model.train().length(grids))
        model.training_steps += 1
    assert lengths == [2, 2, 2, 3, 3, 3, 4, 4]
    assert model.eval().length(grids) == 7


@pytest.mark.parametrize("name", NAMES)
def test_what_was_said_before_changes_what_is_said(name):
    torch.manual_seed(0)
    model = models.variant(name)(**SMALL).eval()
    with torch.no_grad():
        raw = model(ImageBatch.from_tensors([torch.rand(3, 64, 64)]))
        first, state = model.next_object(raw, model.begin(raw))
        second, _ = model.next_object(raw, state)
    assert not torch.equal(first.masks, second.masks)


def test_masks_on_the_grid():
    valid = torch.ones(16, 16, dtype=torch.bool)
    valid[:, 12:] = False
    target = replace(blocks((0, 0, 16, 8), (16, 16, 32, 32)), crowd=torch.tensor([False, True]))
    grid = grid_targets(target, valid, (64, 64))
    assert grid.masks.shape == (1, 16, 16) and grid.masks[0, :2, :4].all() and float(grid.masks.sum()) == 8
    assert float(grid.weight[:, 12:].sum()) == 0 and float(grid.weight[4:8, 4:8].sum()) == 0
    assert float(grid.weight.sum()) == 16 * 12 - 16


def test_spatial_inhibition_does_not_count_the_padding():
    torch.manual_seed(0)
    model = models.recurrent_instance_lite0(**SMALL).eval()
    with torch.no_grad():
        raw = model(ImageBatch.from_tensors([torch.rand(3, 40, 64)], divisor=64))
        said, _ = model.next_object(raw, model.begin(raw))
    likely = (said.masks - model.bias).exp()[raw.valid[0][None]].sum()
    assert float(likely.detach()) == pytest.approx(1, abs=1e-4)


def test_gaussian_filters_read_a_ramp_where_they_are_put():
    center, side = torch.tensor([0.5, 0.25]), torch.tensor([0.5, 0.25])
    filters = gaussian_filters(center, side, torch.tensor([0.5, 0.5]), cells=32, window=4)
    ramp = torch.arange(32) + 0.5
    read = torch.einsum("bhp,h->bp", filters / filters.sum(1, keepdim=True), ramp)
    assert read[0].tolist() == pytest.approx([10, 14, 18, 22], abs=0.1)
    assert read[1].tolist() == pytest.approx([5, 7, 9, 11], abs=0.1)


def test_directions_point_to_the_middle():
    mask = torch.zeros(1, 9, 9)
    mask[0, 1:8, 1:8] = 1
    inside, directions = directions_of(mask)
    assert torch.equal(inside, mask[0])
    left, right, above, below = directions[4, 1], directions[4, 7], directions[1, 4], directions[7, 4]
    assert len({int(left), int(right), int(above), int(below)}) == 4
    assert (int(right) - int(left)) % 8 == 4 and (int(above) - int(below)) % 8 == 4


def test_boxes_around_masks():
    masks = torch.zeros(2, 12, 12)
    masks[0, 4:6, 2:8] = 1
    exact, wide = boxes_around(masks, 0.0), boxes_around(masks, 0.5)
    assert torch.equal(exact[0], masks[0]) and float(exact[1].sum()) == 0
    assert wide[0].nonzero().amin(0).tolist() == [3, 0] and wide[0].nonzero().amax(0).tolist() == [6, 10]


def test_teacher_takes_each_object_once():
    grid = GridTargets(torch.zeros(2, 4, 4), torch.ones(4, 4))
    grid.masks[0, :, :2], grid.masks[1, :, 2:] = 1, 1
    drawn, taken = torch.zeros(4, 4), torch.zeros(2, dtype=torch.bool)
    drawn[:, 1:] = 0.9
    assert torch.equal(next_object(drawn, grid, taken), grid.masks[1])
    assert torch.equal(next_object(drawn, grid, taken), grid.masks[0])
    assert float(next_object(drawn, grid, taken).sum()) == 0 and bool(taken.all())


def test_rewards_are_what_the_best_matching_gains():
    dice = torch.tensor([[0.8, 0.0], [0.9, 0.0], [0.1, 0.5]])
    assert dice_gains(dice).tolist() == pytest.approx([0.8, 0.1, 0.5])
    assert dice_gains(torch.zeros(3, 0)).tolist() == [0, 0, 0]


def test_the_actor_follows_the_critic_and_leaves_it_alone():
    torch.manual_seed(0)
    model = models.actor_critic_lite0(**SMALL).eval()
    raw = model(ImageBatch.from_tensors([torch.rand(3, 64, 64)]))
    model.losses(raw, [blocks((5, 5, 30, 30))])["actor"].backward()
    assert all(p.grad is None for p in model.critic.parameters())
    assert float(model.actor.say.weight.grad.abs().sum()) > 0
