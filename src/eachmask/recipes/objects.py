"""The recipe of the bundled ``objects`` model: everyday photographs, from very few images."""

from __future__ import annotations

from collections.abc import Sequence

from eachmask.data.classes import one_class
from eachmask.data.transforms.crop import LargeScaleJitter
from eachmask.data.transforms.mix import CopyPaste
from eachmask.metrics.coco_ap import coco_ap
from eachmask.recipes.auto_recipe import PhotoAugment
from eachmask.structures import Instances, Preprocess
from eachmask.training.pretrained import FromBackbone
from eachmask.training.recipe import Recipe
from eachmask.weights.from_efficientnet_lite import MEAN, STD

SIDE = 640
"""Longer side of the photographs as the network sees them when it predicts, px."""
SCALES = (0.5, 1.0)
"""... and at half of it, where large things are seen whole."""
WINDOW = 320
"""Side of the windows that it learns from: smaller for speed; their jitter covers the scale of whole photographs."""


def score(predictions: Sequence[Instances], targets: Sequence[Instances]) -> dict[str, float]:
    """Mask AP (chooses the weights), AP50 and AR@100; AP by size."""
    found = coco_ap(predictions, targets)
    return {name: found[name] for name in ("ap", "ap50", "ar100", "ap_small", "ap_medium", "ap_large")}


def objects() -> Recipe:
    """Train with ``eachmask train objects --data COCO_MINI --partial COCO_PERSON_SINGLE --out RUN``.

    What comes out calls everything ``object``; :mod:`~eachmask.training.crop_classifier` adds what tells things apart.
    """
    return Recipe(
        variant="condinst_lite2_fpn",
        config={
            "score_threshold": 0.002,
            # Masks rank what the boxes found, and overlapping ones lower each other's scores: val's AP gains an eighth.
            "nms_threshold": 0.8,
            # What lies over a better one or is a part of it comes later: 17 % of what is shown become 4 %.
            "ranking": {
                "sigma": 1.0,
                "maskness_power": 3.0,
                "candidates": 150,
                "repeat_factor": 0.5,
                "part_factor": 0.7,
            },
            "mask": {"least_region": 0.1},
        },
        prepare=one_class,  # what an object is, 343 images teach; what 80 kinds look like they do not
        preprocess=Preprocess(mean=MEAN, std=STD, short_side=SIDE, long_side=SIDE),
        scales=SCALES,
        augment=PhotoAugment(LargeScaleJitter(size=(WINDOW, WINDOW), scale=(0.5, 2.5), aspect=0.2)),
        mix=CopyPaste(chance=0.4),
        score=score,
        best="ap",
        start=FromBackbone(),
        steps=6400,
        batch_size=4,
        learning_rate=5e-4,
        backbone_rate=0.3,
        weight_decay=0.05,
        warmup_steps=150,
        frozen_stages=4,
        ema_decay=0.998,
        evaluate_every=1000,
        license="Apache-2.0 (weights); trained on COCO 2017: annotations CC BY 4.0, photographs under Flickr terms",
    )
