"""How :mod:`eachmask.models.promptable.clicks` learns: rounds of answers and simulated corrections.

After each answer the place deepest inside the largest mistake is clicked (as the protocol of evaluation does), now and
then another place inside it, and the network answers again in a window around what it has. Of the alternatives that a
lone click has, only the best one learns.

Shapes: R questions, M answers, m the side of an answer's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.models.promptable.click_questions import Questions, grid_boxes
from eachmask.ops.clicks import depths
from eachmask.ops.losses import dice
from eachmask.ops.prompt_sampling import PromptSampler
from eachmask.structures import Instances

if TYPE_CHECKING:
    from eachmask.models.promptable.clicks import Answers, Clicks, Raw


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    objects: int = 5
    """Of an image that are asked about where no prompts are given."""
    rounds: int = 6
    """Answers per question, at most; the first and the last one learn."""
    click_chance: float = 0.8
    """That a round adds a click; otherwise it only looks closer."""
    middle_chance: float = 0.6
    """That this is the deepest place."""
    margins: tuple[float, float] = (0.1, 0.6)
    """Range of a window's margin, a share of its sides."""
    shift: float = 0.1
    """Largest shift of a window, a share of its sides."""
    object_chance: float = 0.3
    """That a window holds all of the object, whatever was answered."""
    binary_chance: float = 0.5
    """That a previous answer is shown as a bitmap rather than as probabilities."""
    gamma: float = 2.0
    """Of the normalized focal loss."""
    quality_weight: float = 1.0


def losses(model: Clicks, raw: Raw, targets: Sequence[Instances], config: Config) -> dict[str, Tensor]:
    """Focal, Dice and IoU losses, each a mean over rounds and questions."""
    if raw.questions is None:
        targets, prompts = zip(
            *(PromptSampler(config.objects)(target, _generator()) for target in targets), strict=True
        )
        raw = model.prompted(raw.embedding, prompts)
    answers, questions = raw.answers, raw.questions
    assert answers is not None and questions is not None
    masks = bitmaps_of(targets, questions, raw.embedding.known.fine)
    boxes, there = grid_boxes(masks > 0.5, _canvas(masks, len(masks)))
    totals: dict[str, list[Tensor]] = {"focal": [], "dice": [], "quality": []}
    last = int(torch.randint(config.rounds, ()))
    for number in range(last + 1):
        goals = cut(masks, answers.windows, answers.logits.shape[-1])
        lone = questions.lone
        if number in (0, last):
            for name, values in _round(answers, goals, masks, lone, config).items():
                totals[name].append(values[there].mean() if there.any() else values.sum() * 0)
        if number < last and len(goals):
            questions = _next(answers, goals, questions, config)
            windows = _windows(model, raw, questions, boxes, config)
            with torch.set_grad_enabled(torch.is_grad_enabled() and number + 1 == last):
                answers = model.answer(raw.embedding, questions, windows)
    return {name: torch.stack(values).mean() for name, values in totals.items()}


def _generator() -> np.random.Generator:
    """Chance that torch's seed decides."""
    return np.random.default_rng(int(torch.randint(2**31, ())))


def _round(answers: Answers, goals: Tensor, masks: Tensor, lone: Tensor, config: Config) -> dict[str, Tensor]:
    """Losses (R,) of one round. The first answer always learns, of the others the best where a click is all there
    is."""
    logits = answers.logits.float()
    goal = goals[:, None].expand_as(logits)
    focal = normalized_focal(logits.flatten(0, 1), goal.flatten(0, 1), config.gamma).unflatten(0, logits.shape[:2])
    overlap = dice(logits.sigmoid().flatten(0, 1), goal.flatten(0, 1), "plain", eps=1.0).unflatten(0, logits.shape[:2])
    iou = true_iou(logits.detach() > 0, goals, masks, answers.windows)
    error = (answers.qualities.float().sigmoid() - iou).square()
    best = (focal + overlap)[:, 1:].detach().argmin(1, keepdim=True) + 1
    weight = lone.to(focal)

    def both(values: Tensor) -> Tensor:
        return values[:, 0] + weight * values.gather(1, best)[:, 0]

    quality = error[:, 0] + weight * error[:, 1:].sum(1)
    return {"focal": both(focal), "dice": both(overlap), "quality": config.quality_weight * quality}


def normalized_focal(logits: Tensor, goals: Tensor, gamma: float) -> Tensor:
    """Normalized focal loss of each mask: (N, ...) -> (N,). As :func:`eachmask.ops.losses.normalized_focal`, which has
    one number for all, and bitmaps as targets.

    Args:
        goals: 0..1.
    """
    logits, goals = logits.flatten(1), goals.flatten(1)
    wrong = (logits.sigmoid() - goals).abs().detach()
    weight = wrong**gamma
    weight = weight / weight.mean(1, keepdim=True).clamp(min=1e-4)
    return (weight * F.binary_cross_entropy_with_logits(logits, goals, reduction="none")).mean(1)


