"""Every variant x every runtime: the file says what the model says, or one sentence says why there is no file."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporting import equal
from models import test_contract, test_matting, test_panoptic, test_prompted, test_semantic
from torch import nn

import eachmask
from eachmask import models
from eachmask.exporting.export import SUFFIXES, write_exported
from eachmask.inference.prompt_predictor import PromptPredictor
from eachmask.models.promptable.clicks import Clicks
from eachmask.runtimes.sessions import session_of
from eachmask.structures import Category, DecodeOptions, Instances, Preprocess, Prompts, UserError
from eachmask.weights.header import ModelInfo

PROPOSALS = "RLE, which a graph of tensors cannot"
REFUSED = {
    "sds_lite0": PROPOSALS,
    "cfm_lite0": PROPOSALS,
    "hypercolumns_lite0": PROPOSALS,
    "rcnn_lite0": PROPOSALS,
    "fast_rcnn_lite0": PROPOSALS,
    "yolact_plus_r18": "deform_conv2d",
    "background_matting_small": "give --background",
    "background_matting_v2_mobilenetv2": "give --background",
    "automatic_matting_lite0": "give --trimap",
    "dcnn_matting": "give --trimap",
    "deep_matting_lite0": "give --trimap",
    "recurrent_instance_lite0": "cannot be exported for images of any size",
}
"""Variant -> of the sentence that says why it cannot be exported."""
ONE_SIZE = {"unet_tiny", "robust_video_matting_mobilenetv3"}
"""Networks whose layers depend on the size: they are exported for one, and asked to be."""
SQUARE = {"sam_vit_b", "mobile_sam", "efficient_sam_ti", "sam2_hiera_t"}
"""Networks that see images of one size alone."""
QUICK = {
    "mask_rcnn_lite0_p3", "sliding_window", "unet_tiny", "efficient_sam_ti", "simpleclick_vit_t",
    "background_matting_v2_mobilenetv2",
}  # fmt: skip
ANY_SIZE = {"sliding_window", "flows_cpnet", "efficient_sam_ti"}
"""Written with torch alone for any size; the others for one: with sizes as symbols torch is mostly not done in the time
that it gets."""
UNDECIDED = {"coverage_tree_lite0", "spatial_embedding_lite0"}
"""Stretched to that size, random weights leave some of their pixels and cuts to the last bits."""
SIZES = ((64, 96), (75, 131), (110, 70))
FLAT = {"panoptic_deeplab_lite0": ("head", 20)}
"""Variant -> the layer whose random weights give nearly the same everywhere, so that rounding would decide, and by what
they are multiplied."""


@dataclass(frozen=True)
class Case:
    """A variant small enough for a test."""

    variant: str
    config: dict[str, Any] = field(default_factory=dict)
    num_classes: int = 3
    score: float = 0.0
    asks: bool = False
    """It answers prompts alone."""

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        model = models.variant(self.variant)(num_classes=self.num_classes, **self.config).eval()
        if self.variant in FLAT:
            name, larger = FLAT[self.variant]
            model.get_submodule(name).weight.data *= larger  # type: ignore[operator]
        return model

    def info(self, size: tuple[int, int] | None = None) -> ModelInfo:
        size = (128, 128) if self.variant in SQUARE else size
        categories = tuple(Category(i + 1, f"class {i}") for i in range(self.num_classes))
        preprocess = Preprocess(short_side=None, fixed_size=size)
        return ModelInfo(self.variant, self.config, preprocess, categories, name=self.variant)


CASES = [
    *(Case(c.variant, c.config, c.num_classes, c.score) for c in test_contract.CASES),
    *(Case(c.variant, c.config) for c in (*test_semantic.CASES, *test_panoptic.CASES)),
    *(Case(variant, config, 1) for variant, config in test_matting.CASES.items()),
    *(Case(c.variant, c.config, 1, asks=True) for c in test_prompted.CASES),
]


def marked(cases: list[Case]) -> list[Any]:
    """The quick ones as they are, the others slow."""
    return [pytest.param(c, id=c.variant, marks=() if c.variant in QUICK else pytest.mark.slow) for c in cases]


@pytest.fixture(params=sorted(SUFFIXES))
def runtime(request: pytest.FixtureRequest) -> str:
    for package in {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}.get(request.param, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    return request.param


def image(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).integers(0, 60, (*size, 3), dtype=np.uint8)
    found[20:50, 15:45] = (200, 90, 40)
    return found


@pytest.mark.parametrize("case", marked([c for c in CASES if c.variant not in REFUSED]))
def test_the_file_says_what_the_model_says(case: Case, runtime: str, tmp_path: Path) -> None:
    if runtime == "torch-export" and case.variant in UNDECIDED:
        pytest.skip("rounding decides its masks")
    sized = case.variant not in ANY_SIZE if runtime == "torch-export" else case.variant in ONE_SIZE
    model, info = case.build(), case.info((96, 128) if sized else None)
    file = tmp_path / f"model{SUFFIXES[runtime]}"
    write_exported(file, model, info, runtime, "fp32", {})
    exported = eachmask.load(file)
    own = type(exported)(model, info, device="cpu", precision="fp32", optimize=False)
    images = [image(size, seed) for seed, size in enumerate(SIZES)]
    options = DecodeOptions(score_threshold=case.score)
    if isinstance(exported, PromptPredictor):
        if runtime != "torch-export":
            check_graphs(file, model)
        for one in images:
            equal.check(own.predict(one, prompts(case, one)), exported.predict(one, prompts(case, one)))
    if not case.asks:
        both = (predictor.predict([*images, images[0]], options=options) for predictor in (own, exported))
        for a, b in zip(*both, strict=True):
            equal.check(a, b)
        nothing = exported.predict(images[0], options=replace(options, score_threshold=1.0))
        assert not isinstance(nothing, Instances) or not len(nothing)


def check_graphs(file: Path, model: nn.Module) -> None:
    """Of a model that answers prompts, the file runs the answers too, and their weights are there once."""
    session = session_of(file)
    assert session is not None
    header = session.header()
    if header.verb == "encode":
        assert set(header.answers) == set(model.answered_by) != set()
        assert sum(t.numel() for t in header.weights.values()) < 0.1 * sum(t.numel() for t in model.parameters())


def test_a_file_that_answers_in_an_older_way_is_to_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    case = next(c for c in CASES if c.variant == "clicks_lite0")
    write_exported(tmp_path / "model.onnx", case.build(), case.info(), "onnx", "fp32", {})
    monkeypatch.setattr(Clicks, "answered_by", ("decoder.forward", "decoder.further"))
    with pytest.raises(UserError, match=r"another version's way \(decoder.further\): export the model again"):
        eachmask.load(tmp_path / "model.onnx")


def prompts(case: Case, image: np.ndarray) -> Prompts:
    """A click, or four outermost points, on the square."""
    asked = {c.variant: c.ask for c in test_prompted.CASES}.get(case.variant)
    if asked is test_prompted.extremes:
        return Prompts(
            image.shape[:2], extremes=torch.tensor([[[15.5, 30.0], [30.0, 20.5], [44.5, 30.0], [30.0, 49.5]]])
        )
    return Prompts(image.shape[:2], points=[[30.0, 35.0]], signs=[True])


@pytest.mark.parametrize("case", marked([c for c in CASES if c.variant in REFUSED]))
def test_one_sentence_says_why_there_is_no_file(case: Case, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    with pytest.raises(UserError, match="cannot be exported|cannot") as caught:
        write_exported(tmp_path / "model.onnx", case.build(), case.info(), "onnx", "fp32", {})
    assert REFUSED[case.variant] in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("variant", sorted(ONE_SIZE))
def test_layers_that_depend_on_the_size_want_one(variant: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    case = next(c for c in CASES if c.variant == variant)
    with pytest.raises(UserError, match="give --size HEIGHT WIDTH"):
        write_exported(tmp_path / "model.onnx", case.build(), case.info(), "onnx", "fp32", {})
