"""Interactive video segmentation: scribbles in rounds by a simulated annotator, as in the DAVIS challenge.

Caelles et al.: "The 2018 DAVIS Challenge on Video Object Segmentation", arXiv 1803.00557, section 3. In the first round
the objects of one frame are scribbled on. An answer is a label map of every frame. From then on the annotator looks for
the frame that is worst, of those not yet scribbled on, and draws over the largest mistakes in it
(:mod:`eachmask.ops.scribbles`). What counts is J&F of all frames after each round, and over the time that the answers
took.

Scribbles become masks of their frame by a model that takes them (``clicks``); a model that remembers carries these both
ways, up to the frames that were corrected before (Cheng, Tai, Tang: "Modular Interactive Video Object Segmentation",
CVPR 2021, arXiv 2103.07941), with all corrected frames in its memory.

Shapes: T frames of H x W px.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.data.formats.label_maps import numbers_in
from eachmask.data.images.video import frames_of
from eachmask.evaluation.interactive import SectionEvaluation
from eachmask.files import svg
from eachmask.files.progress import Progress, no_progress
from eachmask.files.sections import Chart, Section, Table, number_text, values_table
from eachmask.inference.following import load_follower, numbered
from eachmask.inference.load import load
from eachmask.inference.prompt_predictor import PromptPredictor
from eachmask.inference.video_predictor import VideoPredictor
from eachmask.metrics.davis import VOID, contour_f, region_j
from eachmask.ops.clicks import depths
from eachmask.ops.scribbles import Scribble, line_through, scribbles_on
from eachmask.structures import RLE, Instances, Prompts, UserError

ROUNDS = 8
"""Of the challenge."""
SECONDS = 60.0
"""Time after which the challenge compares methods."""
PLACES = (("images", "masks"), ("JPEGImages/480p", "Annotations/480p"), ("JPEGImages", "Annotations"))
"""Where a folder has the frames of its clips, and their label maps."""
AWAY = 10
"""Px from a scribble over what is wrong, within which a mask does not stand."""
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class AnnotatedClip:
    """The frames of one clip and their label maps."""

    name: str
    images: Path
    masks: Path


@dataclass
class Rounds:
    """How one clip went."""

    clip: str
    scores: list[float] = field(default_factory=list)
    """J&F after each round."""
    seconds: list[float] = field(default_factory=list)
    """Until then, of answering alone."""
    frames: list[int] = field(default_factory=list)
    """That were scribbled on."""


def annotated_clips(data: Path, split: str) -> list[AnnotatedClip]:
    """The clips in a folder of DAVIS's layout, or with ``images/CLIP`` and ``masks/CLIP``.

    Args:
        split: those named in ``ImageSets/*/SPLIT.txt``; all where there is no such file.

    Raises:
        UserError: there are none.
    """
    place = next(((data / a, data / b) for a, b in PLACES if (data / a).is_dir() and (data / b).is_dir()), None)
    if place is None:
        raise UserError(f"{data} holds no clips: images/CLIP with frames and masks/CLIP with label maps are wanted")
    images, masks = place
    lists = sorted(data.glob(f"ImageSets/*/{split}.txt"))
    chosen = set(lists[-1].read_text().split()) if lists else None
    names = sorted(path.name for path in masks.iterdir() if path.is_dir() and (images / path.name).is_dir())
    clips = [AnnotatedClip(n, images / n, masks / n) for n in names if chosen is None or n in chosen]
    if not clips:
        raise UserError(f"{masks} and {images} have no clip in common: a folder of each clip's name is wanted in both")
    return clips


