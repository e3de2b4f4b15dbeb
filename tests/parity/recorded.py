"""Recorded outputs of reference implementations in ``../shared/parity``: which are there, and how to compare.

A fixture tells its own size, number of classes and settings, so tests read those from it instead of assuming them. A
family's test file has a pytest fixture ``ran``: our model with a recorded one's settings and weights, and what it says
of the recorded input. Its tests run on every recording whose system's name begins with one of the family's names.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eachmask.models.config import merged
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances
from eachmask.weights.renaming import fill

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "parity"
MISSING = "needs the recorded reference outputs in ../shared/parity, which are not here"
CASES = ("plain", "padded_rescaled")
"""Detections were recorded of the whole input, and of a part that counts as a resized image."""


def recorded(*systems: str) -> list[Any]:
    """Parameters for pytest: stems of the fixtures whose system's name begins with one of these."""
    stems = []
    for path in sorted(FOLDER.glob("*.json")):
        if json.loads(path.read_text())["system"].startswith(systems):
            stems.append(pytest.param(str(path.with_suffix("")), id=path.stem))
    return stems or [pytest.param("", marks=pytest.mark.skip(reason=MISSING))]


def on(*systems: str) -> pytest.MarkDecorator:
    """Run a test on the fixtures of these systems, all tests of one fixture together."""
    return pytest.mark.parametrize("ran", recorded(*systems), indirect=True, scope="module")


@lru_cache(maxsize=1)
def deterministic() -> Any:
    """The fixtures' own helper module."""
    spec = importlib.util.spec_from_file_location("deterministic", FOLDER / "deterministic.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def open_fixture(stem: str) -> Any:
    """The fixture (``deterministic.Fixture``) of a stem."""
    return deterministic().Fixture(stem)


# Our model on a recording ---------------------------------------------------------------------------------------------


class Ran(NamedTuple):
    """A recording, our model with its weights, and what it says of the recorded input."""

    fixture: Any
    model: Any
    raw: Any

    @property
    def project(self) -> str:
        """Whose implementation was recorded: the first word of the system's name."""
        return project_of(self.fixture)

    @property
    def said(self) -> dict[str, Any]:
        """The reference's settings, in its own words."""
        return self.fixture.manifest["config"]

    def array(self, name: str) -> Tensor:
        """A recorded array."""
        return torch.from_numpy(self.fixture.arrays[name])

    def seen(self, case: str) -> Any:
        """What our model says where only the case's ``img_shape`` is image."""
        said = self.fixture.manifest["detections"][case]
        valid = tuple(said["img_shape"])
        whole = batch(self.fixture)
        if "zero-padded" in said["meaning"] and valid != whole.sizes[0]:  # what lies beyond it was not seen at all
            tensor = whole.tensor.clone()
            tensor[..., valid[0] :, :], tensor[..., valid[1] :] = 0, 0
            return self.model(ImageBatch(tensor, (valid,)))
        return with_size(self.raw, valid)

    def target(self) -> Instances:
        """The recorded training target."""
        said = self.fixture.target()
        return Instances(
            image_size=batch(self.fixture).sizes[0],
            boxes=torch.from_numpy(said["boxes"]).float(),
            masks=RLE.from_bitmaps(said["masks"]) if "masks" in said else None,
            labels=torch.from_numpy(said["labels"]).long(),
        )


def project_of(fixture: Any) -> str:
    """mmdet_solov2_r50 -> mmdet."""
    return fixture.manifest["system"].split("_")[0]


def run(
    fixture: Any,
    variant: Callable[..., nn.Module],
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    config: dict[str, Any],
) -> Ran:
    """Build our variant with the fixture's number of classes, fill it and run it.

    Args:
        convert: the reference's state dict -> ours.
        config: the fixture's settings, in our words.
    """
    model = variant(num_classes=fixture.manifest["config"]["num_classes"], **config).eval()
    fill(model, convert(weights(fixture)))
    with torch.no_grad():
        return Ran(fixture, model, model(batch(fixture)))


def weights(fixture: Any) -> dict[str, Tensor]:
    """The reference's state dict, under the reference's names."""
    return {name: torch.from_numpy(np.asarray(value)) for name, value in fixture.weights().items()}


def batch(fixture: Any) -> ImageBatch:
    """The fixture's normalized input as a batch of one, of torch's default type."""
    tensor = torch.from_numpy(fixture.input()).to(torch.get_default_dtype())
    height, width = tensor.shape[-2:]
    return ImageBatch(tensor, ((height, width),))


@contextmanager
def doubled(model: nn.Module) -> Iterator[None]:
    """Within, all is float64: whether the input of a rectifier is above 0 must not be the processor's decision."""
    torch.set_default_dtype(torch.float64)
    single = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]  # losses say ``float`` for what may be bfloat16
    model.double()
    try:
        yield
    finally:
        torch.Tensor.float = single  # type: ignore[method-assign]
        torch.set_default_dtype(torch.float32)
        model.float()


def with_size(raw: Any, valid: tuple[int, int]) -> Any:
    """A ``Raw`` of one image, of which only the upper left (height, width) is valid."""
    if "sizes" in raw._fields:
        return raw._replace(sizes=(valid,))
    return raw._replace(detection=with_size(raw.detection, valid))


def in_strides(raw: Any) -> list[Tensor]:
    """The distances from every level's places to the sides of the box, in strides instead of pixels."""
    return [level / stride for level, stride in zip(raw.distances, raw.features.strides, strict=True)]


# What was recorded of two-stage models --------------------------------------------------------------------------------


