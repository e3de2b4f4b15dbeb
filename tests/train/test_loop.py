from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from eachmask.data.sample import Sample
from eachmask.structures import RLE, Category, DecodeOptions, ImageBatch, Instances, Preprocess, UserError
from eachmask.train import loop
from eachmask.train.draws import Draws
from eachmask.train.optim import set_learning_rate
from eachmask.train.recipe import Recipe, Run


class Toy(nn.Module):
    """One convolution with the three verbs: brightness is foreground."""

    def __init__(self, num_classes: int = 1) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, images: ImageBatch):
        return self.encoder(images.tensor), images.sizes

    def losses(self, raw, targets):
        truth = torch.stack([torch.from_numpy(t.masks.to_label_map() > 0) for t in targets]).float()
        return {"mask": nn.functional.binary_cross_entropy_with_logits(raw[0][:, 0], truth)}

    def decode(self, raw, options: DecodeOptions):
        out = []
        for logits, size in zip(raw[0][:, 0], raw[1], strict=True):
            label = (logits[: size[0], : size[1]] > 0).int().numpy()
            masks = RLE.from_label_map(label)
            out.append(Instances(image_size=size, boxes=torch.from_numpy(masks.boxes()), masks=masks,
                                 scores=torch.ones(len(masks))))  # fmt: skip
        return out


class Made:
    categories = (Category(1, "thing"),)

    def __len__(self):
        return 5

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        label = np.zeros((32, 32), np.int32)
        y, x = rng.integers(0, 16, 2)
        label[y : y + 12, x : x + 12] = 1
        image = rng.integers(0, 40, (32, 32, 3)).astype(np.uint8)
        image[label > 0] += 180
        masks = RLE.from_label_map(label)
        targets = Instances(image_size=(32, 32), boxes=torch.from_numpy(masks.boxes()), masks=masks,
                            labels=torch.zeros(1, dtype=torch.int64))  # fmt: skip
        return Sample(image, targets, f"made-{index}.png", index)


def flip(sample, rng):
    if rng.random() < 0.5:
        sample = Sample(sample.image[:, ::-1].copy(), sample.targets.flip(), sample.path, sample.image_id)
    return sample


def score(predictions, targets):
    pairs = zip(predictions, targets, strict=True)
    return {"iou": float(np.mean([p.masks.union().iou(t.masks).max() if len(p) else 0 for p, t in pairs]))}


def recipe(**changes) -> Recipe:
    options = dict(variant="toy", preprocess=Preprocess(short_side=None, long_side=None), augment=flip, score=score,
                   best="iou", steps=24, batch_size=2, learning_rate=0.05, warmup_steps=4, evaluate_every=8,
                   ema_decay=0.9)  # fmt: skip
    return Recipe(**(options | changes))


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setattr(loop.models, "variant", lambda name: Toy)


def test_it_learns_logs_and_draws_curves(tmp_path):
    path = loop.train(recipe(steps=120, evaluate_every=40), Made(), Made(), Run(out=tmp_path))
    rows = list(csv.DictReader(open(tmp_path / "log.csv")))
    assert [float(r["step"]) for r in rows] == [40, 80, 120]
    assert float(rows[-1]["mask"]) < float(rows[0]["mask"])
    assert float(rows[-1]["iou"]) > 0.5
    assert path.is_file() and "<polyline" in (tmp_path / "curves.svg").read_text()


def test_interrupted_and_resumed_equals_uninterrupted_to_the_bit(tmp_path):
    whole = loop.train(recipe(), Made(), Made(), Run(out=tmp_path / "whole", checkpoint_every=3))
    real, count = loop.train_step, [0]

    def stops(*args):
        count[0] += 1
        if count[0] == 14:
            raise KeyboardInterrupt
        return real(*args)

    loop.train_step = stops
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.train(recipe(), Made(), Made(), Run(out=tmp_path / "parts", checkpoint_every=3))
    finally:
        loop.train_step = real
    parts = loop.train(recipe(), Made(), Made(), Run(out=tmp_path / "parts", checkpoint_every=3))
    a, b = load_file(whole), load_file(parts)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (tmp_path / "whole/log.csv").read_text() == (tmp_path / "parts/log.csv").read_text()


def test_resume_can_be_refused(tmp_path):
    loop.train(recipe(steps=4), Made(), Made(), Run(out=tmp_path))
    with pytest.raises(UserError, match="already holds a run"):
        loop.train(recipe(steps=4), Made(), Made(), Run(out=tmp_path, resume=False))


def test_a_loss_that_is_not_a_number_names_the_files(tmp_path):
    class Broken(Toy):
        def losses(self, raw, targets):
            return {"mask": raw[0].sum() * float("nan")}

    loop.models.variant = lambda name: Broken
    with pytest.raises(UserError, match=r"made-\d\.png"):
        loop.train(recipe(), Made(), Made(), Run(out=tmp_path))
    assert (tmp_path / "non-finite-loss.json").is_file()


def test_every_sample_once_per_epoch_and_weights_in_proportion():
    draws = Draws(Made(), recipe(), seed=3)
    assert sorted(draws.index(n) for n in range(5)) == [0, 1, 2, 3, 4]
    assert [draws.index(n) for n in range(10)] == [draws.index(n) for n in range(10)]
    weighted = Draws(Made(), recipe(sample_weight=lambda samples: [2, 1, 1, 1, 0]), seed=3)
    counts = np.bincount([weighted.index(n) for n in range(500)], minlength=5)
    assert counts[4] == 0 and abs(counts[0] - 200) <= 5 and abs(counts[1] - 100) <= 5


def test_learning_rate_warms_up_then_falls():
    optimiser = torch.optim.SGD([{"params": [torch.zeros(1)], "rate": 0.5}], lr=1.0)
    chosen = recipe(learning_rate=1.0, steps=100, warmup_steps=10)
    rates = [set_learning_rate(optimiser, chosen, step) for step in range(100)]
    assert rates[0] < rates[5] < rates[9] and max(rates) == pytest.approx(1, abs=0.05)
    assert rates[-1] == pytest.approx(0.01, abs=0.01) and optimiser.param_groups[0]["lr"] == rates[-1] * 0.5
