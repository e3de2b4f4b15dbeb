"""Clicks: a small network that answers clicks, boxes and rough masks on two cores of a CPU.

An image is looked at once. Every question is then answered in a window that is stretched to a grid of fixed size: the
whole image for a first click; the surroundings of the box, or of what was answered before, from then on. The idea of
looking again where the object is, is FocalClick's (Chen et al., CVPR 2022, arXiv 2204.02574); clicks and the previous
answer enter as maps, as in RITM (Sofiiuk et al., arXiv 2102.06583); a lone click has several answers of which the best
one learns, and each predicts its IoU, as in SAM (Kirillov et al., ICCV 2023, arXiv 2304.02643). New here: the decoder
reads windows of the features of the whole image, so that it costs milliseconds, and is told how similar every place is
to the clicked ones.

Shapes: B images of H x W px, R questions (an object of an image each), K clicks, M answers, S the grid's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor

from eachmask.backbones.networks import Timm
from eachmask.models.config import changed
from eachmask.models.promptable import click_training as training
from eachmask.models.promptable.click_colors import color_maps
from eachmask.models.promptable.click_decoder import HEAD_WIDTH, HEADS, Decoder, Known, Neck, Seen, of_length_one
from eachmask.models.promptable.click_parts import connected_to_clicks
from eachmask.models.promptable.click_questions import (
    NUM_SAID,
    Questions,
    previous_in,
    questions_of,
    said_in,
)
from eachmask.models.promptable.click_windows import View, extent_of, inside, sampled, spread, view, widened
from eachmask.models.protocol import Network, PointAnswers
from eachmask.structures import DecodeOptions, ImageBatch, Instances, Prompts, RoIMasks, UserError
from eachmask.structures.soft_masks import Samples
from eachmask.structures.spatial import Spatial
from eachmask.tasks.instances import INSTANCES

SLACK = 0.2
"""What promises so much less IoU from afar may still be good from near by."""
CHUNK_SIZE = 16
"""Questions that are answered together: more would not fit into a CPU's caches."""


class Embedding(NamedTuple):
    """An image before anything was asked."""

    known: Known
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image

    @property
    def padded(self) -> tuple[int, int]:
        """(height, width) of the batch's images, px."""
        return self.known.fine.shape[2] * 2, self.known.fine.shape[3] * 2


