"""The small memory network: what it promises, how it learns, and that it follows what it has learnt."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from models.test_prompted import of_bitmap, scene, scenes
from one_step import check_learns_in_bf16, learn

from eachmask import models
from eachmask.inference.predictor import Predictor
from eachmask.inference.video_predictor import VideoPredictor
from eachmask.models.protocol import Model, Recurrent
from eachmask.models.video import moving, xmem
from eachmask.structures import DecodeOptions, Preprocess, Prompts, UserError
from eachmask.weights.header import ModelInfo


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return models.stm_lite0().eval()


def video_of(model) -> VideoPredictor:
    info = ModelInfo("stm_lite0", preprocess=Preprocess(short_side=None))
    return VideoPredictor(Predictor(copy.deepcopy(model), info, device="cpu", precision="fp32"))


def frame(seed: int = 0) -> np.ndarray:
    image, _ = scene((70, 100), seed=seed)
    return ((image.permute(1, 2, 0) + 0.5) / 2.5).clamp(0, 1).numpy()


def test_obeys_the_protocol(model):
    assert isinstance(model, Model) and isinstance(model, Recurrent) and model.max_classes == 1


def test_without_marks_it_says_what_it_wants(model):
    batch, targets = scenes((48, 64))
    with pytest.raises(UserError, match="first"), torch.inference_mode():
        model.decode(model(batch), DecodeOptions())
    with pytest.raises(UserError, match="masks"):
        video_of(model).step(frame())
    with pytest.raises(UserError, match="mark"):
        video_of(model).step(frame(), None, Prompts((70, 100), points=[[5, 5]]))


@pytest.mark.parametrize("what", ["objects", "nothing", "one of each", "crowd", "a tiny image"])
def test_losses_are_finite_and_reach_every_parameter(model, what):
    model = copy.deepcopy(model).train()
    batch, targets = scenes((64, 96), (80, 64))
    if what == "nothing":
        targets = [target[:0] for target in targets]
    elif what == "one of each":
        targets[0] = targets[0][:0]
    elif what == "crowd":
        targets = [replace(target, crowd=torch.ones(len(target), dtype=torch.bool)) for target in targets]
    elif what == "a tiny image":
        batch = replace(batch, sizes=((5, 3), batch.sizes[1]))
        targets[0] = of_bitmap((5, 3), (slice(None), slice(None)))
    torch.manual_seed(1)
    losses = model.losses(model(batch), targets)
    assert all(value.ndim == 0 and torch.isfinite(value) for value in losses.values()), losses
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no part in the losses of a batch with {what}"
        assert torch.isfinite(parameter.grad).all(), name


def test_bf16_follows_and_learns(model):
    batch, targets = scenes((64, 96), (80, 64))
    prompts = [Prompts(target.image_size, masks=target.gt_masks) for target in targets]
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        found = model.decode(model(batch, prompts), DecodeOptions())
    assert [seen.image_size for seen in found] == [(64, 96), (80, 64)]
    check_learns_in_bf16(model, batch, targets)


def test_states_are_values_and_objects_may_come_later(model):
    video = video_of(model)
    (_, target), other = scene((70, 100)), scene((70, 100), num=3, seed=4)[1]
    marked = Prompts((70, 100), masks=target.gt_masks)
    first, state = video.step(frame(), None, marked)
    assert set(first.track_ids.tolist()) == {0, 1} and first.masks.size == (70, 100)
    iou = first.masks.iou(target.masks)
    assert iou.diagonal().min() > 0.8, "what is marked is the answer"
    once, _ = video.step(frame(1), state)
    video.step(frame(2), state)
    again, after = video.step(frame(1), state)
    assert np.array_equal(once.masks.to_rle().counts, again.masks.to_rle().counts)
    new = Prompts((70, 100), masks=other.gt_masks[2:3], mask_objects=torch.tensor([2]), num_objects=3)
    later, _ = video.step(frame(3), after, new)
    assert 2 in later.track_ids.tolist()
    with pytest.raises(UserError, match="mark"):
        video.step(
            frame(3),
            after,
            Prompts((70, 100), masks=other.gt_masks[2:3], mask_objects=torch.tensor([4]), num_objects=5),
        )


def test_clips_move_and_masks_with_them():
    image, target = scene((96, 128), num=1)
    bitmap = moving.on_canvas(target.gt_masks.to_rle().decode(), image)
    torch.manual_seed(0)
    still = replace(
        moving.Config(), shift=0.0, turn=0.0, scale=0.0, bend=0.0, light=0.0, behind_chance=0, cover_chance=0
    )
    clip = moving.clip(image, bitmap, image, still)
    assert (clip.masks[2] == bitmap).float().mean() > 0.999
    clip = moving.clip(image, bitmap, torch.zeros_like(image), replace(still, shift=0.2, behind_chance=1.0))
    assert (clip.masks[0] != clip.masks[2]).any(), "it moved"
    inside = [float(f[0][m[0] > 0].mean()) for f, m in zip(clip.frames, clip.masks, strict=True)]
    assert min(inside) > 1.0, "the mask is where the object is"
    hidden = [moving.clip(image, bitmap, image, replace(still, cover_chance=1.0)).masks[1].sum() for _ in range(20)]
    assert min(hidden) < bitmap.sum(), "what passes hides it"


@pytest.mark.slow
def test_memorizes_a_few_images():
    """Moved copies of images that it knows by heart are followed."""
    torch.manual_seed(0)
    model = models.stm_lite0()
    batch, targets = scenes((96, 128), (128, 96))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    prompts = [Prompts(target.image_size, masks=target.gt_masks) for target in targets]
    for step in range(300):
        learn(model, batch, targets, optimizer, step, clip=5.0)
        if step % 50 == 49:
            torch.manual_seed(1)
            with torch.inference_mode():
                found = model.eval().decode(model(batch, prompts), DecodeOptions())
            least = min(
                float(some.masks.iou(target.masks)[rows.tolist().index(k), k]) if k in rows else 0.0
                for some, target in zip(found, targets, strict=True)
                for rows in (some.track_ids,)
                for k in range(len(target))
            )
            if least > 0.7:
                return
    pytest.fail(f"the worst answer has an IoU of {least}")


def test_the_best_places_read_what_their_affinity_says():
    generator = torch.Generator().manual_seed(0)
    key, query, values = (torch.randn(*size, generator=generator) for size in ((8, 50), (8, 6), (2, 5, 50)))
    shrinkage, selection = (torch.rand(*size, generator=generator) for size in ((50,), (8, 6)))
    alike = xmem.similarity(key, shrinkage, query, selection)
    distance = (selection[:, None] * (key[:, :, None] - query[:, None]) ** 2).sum(0)  # XMem, equation 2
    torch.testing.assert_close(alike, -distance * shrinkage[:, None] / 8**0.5)
    for top in (7, 100):
        weights = xmem.affinity(alike, top)
        read, used = xmem.read_best(alike, values, top)
        torch.testing.assert_close(read, values @ weights)
        torch.testing.assert_close(used, weights.sum(1))
