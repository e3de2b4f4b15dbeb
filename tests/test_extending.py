"""The page on extending, followed word by word on a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- (file|after): (\S+?)(?: :: (.*?))? -->\n```(?:python|text)\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with all that the page adds."""
    root = tmp_path_factory.mktemp("extended")
    left_out = shutil.ignore_patterns("*.safetensors", "__pycache__")
    shutil.copytree(ROOT / "src", root / "src", ignore=left_out)
    blocks = BLOCK.findall((ROOT / "docs/extending.md").read_text())
    assert len(blocks) == 6
    for kind, path, line, text in blocks:
        file = root / path
        if kind == "file":
            assert not file.exists()
            file.write_text(text)
        else:
            before = file.read_text()
            assert before.count(line + "\n") == 1
            file.write_text(before.replace(line + "\n", line + "\n" + text))
    return root


def run(copy: Path, *arguments: str, status: int = 0) -> str:
    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], env=environment, cwd=copy, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def coins(copy: Path) -> Path:
    """A set of circles, of which one row is broken."""
    folder = copy / "coins"
    folder.mkdir()
    rows = ["image,x,y,radius,class"]
    rng = np.random.default_rng(0)
    for i in range(4):
        image = rng.integers(0, 60, (64, 96, 3)).astype(np.uint8)
        for x, y in ((20 + i, 20), (66, 40 - i)):
            cv2.circle(image, (x, y), 10, (220, 220, 220), cv2.FILLED)
            rows.append(f"{i}.png,{x + 0.5},{y + 0.5},10,coin")
        cv2.imwrite(str(folder / f"{i}.png"), image)
    (folder / "circles.csv").write_text("\n".join([*rows, "0.png,5,5,-1,coin"]) + "\n")
    return folder


def test_the_format_is_read_and_written(copy: Path, coins: Path) -> None:
    said = run(copy, "-m", "eachmask", "convert", str(coins), "coco", "--to", "coco", status=1)  # one row is broken
    assert (
        "object 3 of 0.png: 5, 5, -1 is no circle; mend the row" in said
        and (copy / "coco/instances_all.json").is_file()
    )
    back = run(copy, "-m", "eachmask", "convert", "coco", "back", "--to", "circles")
    assert "only circles of their area" in back
    row = (copy / "back/circles.csv").read_text().splitlines()[1]
    assert row.startswith("0.png,20.5,20.5,10.") and row.endswith(",coin")


def test_the_model_learns_and_predicts(copy: Path, coins: Path) -> None:
    options = ["--start", "none", "--steps", "40", "--evaluate-every", "40", "--device", "cpu", "--size", "96"]
    run(copy, "-m", "eachmask", "train", "components_tiny", "--data", "coins", "--out", "run", *options)
    assert (copy / "run/model.safetensors").is_file() and (copy / "run/report.html").is_file()
    arguments = ["coins/0.png", "--model", "run/model.safetensors", "--device", "cpu", "--out", "results"]
    run(copy, "-m", "eachmask", "predict", *arguments)
    assert (copy / "results/predictions.json").is_file()


def test_the_task_is_a_record(copy: Path) -> None:
    code = """
import torch
from eachmask.structures import Matte
from eachmask.tasks.saliency import SALIENCY, f_measure

target = Matte(torch.tensor([[0.0, 1.0, 1.0, 0.0]]))
found = Matte(torch.tensor([[0.0, 0.9, 0.0, 0.0]]))
print(round(f_measure(target, target), 3), round(f_measure(found, target), 3), SALIENCY.scoring.best)
"""
    assert run(copy, "-c", code).split() == ["1.0", "0.812", "f"]
