"""The recipe for any model on anybody's data: every default is a function of the data and the machine.

Few images want many passes, strong augmentation and a backbone that mostly stays as it is; many images want the
opposite. The numbers here are starting points that worked on the small public sets named in docs/training.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from eachmask import models
from eachmask.data.image_files import ImageFiles
from eachmask.data.sample import Sample
from eachmask.data.samplers import repeat_factors
from eachmask.data.samples import Samples
from eachmask.data.transforms.color import PhotoLight
from eachmask.data.transforms.crop import Flip, LargeScaleJitter
from eachmask.data.transforms.mix import CopyPaste, PhotoMix
from eachmask.data.transforms.trimaps import Trimapped, automatic
from eachmask.models.config import merged
from eachmask.recipes import prompted
from eachmask.structures import Instances, Trimap, UserError
from eachmask.structures.backdrop import Backdrop
from eachmask.structures.keypoints import mirror_pairs
from eachmask.tasks.task import Task
from eachmask.training.pretrained import FromBackbone, backbone_of, backbone_preprocess, choose_start, weights_known
from eachmask.training.recipe import Mix, Recipe

LOOKED_AT = 500
"""So many samples' annotations decide the defaults."""
LARGE_BACKBONE = 22_000_000
"""Weights of a backbone from which on (ResNet-50, Swin-T) a model wants large images and a GPU."""

MATTE_TILE = 1024
"""Largest side that a network of mattes sees in one pass, px."""


