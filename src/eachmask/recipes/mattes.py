"""The recipe of the bundled ``mattes`` model: what a band around a mask leaves open, learnt from made foregrounds."""

from __future__ import annotations

from dataclasses import replace

from eachmask.data.transforms.color import PhotoLight
from eachmask.data.transforms.crop import LargeScaleJitter
from eachmask.data.transforms.trimaps import Trimapped, automatic
from eachmask.models.matting.network import UNIT
from eachmask.recipes.auto_recipe import MATTE_TILE, PhotoAugment
from eachmask.tasks.matting import MATTING
from eachmask.training.pretrained import FromBackbone
from eachmask.training.recipe import Recipe

WINDOW = 224
"""Side of the windows that it learns from, px."""


def mattes() -> Recipe:
    """Train with ``eachmask train mattes --data FOLDER --out RUN``; examples/mattes.py makes the folder."""
    return Recipe(
        variant="automatic_matting_lite0",
        preprocess=replace(UNIT, short_side=None, long_side=None),
        augment=PhotoAugment(
            LargeScaleJitter(size=(WINDOW, WINDOW), scale=(1.0, 2.6), aspect=0.2), light=PhotoLight(hue=0.05)
        ),
        mix=Trimapped(exact=0.3, widest=0.1),
        ask=automatic,
        score=MATTING.scoring.scores,
        best="similarity",
        start=FromBackbone("clicks"),
        steps=3000,
        batch_size=6,
        learning_rate=1.5e-3,
        backbone_rate=0.2,
        weight_decay=0.02,
        warmup_steps=50,
        frozen_stages=4,
        ema_decay=0.995,
        evaluate_every=500,
        tile=MATTE_TILE,
        license="Apache-2.0 (weights); trained on made foregrounds before photographs of COCO 2017 (annotations CC BY "
        "4.0, photographs under Flickr terms)",
    )
