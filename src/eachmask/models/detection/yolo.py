"""YOLO: one look at the image, one grid of answers.

Redmon, Divvala, Girshick, Farhadi: "You Only Look Once: Unified, Real-Time Object Detection", CVPR 2016,
arXiv 1506.02640. Written from the paper.

The idea: the image is divided into S x S cells. The cell that an object's center falls into answers for it, with B
boxes, how sure it is of each (the confidence shall be the box's IoU with the object), and one distribution over
classes.
No proposals, no anchors, no pyramid: a regression by least squares, read by two fully connected layers.

Where we differ: the backbone is a ResNet-18 or an EfficientNet-Lite0 instead of the paper's 24 convolutions, and
instead of every image its map is resized, so that the grid spans the whole (padded) tensor whatever its size; with
images of 448 x 448 nothing is resized, as in the paper. The paper leaves open what happens if two centers fall into one
cell: here the first object has it. Crowd regions are ignored.

Shapes: B images, S x S cells, b boxes per cell, N objects, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.networks import ResNet, Timm
from eachmask.models.config import changed
from eachmask.models.detection.fast_rcnn import keep_best
from eachmask.models.protocol import Detections, Detector
from eachmask.ops.match import learnable
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.structures import boxes as box_ops
from eachmask.tasks.boxes import BOXES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial


class Raw(NamedTuple):
    """The answers of every cell, as the last layer gives them (linear: nothing keeps them in 0..1)."""

    boxes: Tensor  # (B, S, S, b, 4): center x and y in the cell, 0..1; square roots of width and height / tensor's
    confidence: Tensor  # (B, S, S, b)
    classes: Tensor  # (B, S, S, K) probabilities, given that there is an object
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image
    batch_size: tuple[int, int]  # padded (height, width)


@dataclass(frozen=True)
class Config:
    """What a variant may change. Defaults are the paper's, but for the widths of the layers."""

    grid: int = 7
    """S."""
    boxes_per_cell: int = 2
    coordinate_weight: float = 5.0
    """lambda_coord of eq. 3: of the boxes."""
    empty_weight: float = 0.5
    """lambda_noobj of eq. 3: of the confidence of boxes that stand for nothing, which are most."""
    width: int = 512
    """Channels of the last convolutions; the paper has 1024."""
    hidden: int = 2048
    """Of the first fully connected layer; the paper has 4096."""
    dropout: float = 0.5
    score_threshold: float = 0.001
    """From which the authors' code measures AP; what it draws begins at 0.2."""
    nms_threshold: float = 0.5
    max_detections: int = 100


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class Coarse(nn.Module):
    """A backbone's coarsest map, resized to twice the grid.

    Args:
        backbone: gives Features; see :mod:`eachmask.backbones.networks`.
    """

    def __init__(self, backbone: Any, grid: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.side = 2 * grid
        self.out_channels = int(backbone.channels[-1])

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, 2 S, 2 S); at 448 x 448 px that is the map as it is."""
        coarsest = self.backbone(images).maps[-1]
        return F.interpolate(coarsest, size=(self.side, self.side), mode="bilinear", align_corners=False)


class GridHead(nn.Module):
    """Two convolutions, the first of which halves the map, and two fully connected layers (figure 3 of the paper)."""

    def __init__(self, channels: int, num_classes: int, config: Config) -> None:
        super().__init__()
        self.grid, self.num_boxes = config.grid, config.boxes_per_cell
        self.convs = nn.Sequential(
            nn.Conv2d(channels, config.width, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(config.width, config.width, 3, padding=1),
            nn.LeakyReLU(0.1),
        )
        self.hidden = nn.Linear(config.width * config.grid**2, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.answers = nn.Linear(config.hidden, config.grid**2 * (5 * config.boxes_per_cell + num_classes))

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, 2 S, 2 S) -> boxes (B, S, S, b, 4), confidence (B, S, S, b), classes (B, S, S, K)."""
        x = self.dropout(F.leaky_relu(self.hidden(self.convs(level).flatten(1)), 0.1))
        answers = self.answers(x).unflatten(1, (self.grid, self.grid, -1)).float()
        boxes, classes = answers.split([5 * self.num_boxes, answers.shape[-1] - 5 * self.num_boxes], dim=-1)
        boxes = boxes.unflatten(-1, (self.num_boxes, 5))
        return boxes[..., :4], boxes[..., 4], classes


# The model ------------------------------------------------------------------------------------------------------------


