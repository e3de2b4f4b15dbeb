"""Which models can be had by name, where their weights come from, and what is said about them by whom.

Bundled models are files beside this module, and each file speaks for itself (``weights.file.read_info``). The
catalogue holds what cannot be bundled: weights that others publish. Their scores are *published* ones, reported by
the source; scores that we measured are in the model files alone, so that the two are never mixed up.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from eachmask.structures import Category, Preprocess, UserError
from eachmask.weights.coco_categories import COCO_CATEGORIES, PERSON
from eachmask.weights.file import ModelInfo

BUNDLED = Path(__file__).parent / "bundled"
"""Folder of the models that the package brings along."""


@dataclass(frozen=True)
class Entry:
    """Weights that somebody else publishes."""

    name: str
    """What the user types; also the name of the variant function that these weights fit."""
    summary: str
    """One line for lists."""
    url: str
    sha256: str
    """Hexadecimal SHA-256 of the file at ``url``, or the leading digits of it where the source publishes no more."""
    size_mb: float
    """Of the download, in units of a million bytes."""
    published: Mapping[str, float]
    """Scores as the source reports them, COCO val2017, in per cent."""
    licence: str
    source: str
    """Who publishes the weights, in words."""
    categories: tuple[Category, ...] = COCO_CATEGORIES
    preprocess: Preprocess = field(default_factory=Preprocess)
    config: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the variant function that these weights want."""
    converter: str = "from_torchvision"
    """Module below ``eachmask.weights`` whose ``convert`` renames the source's entries to ours."""

    @property
    def host(self) -> str:
        """Where the download comes from."""
        return urlsplit(self.url).hostname or self.url

    def info(self, sha256: str | None = None) -> ModelInfo:
        """Header of the model file that the download becomes.

        Args:
            sha256: the whole digest of the file that was read; by default as much of it as is published.
        """
        return ModelInfo(
            variant=self.name,
            config=dict(self.config),
            preprocess=self.preprocess,
            categories=self.categories,
            licence=self.licence,
            training={"source": self.source, "url": self.url, "sha256": sha256 or self.sha256},
            name=self.name,
            card=self.card(),
        )

    def card(self) -> str:
        """The model card, Markdown."""
        scores = ", ".join(f"{name} {value:.1f}" for name, value in self.published.items())
        used = sum(category.name != "N/A" for category in self.categories)
        return (
            f"# {self.name}\n\n{self.summary}.\n\n"
            f"- Weights: {self.source}, {self.size_mb:.0f} MB from {self.host}, fetched on first use\n"
            f"- Published scores (COCO val2017, per cent): {scores}\n"
            f"- Categories: {used} of COCO's\n"
            f"- Licence: {self.licence}\n"
        )


_TORCHVISION = "torchvision's official COCO_V1 weights"
_LICENCE = (
    "code BSD-3-Clause, weights not stated; the source leaves it to the user to see what the training data allows "
    "(COCO 2017: annotations CC BY 4.0, photographs under their Flickr terms)"
)
_FIRST = {"norm_eps": 0.0}
"""The first generation was trained with batch normalisation that adds no epsilon to the variance."""
_FILES = "https://download.pytorch.org/models/"

# torchvision puts the first eight digits of the file's SHA-256 into its name and publishes no longer digest.
CATALOGUE = (
    Entry(
        "mask_rcnn_r50_fpn",
        "Everyday objects, masks: Mask R-CNN as in the paper, ResNet-50 with FPN",
        _FILES + "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
        sha256="bf2d0c1e",
        size_mb=178.1,
        published={"box AP": 37.9, "mask AP": 34.6},
        licence=_LICENCE,
        source=_TORCHVISION,
        config=_FIRST,
    ),
    Entry(
        "mask_rcnn_r50_fpn_v2",
        "Everyday objects, masks: Mask R-CNN with deeper heads and a longer training, ResNet-50 with FPN",
        _FILES + "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
        sha256="73cbd019",
        size_mb=185.8,
        published={"box AP": 47.4, "mask AP": 41.8},
        licence=_LICENCE,
        source=_TORCHVISION,
    ),
    Entry(
        "faster_rcnn_r50_fpn",
        "Everyday objects, boxes only: Faster R-CNN, ResNet-50 with FPN",
        _FILES + "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
        sha256="258fb6c6",
        size_mb=167.5,
        published={"box AP": 37.0},
        licence=_LICENCE,
        source=_TORCHVISION,
        config=_FIRST,
    ),
    Entry(
        "faster_rcnn_r50_fpn_v2",
        "Everyday objects, boxes only: Faster R-CNN with deeper heads and a longer training, ResNet-50 with FPN",
        _FILES + "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
        sha256="dd69338a",
        size_mb=175.2,
        published={"box AP": 46.7},
        licence=_LICENCE,
        source=_TORCHVISION,
    ),
    Entry(
        "keypoint_rcnn_r50_fpn",
        "People, boxes and 17 body keypoints: Keypoint R-CNN, ResNet-50 with FPN",
        _FILES + "keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
        sha256="fc266e95",
        size_mb=237.0,
        published={"box AP": 54.6, "keypoint AP": 65.0},
        licence=_LICENCE,
        source=_TORCHVISION,
        categories=PERSON,
        config=_FIRST,
    ),
)
"""Everything that is fetched on first use."""


def bundled() -> dict[str, Path]:
    """Name -> file of the models that work without a network, in alphabetical order."""
    return {path.stem: path for path in sorted(BUNDLED.glob("*.safetensors"))}


def find(name: str) -> Entry:
    """The catalogue's entry of that name.

    Raises:
        UserError: there is none; the message has the nearest names.
    """
    for entry in CATALOGUE:
        if entry.name == name:
            return entry
    known = [*bundled(), *(entry.name for entry in CATALOGUE)]
    near = difflib.get_close_matches(name, known, n=3) or known
    raise UserError(
        f"there are no weights by the name {name!r}; did you mean {' or '.join(near)}? A model file of one's own is "
        "given by its path, ending in .safetensors"
    )
