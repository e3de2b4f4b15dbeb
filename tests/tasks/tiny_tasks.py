"""Models of one convolution, one for each task: nothing outside of this file and ``eachmask.tasks`` knows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.data.sample import Sample
from eachmask.data.transforms.crop import Flip, LargeScaleJitter
from eachmask.models.protocol import Network
from eachmask.structures import (
    RLE,
    Category,
    DecodeOptions,
    ImageBatch,
    Instances,
    Matte,
    PanopticMap,
    Preprocess,
    Segment,
    SemanticMap,
)
from eachmask.tasks.instances import INSTANCES
from eachmask.tasks.matting import MATTING
from eachmask.tasks.panoptic import PANOPTIC
from eachmask.tasks.semantic import SEMANTIC
from eachmask.training.recipe import Recipe

SIZE = (48, 64)


class Raw(NamedTuple):
    logits: Tensor  # (B, C, H, W)
    sizes: tuple[tuple[int, int], ...]


class Tiny(Network[Raw, tuple[Tensor, ...], Any]):
    """One convolution of 3 x 3."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.encoder = nn.Conv2d(3, channels, 3, padding=1)

    def forward(self, images: ImageBatch, given: Sequence[Any] | None = None) -> Raw:
        return Raw(self.encoder(images.tensor), images.sizes)

    def select(self, raw: Raw, options: DecodeOptions) -> tuple[Tensor, ...]:
        return tuple(logits[:, :h, :w] for logits, (h, w) in zip(raw.logits, raw.sizes, strict=True))

    def losses(self, raw: Raw, targets: list[Any]) -> dict[str, Tensor]:
        pairs = zip(self.select(raw, DecodeOptions()), targets, strict=True)
        return {"pixels": torch.stack([self.loss(logits, target) for logits, target in pairs]).mean()}

    def loss(self, logits: Tensor, target: Any) -> Tensor:
        raise NotImplementedError


class TinySemantic(Tiny):
    """The class of each pixel."""

    task = SEMANTIC

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, num_classes)

    def loss(self, logits: Tensor, target: SemanticMap) -> Tensor:
        return F.cross_entropy(logits[None], target.labels[None].long(), ignore_index=target.ignore)

    def pack(self, selected: tuple[Tensor, ...], options: DecodeOptions) -> list[SemanticMap]:
        return [SemanticMap(logits.argmax(0)) for logits in selected]


class TinyPanoptic(Tiny):
    """The class of each pixel; connected pixels of class 1 are one thing, those of class 0 are stuff."""

    task = PANOPTIC

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, num_classes)

    def loss(self, logits: Tensor, target: PanopticMap) -> Tensor:
        return F.cross_entropy(logits[None], target.to_semantic().labels[None].long(), ignore_index=255)

    def pack(self, selected: tuple[Tensor, ...], options: DecodeOptions) -> list[PanopticMap]:
        return [segments_of(logits.argmax(0)) for logits in selected]


def segments_of(labels: Tensor) -> PanopticMap:
    """One segment of ground, and one for each square of more than 20 px."""
    from skimage.measure import label

    parts = torch.from_numpy(label(labels.numpy() == 1, connectivity=1).astype(np.int32))
    counts = parts.flatten().bincount()
    large = [i for i in range(1, len(counts)) if counts[i] > 20]
    ids = torch.where(labels == 0, 1, torch.where(torch.isin(parts, torch.tensor(large)), parts + 1, 0))
    things = tuple(Segment(i + 1, 1, score=0.9) for i in large)
    return PanopticMap(ids, (Segment(1, 0, score=0.8), *things))


class TinyMatting(Tiny):
    """The opacity of each pixel; ``given`` is a clean background, which is taken away first."""

    task = MATTING

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, 1)

    def forward(self, images: ImageBatch, given: Sequence[Matte] | None = None) -> Raw:
        tensor = images.tensor.clone()
        for image, background in zip(tensor, given or (), strict=False):
            height, width = background.image_size
            assert background.foreground is not None
            image[:, :height, :width] -= background.foreground.to(image)
        return Raw(self.encoder(tensor), images.sizes)

    def loss(self, logits: Tensor, target: Matte) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits[0].float(), target.alpha.float())

    def pack(self, selected: tuple[Tensor, ...], options: DecodeOptions) -> list[Matte]:
        return [Matte(logits[0].float().sigmoid()) for logits in selected]


class TinyRecurrent(Tiny):
    """Objects, seen a little longer than they are there."""

    task = INSTANCES

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, 1)

    def step(self, images: ImageBatch, state: Tensor | None) -> tuple[Raw, Tensor]:
        raw = self.forward(images)
        seen = raw.logits if state is None else torch.maximum(raw.logits, state)
        return raw._replace(logits=seen), raw.logits

    def loss(self, logits: Tensor, target: Instances) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits[0], torch.from_numpy(target.to_label_map() > 0).float())

    def pack(self, selected: tuple[Tensor, ...], options: DecodeOptions) -> list[Instances]:
        return [self._objects(logits[0]) for logits in selected]

    def _objects(self, logits: Tensor) -> Instances:
        from skimage.measure import label

        masks = RLE.from_label_map(label(logits.float().numpy() > 0, connectivity=1))
        boxes = torch.from_numpy(masks.boxes())
        return Instances((logits.shape[0], logits.shape[1]), boxes, masks, scores=torch.full((len(masks),), 0.9))


