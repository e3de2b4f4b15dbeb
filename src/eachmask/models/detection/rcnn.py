"""R-CNN: a convolutional network looks at every proposal by itself.

Girshick, Donahue, Darrell, Malik: "Rich feature hierarchies for accurate object detection and semantic segmentation",
CVPR 2014, arXiv 1311.2524.

The idea: selective search proposes boxes; each is cut out with some context, warped to the network's input size
whatever its shape, and described by one vector of features. A linear support vector machine (SVM) per class scores the
vector, and a linear regressor per class refines the box.

The paper trains in three stages: the network is fine-tuned as a classifier of crops, then the SVMs are fitted on its
features with hard negatives, then the regressors by ridge regression. Here the ``losses`` do the three at once, the
SVMs and regressors on features that their gradient does not reach; :meth:`RCNN.fit` does the last two as the paper
does, on a network that has been fine-tuned.

Where we differ: the description is the mean of the last map (AlexNet's fc7 and, for boxes, pool5); it has a length of
20 for every crop (the paper scales all of them by one number so that the mean is 20); the SVM's margin becomes a
score in 0..1 by a fixed sigmoid.

Shapes: B images, P proposals of one image, R RoIs of all images, D numbers describe one, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.networks import ResNet, Timm
from eachmask.models.config import changed
from eachmask.models.detection.fast_rcnn import LIGHT_SEARCH, SamplingConfig, SearchConfig, keep_best, sample_boxes
from eachmask.models.protocol import Detections, Detector
from eachmask.ops.match import learnable
from eachmask.ops.roi import roi_align
from eachmask.ops.selective_search import Proposals
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.structures import boxes as box_ops
from eachmask.tasks.boxes import BOXES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial

CROP_CHUNK_SIZE = 64
"""So many crops go through the network together when predicting."""
LENGTH = 20.0
"""Of a description."""
NO_WEIGHTS: box_ops.Weights = (1.0, 1.0, 1.0, 1.0)
SOLVER: dict[str, Any] = {"method": "L-BFGS-B", "jac": True, "options": {"maxiter": 1000, "ftol": 1e-13, "gtol": 1e-9}}
"""scipy's, for the support vector machines."""


class Raw(NamedTuple):
    """R-CNN shares nothing between proposals: what it passes on is the pixels themselves."""

    pixels: Tensor  # (B, 3, H, W)
    proposals: tuple[Proposals, ...]  # of each image, boxes in px of the batch
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image


@dataclass(frozen=True)
class CropConfig:
    """How a proposal is cut out."""

    side: int = 227
    """Of the warped crop, px."""
    context: int = 16
    """Pixels of it, on each side, that lie around the proposal (appendix A)."""


@dataclass(frozen=True)
class SVMConfig:
    """The support vector machines."""

    bg_iou: float = 0.3
    """Less IoU than this to all objects of a class makes a negative example of it; what lies between this and an
    object's own box is not learnt from (appendix B)."""
    hard: int = 16
    """So many of the most wrongly scored negative examples of a batch are learnt from, per class."""
    cost: float = 1e-3
    """C: what a violated margin costs beside half the squared length of the weights (``fit``)."""
    slope: float = 3.0
    """A margin m becomes the score sigmoid(slope * m)."""


@dataclass(frozen=True)
class RegressorConfig:
    """The regressors of boxes."""

    iou: float = 0.6
    """Proposals with this IoU to an object teach them (appendix C)."""
    ridge: float = 1000.0
    """Their regularization (``fit``)."""


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    search: SearchConfig = SearchConfig()
    sampling: SamplingConfig = SamplingConfig(bg_iou=0.0, batch_size=128)
    crop: CropConfig = CropConfig()
    svm: SVMConfig = SVMConfig()
    regressor: RegressorConfig = RegressorConfig()
    score_threshold: float = 0.05
    nms_threshold: float = 0.3
    max_detections: int = 100


# Blocks, in the order of the data -------------------------------------------------------------------------------------


def warp(pixels: Tensor, boxes: list[Tensor], side: int, context: int) -> Tensor:
    """Cut out proposals and warp each to a square (appendix A): (R, 3, side, side).

    Args:
        pixels: (B, 3, H, W) normalized; beyond the image there is the mean color, 0.
        boxes: (N_b, 4) px of each image.
        context: pixels of the result around the proposal, on each side.
    """
    wider = []
    for b in boxes:
        margin = (b[:, 2:] - b[:, :2]) * (context / (side - 2 * context))
        wider.append(torch.cat([b[:, :2] - margin, b[:, 2:] + margin], dim=1))
    return roi_align([pixels], wider, side, (1,), sampling=2, aligned=True)


