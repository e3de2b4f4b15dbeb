"""A recipe for made foregrounds: what a trimap leaves open, learned as changes of what closed form finds."""

from __future__ import annotations

from dataclasses import replace

from eachmask.data.transforms.color import PhotoLight
from eachmask.data.transforms.crop import LargeScaleJitter
from eachmask.data.transforms.trimaps import automatic, trimapped
from eachmask.models.matting.network import UNIT
from eachmask.recipes.auto_recipe import MATTE_TILE, PhotoAugment
from eachmask.tasks.matting import MATTING
from eachmask.training.recipe import Recipe

WINDOW = 160
"""Side of the windows that it learns from, px."""


def mattes() -> Recipe:
    """Train with ``eachmask train mattes --data FOLDER --out RUN``; examples/mattes.py makes the folder."""
    return Recipe(
        variant="dcnn_matting",
        preprocess=replace(UNIT, short_side=None, long_side=None),
        augment=PhotoAugment(
            LargeScaleJitter(size=(WINDOW, WINDOW), scale=(1.0, 2.6), aspect=0.2), light=PhotoLight(hue=0.05)
        ),
        mix=trimapped,
        ask=automatic,
        score=MATTING.scoring.scores,
        best="similarity",
        steps=1000,
        batch_size=4,
        learning_rate=2e-3,
        weight_decay=0.01,
        warmup_steps=30,
        ema_decay=0.99,
        evaluate_every=200,
        tile=MATTE_TILE,
        license="Apache-2.0 (weights); trained on made foregrounds before photographs of COCO 2017 (annotations CC BY "
        "4.0, photographs under Flickr terms)",
    )
