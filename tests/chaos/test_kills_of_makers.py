"""`matte` and `label` killed at random moments: run again, they leave what an undisturbed run leaves."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from batch.test_label import Squares, draw_squares
from chaos.forked import forked, seeds
from chaos.test_kills import content, killed, spots_folder

from eachmask import models
from eachmask.batch.label import DATA, label_images
from eachmask.batch.label_queue import CSV
from eachmask.cli import main
from eachmask.data.images.inputs import find_inputs
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
