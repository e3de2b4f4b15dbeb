"""The recipe of the bundled ``memory`` model: objects followed through videos, learnt from clips made of stills."""

from __future__ import annotations

import numpy as np

from eachmask.data.classes import one_class
from eachmask.data.samples import Samples
from eachmask.data.transforms.crop import LargeScaleJitter
from eachmask.data.transforms.mix import CopyPaste
from eachmask.recipes import prompted
from eachmask.recipes.auto_recipe import PhotoAugment
from eachmask.structures import RLE, Instances, Preprocess, Prompts
from eachmask.training.pretrained import FromModel
from eachmask.training.recipe import Recipe
from eachmask.weights.from_efficientnet_lite import MEAN, STD

SHORT_SIDE = 384
"""Of frames as the network sees them when it predicts, px."""
WINDOW = 256
"""Side of the windows that it learns from."""


def ask(targets: Instances) -> Prompts:
    """The masks of the largest objects; the network answers from a moved copy of the image in which they are known."""
    chosen = prompted.asked(targets)
    masks = chosen.gt_masks if len(chosen) else RLE.from_bitmaps(np.ones((1, *targets.image_size), bool))
    return Prompts(targets.image_size, masks=masks)


def mostly_photographs(samples: Samples[Instances]) -> list[float]:
    """Images of dozens of objects, which are much alike, are shown less often: weights, one per sample."""
    return [1 / max(1.0, len(samples.targets(i)) / 5) for i in range(len(samples))]


def memory() -> Recipe:
    """Train with ``eachmask train memory --data FOLDER --out RUN``; benchmarks/clicks_data.py makes the folder."""
    return Recipe(
        variant="stm_lite0",
        prepare=one_class,
        preprocess=Preprocess(mean=MEAN, std=STD, short_side=SHORT_SIDE, long_side=2 * SHORT_SIDE),
        augment=PhotoAugment(LargeScaleJitter(size=(WINDOW, WINDOW), scale=(1.0, 2.0), aspect=0.2)),
        sample_weight=mostly_photographs,
        mix=CopyPaste(chance=0.25),
        ask=ask,
        score=prompted.score,
        best="iou",
        start=FromModel("clicks"),
        steps=3000,
        batch_size=4,
        learning_rate=1e-3,
        backbone_rate=0.1,
        weight_decay=0.05,
        warmup_steps=50,
        frozen_stages=4,
        ema_decay=0.99,
        evaluate_every=250,
        license="Apache-2.0 (weights); trained on COCO 2017 (annotations CC BY 4.0, photographs under Flickr terms), "
        "DAVIS (CC BY 4.0) and the 2018 Data Science Bowl nuclei (CC0-1.0)",
    )
