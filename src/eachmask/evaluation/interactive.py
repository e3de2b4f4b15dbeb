"""Evaluation of models that answer prompts: clicks until an answer is good enough, or the objects' boxes.

Clicks follow the protocol of :mod:`eachmask.metrics.clicks`; each answer is given back as a rough mask with the next
click, as a user's session does. Crowd regions count neither as object nor as background.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.draw import overlay, shrink
from eachmask.evaluation.report import FOOTER
from eachmask.evaluation.source import open_source
from eachmask.files import html, svg
from eachmask.files.atomic import write_text
from eachmask.files.progress import Progress, no_progress
from eachmask.files.sections import Chart, Figure, Section, json_ready, number_text, values_table
from eachmask.inference.prompt_predictor import PromptPredictor
from eachmask.metrics.clicks import MAX_CLICKS, THRESHOLDS, Clicked, clicked, iou, mean_curve, noc
from eachmask.ops.clicks import Click
from eachmask.structures import RLE, Instances, Prompts, UserError

SIDE = 360
"""Longer side of an image in the report, px."""
SHOWN = 4
"""Objects that the report shows of those that took the fewest clicks, and of those that took the most."""

Bits = NDArray[np.bool_]


class Answers(Protocol):
    """Whatever answers questions about one image."""

    def clicks(self, clicks: Sequence[Click], previous: Bits | None) -> Bits:
        """The mask (H, W) after all these clicks.

        Args:
            previous: what was answered to all but the last.
        """

    def box(self, box: Sequence[float]) -> Bits:
        """The mask (H, W) of what the box x1, y1, x2, y2 holds."""


Look = Callable[[NDArray[Any]], Answers]
"""Image (H, W, 3) -> what answers about it; looking is all that is done once per image."""


@dataclass(frozen=True)
class ByPredictor:
    """A model's answers."""

    predictor: PromptPredictor

    def __call__(self, image: NDArray[Any]) -> Answers:
        """Look at an image."""
        return _Session(self.predictor, self.predictor.embed(image), (image.shape[0], image.shape[1]))


@dataclass(frozen=True)
class _Session:
    predictor: PromptPredictor
    embedded: Any
    size: tuple[int, int]

    def clicks(self, clicks: Sequence[Click], previous: Bits | None) -> Bits:
        masks = None if previous is None or not previous.any() else RLE.from_bitmaps(previous[None])
        signs = [click.positive for click in clicks]
        numbers = torch.zeros(0 if masks is None else 1, dtype=torch.int64)
        asked = Prompts(
            self.size, points=_points(clicks), signs=torch.tensor(signs), masks=masks, mask_objects=numbers
        )  # fmt: skip
        return self._mask(asked)

    def box(self, box: Sequence[float]) -> Bits:
        return self._mask(Prompts(self.size, boxes=torch.tensor([list(box)])))

    def _mask(self, prompts: Prompts) -> Bits:
        found: Instances = self.predictor.predict(self.embedded, prompts)
        if not len(found) or found.masks is None:
            return np.zeros(self.size, bool)
        return np.asarray(found.masks[0].to_rle().decode()[0], bool)


def _points(clicks: Sequence[Click]) -> torch.Tensor:
    return torch.tensor([click.point for click in clicks])


@dataclass
class Tried:
    """One object that was asked about."""

    image: int
    number: int
    """Of the object in its image's targets."""
    target: NDArray[np.int8]
    result: Clicked
    """Of boxes the IoU alone."""
    first: Bits
    last: Bits


@dataclass
class Times:
    """Seconds."""

    looks: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)


def objects_of(targets: Instances, min_area: int, most: int | None) -> list[tuple[int, NDArray[np.int8]]]:
    """Numbers of the objects that are asked about, the largest first, and labels (H, W): 1, 0, and -1 on crowds."""
    areas = targets.gt_masks.area()
    able = np.flatnonzero(~targets.crowd.numpy() & (areas >= max(min_area, 1)))
    able = able[np.argsort(-areas[able], kind="stable")][:most]
    bitmaps = targets.gt_masks.to_rle()[torch.from_numpy(able)].decode()
    crowd = targets[targets.crowd]
    ignored = crowd.gt_masks.union().decode()[0].astype(bool) if len(crowd) else None
    result = []
    for number, bitmap in zip(able.tolist(), bitmaps, strict=True):
        labels = np.ascontiguousarray(bitmap, np.int8)
        if ignored is not None:
            labels[ignored & (labels == 0)] = -1
        result.append((number, labels))
    return result