class Answerer:
    """Label maps of a clip's frames, from scribbles.

    Args:
        follower: carries masks from frame to frame.
        drawer: makes masks of scribbles.
        images: (H, W, 3) of all frames.
    """

    def __init__(
        self, follower: VideoPredictor[Instances], drawer: PromptPredictor, images: Sequence[NDArray[Any]]
    ) -> None:
        self.follower, self.drawer, self.images = follower, drawer, images
        self.corrected: dict[int, Labels] = {}
        self.labels = [np.zeros(image.shape[:2], np.int64) for image in images]

    def correct(self, frame: int, scribbles: Sequence[Scribble]) -> list[Labels]:
        """All label maps after scribbles on one frame."""
        self.corrected[frame] = self.labels[frame] = self._drawn(frame, scribbles)
        state, numbers = self._remembered(frame)
        if numbers:
            last = max((t for t in self.corrected if t < frame), default=-1)
            following = min((t for t in self.corrected if t > frame), default=len(self.images))
            for way in (range(frame + 1, following), range(frame - 1, last, -1)):
                now = state
                for t in way:
                    found, now = self.follower.step(self.images[t], now)
                    self.labels[t] = numbered(found, numbers)
        return self.labels

    def _drawn(self, frame: int, scribbles: Sequence[Scribble]) -> Labels:
        """The frame's label map, corrected."""
        labels, embedded = self.labels[frame].copy(), self.drawer.embed(self.images[frame])
        masks = {}
        for number in sorted({one.number for one in scribbles} | set(np.unique(labels).tolist()) - {0}):
            mask = labels == number
            meant = [one for one in scribbles if number and (one.number == number or _touches(one, mask))]
            if meant:
                masks[number] = self._asked(embedded, mask, number, meant)
        for number in masks:
            labels[labels == number] = 0
        for number, mask in sorted(masks.items(), key=lambda item: -np.count_nonzero(item[1])):
            labels[mask] = number  # what is small lies before what is large
        for one in scribbles:
            labels[_places(one)] = one.number
        return labels

    def _asked(self, embedded: Any, mask: NDArray[np.bool_], number: int, scribbles: Sequence[Scribble]) -> Any:
        before = RLE.from_bitmaps(mask[None]) if mask.any() else None
        standing = _standing(mask, [one for one in scribbles if one.number != number])
        scribbles = [*scribbles, *([] if standing is None else [Scribble(number, standing)])]
        prompts = Prompts(
            (mask.shape[0], mask.shape[1]),
            scribbles=tuple(torch.from_numpy(one.line).float() for one in scribbles),
            scribble_signs=torch.tensor([one.number == number for one in scribbles]),
            masks=before,
            mask_objects=torch.zeros(0 if before is None else 1, dtype=torch.int64),
        )
        found: Instances = self.drawer.predict(embedded, prompts)
        return mask if not len(found) or found.masks is None else found.masks[0].to_rle().decode()[0]

    def _remembered(self, frame: int) -> tuple[Any, list[int]]:
        """The state after all corrected frames, this one last, and the numbers of the objects in it."""
        state, numbers = None, list[int]()
        for t in [*(t for t in self.corrected if t != frame), frame]:
            labels = self.corrected[t]
            present = [int(k) for k in np.unique(labels) if k]
            numbers += [k for k in present if k not in numbers]
            if present:
                masks = RLE.from_bitmaps(np.stack([labels == k for k in present]))
                rows = torch.tensor([numbers.index(k) for k in present])
                given = Prompts(masks.size, masks=masks, mask_objects=rows, num_objects=len(numbers))
                _, state = self.follower.step(self.images[t], state, given)
        return state, numbers


def _standing(mask: NDArray[np.bool_], wrong: Sequence[Scribble]) -> NDArray[np.float64] | None:
    """A line through what stands of a mask, so that a correction of one part is not taken for all that is meant; None
    where nothing does."""
    rest = np.ones(mask.shape, bool)
    for one in wrong:
        rest[_places(one)] = False
    return line_through(mask & (depths(rest, exact=False) > AWAY))


def _places(one: Scribble) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of a line's points."""
    columns, rows = one.line.astype(np.int64).T
    return rows, columns


def _touches(one: Scribble, mask: NDArray[np.bool_]) -> bool:
    return bool(mask[_places(one)].any())