def all_sampled(fixture: Any) -> dict[str, Any]:
    """Settings with which we learn from every anchor and proposal, as the recorded samplers did."""
    every = re.search(r"(?:RPN losses /|RPN\.BATCH_SIZE_PER_IMAGE(?: =)?) (\d+)", fixture.manifest["loss_note"])
    return {
        "rpn": {"batch_size": int(every[1]) if every else 10**7},
        "roi": {"batch_size": 10**7, "positive_fraction": 1.0},
    }


def two_stage_settings(fixture: Any) -> dict[str, Any]:
    """What MMDetection and Detectron2 say of both stages, in our words."""
    said = fixture.manifest["config"]
    proposing = {
        "nms_threshold": said["rpn_nms"],
        "pre_nms_top_n": said.get("nms_pre", said.get("rpn_pre")),
        "post_nms_top_n": said.get("rpn_max", said.get("rpn_post")),
    }
    limits = {
        "score_threshold": said["score_thr"],
        "nms_threshold": said["nms"],
        "max_detections": said["max_per_img"],
    }
    return merged(all_sampled(fixture), {"rpn": proposing} | limits)


def losses_on_recorded_proposals(ran: Ran) -> dict[str, Tensor]:
    """Ours, for the recorded target."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ran.model, "propose", lambda *_: [ran.array("aux/train_rois").float()])
        return ran.model.losses(ran.raw, [ran.target()])


# Comparisons ----------------------------------------------------------------------------------------------------------


def check_raw(fixture: Any, name: str, ours: Tensor) -> None:
    """Same shape, and the largest error below a thousandth of the reference's standard deviation."""
    error, same_shape = fixture.compare_raw(name, ours.detach().numpy())
    assert same_shape, f"{name}: our shape is {tuple(ours.shape)}"
    assert error < 1e-3, f"{name}: error {error:.2e} standard deviations"


def check_levels(fixture: Any, **outputs: Sequence[Tensor]) -> None:
    """``check_raw`` of every level of several outputs: with ``cls=raw.logits`` of ``cls.0``, ``cls.1`` ..."""
    for name, levels in outputs.items():
        for i, level in enumerate(levels):
            check_raw(fixture, f"{name}.{i}", level)


def check_pyramid(fixture: Any, maps: Sequence[Tensor]) -> None:
    """``check_raw`` of the pyramid's recorded levels, ``neck.0`` ... or, by stride, ``neck.p3`` ..."""
    names = [name for name in fixture.manifest["raw"] if name.startswith("neck.")]
    known = {int(name.removeprefix("neck.").removeprefix("p")): name for name in names}
    first = min(known)
    assert max(known) - first + 1 == len(maps)
    for number, name in known.items():
        check_raw(fixture, name, maps[number - first])


def check_decoded(ran: Ran, case: str) -> None:
    """``check_detections`` of what our model decodes with its own settings."""
    (found,) = ran.model.decode(ran.seen(case), DecodeOptions())
    check_detections(ran.fixture, case, found)


def check_detections(fixture: Any, case: str, found: Instances, *, scores: Tensor | None = None) -> None:
    """The recorded detections, no more and no fewer: boxes within 0.1 px, scores within 0.001, masks IoU > 0.99.

    Args:
        found: in the network's pixels, or in those of the case's original image.
        scores: instead of ``found.scores``.
    """
    reference = fixture.detections(case)
    found = found.resize(original_size(fixture, case))
    masks = None if found.masks is None or "masks" not in reference else found.masks.to_rle().decode()
    used = found.scores if scores is None else scores
    assert used is not None and found.labels is not None
    report = deterministic().compare_detections(
        reference, found.boxes.numpy(), found.labels.numpy(), used.numpy(), masks
    )
    expected, count = report["count"]
    assert expected == count == report["matched"], report
    assert report["box"] < 0.1 and report["score"] < 1e-3 and report["bad_masks"] == 0, report


def original_size(fixture: Any, case: str) -> tuple[int, int]:
    """(height, width) of the image that the case's detections are in."""
    said = fixture.manifest["detections"][case]
    return tuple(said["ori_shape"]) if "ori_shape" in said else (said["height"], said["width"])


def check_gradients(
    fixture: Any,
    model: nn.Module,
    losses: dict[str, Tensor],
    name_of: Callable[[str], str],
    early: tuple[str, ...] = ("backbone",),
    late: float = 1e-3,
) -> None:
    """Recorded gradients of the losses' sum: within 0.001 standard deviations, of early parameters within 0.05.

    Args:
        name_of: the reference's name of a parameter -> ours.
        early: starts of our names of parameters before many rectifiers, of which single ones flip.
        late: bound for the others.
    """
    model.zero_grad()
    sum(losses.values()).backward()  # type: ignore[union-attr]
    own = dict(model.named_parameters())
    for theirs in fixture.manifest["grads"]:
        name = name_of(theirs)
        error, same = fixture.compare_grad(theirs, own[name].grad.numpy())  # type: ignore[union-attr]
        assert same and error < (5e-2 if name.startswith(early) else late), (theirs, error)
    model.zero_grad()


def check_losses(fixture: Any, ours: dict[str, Tensor], names: dict[str, str]) -> None:
    """Relative error below 0.001 (absolute 0.0001 where the value is near 0).

    Args:
        names: our loss -> the reference's.
    """
    for mine, theirs in names.items():
        assert float(ours[mine]) == pytest.approx(fixture.manifest["losses"][theirs], rel=1e-3, abs=1e-4), mine
