"""What a user says of objects, in the few words that a prompt encoder knows: points, two corners, a rough mask.

A scribble becomes points along it; extreme points become points and the box around them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from eachmask.models.promptable.prompt_encoder import BESIDE, FIRST_CORNER, NOTHING, ON, SECOND_CORNER
from eachmask.structures import Prompts, UserError
from eachmask.structures.logit_masks import logits_of

SCRIBBLE_POINTS = 5
"""So many points stand for a line."""


class Said(NamedTuple):
    """What is said of P objects that are spoken of alike."""

    objects: Tensor  # (P,) int64, their numbers in the prompts
    points: Tensor  # (P, T, 2) px as the network saw the image
    kinds: Tensor  # (P, T) int64
    masks: Tensor | None  # (P, 1, h, w) logits
    sure: bool  # the prompts leave no doubt: more than one point, or a rough mask


class Frame(NamedTuple):
    """Where prompts lie, all (height, width)."""

    valid: tuple[int, int]  # px of the image as the network saw it: what the prompts are in
    padded: tuple[int, int]  # px of the whole input
    grid: tuple[int, int]  # cells of a rough mask


def said(prompts: Prompts, frame: Frame, padding: bool = False) -> Iterator[Said]:
    """Objects with equally many points, and with or without a rough mask, together.

    Args:
        prompts: of one image, in pixels as the network saw it.
        padding: a point that is nothing ends the points of objects with a box too (SAM 2), not only of others.

    Raises:
        UserError: there is a text.
    """
    if prompts.texts:
        raise UserError(
            f"this model understands no words, such as {prompts.texts[0]!r}: give points, boxes, scribbles or masks"
        )
    groups: dict[tuple[int, bool], list[int]] = {}
    spoken = [_points(prompts.of(i), padding) for i in range(len(prompts))]
    with_mask = set(prompts.mask_objects.tolist())
    for i, (_, kinds) in enumerate(spoken):
        groups.setdefault((len(kinds), i in with_mask), []).append(i)
    for (_, masked), members in groups.items():
        points, kinds = (torch.stack([spoken[i][part] for i in members]) for part in (0, 1))
        masks = _masks(prompts, members, frame).to(points) if masked else None
        sure = masked or int((kinds[0] != NOTHING).sum()) > 1
        yield Said(torch.tensor(members).to(points.device), points, kinds, masks, sure)


def _points(prompts: Prompts, padding: bool) -> tuple[Tensor, Tensor]:
    """Points (T, 2) and kinds (T,) of one object."""
    points, signs = [prompts.points], [prompts.signs]
    for line, sign in zip(prompts.scribbles, prompts.scribble_signs, strict=True):
        points.append(along(line, SCRIBBLE_POINTS))
        signs.append(sign.expand(len(points[-1])))
    extremes = prompts.extremes.reshape(-1, 2)
    points.append(extremes)
    signs.append(torch.ones(len(extremes), dtype=torch.bool, device=extremes.device))
    places = torch.cat([p.float() for p in points])
    kinds = torch.where(torch.cat(signs), ON, BESIDE)
    corners = torch.cat([prompts.boxes.reshape(-1, 2), extremes]).float()
    if padding or not len(corners):
        places = torch.cat([places, places.new_zeros(1, 2)])
        kinds = torch.cat([kinds, kinds.new_tensor([NOTHING])])
    if len(corners):
        places = torch.cat([places, corners.amin(0)[None], corners.amax(0)[None]])
        kinds = torch.cat([kinds, kinds.new_tensor([FIRST_CORNER, SECOND_CORNER])])
    return places, kinds


def along(line: Tensor, num: int) -> Tensor:
    """So many points, evenly spaced along a line (K, 2) -> (num, 2); the ends are left half a step away."""
    line = line.float()
    steps = (line[1:] - line[:-1]).norm(dim=1)
    length = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    if length[-1] == 0:
        return line[:1]
    places = (torch.arange(num, device=line.device) + 0.5) / num * length[-1]
    after = torch.searchsorted(length, places).clamp(1, len(line) - 1)
    share = (places - length[after - 1]) / (length[after] - length[after - 1]).clamp(min=1e-6)
    return torch.lerp(line[after - 1], line[after], share[:, None])


def _masks(prompts: Prompts, members: list[int], frame: Frame) -> Tensor:
    """(P, 1, h, w) logits of some objects; of several masks of one object the union."""
    assert prompts.masks is not None
    logits = logits_of(prompts.masks, frame.grid, frame.padded, frame.valid)
    own = prompts.mask_objects.to(logits.device)
    return torch.stack([logits[own == i].amax(0) for i in members])[:, None]
