"""Implicit PointRend: a head predicts, for each object, the perceptron that says of points whether they are inside.

Cheng, Parkhi, Kirillov: "Pointly-Supervised Instance Segmentation", CVPR 2022, arXiv 2104.06404, section 5; on
:mod:`~eachmask.models.instance.pointrend`.

The idea: there is no coarse guess. A region's features become the weights of a small perceptron of its own, which reads
the fine feature map and the point's place in the box; as no dense mask enters the loss, labeled points would do.

Where we differ: besides what PointRend says, masks know no class, and all objects begin with one ordinary untrained
perceptron instead of one of zeros.

Shapes: R RoIs of all images, P points of each, C channels of the pyramid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN
from eachmask.models.config import changed
from eachmask.models.detection.faster_rcnn import light_fpn, resnet_fpn
from eachmask.models.instance import pointrend
from eachmask.models.instance.pointrend import PointHeadConfig, PointRend, RegionHead, read_grid
from eachmask.structures import Instances


@dataclass(frozen=True)
class PerceptronConfig(PointHeadConfig):
    """The perceptron whose weights are predicted."""

    position_channels: int = 256
    """Sines and cosines that tell it where in the box it is."""


@dataclass(frozen=True)
class Config(pointrend.Config):
    """PointRend's choices and those of the predicted perceptron."""

    point_head: PerceptronConfig = PerceptronConfig()
    parameter_decay: float = 1e-5
    """Weight of the predicted parameters' mean square in the loss."""


class PredictedPerceptron(nn.Module):
    """A perceptron whose weights come from outside, one set per object (arXiv 2104.06404, section 5).

    It reads the fine features and the point's place in the box as sines and cosines of random frequencies (Tancik et
    al., "Fourier Features", arXiv 2006.10739).
    """

    directions: Tensor

    def __init__(self, channels: int, config: PerceptronConfig) -> None:
        super().__init__()
        self.register_buffer("directions", torch.randn(2, config.position_channels // 2))
        widths = [channels + config.position_channels, *[config.width] * config.layers, 1]
        self.shapes = [(b, a) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        self.num_parameters = sum(rows * columns + rows for rows, columns in self.shapes)

    def initial(self) -> Tensor:
        """Parameters of an ordinary untrained perceptron (num_parameters,)."""
        weights = [torch.empty(shape) for shape in self.shapes]
        for weight in weights:
            nn.init.kaiming_normal_(weight, nonlinearity="relu")
        return torch.cat([w.flatten() for w in weights] + [w.new_zeros(len(w)) for w in weights])

    def forward(self, fine: Tensor, points: Tensor, parameters: Tensor) -> Tensor:
        """(R, C, P) features, (R, P, 2) points in 0..1, (R, num_parameters) weights, then biases -> (R, P) logits."""
        angles = 2 * math.pi * (2 * points - 1) @ self.directions
        x = torch.cat([angles.sin(), angles.cos()], dim=-1).transpose(1, 2)
        x = torch.cat([x.to(fine.dtype), fine], dim=1)
        sizes = [rows * columns for rows, columns in self.shapes] + [rows for rows, _ in self.shapes]
        parts = parameters.split(sizes, dim=1)
        count = len(self.shapes)
        for i, (shape, weight, bias) in enumerate(zip(self.shapes, parts[:count], parts[count:], strict=True)):
            x = torch.baddbmm(bias[:, :, None], weight.view(-1, *shape), x)
            x = F.relu(x) if i < count - 1 else x
        return x[:, 0]


# The model ------------------------------------------------------------------------------------------------------------


class ImplicitPointRend(PointRend):
    """PointRend whose perceptron is predicted for each object; it needs no dense mask, so points may be its labels."""

    config: Config
    point_head: PredictedPerceptron  # type: ignore[assignment]

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        super().__init__(backbone, num_classes, config or Config())

    def build_point_heads(self, channels: int) -> None:
        """The head that predicts weights, and the perceptron that gets them."""
        self.point_head = PredictedPerceptron(channels, self.config.point_head)
        self.parameter_head = RegionHead(channels, self.point_head.num_parameters, self.config.region_head)
        with torch.no_grad():
            self.parameter_head.outputs.bias.copy_(self.point_head.initial())

    def mask_modules(self) -> tuple[nn.Module, ...]:
        """What has weights that only objects teach."""
        return (self.parameter_head,)

    def represent(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """Weights of each region's perceptron (R, num_parameters)."""
        parameters: Tensor = self.parameter_head(read_grid(features, boxes, self.config.region_head.grid_size))
        return parameters

    def point_logits(self, fine: Tensor, points: Tensor, region: Tensor, labels: Tensor) -> Tensor:
        """As in PointRend; the class has no say."""
        logits: Tensor = self.point_head(fine, points, region)
        return logits

    def region_losses(
        self, region: Tensor, labels: Tensor, targets: list[Instances], matched: list[Tensor], boxes: list[Tensor]
    ) -> dict[str, Tensor]:
        """Keeps the predicted weights small (section 5)."""
        return {"parameters": self.config.parameter_decay * region.float().square().mean()}

    def training_points(self, region: Tensor, labels: Tensor) -> Tensor:
        """Anywhere: there is no coarse mask that could be undecided."""
        return torch.rand(len(labels), self.config.points.per_object, 2, device=labels.device)

    def first_side(self) -> int:
        """Side of the square of all points of one step."""
        return math.isqrt(self.config.points.per_subdivision)


# Variants -------------------------------------------------------------------------------------------------------------

DETECTRON2 = Config(rpn=pointrend.DETECTRON2.rpn, conventions=pointrend.DETECTRON2.conventions, train_on_predicted=True)
LIGHT = Config(
    rpn=pointrend.LIGHT.rpn,
    box_head=pointrend.LIGHT.box_head,
    region_head=replace(pointrend.LIGHT.region_head, width=128),
    point_head=PerceptronConfig(layers=2, width=32, position_channels=32),
    points=pointrend.LIGHT.points,
)
"""For small networks on small images."""


def implicit_pointrend_r50_fpn(num_classes: int = 80, **config: Any) -> ImplicitPointRend:
    """ResNet-50 with predicted perceptrons."""
    chosen = changed(DETECTRON2, config)
    return ImplicitPointRend(resnet_fpn("resnet50", chosen.norm_eps, stride_first=True), num_classes, chosen)


def implicit_pointrend_lite0_fpn(num_classes: int = 80, **config: Any) -> ImplicitPointRend:
    """EfficientNet-Lite0 with narrow predicted perceptrons."""
    return ImplicitPointRend(light_fpn("tf_efficientnet_lite0"), num_classes, changed(LIGHT, config))
