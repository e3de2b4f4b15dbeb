"""Tables of results are opened in spreadsheets, which must run no name of an image or a class."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import torch

from eachmask.structures import Category, Matte, SemanticMap
from eachmask.tasks.matting import MATTING
from eachmask.tasks.semantic import SEMANTIC
from eachmask.tasks.task import About, Recorded

NAME = '=HYPERLINK("x"),a'
IMAGE = np.zeros((2, 4, 3), np.uint8)
SKY = SemanticMap(torch.tensor([[0, 0, 0, 1]] * 2), (Category(1, "+sky"), Category(2, "road")))
CLASSES = [["'" + NAME, "'+sky", "6", "0.750000"], ["'" + NAME, "road", "2", "0.250000"]]


@pytest.mark.parametrize(
    ("task", "result", "rows"),
    [(SEMANTIC, SKY, CLASSES), (MATTING, Matte(torch.full((2, 4), 0.5)), [["'" + NAME, "0.500000"]])],
    ids=["semantic", "matting"],
)
def test_no_table_holds_a_formula(task, result, rows):
    recorded = [Recorded(1, NAME, task.outputs.record(NAME, result, IMAGE))]
    (write,) = (write for name, write in task.outputs.collections.items() if name.endswith(".csv"))
    text = "".join(write(lambda: recorded, About("", "", "", ())))
    assert list(csv.reader(io.StringIO(text)))[1:] == rows
