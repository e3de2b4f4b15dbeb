"""OSVOS learns the objects of the first frame and finds them in the next ones by what they look like."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask.inference.following import load_follower
from eachmask.inference.predictor import Predictor
from eachmask.inference.video_predictor import VideoPredictor
from eachmask.models.video.osvos import OSVOS, Config, Shown, window_of
from eachmask.structures import RLE, Preprocess, Prompts, UserError
from eachmask.weights.header import ModelInfo

SIZE = (64, 96)


def clip(t: int) -> tuple[np.ndarray, np.ndarray]:
    """A red and a blue square on a gray ground that change places: (H, W, 3), (2, H, W)."""
    rng = np.random.default_rng(t)
    image = rng.integers(90, 130, (*SIZE, 3), dtype=np.uint8)
    masks = np.zeros((2, *SIZE), bool)
    masks[0, 20:44, 10 + 20 * t : 34 + 20 * t] = True
    masks[1, 20:44, 60 - 20 * t : 84 - 20 * t] = True
    image[masks[0]], image[masks[1]] = (220, 40, 40), (40, 40, 220)
    return image, masks


def video(steps: int) -> VideoPredictor:
    ready = load_follower("osvos", "cpu")
    model = OSVOS(ready.predictor.model.backbone, ready.predictor.model.neck, Config(steps=steps, window=64))
    info = ModelInfo("osvos", preprocess=Preprocess(short_side=None))
    return VideoPredictor(Predictor(model, info, device="cpu", precision="fp32", optimize=False))


def marked(t: int) -> Prompts:
    return Prompts(SIZE, masks=RLE.from_bitmaps(clip(t)[1]))


def test_it_finds_what_it_has_learnt_wherever_it_is():
    learner = video(120)  # with 60 one of four roundings leaves an object half found
    model = learner.predictor.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, state = learner.step(clip(0)[0], None, marked(0))
    assert first.masks.iou(RLE.from_bitmaps(clip(0)[1])).diagonal().min() == 1, "what is marked is the answer"
    found, _ = learner.step(clip(2)[0], state)
    assert found.track_ids.tolist() == [0, 1]
    assert found.masks.iou(RLE.from_bitmaps(clip(2)[1])).diagonal().min() > 0.5, "they have changed places"
    again, _ = learner.step(clip(2)[0], state)
    assert np.array_equal(found.masks.to_rle().counts, again.masks.to_rle().counts), "states are values"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "the next video's"


def test_objects_may_come_later():
    learner = video(4)
    _, state = learner.step(clip(0)[0], None, Prompts(SIZE, masks=RLE.from_bitmaps(clip(0)[1][:1])))
    later = Prompts(SIZE, masks=RLE.from_bitmaps(clip(2)[1][1:]), mask_objects=torch.tensor([1]), num_objects=2)
    found, after = learner.step(clip(2)[0], state, later)
    assert 1 in found.track_ids.tolist() and (after.num, len(after.shown)) == (2, 2)
    assert (state.num, len(state.shown)) == (1, 1), "states are values"


def test_without_marks_it_says_what_it_wants():
    with pytest.raises(UserError, match="mark the objects"):
        video(1).step(clip(0)[0])


def test_windows_of_frames_of_any_size():
    torch.manual_seed(0)
    for height, width in ((10, 300), (300, 64), (64, 64)):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        one = Shown(torch.stack([y, x, y]).float(), (y + x < 5).float()[None])
        part = window_of(one, 64)
        assert part.frame.shape == (3, 64, 64) and part.masks.shape == (1, 64, 64)
        assert torch.equal((part.frame[0] + part.frame[1] < 5).float(), part.masks[0]), "image and mask go together"