def play(
    answer: Callable[[int, Sequence[Scribble]], Sequence[Labels]],
    targets: Sequence[Labels],
    rounds: int,
    clip: str = "",
) -> Rounds:
    """All rounds on one clip.

    Args:
        answer: (frame, scribbles on it) -> label maps of all frames.
        targets: of all frames; 255 is what nobody labeled.

    Raises:
        UserError: no frame has an object.
    """
    numbers = sorted({int(k) for labels in targets for k in np.unique(labels)} - {0, VOID})
    if not numbers:
        raise UserError(f"no frame of {clip or 'the clip'} has an object: there is nothing to scribble on")
    done = Rounds(clip)
    areas = [np.count_nonzero((labels > 0) & (labels != VOID)) for labels in targets]
    frame, found = int(np.argmax(areas)), [np.zeros_like(labels) for labels in targets]
    spent = 0.0
    for _ in range(rounds):
        scribbles = scribbles_on(found[frame], targets[frame], VOID)
        begin = time.perf_counter()
        found = list(answer(frame, scribbles)) if scribbles else found
        spent += time.perf_counter() - begin
        each = np.array([_scores(*pair, numbers) for pair in zip(found, targets, strict=True)])
        done.scores.append(float(each.mean()))
        done.seconds.append(spent)
        done.frames.append(frame)
        left = [t for t in range(len(targets)) if t not in done.frames]
        if not left:
            break
        frame = min(left, key=lambda t: each[t].mean())
    return done


def _scores(found: Labels, target: Labels, numbers: Sequence[int]) -> list[float]:
    """The mean of J and F of each object in one frame."""
    pairs = [(found == k, target == k) for k in numbers]
    return [(region_j(*pair) + contour_f(*pair)) / 2 for pair in pairs]


def evaluate_rounds(
    model: str | Path,
    data: Path,
    out: Path | None = None,
    *,
    split: str = "val",
    rounds: int = ROUNDS,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress = no_progress,
) -> SectionEvaluation:
    """Measure a model of marked objects on clips.

    Args:
        model: see :func:`~eachmask.inference.following.load_follower`.
        data, split: see :func:`annotated_clips`.
        out: folder that gets report.html and evaluation.json; None writes nothing.
        rounds: at most.
        device, precision: see :func:`eachmask.load`.

    Raises:
        UserError: the model does not follow what is marked, or the clips cannot be used.
    """
    if rounds < 1:
        raise UserError("--rounds must be at least 1")
    follower, clips = load_follower(model, device, precision), annotated_clips(data, split)
    drawer: Any = load("clicks", device=device, precision=precision)
    played = []
    for clip in progress("clips", clips):
        images = [frame.image for frame in frames_of(clip.images)]
        targets = [numbers_in(path).astype(np.int64) for path in sorted(clip.masks.glob("*.png"))]
        if [image.shape[:2] for image in images] != [labels.shape for labels in targets]:
            raise UserError(
                f"{clip.masks} and {clip.images} must have one label map per frame, in its size: {len(targets)} and "
                f"{len(images)} files"
            )
        played.append(play(Answerer(follower, drawer, images).correct, targets, rounds, clip.name))
    found = SectionEvaluation(Path(model).name, data.name, section_of(played))
    if out is not None:
        found.save(out)
    return found


def section_of(played: Sequence[Rounds]) -> Section:
    """J&F after each round and over time, means over clips; a clip that ended early stays as it was."""
    most = max(len(one.scores) for one in played)
    scores, seconds = (
        np.mean([np.pad(getattr(one, name), (0, most - len(one.scores)), "edge") for one in played], 0)
        for name in ("scores", "seconds")
    )
    times = np.linspace(0, SECONDS, 1001)
    curve = np.interp(times, [0.0, *seconds], [0.0, *scores])
    values = {"J&F-AUC": float(curve.mean()), "J&F@60s": float(curve[-1]), "J&F-first": float(scores[0]),
              "J&F-last": float(scores[-1]), "rounds": most, "seconds": float(seconds[-1])}  # fmt: skip
    rows = [[one.clip, *(number_text(v) for v in (one.scores[0], one.scores[-1], one.seconds[-1])),
             " ".join(map(str, one.frames))] for one in played]  # fmt: skip
    axes = svg.Axes(x_end=most)
    parts = [axes.grid("rounds"), axes.line(range(1, most + 1), scores, svg.COLORS[0])]
    parts += [axes.dot(number, value, svg.COLORS[0]) for number, value in enumerate(scores, start=1)]
    return Section(
        "scribbles",
        "Scribbles in rounds",
        values | {"J&F": scores.tolist(), "answered": seconds.tolist()},
        tables=[values_table(values), Table(["Clip", "first round", "last round", "seconds", "frames"], rows)],
        charts=[Chart("J&F over rounds", axes.chart("".join(parts), "J&F after each round"), "Mean over clips.")],
        note="After each round the annotator scribbles on the worst frame. AUC: the mean of J&F over the first 60 "
        "seconds of answering.",
    )