def true_iou(found: Tensor, goals: Tensor, masks: Tensor, windows: Tensor) -> Tensor:
    """(R, M): IoU of answers (R, M, m, m) bool, counting what of the objects is outside of the windows."""
    goals = (goals > 0.5)[:, None]
    common = (found & goals).sum((2, 3)).float()
    cell = (windows[:, 2:] - windows[:, :2]).prod(1) / found.shape[-1] ** 2
    within = goals.sum((2, 3)).float()
    whole = torch.maximum(masks.sum((1, 2)) / cell.clamp(min=1e-6), within[:, 0])[:, None]
    return common / (found.sum((2, 3)) + whole - common).clamp(min=1)


def bitmaps_of(targets: Sequence[Instances], questions: Questions, like: Tensor) -> Tensor:
    """(R, H, W) float: the object that each question is about, on the batch's canvas."""
    height, width = like.shape[2] * 2, like.shape[3] * 2
    result = like.new_zeros(len(questions.image), height, width, dtype=torch.float32)
    for i, target in enumerate(targets):
        h, w = target.image_size
        own = torch.nonzero(questions.image == i).flatten()
        numbers = questions.number[own].tolist()
        result[own, :h, :w] = torch.from_numpy(target[numbers].gt_masks.to_rle().decode()).to(result)
    return result


def cut(masks: Tensor, windows: Tensor, side: int) -> Tensor:
    """Windows (R, 4) of masks (R, H, W) as grids (R, m, m) of shares."""
    from eachmask.accel.lazy_dynamo import torchvision

    if not len(masks):
        return masks.new_zeros(0, side, side)
    rows = torch.arange(len(masks), device=masks.device, dtype=windows.dtype)[:, None]
    rois = torch.cat([rows, windows], 1)
    found: Tensor = torchvision().ops.roi_align(masks[:, None], rois, side, sampling_ratio=2, aligned=True)
    return found[:, 0]


def _canvas(masks: Tensor, number: int) -> Tensor:
    return masks.new_tensor([0, 0, masks.shape[-1], masks.shape[-2]]).expand(number, 4)


def _next(answers: Answers, goals: Tensor, questions: Questions, config: Config) -> Questions:
    """What is said next of an answer: the answer itself, and perhaps a click on its largest mistake."""
    shown = answers.logits.detach().float()
    number = answers.qualities.detach().argmax(1)
    number = torch.where(questions.lone, number, 0)
    found = shown[torch.arange(len(shown)), number].sigmoid()
    binary = torch.rand(len(found), 1, 1) < config.binary_chance
    questions = questions.with_previous(
        torch.where(binary.to(found.device), (found > 0.5).float(), found), answers.windows
    )
    points, signs = [], []
    for one, goal, window in zip(
        (found > 0.5).cpu().numpy(), (goals > 0.5).cpu().numpy(), answers.windows.cpu(), strict=True
    ):
        positive, x, y = _mistake(one, goal, config)
        low, size = window[:2], window[2:] - window[:2]
        points.append(low + size * torch.tensor([x, y]) / one.shape[0])
        signs.append(positive)
    return questions.with_clicks(torch.stack(points).to(questions.points), torch.tensor(signs).to(questions.signs))


def _mistake(found: np.ndarray, goal: np.ndarray, config: Config) -> tuple[int, float, float]:
    """(sign, x, y) in cells of a click on the largest mistake; sign -1 where none is made."""
    missed, wrong = depths(goal & ~found, exact=False), depths(found & ~goal, exact=False)
    most = max(float(missed.max()), float(wrong.max()))
    if most < 1.5 or torch.rand(()) >= config.click_chance:
        return -1, 0.0, 0.0
    positive = missed.max() > wrong.max()
    depth = missed if positive else wrong
    least = most if torch.rand(()) < config.middle_chance else 0.3 * most
    places = np.flatnonzero(depth >= least)
    row, column = divmod(int(places[int(torch.randint(len(places), ()))]), goal.shape[1])
    return int(positive), column + 0.5, row + 0.5


def _windows(model: Clicks, raw: Raw, questions: Questions, boxes: Tensor, config: Config) -> Tensor:
    """Windows around the previous answers, of random margins and places; some hold all of the object."""
    low, high = config.margins
    number = len(boxes)
    margin = torch.empty(number, 1).uniform_(low, high).to(boxes)
    helped = (torch.rand(number) < config.object_chance).to(boxes.device)
    windows = model.windows(raw.embedding, questions, margin)
    joined = torch.cat([torch.minimum(windows[:, :2], boxes[:, :2]), torch.maximum(windows[:, 2:], boxes[:, 2:])], 1)
    windows = torch.where(helped[:, None], joined, windows)
    size = windows[:, 2:] - windows[:, :2]
    moved = windows + ((torch.rand(number, 2).to(boxes) * 2 - 1) * config.shift * size).repeat(1, 2)
    return model.inside_image(raw.embedding, questions, moved)