def describe(backbone: nn.Module, crops: Tensor) -> Tensor:
    """(R, 3, side, side) -> (R, D) the mean of the backbone's last map."""
    result: Tensor = backbone(crops).maps[-1].mean(dim=(2, 3))
    return result


# The model ------------------------------------------------------------------------------------------------------------


class RCNN(Detector[Raw]):
    """Regions with CNN features.

    Args:
        backbone: gives Features; only the last map is looked at.
        num_classes: K, without background.
    """

    task = BOXES

    def __init__(self, backbone: nn.Module, num_classes: int, config: Config | None = None) -> None:
        super().__init__()
        self.config = config or Config()
        self.num_classes = num_classes
        self.backbone = nn.ModuleDict({"backbone": backbone})  # where training looks for what is to be frozen
        features = int(backbone.channels[-1])  # type: ignore[index]
        self.classes = nn.Linear(features, num_classes + 1)  # only for fine-tuning
        self.svms = nn.Linear(features, num_classes)
        self.deltas = nn.Linear(features, 4 * num_classes)
        for layer in (self.classes, self.svms, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.svms.bias, -1.0)  # nothing is an object until it has been learnt

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> proposals; the network runs on crops, in the other two verbs."""
        return Raw(images.tensor, self.config.search.run(images), images.sizes)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Log loss of the fine-tuning, hinge loss of the SVMs, squared error of the regressors.

        Args:
            targets: one per image, in pixels of the batch, with labels.
        """
        c = self.config
        with torch.no_grad():
            columns = list(zip(raw.proposals, targets, strict=True))
            sampled = [sample_boxes(p.boxes, target, self.num_classes, c.sampling) for p, target in columns]
        boxes = [s.boxes for s in sampled]
        if not sum(len(b) for b in boxes):  # all lie in crowds: look at one, learn nothing
            boxes = [raw.proposals[0].boxes[:1], *boxes[1:]]
            nothing = self._sum_of_all(self._crops_described(raw.pixels, boxes)) * 0
            return {name: nothing for name in ("class", "svm", "box")}
        features, labels = self._crops_described(raw.pixels, boxes), torch.cat([s.labels for s in sampled])
        fixed = of_length(features.detach().float())
        signs = [svm_signs(b, t, self.num_classes, c.svm.bg_iou) for b, t in zip(boxes, targets, strict=True)]
        matched = torch.cat([s.matched_boxes for s in sampled])
        return {
            "class": F.cross_entropy(self.classes(features).float(), labels),
            "svm": hinge_loss(self.svms(fixed), torch.cat(signs), c.svm.hard),
            "box": self._box_loss(fixed, torch.cat(boxes), matched, labels),
        }

    def select(self, raw: Raw, options: DecodeOptions) -> Detections:
        """The SVMs' scores and the refined boxes of all proposals, suppression per class; the best first."""
        kept = []
        for i, (proposals, size) in enumerate(zip(raw.proposals, raw.sizes, strict=True)):
            parts = proposals.boxes.split(CROP_CHUNK_SIZE)
            features = of_length(torch.cat([self._crops_described(raw.pixels[i : i + 1], [b]) for b in parts]).float())
            deltas = self.deltas(features).unflatten(1, (-1, 4)).float()
            moved = box_ops.clip(box_ops.decode(deltas, proposals.boxes[:, None], NO_WEIGHTS), size)
            scores = (self.config.svm.slope * self.svms(features).float()).sigmoid()
            kept.append(keep_best(moved, scores, options.limits(self.config)))
        return Detections.of(raw.sizes, kept)

    @torch.no_grad()
    def fit(self, data: Iterable[tuple[ImageBatch, list[Instances]]]) -> None:
        """The paper's second and third stage: SVMs and regressors on the features of a fine-tuned network.

        Args:
            data: batches; they are gone through once, and the descriptions of all proposals are kept (D numbers each).
        """
        c = self.config
        rows: list[tuple[Tensor, ...]] = []
        for images, targets in data:
            for i, (proposals, target) in enumerate(zip(c.search.run(images), targets, strict=True)):
                rows.append(self._examples(images.tensor[i : i + 1], proposals.boxes, target))
        features, signs, gt_deltas, labels = (torch.cat(column).cpu().numpy() for column in zip(*rows, strict=True))
        for k in range(self.num_classes):
            known = signs[:, k] != 0
            weight, bias = fit_svm(features[known], signs[known, k], c.svm.cost)
            self.svms.weight[k], self.svms.bias[k] = self.svms.weight.new_tensor(weight), bias
            weight, biases = fit_ridge(features[labels == k], gt_deltas[labels == k], c.regressor.ridge)
            self.deltas.weight[4 * k : 4 * k + 4] = self.deltas.weight.new_tensor(weight)
            self.deltas.bias[4 * k : 4 * k + 4] = self.deltas.bias.new_tensor(biases)

    def _examples(self, pixels: Tensor, proposals: Tensor, target: Instances) -> tuple[Tensor, ...]:
        """Of one image's proposals (P, 4) and objects: descriptions, signs, deltas to the object and its label."""
        single, _ = learnable(target, pixels.device)
        boxes = torch.cat([proposals, target.boxes.to(proposals)[single]])
        crops = [self._crops_described(pixels, [b]) for b in boxes.split(CROP_CHUNK_SIZE)]
        signs = svm_signs(boxes, target, self.num_classes, self.config.svm.bg_iou)
        return of_length(torch.cat(crops).float()), signs, *_regression(boxes, target, self.config.regressor.iou)

    def _crops_described(self, pixels: Tensor, boxes: list[Tensor]) -> Tensor:
        crops = warp(pixels.float(), boxes, self.config.crop.side, self.config.crop.context)
        return describe(self.backbone["backbone"], crops.to(pixels.dtype))

    def _box_loss(self, features: Tensor, boxes: Tensor, matched: Tensor, labels: Tensor) -> Tensor:
        deltas = self.deltas(features).unflatten(1, (-1, 4)).float()
        near = torch.zeros_like(labels, dtype=torch.bool)
        for first in range(0, len(boxes), CROP_CHUNK_SIZE):
            part = slice(first, first + CROP_CHUNK_SIZE)
            near[part] = box_ops.iou(boxes[part], matched[part]).diagonal() >= self.config.regressor.iou
        rows = torch.nonzero(near & (labels < self.num_classes)).squeeze(1)
        gt_deltas = box_ops.encode(matched[rows], boxes[rows], NO_WEIGHTS)
        error = (deltas[rows, labels[rows]] - gt_deltas).pow(2).sum()
        mean: Tensor = error / max(len(rows), 1)
        return mean

    def _sum_of_all(self, features: Tensor) -> Tensor:
        total: Tensor = self.classes(features).sum() + self.svms(features).sum() + self.deltas(features).sum()
        return total