@dataclass(frozen=True)
class PhotoAugment:
    """Large-scale jitter, mirroring, light: the augmentation of everyday photographs."""

    jitter: LargeScaleJitter
    flip: Flip = Flip()
    light: PhotoLight = PhotoLight()

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw one training sample."""
        return self.light(self.flip(self.jitter(sample, rng), rng), rng)


def auto_recipe(
    variant: str,
    data: Samples[Any],
    *,
    start: str = "auto",
    size: int | None = None,
    mosaic: float | None = None,
    copy_paste: float | None = None,
    backbone: str | None = None,
) -> tuple[Recipe, list[str]]:
    """A recipe for a variant on this data, and sentences on what was decided.

    Args:
        variant: name of the variant function.
        data: the training samples.
        start: see :func:`eachmask.training.pretrained.choose_start`.
        size: longer side of the images as the network sees them, px; by default from the data.
        mosaic: chance that a training image is made of four; none are by default.
        copy_paste: chance that another image's objects are pasted into it; by default one half where there are masks.
        backbone: instead of the variant's own, see :func:`eachmask.backbones.by_name.backbone_named`.

    Raises:
        UserError: there is no such variant or backbone, or that start does not fit.
    """
    build = models.variant(variant)
    chosen = choose_start(variant, "backbone" if backbone and start == "auto" else start)
    asked = {"backbone": backbone} if backbone else {}
    with torch.device("meta"):
        model = build(num_classes=len(data.categories), **chosen.config | asked)
    body = backbone_of(model)
    config = merged(chosen.config | asked, _config(variant, model, data))
    on_gpu, heavy = torch.cuda.is_available(), num_parameters(body) >= LARGE_BACKBONE
    side = size or _side(data, 1024 if heavy and on_gpu else 800 if on_gpu else 384)
    base = chosen.preprocess or getattr(model, "preprocess", None) or backbone_preprocess(model)
    batch = min(_power_of_two(len(data)), 16 if on_gpu else 4)
    steps = _steps(len(data), batch)
    whole = chosen.whole
    trained = body is not model and chosen.load is not None and (chosen.load != FromBackbone() or weights_known(body))
    scoring = model.task.scoring
    flip, about_flip = _flip(data)
    notes = [note for note in (chosen.note, about_flip) if note]
    notes.append(f"{len(data)} images: longer side {side} px, scored by {scoring.best} of {model.task.name}.")
    recipe = Recipe(
        variant=variant,
        config=config,
        preprocess=replace(base, short_side=side, long_side=side, fixed_size=None),
        augment=PhotoAugment(
            LargeScaleJitter(size=(side, side), scale=(0.5, 2.0) if whole else (0.4, 2.0)),
            flip,
        ),
        mix=_mix(model.task, mosaic or 0.0, copy_paste) if len(data) > 1 else None,
        score=scoring.scores,
        best=scoring.best,
        start=chosen.load,
        sample_weight=repeat_factors if len(data.categories) > 1 else None,
        steps=steps,
        batch_size=batch,
        learning_rate=(2e-4 if whole else 5e-4) * (0.5 if heavy else 1.0) * (batch / 8) ** 0.5,
        backbone_rate=0.3,
        weight_decay=0.05,
        warmup_steps=min(200, steps // 10 + 1),
        frozen_stages=3 if trained and not on_gpu else None,
        ema_decay=0.998 if steps > 1500 else 0.99,
        evaluate_every=max(50, steps // 10),
    )
    return _asking(recipe, model, data), notes


def _asking(recipe: Recipe, model: Any, data: Samples[Any]) -> Recipe:
    """For a model that answers prompts alone: val objects are asked for, and the answers' IoU counts. For one of
    trimaps: they are made of mattes, and images are seen in their own size, large ones in tiles. For one of clean
    backgrounds: their light hardly differs from the image's.

    Raises:
        UserError: the data has no backgrounds, which the model needs.
    """
    takes, own_size = getattr(model, "takes", None), replace(recipe.preprocess, short_side=None, long_side=None)
    if takes is Trimap:
        return replace(recipe, preprocess=own_size, mix=Trimapped(), ask=automatic, tile=MATTE_TILE)
    if takes is Backdrop:
        if isinstance(data, ImageFiles) and len(data) and not isinstance(data.given(0), Backdrop):
            raise UserError(
                f"{recipe.variant} compares images with their backgrounds: put a photograph of each, of the same name, "
                "into backgrounds/ beside images/ and alpha/ (and no trimaps/)"
            )
        assert isinstance(recipe.augment, PhotoAugment)
        light = PhotoLight(brightness=0.03, contrast=0.03, saturation=0.03, hue=0.0, gray=0.0)
        return replace(recipe, preprocess=own_size, augment=replace(recipe.augment, light=light))
    if not getattr(model, "answers_only", False):
        return recipe
    ask = prompted.ask_extremes if model.asked_by == "extremes" else prompted.ask_points
    decode = {"score_threshold": 0.0}
    return replace(recipe, ask=ask, score=prompted.score, best="iou", decode=decode)


def _mix(task: Task[Any], mosaic: float, copy_paste: float | None) -> Mix | None:
    """Pasting needs masks; a mosaic does not.

    Raises:
        UserError: a mosaic of something else than objects, or pasting where there are no masks to paste.
    """
    if copy_paste and not task.mixes:
        raise UserError(f"masks are pasted, and this model predicts {task.name}: leave out --copy-paste")
    usual = CopyPaste().chance if task.mixes else 0.0
    paste = CopyPaste(usual if copy_paste is None else copy_paste)
    if not mosaic:
        return paste if paste.chance else None
    if not issubclass(task.target, Instances):
        raise UserError(f"a mosaic is made of objects, and this model predicts {task.name}: leave out --mosaic")
    return PhotoMix(mosaic, paste)


def _config(variant: str, model: Any, data: Samples[Any]) -> dict[str, Any]:
    """What a variant has to know of the data besides the number of classes.

    Raises:
        UserError: it is about keypoints, and the data have none.
    """
    if hasattr(model.config, "stuff"):
        return {"stuff": [label for label, category in enumerate(data.categories) if not category.is_thing]}
    if "keypoints" not in model.needs:
        return {}
    points = _targets(data, 0).keypoints
    if points is None:
        raise UserError(f"{variant} learns from keypoints, and the data have none: take a variant for boxes or masks")
    return {"keypoint_head": {"num_keypoints": int(points.shape[1])}}


def _flip(data: Samples[Any]) -> tuple[Flip, str]:
    """Mirroring, with the keypoints that change their names in it; what is to be said of it."""
    names = next((category.keypoints for category in data.categories if category.keypoints), ())
    if names or not len(data) or getattr(_targets(data, 0), "keypoints", None) is None:
        return Flip(keypoint_pairs=mirror_pairs(names)), ""
    return Flip(chance=0.0), "The keypoints have no names to tell left from right by: images are not mirrored."


def _targets(data: Samples[Any], index: int) -> Any:
    """Annotations of one sample, without reading the image where that is possible."""
    read = getattr(data, "targets", None)
    return read(index) if read is not None else data[index].targets


def _side(data: Samples[Any], most: int) -> int:
    """The longer side of the median image, a multiple of 32, unless that is more than the machine should bear."""
    step = max(1, len(data) // LOOKED_AT)
    sides = [max(_targets(data, i).image_size) for i in range(0, len(data), step)]
    return int(min(most, max(128, 32 * round(float(np.median(sides)) / 32))))


def _power_of_two(number: int) -> int:
    return 1 << max(0, number.bit_length() - 1)


def _steps(num_images: int, batch: int) -> int:
    """Passes over the data fall from 60 for ten images to 12 for a hundred thousand; never under 300 steps."""
    epochs = float(np.clip(60 * (10 / max(num_images, 1)) ** 0.175, 12, 60))
    return max(300, round(num_images * epochs / batch))


def num_parameters(module: torch.nn.Module) -> int:
    """How many weights a network has."""
    return sum(parameter.numel() for parameter in module.parameters())