class YOLO(Detector[Raw]):
    """Detection on one grid.

    Args:
        backbone: gives Features, of which the coarsest is used.
        num_classes: K.
    """

    task = BOXES

    def __init__(self, backbone: nn.Module, num_classes: int, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.num_classes = num_classes
        self.backbone = Coarse(backbone, config.grid)
        self.head = GridHead(self.backbone.out_channels, num_classes, config)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> the answers of every cell."""
        height, width = images.tensor.shape[-2:]
        boxes, confidence, classes = self.head(self.backbone(images.tensor))
        return Raw(boxes, confidence, classes, images.sizes, (height, width))

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """The five sums of squares of eq. 3, with their weights, per image.

        Args:
            targets: one per image, in pixels of the batch, with labels.
        """
        c = self.config
        columns = zip(*(assign(target, raw.batch_size, c.grid) for target in targets), strict=True)
        boxes, labels, index, ignored = (torch.stack(column).to(raw.boxes.device) for column in columns)
        owned = index >= 0  # (B, S, S)
        found, gt_boxes = raw.boxes[owned], boxes[owned]  # (M, b, 4), (M, 4)
        iou = in_cell_iou(found.detach(), gt_boxes, c.grid)  # (M, b)
        best = iou.argmax(dim=1, keepdim=True)
        chosen = found.gather(1, best[..., None].expand(-1, -1, 4)).squeeze(1)

        responsible = torch.zeros_like(raw.confidence, dtype=torch.bool)
        responsible[owned] = torch.zeros_like(iou, dtype=torch.bool).scatter(1, best, True)
        confidence = raw.confidence[owned].gather(1, best)
        empty = ~responsible & ~ignored[..., None]
        one_hot = F.one_hot(labels[owned], self.num_classes).to(raw.classes)
        per_image = 1 / max(len(targets), 1)
        return {
            "center": (chosen[:, :2] - gt_boxes[:, :2]).square().sum() * c.coordinate_weight * per_image,
            "size": (chosen[:, 2:] - gt_boxes[:, 2:]).square().sum() * c.coordinate_weight * per_image,
            "object": (confidence - iou.gather(1, best)).square().sum() * per_image,
            "no_object": raw.confidence[empty].square().sum() * c.empty_weight * per_image,
            "class": (raw.classes[owned] - one_hot).square().sum() * per_image,
        }

    @torch.no_grad()
    def select(self, raw: Raw, options: DecodeOptions) -> Detections:
        """Class-specific confidence of every box (eq. 1), suppression per class; the best first."""
        limits = options.limits(self.config)
        scores = raw.confidence.clamp(0, 1)[..., None] * raw.classes.clamp(0, 1)[..., None, :]  # (B, S, S, b, K)
        height, width = raw.batch_size
        boxes = relative_boxes(raw.boxes, self.config.grid) * raw.boxes.new_tensor([width, height, width, height])
        kept = []
        for image, size in enumerate(raw.sizes):
            clipped = box_ops.clip(boxes[image].reshape(-1, 1, 4), size)
            kept.append(keep_best(clipped, scores[image].reshape(-1, self.num_classes), limits))
        return Detections.of(raw.sizes, kept)


# Target assignment, boxes ---------------------------------------------------------------------------------------------


def assign(target: Instances, batch_size: tuple[int, int], grid: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What every cell shall answer (section 2): it is the object's whose center falls into it, the first one's of many.

    Args:
        batch_size: (height, width) that the grid spans.

    Returns:
        boxes (S, S, 4) as in :class:`Raw`, labels (S, S), index of the object (S, S) or -1, and whether a cell
        without object lies in a crowd (S, S).
    """
    height, width = batch_size
    boxes = torch.zeros(grid, grid, 4)
    labels, index = torch.zeros(grid, grid, dtype=torch.int64), torch.full((grid, grid), -1)
    ignored = torch.zeros(grid, grid, dtype=torch.bool)
    single, crowd = learnable(target, torch.device("cpu"))
    relative = target.boxes.cpu().float() / torch.tensor([width, height, width, height])
    for i in reversed(single.tolist()):
        x, y, w, h = box_ops.convert(relative[i], "xyxy", "cxcywh").tolist()
        column, row = (min(max(int(v * grid), 0), grid - 1) for v in (x, y))
        boxes[row, column] = torch.tensor([x * grid - column, y * grid - row, w**0.5, h**0.5])
        labels[row, column], index[row, column] = int(target.labels[i]), i
    middle = (torch.arange(grid) + 0.5) / grid
    for x1, y1, x2, y2 in relative[crowd].tolist():
        ignored |= ((middle > y1) & (middle < y2))[:, None] & ((middle > x1) & (middle < x2))[None]
    return boxes, labels, index, ignored & (index < 0)


def relative_boxes(boxes: Tensor, grid: int) -> Tensor:
    """Answers (..., S, S, b, 4) -> xyxy in 0..1 of the tensor."""
    place = torch.arange(grid, device=boxes.device, dtype=boxes.dtype)
    corner = torch.stack(torch.meshgrid(place, place, indexing="xy"), dim=-1)[:, :, None]  # (S, S, 1, 2): x, y
    center, sides = (boxes[..., :2] + corner) / grid, boxes[..., 2:].square()
    return torch.cat([center - sides / 2, center + sides / 2], dim=-1)


def in_cell_iou(found: Tensor, gt_boxes: Tensor, grid: int) -> Tensor:
    """IoU of a cell's boxes with its object: (M, b, 4), (M, 4), both as in :class:`Raw` -> (M, b)."""

    def corners(boxes: Tensor) -> Tensor:
        center, sides = boxes[..., :2] / grid, boxes[..., 2:].square()
        return torch.cat([center - sides / 2, center + sides / 2], dim=-1)

    a, b = corners(found), corners(gt_boxes)[:, None]
    common = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    return common / (box_ops.area(a) + box_ops.area(b) - common).clamp(min=1e-12)


# Variants -------------------------------------------------------------------------------------------------------------


def yolo_v1_r18(num_classes: int = 80, **config: Any) -> YOLO:
    """ResNet-18; give it images of 448 x 448 px."""
    return YOLO(ResNet("resnet18"), num_classes, changed(Config(), config))


def yolo_v1_lite0(num_classes: int = 80, **config: Any) -> YOLO:
    """EfficientNet-Lite0 and narrow layers, for CPUs."""
    light = Config(width=128, hidden=512, dropout=0.0)
    return YOLO(Timm("tf_efficientnet_lite0"), num_classes, changed(light, config))
