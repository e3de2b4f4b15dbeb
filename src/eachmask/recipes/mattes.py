"""The recipe of the bundled ``mattes`` model: what a trimap leaves open, learned from made foregrounds."""

from __future__ import annotations

from eachmask.data.transforms.color import PhotoLight
from eachmask.data.transforms.crop import LargeScaleJitter
from eachmask.data.transforms.trimaps import trimapped
from eachmask.recipes.auto_recipe import PhotoAugment
from eachmask.structures import Preprocess
from eachmask.tasks.matting import MATTING
from eachmask.training.pretrained import FromBackbone
from eachmask.training.recipe import Recipe
from eachmask.weights.from_efficientnet_lite import MEAN, STD

WINDOW = 224
"""Side of the windows that it learns from, px."""
TILE = 1024
"""Largest side that is predicted in one pass, px: images are seen in their own size."""


def mattes() -> Recipe:
    """Train with ``eachmask train mattes --data FOLDER --out RUN``; examples/mattes.py makes the folder."""
    return Recipe(
        variant="deep_matting_lite0",
        preprocess=Preprocess(mean=MEAN, std=STD, short_side=None, long_side=None),
        augment=PhotoAugment(
            LargeScaleJitter(size=(WINDOW, WINDOW), scale=(1.0, 2.2), aspect=0.2), light=PhotoLight(hue=0.05)
        ),
        mix=trimapped,
        score=MATTING.scoring.scores,
        best="similarity",
        start=FromBackbone(),
        steps=1500,
        batch_size=4,
        learning_rate=2e-3,
        weight_decay=0.01,
        warmup_steps=30,
        frozen_stages=8,  # all: what ImageNet taught is enough, and nothing of it is computed backwards
        ema_decay=0.99,
        evaluate_every=150,
        tile=TILE,
        license="Apache-2.0 (weights); trained on made foregrounds before photographs of COCO 2017 (annotations CC BY "
        "4.0, photographs under Flickr terms)",
    )