def try_clicks(answers: Answers, target: NDArray[np.int8], max_clicks: int, enough: float, times: Times) -> Any:
    """Click on one object; (result, first answer, last answer)."""
    shown: list[Bits] = []

    def answer(clicks: Sequence[Click]) -> Bits:
        start = time.perf_counter()
        shown[1:] = [answers.clicks(clicks, shown[-1] if shown else None)]
        if len(clicks) == 1:
            shown.insert(0, shown[-1])
        times.answers.append(time.perf_counter() - start)
        return shown[-1]

    result = clicked(answer, target, max_clicks=max_clicks, enough=enough)
    return result, shown[0], shown[-1]


def try_box(answers: Answers, target: NDArray[np.int8], times: Times) -> Any:
    """Give the box of one object; as :func:`try_clicks`."""
    rows, columns = np.flatnonzero((target == 1).any(1)), np.flatnonzero((target == 1).any(0))
    start = time.perf_counter()
    found = answers.box([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    times.answers.append(time.perf_counter() - start)
    return Clicked((), (iou(found, target),)), found, found


def ask_all(
    look: Look,
    samples: Any,
    prompts: Literal["clicks", "boxes"],
    *,
    max_clicks: int = MAX_CLICKS,
    enough: float = max(THRESHOLDS),
    min_area: int = 1,
    most: int | None = None,
    progress: Progress = no_progress,
) -> tuple[list[Tried], Times]:
    """Ask about the objects of all images.

    Args:
        samples: images with objects that have masks.
        enough: IoU at which no further click is made.
        min_area: smaller objects are left out, px.
        most: objects per image, the largest first.
    """
    tried: list[Tried] = []
    times = Times()
    for i in progress("asking", list(range(len(samples)))):
        objects = objects_of(samples.targets(i), min_area, most)
        if not objects:
            continue
        start = time.perf_counter()
        answers = look(samples[i].image)
        times.looks.append(time.perf_counter() - start)
        for number, target in objects:
            how = try_clicks(answers, target, max_clicks, enough, times) if prompts == "clicks" else (
                try_box(answers, target, times)
            )  # fmt: skip
            tried.append(Tried(i, number, target, *how))
    return tried, times


def numbers_of(tried: Sequence[Tried], times: Times, prompts: str, max_clicks: int = MAX_CLICKS) -> dict[str, float]:
    """Named measures: NoC and how many objects took all clicks, mean IoU; milliseconds (medians)."""
    results = [one.result for one in tried]
    values: dict[str, float] = {"objects": len(tried)}
    if prompts == "clicks":
        curves = [result.ious for result in results]
        for threshold in THRESHOLDS:
            mean, _, most = noc(curves, threshold, max_clicks)
            values |= {f"noc{round(100 * threshold)}": mean, f"took_all{round(100 * threshold)}": most}
        curve = mean_curve(results, max_clicks)
        values |= {f"iou{number}": curve[min(number, max_clicks) - 1] for number in (1, 2, 3, 5, 10, 20)}
    else:
        ious = [result.ious[0] for result in results]
        values |= {"box_iou": float(np.mean(ious)), "box_iou_above_90": float(np.mean(np.array(ious) >= 0.9))}
    times_of = {"look_ms": times.looks, "answer_ms": times.answers}
    return values | {name: 1000 * median(some) for name, some in times_of.items() if some}


def curve_chart(curves: dict[str, Sequence[float]]) -> str:
    """Mean IoU over the number of clicks, a line for each name."""
    most = max(len(curve) for curve in curves.values())
    axes = svg.Axes(x_end=most)
    parts = [axes.grid("clicks")]
    for (_, curve), color in zip(curves.items(), svg.COLORS, strict=False):
        parts.append(axes.line(range(1, len(curve) + 1), curve, color))
        parts += [axes.dot(number, value, color) for number, value in enumerate(curve, start=1)]
    if len(curves) > 1:
        parts.append(axes.legend(list(curves), axes.x(most * 0.6), axes.y(0.4)))
    return axes.chart("".join(parts), "Mean IoU after each number of clicks")


@dataclass(frozen=True)
class SectionEvaluation:
    """What was measured on one data set, where that is one section."""

    name: str
    data: str
    section: Section

    def value(self, name: str) -> float:
        """One measure by name.

        Raises:
            UserError: there is no such measure.
        """
        if name not in self.section.values:
            raise UserError(f"there is no measure {name!r}; there are: {', '.join(self.section.values)}")
        return float(self.section.values[name])

    def save(self, folder: Path) -> None:
        """Write report.html and evaluation.json."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {"name": self.name, "data": self.data, self.section.key: json_ready(self.section.values)}
        write_text(folder / "evaluation.json", json.dumps(content, indent=1))
        values = [(number_text(v), name) for name, v in self.section.values.items() if isinstance(v, float)][:5]
        header = html.headline("evaluation", self.name, values, f"{self.section.title} on {self.data}")
        write_text(
            folder / "report.html",
            html.page(f"{self.name} on {self.data}", header, html.rendered(self.section), FOOTER),
        )


def evaluate_prompts(
    model: str | Path | PromptPredictor,
    data: Any,
    out: str | Path | None = None,
    *,
    prompts: Literal["clicks", "boxes"] = "clicks",
    split: str = "val",
    images: Path | None = None,
    max_clicks: int = MAX_CLICKS,
    min_area: int = 1,
    most: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    side: int | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Progress = no_progress,
) -> SectionEvaluation:
    """Measure a model that takes prompts, on objects with masks.

    Args:
        model: name, file or run folder of a model, or a predictor.
        data, split, images: as :func:`eachmask.evaluate` takes them.
        out: folder that gets report.html and evaluation.json; None writes nothing.
        prompts: ``clicks`` simulates clicks until the answer is good enough; ``boxes`` gives each object's box.
        max_clicks, min_area, most: see :func:`ask_all`.
        device, precision, side: how the model predicts, see :func:`eachmask.load`.

    Raises:
        UserError: the model takes no prompts, or the data cannot be used or have no objects.
    """
    from eachmask.inference.load import load

    predictor = (
        model if isinstance(model, PromptPredictor) else load(model, device=device, precision=precision, side=side)
    )
    if not isinstance(predictor, PromptPredictor):
        raise UserError(f"{model} takes no prompts: leave out --prompts, or choose a model such as clicks")
    source = open_source(data, split, images, None, say, progress)
    samples = source.samples
    tried, times = ask_all(
        ByPredictor(predictor), samples, prompts, max_clicks=max_clicks, min_area=min_area, most=most, progress=progress
    )
    if not tried:
        raise UserError(f"{source.name} has no object of at least {min_area} pixels to ask about")
    name = Path(model).name if isinstance(model, str | Path) else repr(predictor)
    found = SectionEvaluation(name, source.name, section_of(tried, times, prompts, samples, max_clicks))
    if out is not None:
        found.save(Path(out))
    return found


def section_of(
    tried: Sequence[Tried], times: Times, prompts: Literal["clicks", "boxes"], samples: Any, max_clicks: int
) -> Section:
    """What was measured, with the objects that went best and worst."""
    values = numbers_of(tried, times, prompts, max_clicks)
    curves: dict[str, Any] = {}
    charts: tuple[Chart, ...] = ()
    if prompts == "clicks":
        curve = mean_curve([one.result for one in tried], max_clicks)
        curves = {"curve": curve}
        charts = (Chart("IoU over clicks", curve_chart({"": curve}), "Mean over objects; who is done stays."),)
    order = sorted(tried, key=lambda one: (len(one.result.ious), -one.result.ious[-1]))
    gallery = {
        "Best": [_figure(one, samples) for one in order[:SHOWN]],
        "Worst": [_figure(one, samples) for one in order[::-1][:SHOWN]],
    }
    return Section(
        prompts,
        "Clicks" if prompts == "clicks" else "Boxes",
        values | curves,
        tables=(values_table(values),),
        charts=charts,
        gallery=gallery,
        note="NoC@t: mean number of clicks until the IoU is t; who never gets there counts as the largest number."
        if prompts == "clicks"
        else "Each object was asked about by its tight box.",
    )


def _figure(one: Tried, samples: Any) -> Figure:
    """The first and the last answer beside the object."""
    image = samples[one.image].image
    shown = [("first answer", one.first), ("last answer", one.last), ("annotated", one.target == 1)]
    if len(one.result.ious) == 1:
        shown = shown[1:]
    drawn = [(name, _drawn(image, mask)) for name, mask in shown]
    said = ", ".join(f"{value:.2f}" for value in one.result.ious[:6])
    return Figure(drawn, f"{samples.path(one.image).name}, object {one.number + 1}: IoU {said}")


def _drawn(image: NDArray[Any], mask: Bits) -> NDArray[np.uint8]:
    masks = RLE.from_bitmaps(mask[None])
    found = Instances((mask.shape[0], mask.shape[1]), torch.from_numpy(masks.boxes()), masks)
    return overlay(*shrink(image, found, SIDE))
