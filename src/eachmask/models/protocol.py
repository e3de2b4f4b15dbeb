"""What every model promises: three verbs, what it is for, and what it needs to learn.

``forward`` says everything the network has to say; ``losses`` and ``decode`` both start from that, so that a loss and
the predictions come from one pass. ``decode`` has two halves: :meth:`Network.select` chooses among tensors and gives
tensors, so that it can be exported with the network; :meth:`Network.pack` makes the results that users know.

:class:`Model` is what the rooms above rely on; a model of ours is a :class:`Network`, which writes ``decode`` once.
:class:`Promptable` and :class:`Recurrent` are for models that are asked about an image many times, and for those that
remember.

Shapes: B images, N objects of one image, m the side of a mask, P points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from eachmask.structures import DecodeOptions, ImageBatch, Instances, Polygons, Preprocess, RoIMasks

if TYPE_CHECKING:
    from eachmask.structures.prompts import Prompts
    from eachmask.structures.soft_masks import Samples
    from eachmask.structures.spatial import Spatial
    from eachmask.tasks.task import Task

T = TypeVar("T")
"""The noun that a model predicts and learns from."""
RawT = TypeVar("RawT")
"""A model's ``Raw``: a NamedTuple of what the network said."""
SelectedT = TypeVar("SelectedT")
"""A NamedTuple of tensors: what is left of it after thresholds, suppression and the heads on the rest."""
RawT_co = TypeVar("RawT_co", covariant=True)
EmbeddingT = TypeVar("EmbeddingT")
StateT = TypeVar("StateT")


# What the rooms above rely on -----------------------------------------------------------------------------------------


