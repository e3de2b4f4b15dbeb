"""Videos: what a model remembers is carried from frame to frame."""

from __future__ import annotations

import pytest
import torch
from tiny_model import Raw, Spots, spots_image, spots_info

from eachmask.inference.predictor import Predictor
from eachmask.inference.video_predictor import VideoPredictor
from eachmask.structures import ImageBatch, UserError


class FadingSpots(Spots):
    """Remembers brightness: a spot is still there in the frame after it has gone."""

    def step(self, images: ImageBatch, state: torch.Tensor | None) -> tuple[Raw, torch.Tensor]:
        raw = self.forward(images)
        seen = raw.brightness if state is None else torch.maximum(raw.brightness, state)
        return raw._replace(brightness=seen), raw.brightness


def predictor(model: Spots) -> Predictor:
    return Predictor(model, spots_info(), device="cpu", precision="fp32", optimize=False)


def test_what_is_remembered_goes_from_frame_to_frame() -> None:
    video = VideoPredictor(predictor(FadingSpots()))
    bright, dark = spots_image(1), spots_image(1) // 8
    counts = [len(found) for found in video.track(iter([bright, dark, dark]))]
    assert counts[0] > 0 and counts[1] == counts[0] and counts[2] == 0
    first, state = video.step(bright)
    second, _ = video.step(dark, state)
    assert len(first) == len(second) == counts[0] and first.label_names[0] in ("small spot", "<large> & spot")
    assert len(video.step(dark)[0]) == 0, "a new video begins with nothing"


def test_a_model_that_remembers_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="a video needs a model that remembers"):
        VideoPredictor(predictor(Spots()))
