"""`matte`, `label` and `export` killed at random moments: run again, they leave what an undisturbed run leaves."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from batch.test_label import Squares, draw_squares
from chaos.forked import Command, forked, seeds
from chaos.test_kills import content, killed, spots_folder

from eachmask import models
from eachmask.batch.label import DATA, label_images
from eachmask.batch.label_queue import CSV
from eachmask.cli import main
from eachmask.data.images.inputs import find_inputs
from eachmask.inference.load import load
from eachmask.structures import Category, Preprocess
from eachmask.weights.file import save_model
from eachmask.weights.header import ModelInfo

Kept = dict[str, bytes]


def check(
    what: str, into: Callable[[Path], Callable[[], int]], tmp_path: Path, seeds: range, kept: Callable[[Path], Kept]
) -> None:
    """Killed and run again, what is kept in the folder is as if nothing had been."""
    into(tmp_path / "warm")()  # all is imported before forking
    whole = forked(into(tmp_path / "whole"))
    assert whole.is_sound and whole.status == 0, whole.output
    expected = kept(tmp_path / "whole")
    assert expected
    for seed in seeds:
        out = tmp_path / f"out{seed}"
        killed(what, into(out), random.Random(seed), 1.3 * whole.seconds)
        again = forked(into(out))
        assert again.is_sound and again.status == 0, again.output
        assert kept(out) == expected


@seeds(2, 60)
def test_matte(tmp_path: Path, seeds: range) -> None:
    torch.manual_seed(0)
    info = ModelInfo("modnet", {}, Preprocess(short_side=None, divisor=32), (Category(1, "foreground"),))
    save_model(tmp_path / "m.safetensors", models.variant("modnet")().eval(), info)
    words = ("matte", spots_folder(tmp_path / "in"), "--model", tmp_path / "m.safetensors")
    on_cpu = ("--device", "cpu", "--precision", "fp32")

    def kept(out: Path) -> Kept:
        return content(out / "rgba") | content(out / "alpha") | {"csv": (out / "mattes.csv").read_bytes()}

    def into(out: Path) -> Callable[[], int]:
        return lambda: main([str(word) for word in (*words, "--out", out, *on_cpu)])

    check("matte", into, tmp_path, seeds, kept)


@seeds(3, 90)
def test_label(tmp_path: Path, seeds: range) -> None:
    draw_squares(tmp_path / "in")

    def into(out: Path) -> Callable[[], int]:
        return lambda: len(label_images(Squares(), find_inputs([tmp_path / "in"]), out, "labelme").failed)

    check("label", into, tmp_path, seeds, lambda out: content(out / DATA) | {CSV: (out / CSV).read_bytes()})


@pytest.mark.parametrize(
    ("runtime", "package", "name"),
    [
        ("onnx", "onnxruntime", "m.onnx"),
        pytest.param("openvino", "openvino", "m.xml", marks=pytest.mark.chaos),
        pytest.param("torch-export", "torch", "m.pt2", marks=pytest.mark.chaos),
    ],
)
@seeds(1, 20)
def test_export(tmp_path: Path, seeds: range, runtime: str, package: str, name: str) -> None:
    """Into an empty folder, or over an earlier file: that one, the new one, or none."""
    for needed in (package, "onnx"):
        pytest.importorskip(needed, reason="the extra of this runtime is not installed")
    image = torch.rand(64, 96, 3, generator=torch.Generator().manual_seed(0)).numpy()

    def export(out: Path, part: str) -> Command:
        words = ("export", tmp_path / f"{part}.safetensors", "--to", runtime, "--out", out / name)
        return Command((*words, "--size", 64, 96))  # of any size takes torch minutes

    def labels(out: Path) -> bytes:
        return bytes(load(out / name, device="cpu").predict(image).labels.numpy().tobytes())

    found = {}
    for part in ("before", "after"):
        torch.manual_seed(len(part))
        info = ModelInfo("fcn32s_lite0", {}, Preprocess(short_side=None), (Category(1, "a"), Category(2, "b")))
        save_model(tmp_path / f"{part}.safetensors", models.variant("fcn32s_lite0")(num_classes=2).eval(), info)
        whole = forked(export(tmp_path / part, part), clean=True)
        assert whole.is_sound and whole.status == 0, whole.output
        found[part] = labels(tmp_path / part)
    assert found["before"] != found["after"]
    for seed in seeds:
        out = tmp_path / str(seed)
        if seed % 2 == 0:
            shutil.copytree(tmp_path / "before", out)
        killed("export", export(out, "after"), random.Random(seed), 1.3 * whole.seconds, clean=True)
        assert not (out / name).exists() or labels(out) in found.values()
        assert forked(export(out, "after"), clean=True).status == 0 and labels(out) == found["after"]
        assert {path.stem for path in out.iterdir()} == {"m"}