@runtime_checkable
class Model(Protocol[T]):
    """A network with three verbs, the same in training and in eval mode."""

    task: ClassVar[Task[Any]]
    """What it predicts; everything above the models asks this record."""
    max_classes: ClassVar[int | None]
    """1: it tells things from background and not from one another; None: any number."""
    needs: ClassVar[frozenset[str]]
    """What targets must have besides boxes and labels: of "masks" and "keypoints"."""
    num_classes: int

    def __call__(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Any:
        """Everything the network has to say of a batch.

        Args:
            given: what a user hands over with each image (clicks, a trimap), in the batch's pixels.
        """
        ...

    def losses(self, raw: Any, targets: list[T]) -> dict[str, Tensor]:
        """Scalars to sum, from what the network said and one target per image in the batch's pixels."""
        ...

    def decode(self, raw: Any, options: DecodeOptions) -> list[T]:
        """What the network found in each image, in the pixels of the image's valid area."""
        ...


@runtime_checkable
class Promptable(Protocol[EmbeddingT, RawT_co]):
    """A model that looks at an image once, and then answers as many questions about it as one likes."""

    def encode(self, images: ImageBatch) -> EmbeddingT:
        """What is known of images before anybody has asked; a NamedTuple of tensors."""
        ...

    def prompted(self, embedding: EmbeddingT, prompts: Sequence[Prompts]) -> RawT_co:
        """The answer to one set of prompts per image."""
        ...


class PointAnswers(NamedTuple):
    """K masks that lone points mean."""

    points: Tensor  # (K,) int64, which point
    logits: Tensor  # (K, h, w) over the padded image
    ious: Tensor  # (K,) predicted


@runtime_checkable
class PointPromptable(Protocol[EmbeddingT]):
    """A promptable model that finds everything in an image by being asked about points on a grid."""

    samples: ClassVar[Samples]
    """How coarse masks become pixels, see :class:`~eachmask.structures.soft_masks.Canvas`."""

    def encode(self, images: ImageBatch) -> EmbeddingT:
        """As :meth:`Promptable.encode`; has ``sizes`` and ``padded``, (height, width) px."""
        ...

    def at_points(self, embedding: EmbeddingT, points: Tensor, least: float) -> PointAnswers:
        """What points (P, 2) on the first image mean, in px as the network saw it: masks of a higher predicted IoU."""
        ...


@runtime_checkable
class Recurrent(Protocol[StateT, RawT_co]):
    """A model that remembers what it saw in earlier frames."""

    def step(self, images: ImageBatch, state: StateT | None) -> tuple[RawT_co, StateT]:
        """One frame of each video, and what is to be remembered of it; no state begins anew."""
        ...


# What our models are made of ------------------------------------------------------------------------------------------


class Network(nn.Module, Generic[RawT, SelectedT, T]):
    """A :class:`Model`; subclasses write ``forward``, ``losses`` and the two halves of ``decode``."""

    task: ClassVar[Task[Any]]
    max_classes: ClassVar[int | None] = None
    needs: ClassVar[frozenset[str]] = frozenset()
    suppresses: ClassVar[bool] = True
    """Whether ``DecodeOptions.suppression`` means something to it."""
    preprocess: ClassVar[Preprocess | None] = None
    """How it wants images, where that is not as its backbone wants them."""
    backbone_from: ClassVar[str] = ""
    """A bundled model that has seen such images: training starts from its backbone where it is the same network."""
    grid_defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Of one that is asked about points on a grid: what it wants otherwise than
    :class:`~eachmask.inference.everything.EverythingConfig` says."""
    answered_by: ClassVar[tuple[str, ...]] = ()
    """Of one that answers prompts: the methods that do the arithmetic, as "layer.method", from tensors to tensors; an
    exported file has a graph of each."""
    num_classes: int

    @property
    def max_objects(self) -> int | None:
        """How many objects it can find in an image at most, whatever is asked for; None: nothing limits it early."""
        return None

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> RawT:
        """Everything the network has to say of a batch, see :class:`Model`."""
        raise NotImplementedError

    def losses(self, raw: RawT, targets: list[T]) -> dict[str, Tensor]:
        """Scalars to sum, see :class:`Model`."""
        raise NotImplementedError

    def select(self, raw: RawT, options: DecodeOptions) -> SelectedT:
        """Tensors alone: what is kept of what the network said."""
        raise NotImplementedError

    def pack(self, selected: SelectedT, options: DecodeOptions) -> list[T]:
        """The results that users know, one per image."""
        raise NotImplementedError

    def decode(self, raw: RawT, options: DecodeOptions) -> list[T]:
        """What the network found, see :class:`Model`."""
        return self.pack(self.select(raw, options), options)


class Detections(NamedTuple):
    """Objects selected in a batch, one entry per image in every field, best first."""

    sizes: tuple[tuple[int, int], ...]  # valid (height, width)
    boxes: tuple[Tensor, ...]  # (N, 4) px, within the image
    labels: tuple[Tensor, ...]  # (N,) int64
    scores: tuple[Tensor, ...]  # (N,) 0..1
    masks: tuple[Tensor, ...] | None = None  # (N, m, m) probabilities, each spanning its box ...
    mask_boxes: tuple[Tensor, ...] | None = None  # ... or this one (N, 4), which may reach beyond the image
    outlines: tuple[Tensor, ...] | None = None  # (N, P, 2) vertices as (x, y), px
    keypoints: tuple[Tensor, ...] | None = None  # (N, P, 3) x, y in px and score

    @classmethod
    def of(cls, sizes: tuple[tuple[int, int], ...], kept: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Detections:
        """From boxes, labels and scores of each image."""
        boxes, labels, scores = zip(*kept, strict=True)
        return cls(sizes, boxes, labels, scores)

    def per_image(self, values: Tensor) -> tuple[Tensor, ...]:
        """One value for each object of all images (R, ...) -> those of each image."""
        return torch.split(values, [len(boxes) for boxes in self.boxes])

    def take(self, order: Sequence[Tensor]) -> Detections:
        """Of each image the objects with these numbers, in this order."""

        def taken(column: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
            return None if column is None else tuple(x[index] for x, index in zip(column, order, strict=True))

        return Detections(self.sizes, *(taken(column) for column in self[1:]))  # type: ignore[arg-type]


class Detector(Network[RawT, Detections, Instances], Generic[RawT]):
    """A network whose results are objects in boxes, with masks that span their boxes, outlines or keypoints."""

    def pack(self, selected: Detections, options: DecodeOptions) -> list[Instances]:
        """One :class:`~eachmask.structures.Instances` per image; masks stay as small as they are."""
        return [pack_image(selected, i, options) for i in range(len(selected.sizes))]


def pack_image(selected: Detections, image: int, options: DecodeOptions) -> Instances:
    """The objects of one image of the batch."""
    size, boxes = selected.sizes[image], selected.boxes[image]
    found = Instances(size, boxes, labels=selected.labels[image], scores=selected.scores[image])
    if selected.masks is not None:
        paste: Any = options.paste  # one of two, whatever it was called
        spanned = boxes if selected.mask_boxes is None else selected.mask_boxes[image]
        found.masks = RoIMasks(selected.masks[image], spanned, size, options.mask_threshold, paste)
    if selected.outlines is not None:
        rings = [[ring] for ring in selected.outlines[image].cpu().double().numpy()]
        found.masks = Polygons(rings, (), size)
    if selected.keypoints is not None:
        found.keypoints = selected.keypoints[image]
    return found