VARIANTS = {
    "tiny_semantic": TinySemantic,
    "tiny_panoptic": TinyPanoptic,
    "tiny_matting": TinyMatting,
    "tiny_recurrent": TinyRecurrent,
}


@dataclass(frozen=True)
class Squares:
    """Eight images with a bright square each."""

    task: str
    categories: tuple[Category, ...] = (Category(1, "ground", is_thing=False), Category(2, "square"))

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        inside = np.zeros(SIZE, bool)
        y, x = int(rng.integers(4, 20)), int(rng.integers(4, 36))
        inside[y : y + 20, x : x + 20] = True
        image = rng.integers(0, 40, (*SIZE, 3)).astype(np.uint8)
        image[inside] += 180
        return Sample(image, self.target(inside), Path(f"square-{index}.png"), index, given=self.given())

    def target(self, inside: np.ndarray) -> Any:
        pixels = torch.from_numpy(inside)
        if self.task == "semantic":
            return SemanticMap(pixels.long(), self.categories)
        if self.task == "panoptic":
            return PanopticMap(pixels.long() + 1, (Segment(1, 0), Segment(2, 1)), self.categories)
        if self.task == "matting":
            return Matte(pixels.float())
        masks = RLE.from_bitmaps(inside[None])
        return Instances(SIZE, torch.from_numpy(masks.boxes()), masks, categories=self.categories)

    def given(self) -> Matte | None:
        """A clean background, all black."""
        return Matte(torch.zeros(SIZE), torch.zeros(3, *SIZE)) if self.task == "matting" else None


def write_squares(folder: Path, task: str, split: str = "val") -> Path:
    """Squares as a data set on disk, its classes in another order than the model's and with one that it does not
    know."""
    data = Squares(task)
    for i in range(len(data)):
        sample = data[i]
        for place, pixels in (("images", sample.image[..., ::-1]), *_files(sample.targets)):
            path = folder / place / split / f"square-{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), pixels)
    if task == "semantic":
        (folder / "classes.txt").write_text("square\nsky\nground\n")
    if task == "instances":
        rows = [f"{split},square-{i}.png,1,1,ground,0" for i in range(len(data))]
        (folder / "objects.csv").write_text("\n".join(["split,image,number,category_id,category,crowd", *rows]))
    if task == "panoptic":
        write_panoptic_json(folder, split, [data[i].targets for i in range(len(data))])
    return folder


def write_panoptic_json(folder: Path, split: str, targets: Sequence[PanopticMap]) -> None:
    """The segments of maps whose pixels lie in ``panoptic``."""
    names = [f"square-{i}.png" for i in range(len(targets))]
    ids = {"square": 7, "sky": 3, "ground": 5}
    segments = [{"id": 1, "category_id": ids["ground"]}, {"id": 2, "category_id": ids["square"]}]
    content = {
        "images": [{"id": i, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for i, name in enumerate(names)],
        "annotations": [{"image_id": i, "file_name": n, "segments_info": segments} for i, n in enumerate(names)],
        "categories": [{"id": k, "name": name, "isthing": int(name == "square")} for name, k in ids.items()],
    }
    (folder / f"panoptic_{split}.json").write_text(json.dumps(content))


def _files(target: Any) -> list[tuple[str, np.ndarray]]:
    if isinstance(target, SemanticMap):
        labels = np.where(target.labels.numpy() == 1, 0, 2).astype(np.uint8)
        labels[:2] = target.ignore
        return [("classes", labels)]
    if isinstance(target, Matte):
        return [("alpha", (target.alpha.numpy() * 255).astype(np.uint8))]
    if isinstance(target, PanopticMap):
        return [("panoptic", np.stack([np.zeros(SIZE), np.zeros(SIZE), target.ids.numpy()], 2).astype(np.uint8))]
    return [("labels", target.to_label_map().astype(np.uint8))]


def recipe(name: str, **changes: Any) -> Recipe:
    """A short run with the augmentation that all tasks share."""
    task = VARIANTS[name].task
    settings: dict[str, Any] = {
        "variant": name, "preprocess": Preprocess(short_side=None, long_side=None, divisor=8),
        "augment": Augment(), "score": task.scoring.scores, "best": task.scoring.best, "steps": 60, "batch_size": 4,
        "learning_rate": 0.05, "warmup_steps": 4, "evaluate_every": 30, "ema_decay": 0.9,
    }  # fmt: skip
    return Recipe(**(settings | changes))


@dataclass(frozen=True)
class Augment:
    """Scaled, cut and mirrored."""

    jitter: LargeScaleJitter = LargeScaleJitter(size=SIZE, scale=(0.8, 1.25))
    flip: Flip = Flip()

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return self.flip(self.jitter(sample, rng), rng)