class Answers(NamedTuple):
    """What the decoder says of windows."""

    windows: Tensor  # (R, 4) xyxy px
    logits: Tensor  # (R, M, 2 S, 2 S), each spanning its window
    qualities: Tensor  # (R, M) logits of the IoU

    def pick(self, rows: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Answer ``which`` of each of some questions: windows (K, 4), logits (K, 2 S, 2 S), qualities (K,)."""
        return self.windows[rows], self.logits[rows, which], self.qualities[rows, which]


class Raw(NamedTuple):
    """First answers, and what is needed for further ones."""

    embedding: Embedding
    questions: Questions | None
    answers: Answers | None
    """None where nothing was asked."""


class Selected(NamedTuple):
    """The best answer to each question."""

    sizes: tuple[tuple[int, int], ...]
    image: Tensor  # (R,) int64
    number: Tensor  # (R,) int64 of the object in its image's prompts
    windows: Tensor  # (R, 4)
    probabilities: Tensor  # (R, 2 S, 2 S)
    scores: Tensor  # (R,)
    points: Tensor  # (R, K, 2) the clicks, px
    signs: Tensor  # (R, K) 1 on the object, 0 beside it, -1 none


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    grid: int = 64
    """Side of the grid that windows are stretched to; masks have twice as many cells. A multiple of 8."""
    alternatives: int = 3
    """Answers to a lone click, besides the one that is given where more was said."""
    margin: float = 0.25
    """Of a window around a box or an earlier answer, as a share of its sides."""
    least_window: float = 24.0
    """Shortest side of a window, px as the network sees them."""
    most_aspect: float = 2.0
    """A window is at most so many times longer than wide."""
    score_threshold: float = 0.0
    nms_threshold: float = 0.7
    max_detections: int = 300
    training: training.Config = training.Config()


class Clicks(Network[Raw, Selected, Instances]):
    """Three verbs, and :class:`~eachmask.models.protocol.Promptable`."""

    task = INSTANCES
    max_classes = 1
    needs = frozenset({"masks"})
    answers_only = True
    """While it trains, it is measured by what it answers to prompts."""
    answered_by = ("decoder.forward",)
    samples: ClassVar[Samples] = "centers"
    grid_defaults = MappingProxyType({"points_per_side": 16, "iou_threshold": 0.6, "stability_threshold": 0.7})

    def __init__(self, backbone: Timm, num_classes: int = 1, config: Config | None = None) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config or Config()
        self.backbone = backbone
        self.neck = Neck(backbone.net.feature_info.channels()[0], backbone.channels)
        self.decoder = Decoder(NUM_SAID, 1 + self.config.alternatives)

    # Verbs --------------------------------------------------------------------------------------------------------

    def encode(self, images: ImageBatch) -> Embedding:
        """(B, 3, H, W) -> maps; independent of what will be asked."""
        return Embedding(self.neck(images.tensor, self.backbone.net(images.tensor)), images.sizes)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """First answers to the prompts of each image; without prompts none."""
        embedding = self.encode(images)
        return Raw(embedding, None, None) if given is None else self.prompted(embedding, cast(Sequence[Prompts], given))

    def prompted(self, embedding: Embedding, prompts: Sequence[Prompts]) -> Raw:
        """The answers to one set of prompts per image, in its pixels as the network sees them.

        Raises:
            UserError: there are texts, which this network does not understand.
        """
        questions = questions_of(prompts, self.config.grid * 2, embedding.known.keys.device)
        return Raw(embedding, questions, self.answer(embedding, questions, self.windows(embedding, questions)))

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Losses of the first answers and of further rounds of simulated clicks.

        Args:
            targets: of each image the objects in the order in which its prompts number them; where none were given,
                any, of which some are asked about.
        """
        return training.losses(self, raw, targets, self.config.training)

    def select(self, raw: Raw, options: DecodeOptions) -> Selected:
        """Of each question the answer that promises the best IoU, looked at again in a window of its own; with
        ``options.alternatives`` all answers to a lone click, the best first.

        Raises:
            UserError: nothing was asked.
        """
        if raw.questions is None or raw.answers is None:
            raise UserError("this model answers prompts alone: give points, boxes, scribbles or a rough mask")
        rows, which = meant(raw.answers, raw.questions.lone, options.alternatives)
        questions, (windows, logits, scores) = self.closer(raw.embedding, raw.questions, raw.answers, rows, which)
        best = torch.argsort(scores, descending=True, stable=True)
        order = best[torch.argsort(rows[best], stable=True)]
        return Selected(
            raw.embedding.sizes,
            questions.image[order],
            questions.number[order],
            windows[order],
            logits[order].float().sigmoid(),
            scores[order].float().sigmoid(),
            questions.points[order],
            questions.signs[order],
        )

    def at_points(self, embedding: Embedding, points: Tensor, least: float) -> PointAnswers:
        """What lone points on the first image mean, of each all answers that promise enough.

        Args:
            points: (P, 2) px as the network saw the image.
            least: predicted IoU that a mask has to exceed; from afar it may promise :data:`SLACK` less. 0: all.
        """
        prompts = Prompts(embedding.sizes[0], points=points.cpu(), point_objects=torch.arange(len(points)))
        raw = self.prompted(embedding, [prompts])
        assert raw.questions is not None and raw.answers is not None
        rows, which = meant(raw.answers, raw.questions.lone, True)
        promising = raw.answers.qualities[rows, which].sigmoid() >= least - SLACK
        rows, which = rows[promising], which[promising]
        _, (windows, logits, scores) = self.closer(embedding, raw.questions, raw.answers, rows, which)
        ious = scores.float().sigmoid()
        good = ious > (least if least > 0 else -1)
        return PointAnswers(rows[good], spread(logits[good], windows[good], embedding.known.fine), ious[good])

    def pack(self, selected: Selected, options: DecodeOptions) -> list[Instances]:
        """The answer for each object that was asked about, if it has a pixel, in their order, without parts that no
        click is on; ``track_ids`` are their numbers."""
        least = options.limits(self.config)[0]
        found = []
        paste: Any = options.paste  # one of two, whatever it was called
        for i, size in enumerate(selected.sizes):
            own = (selected.image == i) & (selected.scores >= least)
            windows, level = selected.windows[own], options.mask_threshold
            clicks = selected.points[own], selected.signs[own]
            connected = connected_to_clicks(selected.probabilities[own], windows, *clicks, level)
            masks = RoIMasks(connected, windows, size, level, paste)
            seen = torch.from_numpy(masks.area() > 0).to(own.device)
            boxes = torch.from_numpy(masks.boxes()).to(selected.windows)
            answers = Instances(size, boxes, masks, scores=selected.scores[own], track_ids=selected.number[own])
            found.append(answers[torch.nonzero(seen).flatten().cpu()])
        return found

    # Windows ------------------------------------------------------------------------------------------------------

    def answer(self, embedding: Embedding, questions: Questions, windows: Tensor) -> Answers:
        """What the decoder says of windows (R, 4)."""
        if torch.is_grad_enabled() or len(windows) <= CHUNK_SIZE:
            return Answers(windows, *self.decoder(self.look(embedding, questions, windows)))
        rows = torch.arange(len(windows), device=windows.device).split(CHUNK_SIZE)
        parts = [self.answer(embedding, questions.take(own), windows[own]) for own in rows]
        return Answers(windows, *(torch.cat(part) for part in list(zip(*parts, strict=True))[1:]))

    def closer(
        self, embedding: Embedding, questions: Questions, answers: Answers, rows: Tensor, which: Tensor
    ) -> tuple[Questions, tuple[Tensor, Tensor, Tensor]]:
        """What was answered from afar is asked again from near by, with the first answer as a rough mask.

        Args:
            rows, which: (K,) of the answers: the question, in ascending order, and which of its answers.

        Returns:
            the questions, and what :meth:`Answers.pick` gives of their answers.
        """
        windows, logits, _ = answers.pick(rows, which)
        asked = questions.take(rows).with_previous(logits.float().sigmoid(), windows)
        again = self.answer(embedding, asked, self.windows(embedding, asked))
        return asked, again.pick(torch.arange(len(rows), device=rows.device), torch.zeros_like(rows))

    def windows(self, embedding: Embedding, questions: Questions, margin: Tensor | float | None = None) -> Tensor:
        """Where to look for the answer to each question, (R, 4): around its box and its previous answer, else
        everywhere."""
        whole = _whole(embedding, questions)
        if not (questions.has_box | questions.has_previous).any():
            return whole
        config = self.config
        found, known = questions.extent()
        spread = config.margin if margin is None else margin
        near = widened(found, spread, config.least_window, config.most_aspect)
        return inside(torch.where(known[:, None], near, whole), whole)

    def inside_image(self, embedding: Embedding, questions: Questions, windows: Tensor) -> Tensor:
        """Windows (R, 4) without what lies beyond their images."""
        return inside(windows, _whole(embedding, questions))

    def look(self, embedding: Embedding, questions: Questions, windows: Tensor) -> Seen:
        """What windows (R, 4) show, as grids."""
        known, side = embedding.known, self.config.grid
        shown = view(known, questions.image, windows, side)
        points = 2 * questions.points / extent_of(known) - 1
        similar = similarities(shown.keys, sampled(known.keys, questions.image, points), questions.signs)
        said = said_in(questions, windows, side).to(shown.fine).contiguous(memory_format=torch.channels_last)
        clicked = sampled(known.colors, questions.image, points)
        return Seen(shown.fine, shown.maps, similar, said, self._colored(shown, questions, windows, clicked))

    def _colored(self, shown: View, questions: Questions, windows: Tensor, clicked: Tensor) -> Tensor:
        previous = previous_in(questions, windows, 2 * self.config.grid)
        found = color_maps(shown.colors, clicked, questions.signs, previous, questions.has_previous)
        return found.to(shown.fine).contiguous(memory_format=torch.channels_last)


# Parts ----------------------------------------------------------------------------------------------------------------


def _whole(embedding: Embedding, questions: Questions) -> Tensor:
    """The window (R, 4) that is each question's whole image."""
    sizes = torch.tensor(embedding.sizes, device=questions.image.device)[questions.image]
    return torch.cat([torch.zeros_like(sizes), sizes.flip(1)], 1).float()


def meant(answers: Answers, lone: Tensor, alternatives: bool) -> tuple[Tensor, Tensor]:
    """Which answers may be the ones that are meant: (K,) of which question, in ascending order, and (K,) which.

    Args:
        lone: (R,) bool: a click is all that is known, so that the answer counts that promises the best IoU, or, with
            ``alternatives``, all but the first. Else it is the first one, which alone has learnt from all that may be
            said.
    """
    most = answers.qualities.shape[1] - 1
    rows = torch.arange(len(lone), device=lone.device)
    if not alternatives or not most:
        return rows, torch.where(lone, answers.qualities.argmax(1), 0)
    every = torch.arange(most, device=lone.device)[None].expand(len(lone), -1)
    kept = lone[:, None] | (every == 0)
    return rows[:, None].expand_as(every)[kept], torch.where(lone[:, None], every + 1, every)[kept]


def similarities(keys: Tensor, clicked: Tensor, signs: Tensor) -> Tensor:
    """How alike each place is to the clicked ones, by each head: (R, 2 heads, s, s) in -1..1; -1 without clicks.

    Args:
        keys: (R or 1, heads x width, s, s) of length 1; clicked: (R, heads x width, K), of any length.
        signs: (R, K) 1 on the object, 0 beside it, -1 no click.
    """
    places, clicks = keys.flatten(2).unflatten(1, (HEADS, HEAD_WIDTH)), of_length_one(clicked)
    whose = "rhck,rhcs->rhks" if len(places) == len(clicks) else "rhck,xhcs->rhks"
    alike = torch.einsum(whose, clicks, places)  # (R, heads, K, s * s)
    both = [alike.masked_fill((signs != sign)[:, None, :, None], -1).amax(2) for sign in (1, 0)]
    found: Tensor = torch.cat(both, 1).unflatten(2, keys.shape[-2:])
    return found.contiguous(memory_format=torch.channels_last)


# Variants -------------------------------------------------------------------------------------------------------------


def clicks_lite0(num_classes: int = 1, **config: Any) -> Clicks:
    """EfficientNet-Lite0, for images whose longer side is about 512 px."""
    return Clicks(Timm("tf_efficientnet_lite0"), num_classes, changed(Config(), config))
