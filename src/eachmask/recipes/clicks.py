"""The recipe of the bundled ``clicks`` model: photographs and microscope images, from clicks, boxes and rough masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from eachmask.data.classes import one_class
from eachmask.data.samples import Samples
from eachmask.data.transforms.color import PhotoLight
from eachmask.data.transforms.crop import LargeScaleJitter
from eachmask.data.transforms.mix import CopyPaste
from eachmask.data.transforms.prompts import Few, Prompted
from eachmask.ops.clicks import depths
from eachmask.ops.prompt_sampling import PromptSampler
from eachmask.recipes.auto_recipe import PhotoAugment
from eachmask.recipes.prompted import asked
from eachmask.structures import Instances, Preprocess, Prompts
from eachmask.training.pretrained import FromBackbone
from eachmask.training.recipe import Recipe
from eachmask.weights.from_efficientnet_lite import MEAN, STD

SIDE = 512
"""Longer side of images as the network sees them when it predicts, px."""
WINDOW = 384
"""Side of the windows that it learns from."""


def ask(targets: Instances) -> Prompts:
    """Of each object the click in its middle, and its box as a second question; number i + n is the box of i.

    An image without objects is asked about its middle.
    """
    chosen, (height, width) = asked(targets), targets.image_size
    if not len(chosen):
        return Prompts(targets.image_size, points=torch.tensor([[width / 2, height / 2]]))
    places = [int(depths(mask, exact=False).argmax()) for mask in chosen.gt_masks.to_rle().decode()]
    points = torch.tensor([[place % width + 0.5, place // width + 0.5] for place in places])
    number = torch.arange(len(chosen))
    return Prompts(
        targets.image_size,
        points=points,
        point_objects=number,
        boxes=chosen.boxes,
        box_objects=number + len(chosen),
    )


def score(predictions: Sequence[Instances], targets: Sequence[Instances]) -> dict[str, float]:
    """Mean IoU after one click and of boxes, over objects; their mean chooses the weights."""
    clicked, boxed = [], []
    for found, target in zip(predictions, targets, strict=True):
        chosen = asked(target)
        if not len(chosen):
            continue
        iou = np.zeros(2 * len(chosen))
        assert found.masks is not None and found.track_ids is not None
        overlap = found.masks.to_rle().iou(chosen.gt_masks.to_rle())
        for row, number in enumerate(found.track_ids.tolist()):
            iou[number] = overlap[row, number % len(chosen)]
        clicked += iou[: len(chosen)].tolist()
        boxed += iou[len(chosen) :].tolist()
    one, box = (float(np.mean(values)) if values else 0.0 for values in (clicked, boxed))
    return {"iou": (one + box) / 2, "iou_click": one, "iou_box": box}


def mostly_photographs(samples: Samples[Instances]) -> list[float]:
    """Images of dozens of objects, which are much alike, are shown less often: weights, one per sample."""
    return [1 / max(1.0, len(samples.targets(i)) / 15) for i in range(len(samples))]


def clicks() -> Recipe:
    """Train with ``eachmask train clicks --data FOLDER --out RUN``; benchmarks/clicks_data.py makes the folder."""
    return Recipe(
        variant="clicks_lite0",
        prepare=one_class,
        preprocess=Preprocess(mean=MEAN, std=STD, short_side=SIDE, long_side=SIDE),
        augment=Few(
            PhotoAugment(
                LargeScaleJitter(size=(WINDOW, WINDOW), scale=(0.8, 2.2), aspect=0.2),
                light=PhotoLight(hue=0.0, gray=0.1),
            )
        ),
        sample_weight=mostly_photographs,
        mix=Prompted(CopyPaste(chance=0.25), PromptSampler(most=3)),
        ask=ask,
        score=score,
        best="iou",
        start=FromBackbone(),
        steps=7000,
        batch_size=4,
        learning_rate=1.5e-3,
        backbone_rate=0.15,
        weight_decay=0.05,
        warmup_steps=100,
        frozen_stages=4,
        ema_decay=0.998,
        evaluate_every=1000,
        decode={"score_threshold": 0.0},
        license="Apache-2.0 (weights); trained on COCO 2017 (annotations CC BY 4.0, photographs under Flickr terms), "
        "DAVIS (CC BY 4.0) and the 2018 Data Science Bowl nuclei (CC0-1.0)",
    )
