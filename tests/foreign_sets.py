"""Small sets as other tools write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eachmask.data import Dataset

SQUARE = [5, 5, 20, 5, 20, 20, 5, 20]
OTHER = [30, 10, 50, 10, 50, 30, 30, 30]
SIZE = (48, 64)


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), 9, np.uint8)).save(path)
    return path


def coco(path: Path, name: str = "a.png", annotation: dict[str, Any] | None = None, **changes: Any) -> Path:
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 15, 15], "segmentation": [SQUARE]}
    content = {
        "images": [{"id": 1, "file_name": name, "width": 64, "height": 48}],
        "annotations": [row | (annotation or {})],
        "categories": [{"id": 1, "name": "Zelle für Ü"}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | changes, ensure_ascii=False), encoding="utf-8")
    return path


def labels(data: Dataset, split: str = "all") -> list[list[str]]:
    return [data.splits[split].targets(i).label_names for i in range(len(data.splits[split]))]
