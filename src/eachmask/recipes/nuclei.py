"""The recipe of the bundled ``nuclei`` model: Panoptic-DeepLab on EfficientNet-Lite2, for microscope images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch import nn

from eachmask.data.sample import Sample
from eachmask.data.samples import Samples
from eachmask.data.transforms.color import MicroscopyColorJitter
from eachmask.data.transforms.geometry import AffineCrop
from eachmask.metrics.coco_ap import coco_ap
from eachmask.metrics.matching import matching_scores
from eachmask.structures import Instances, Preprocess
from eachmask.training.recipe import Recipe
from eachmask.weights.from_efficientnet_lite import load_offline_backbone

SHOWN = 0.7
"""Objects of less score are not shown; chosen on val by benchmarks/nuclei_thresholds.py."""


@dataclass(frozen=True)
class WindowAndLight:
    """Geometry, then light."""

    crop: AffineCrop = AffineCrop(size=256, scale=(0.8, 2.1))
    light: MicroscopyColorJitter = MicroscopyColorJitter()

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return self.light(self.crop(sample, rng), rng)


def by_area_and_color(samples: Samples) -> Sequence[float]:
    """Large images hold more windows, and stained (color) images are rare but more varied.

    Weight: the square root of the number of 256 px windows, times 2 for color images and for gray
    images with a bright background.
    """
    weights = []
    for i in range(len(samples)):
        image = samples[i].image
        color = bool((image[..., 0] != image[..., 2]).any())
        bright = float(np.median(image)) > 0.5 * np.iinfo(image.dtype).max
        windows = max(1.0, image.shape[0] * image.shape[1] / 256**2)
        weights.append(windows**0.5 * (2.0 if color or bright else 1.0))
    return weights


def score(predictions: Sequence[Instances], targets: Sequence[Instances]) -> dict[str, float]:
    """Mean TP/(TP+FP+FN) over IoU 0.5 ... 0.9 (chooses the weights), at 0.5 and 0.75, and COCO mask AP.

    Validation predicts objects of every score, as AP wants them. Matching counts those that users see.
    """
    ap = coco_ap(predictions, targets, max_detections=1000)
    return matches([p.filter(score=SHOWN) for p in predictions], targets) | {
        "mask_ap": ap["ap"],
        "mask_ap50": ap["ap50"],
    }


def matches(predictions: Sequence[Instances], targets: Sequence[Instances]) -> dict[str, float]:
    """Those of the scores that do not ask for the order of the detections."""
    pairs = [(p.masks, t.masks) for p, t in zip(predictions, targets, strict=True)]
    counts = matching_scores([(p, t) for p, t in pairs if p is not None and t is not None])
    mean = float(np.mean([c.score for c in counts.values()]))
    return {"match_mean": mean, "match50": counts[0.5].score, "match75": counts[0.75].score}


def _start(model: nn.Module) -> str:
    return load_offline_backbone(cast(nn.Module, model.encoder), "tf_efficientnet_lite2")


def nuclei() -> Recipe:
    """Train with ``eachmask train nuclei --data DSB2018_FOLDER --out RUN``."""
    return Recipe(
        variant="panoptic_deeplab_lite2",
        # Only prediction reads these and the magnification; chosen on val by benchmarks/nuclei_thresholds.py.
        config={"foreground_threshold": 0.6, "merge_distance": 8.0, "min_area": 16},
        decode={"score_threshold": SHOWN},
        preprocess=Preprocess(
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            short_side=None,
            long_side=None,
            magnification=1.6,
            contrast="percentile",
        ),
        augment=WindowAndLight(),
        score=score,
        best="match_mean",
        start=_start,
        sample_weight=by_area_and_color,
        steps=4400,
        batch_size=8,
        learning_rate=1.5e-3,
        evaluate_every=500,
        license="Apache-2.0 (weights); trained on the 2018 Data Science Bowl nuclei, CC0-1.0",
        tile=1024,
    )