def of_length(features: Tensor, length: float = LENGTH) -> Tensor:
    """(R, D) rows scaled to one length."""
    return F.normalize(features, dim=1) * length


# Target assignment, fitting -------------------------------------------------------------------------------------------


def svm_signs(boxes: Tensor, target: Instances, num_classes: int, low: float) -> Tensor:
    """(S, K) what each box is to each class: 1 an object's own box, -1 far from all of them, 0 neither.

    Args:
        boxes: (S, 4) px, among them the objects' own.
        low: IoU below which a box is far.
    """
    gt_boxes = target.boxes.to(boxes)
    single, crowd = learnable(target, boxes.device)
    in_crowd = (box_ops.coverage(boxes, gt_boxes[crowd]) > 0.5).any(dim=1)
    labels = target.labels.to(boxes.device)[single]
    return signs_of(box_ops.iou(gt_boxes[single], boxes), labels, in_crowd, num_classes, low)


def signs_of(overlap: Tensor, labels: Tensor, in_crowd: Tensor, num_classes: int, low: float) -> Tensor:
    """As :func:`svm_signs`, from overlaps of whatever kind.

    Args:
        overlap: (N, S) IoU of the objects with the proposals.
        labels: (N,) of the objects.
        in_crowd: (S,) True: no negative example.
    """
    signs = overlap.new_full((overlap.shape[1], num_classes), -1.0)
    for iou, k in zip(overlap, labels.tolist(), strict=True):
        signs[:, k] = torch.where((iou >= low) & (signs[:, k] < 1), 0.0, signs[:, k])
        signs[:, k] = torch.where(iou > 1 - 1e-6, 1.0, signs[:, k])
    signs[in_crowd] = signs[in_crowd].clamp(min=0)
    return signs


