"""Narrower names for objects that are already found: a cat, where the detector says animal.

The idea: few annotated photographs teach where objects are, but not what each of 80 kinds looks like. A network trained
on ImageNet has seen a thousand kinds; what it says of a crop around the object, before its last layer, is enough for a
linear classifier learnt from a few thousand objects (Donahue et al.: "DeCAF", ICML 2014, arXiv 1310.1531). A name is
only given where the classifier is sure. The class can be left to it too: then the detector need not tell classes apart
at all, and learns from the objects of all of them what an object is.

Shapes: N objects, K names, S = 128 the side of a crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eachmask.accel.lazy_dynamo import timm
from eachmask.structures import Category, Instances, Preprocess

CROPS_PER_PASS = 8
"""More do not get faster on a CPU, and each takes 6 MB on its way."""


@dataclass(frozen=True)
class Config:
    """What the names are, and when one is given."""

    names: tuple[str, ...]
    labels: tuple[int, ...]
    """The class of each name, as a label of the detector."""
    sure: float = 0.8
    """From this probability on a name is given."""
    decides: bool = False
    """Every object is looked at and gets the class whose names are likeliest together, whatever the detector says."""
    offsets: tuple[float, ...] = ()
    """Added to the names' logits where the class is decided, so that rare classes are not lost to frequent ones."""
    at_most: int = 20
    """So many of an image's best objects are looked at, where the detector tells classes apart itself."""
    side: int = 128
    """Of a crop, px."""
    context: float = 1.15
    """Side of the square that is cropped, over the box's longer side."""
    least: float = 16.0
    """Side of the smallest square, px of the image."""
    preprocess: Preprocess = Preprocess()
    """Of the crops; only mean and std act."""
    backbone: str = "tf_efficientnet_lite0"
    """timm's name of the network."""

    def to_dict(self) -> dict[str, Any]:
        """For a model file's header."""
        return asdict(self)


class CropClassifier(nn.Module):
    """A backbone trained on ImageNet and a linear layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.backbone = timm().create_model(config.backbone, pretrained=False, num_classes=0)
        self.classifier = nn.Linear(self.backbone.num_features, len(config.names))

    def forward(self, crops: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, K) logits."""
        logits: Tensor = self.classifier(self.features(crops))
        return logits

    def features(self, crops: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, D)."""
        vectors: Tensor = self.backbone(crops)
        return vectors

    def categories(self, wide: Sequence[Category]) -> tuple[Category, ...]:
        """The detector's categories and, behind these, the narrower ones."""
        return with_narrower(wide, self.config)[0]

    @torch.inference_mode()
    def name(
        self, image: NDArray[Any], found: Instances, limits: tuple[float, float], requested: Sequence[str] = ()
    ) -> Instances:
        """Label objects as the narrower category that they surely are; the others as their class.

        Args:
            image: (H, W, 3), as the objects lie on it.
            found: best first, with the detector's categories.
            limits: the pixel values that mean black and white.
            requested: names that are asked for. An object gets one of these, sure or not, if no other name of its class
                is likelier: whoever asks for cats shall not miss those animals that are cats if anything.

        Returns:
            the same objects; their categories are the detector's and, behind these, the narrower ones.
        """
        config = self.config
        categories, narrow = with_narrower(found.categories, config)
        boxes = found.boxes[: None if config.decides else config.at_most].cpu().numpy()
        device, labels = self.classifier.weight.device, found.labels.cpu().clone()
        for first in range(0, len(boxes), CROPS_PER_PASS):
            crops = self.crops(image, boxes[first : first + CROPS_PER_PASS], limits).to(device)
            logits = self(crops).float().cpu()
            best, name = logits.softmax(dim=1).max(dim=1)
            sure = best >= config.sure
            part = slice(first, first + len(best))
            others = likeliest_class(logits, config) if config.decides else labels[part]
            if requested:
                likeliest = likeliest_name(logits, others, config)
                asked = torch.tensor([name in requested for name in config.names])[likeliest]
                others = torch.where(asked, torch.tensor(narrow)[likeliest], others)
            labels[part] = torch.where(sure, torch.tensor(narrow)[name], others)
        return replace(found, labels=labels, categories=categories)

    def crops(self, image: NDArray[Any], boxes: NDArray[Any], limits: tuple[float, float]) -> Tensor:
        """Squares around (N, 4) boxes -> (N, 3, S, S), normalized; mirrored where they reach over the edge."""
        config = self.config
        parts = [square(image, box, config.side, config.context, config.least) for box in boxes]
        return config.preprocess(parts, limits).tensor


def with_narrower(wide: Sequence[Category], config: Config) -> tuple[tuple[Category, ...], tuple[int, ...]]:
    """The detector's categories with the narrower ones behind them; the label of each name among them.

    A name that is its class's own (COCO's only kind of person is the person) is that class.
    """
    first = max((category.id for category in wide), default=0) + 1
    categories, labels = list(wide), []
    for name, label in zip(config.names, config.labels, strict=True):
        if name == wide[label].name:
            labels.append(label)
            continue
        labels.append(len(categories))
        categories.append(Category(first + len(categories) - len(wide), name, wide[label].name))
    return tuple(categories), tuple(labels)


def likeliest_class(logits: Tensor, config: Config) -> Tensor:
    """The class whose names are likeliest together, (N, K) -> (N,) labels."""
    probabilities = (logits + torch.tensor(config.offsets or 0.0)).softmax(dim=1)
    together = probabilities.new_zeros(len(probabilities), max(config.labels) + 1)
    return together.index_add_(1, torch.tensor(config.labels), probabilities).argmax(dim=1)


def likeliest_name(logits: Tensor, classes: Tensor, config: Config) -> Tensor:
    """The likeliest among the names of each object's class, (N, K) and (N,) labels -> (N,) places in ``names``."""
    foreign = torch.tensor(config.labels)[None] != classes[:, None]
    return logits.masked_fill(foreign, -torch.inf).argmax(dim=1)


def square(image: NDArray[Any], box: Sequence[float], side: int, context: float, least: float) -> NDArray[Any]:
    """The square around a box (x1, y1, x2, y2) px, ``context`` times its longer side -> (side, side, 3)."""
    x1, y1, x2, y2 = (float(v) for v in box)
    wide = max(context * max(x2 - x1, y2 - y1), least)
    scale = side / wide
    # Sampling a large square at few points would alias: first its own neighborhood shrinks by whole-pixel averages.
    left, top = max(0, int((x1 + x2 - wide) / 2) - 2), max(0, int((y1 + y2 - wide) / 2) - 2)
    right, bottom = int((x1 + x2 + wide) / 2) + 3, int((y1 + y2 + wide) / 2) + 3
    window = image[top:bottom, left:right]
    shrink = min(1.0, 2 * scale)
    if shrink < 1:
        height, width = (max(1, round(shrink * n)) for n in window.shape[:2])
        fx, fy = width / window.shape[1], height / window.shape[0]
        window = cv2.resize(window, (width, height), interpolation=cv2.INTER_AREA)
    else:
        fx = fy = 1.0
    # Pixel centers lie at .5 in the package's coordinates, at whole numbers in OpenCV's.
    sx, sy = scale / fx, scale / fy
    cx, cy = ((x1 + x2) / 2 - left) * fx, ((y1 + y2) / 2 - top) * fy
    shift = [[sx, 0, side / 2 - cx * sx + 0.5 * sx - 0.5], [0, sy, side / 2 - cy * sy + 0.5 * sy - 0.5]]
    return cv2.warpAffine(
        np.ascontiguousarray(window), np.array(shift, np.float32), (side, side), flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )  # fmt: skip
