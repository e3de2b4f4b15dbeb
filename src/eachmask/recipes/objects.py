"""The recipe of the bundled ``objects`` model: everyday photographs, from very few images."""

from __future__ import annotations

from collections.abc import Sequence

from eachmask.data.annotated import AnnotatedSet, merged_categories
from eachmask.data.transforms.crop import LargeScaleJitter
from eachmask.data.transforms.mix import CopyPaste
from eachmask.metrics.coco_ap import coco_ap
from eachmask.recipes.own_data import JitterAndLight
from eachmask.structures import Instances, Preprocess
from eachmask.train.recipe import Recipe
from eachmask.train.start import FromBackbone
from eachmask.weights.from_efficientnet_lite import MEAN, STD

SIDE = 416
"""Longer side of the photographs as the network sees them when it predicts, px."""
WINDOW = 320
"""Side of the windows that it learns from: smaller for speed; their jitter covers the scale of whole photographs."""


def supercategories(data: AnnotatedSet) -> AnnotatedSet:
    """COCO's 80 classes as its 12 supercategories: 343 images do not teach 80 classes."""
    return merged_categories(data, lambda category: category.supercategory or category.name)


def score(predictions: Sequence[Instances], targets: Sequence[Instances]) -> dict[str, float]:
    """Class-agnostic mask AP (chooses the weights), AP50 and AR@100; AP of the supercategories."""
    found = coco_ap(predictions, targets, class_agnostic=True)
    named = coco_ap(predictions, targets)
    return {"ap": found["ap"], "ap50": found["ap50"], "ar100": found["ar100"], "supercategory_ap": named["ap"]}


def objects() -> Recipe:
    """Train with ``eachmask train objects --data COCO_MINI --partial COCO_PERSON_SINGLE --out RUN``.

    Boxes and masks are learnt for all classes together, which is where few images go furthest; only the classifier
    tells the supercategories apart.
    """
    return Recipe(
        variant="mask_rcnn_lite0_p3",
        config={
            "box_agnostic": True,
            "mask_agnostic": True,
            "one_label": True,
            "score_threshold": 0.02,
            # Fewer proposals than the paper's: an image of 320 px holds fewer objects.
            "roi_batch": 128,
            "rpn_candidates_training": 600,
            "proposals_training": 300,
        },
        prepare=supercategories,
        preprocess=Preprocess(mean=MEAN, std=STD, short_side=SIDE, long_side=SIDE),
        augment=JitterAndLight(LargeScaleJitter(size=(WINDOW, WINDOW), scale=(0.5, 2.5), aspect=0.2)),
        mix=CopyPaste(chance=0.4),
        score=score,
        best="ap",
        start=FromBackbone(),
        steps=1800,
        batch_size=4,
        learning_rate=5e-4,
        backbone_rate=0.3,
        weight_decay=0.05,
        warmup_steps=150,
        frozen_stages=4,
        ema_decay=0.998,
        evaluate_every=450,
        licence="Apache-2.0 (weights); trained on COCO 2017: annotations CC BY 4.0, photographs under Flickr terms",
    )