def hinge_loss(margins: Tensor, signs: Tensor, num_hard: int) -> Tensor:
    """max(0, 1 - sign * margin), the mean over positive plus that over the hardest negative examples, per class.

    Args:
        margins: (R, K) of the SVMs.
        signs: (R, K) of 1, -1 and 0 (not used).
        num_hard: negative examples of each class that count.
    """
    violation = (1 - signs * margins.float()).clamp(min=0)
    positive, negative = signs > 0, signs < 0
    of_positive = (violation * positive).sum(0) / positive.sum(0).clamp(min=1)
    hardest = (violation * negative).topk(min(num_hard, len(signs)), dim=0).values
    of_negative = hardest.sum(0) / negative.sum(0).clamp(min=1, max=num_hard)
    return (of_positive + of_negative).mean()


def fit_svm(
    features: NDArray[np.floating[Any]], signs: NDArray[np.floating[Any]], cost: float, rounds: int = 10
) -> tuple[NDArray[np.float64], float]:
    """A linear SVM with mining of hard negatives (section 2.3): minimizes |w|^2 / 2 + cost * sum max(0, 1 - y m)^2.

    It starts from as many negatives as positives (at least 100), adds those within the margin, and is fitted again,
    until none is left; squared violations make the problem smooth, so that L-BFGS solves it.

    Args:
        features: (N, D); signs: (N,) of 1 and -1.

    Returns:
        weights (D,) and bias of the margin m = w x + b.
    """
    x, y = features.astype(np.float64), signs.astype(np.float64)
    negative = np.flatnonzero(y < 0)
    used = y > 0
    used[np.random.default_rng(0).permutation(negative)[: max(100, int(used.sum()))]] = True
    solution = np.zeros(x.shape[1] + 1)
    for _ in range(rounds):
        solution = minimize(_svm_objective, solution, (x[used], y[used], cost), **SOLVER).x
        hard = (y < 0) & ~used & (x @ solution[:-1] + solution[-1] > -1)
        if not hard.any():
            break
        used |= hard
    return solution[:-1], float(solution[-1])


def _svm_objective(solution: Any, x: Any, y: Any, cost: float) -> tuple[float, Any]:
    weight, bias = solution[:-1], solution[-1]
    violation = np.maximum(1 - y * (x @ weight + bias), 0)
    slope = -2 * cost * y * violation
    return 0.5 * weight @ weight + cost * violation @ violation, np.append(weight + slope @ x, slope.sum())


def fit_ridge(
    features: NDArray[np.floating[Any]], gt_deltas: NDArray[np.floating[Any]], ridge: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least squares with a penalty on the weights, not on the bias (appendix C, eq. 5).

    Args:
        features: (N, D); gt_deltas: (N, 4).

    Returns:
        weights (4, D) and biases (4,); zeros where there is no example.
    """
    if not len(features):
        return np.zeros((gt_deltas.shape[1], features.shape[1])), np.zeros(gt_deltas.shape[1])
    x, t = features.astype(np.float64), gt_deltas.astype(np.float64)
    x_mean, t_mean = x.mean(0), t.mean(0)
    x, t = x - x_mean, t - t_mean
    weight = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ t).T
    return weight, t_mean - weight @ x_mean


def _regression(boxes: Tensor, target: Instances, near: float) -> tuple[Tensor, Tensor]:
    """For each box (P, 4) the deltas to its object and this object's label, -1 where none is near."""
    gt_boxes, (single, _) = target.boxes.to(boxes), learnable(target, boxes.device)
    if not len(single):
        return torch.zeros_like(boxes), torch.full((len(boxes),), -1, device=boxes.device)
    best, index = box_ops.iou(boxes, gt_boxes[single]).max(dim=1)
    labels = target.labels.to(boxes.device)[single[index]]
    return box_ops.encode(gt_boxes[single[index]], boxes, NO_WEIGHTS), torch.where(best >= near, labels, -1)


# Variants -------------------------------------------------------------------------------------------------------------

LIGHT_CROP = CropConfig(side=64, context=5)
LIGHT = Config(search=LIGHT_SEARCH, crop=LIGHT_CROP, nms_threshold=0.5)
"""For small networks on small images."""


def rcnn_r50(num_classes: int = 80, **config: Any) -> RCNN:
    """ResNet-50 on 2000 crops of 227 x 227 px."""
    return RCNN(ResNet("resnet50"), num_classes, changed(Config(), config))


def rcnn_r18(num_classes: int = 80, **config: Any) -> RCNN:
    """ResNet-18 on 2000 crops of 227 x 227 px."""
    return RCNN(ResNet("resnet18"), num_classes, changed(Config(), config))


def rcnn_lite0(num_classes: int = 80, **config: Any) -> RCNN:
    """EfficientNet-Lite0 on at most 300 crops of 64 x 64 px."""
    return RCNN(Timm("tf_efficientnet_lite0"), num_classes, changed(LIGHT, config))
