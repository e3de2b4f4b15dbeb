"""Benchmarks still run: those that need no pack, with the smallest budgets (`pytest -m slow tests/test_benchmarks.py`).

Their figures are not looked at, only that they end with one JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from processes import BENCHMARKS

SMALL = [
    "busy.py --busy 1 --images 1 --rounds 1",
    "dataloader.py --annotations 200 --images 20 --workers 1",
    "evaluate.py --images 20 --repeats 1",
    "matting.py refinement --size 64 96 --repeats 1",
    "matting.py video --frames 2 --size 64 96",
    "one_stage.py --repeats 1 --images coffee --threads 1 --only speed --systems yolact_r50",
    "one_stage.py --only memory --systems yolact_r50 --side 512 --objects 5",
    "paste.py --height 100 --width 120 --num 3 --repeats 1 --peer-repeats 1",
    "predict_cpu.py --repeats 1 --short-side 64 --threads 1 --images coffee",
    "rcnn_story.py --short-side 96 --proposals 4 --crop-side 32 --repeats 1",
    "runtimes.py --models nuclei --runtimes torch-fp32 --rounds 1 --images 1",
    "semantic.py --size 64 64 --repeats 1 --threads 1",
    "sequential.py --steps 2 --size 64 --images 2 --counts 2 --scored 1 --only recurrent_instance_lite0 --out run",
    "serve_memory.py --images 2 --batch 1 --side 64",
    "train_step.py --size 64 --batch 1 --steps 1 --threads 1",
    "train_step.py --size 64 --batch 1 --steps 1 --threads 1 --without depthwise --variant condinst_lite0_fpn",
    "winograd.py --threads 1 --repeats 1",
]


@pytest.mark.slow
@pytest.mark.parametrize("command", SMALL)
def test_it_ends_with_json(tmp_path, command):
    script, *arguments = command.split()
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        capture_output=True, text=True, cwd=tmp_path, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert isinstance(json.loads(done.stdout.strip().splitlines()[-1]), dict)
