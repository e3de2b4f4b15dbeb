"""Damaged annotations and prediction files: a sentence or a counted problem from every command alike."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos.forked import COUNTS, Command, forked, seeds
from small_sets import make_set

from eachmask.cli import main
from eachmask.data.formats.coco_write import write_coco_folder
from eachmask.data.formats.known import FORMATS
from eachmask.structures import Instances

NAMES = [known.name for known in FORMATS if known.target is Instances]
DEEP, LONG = "[" * 100_000 + "]" * 100_000, "1" * 5_000
ODD: tuple[Any, ...] = (
    None, [], {}, "", "text", -1, 2.0, True, float("nan"), float("inf"), 1e308, 10**30, [1, 2, 3, 4, 5], [None] * 4,
    ["a"] * 4, [float("nan")] * 4, {"counts": "abc"}, {"counts": [1, 2]}, {"size": [48, 64]}, [[1, 2, 3]], [[]],
    {"counts": [-5, 3077], "size": [48, 64]}, [[float("nan")] * 8], [["a"] * 8],
)  # fmt: skip
FIELDS = {
    "annotations": ("bbox", "area", "segmentation", "iscrowd", "id", "image_id", "category_id", "keypoints"),
    "images": ("id", "file_name", "width", "height"),
    "categories": ("id", "name", "supercategory", "keypoints", "skeleton"),
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same data in every format."""
    folder = tmp_path_factory.mktemp("sets")
    write_coco_folder(folder / "made", make_set(folder / "images"))
    for name in NAMES:
        assert main(["convert", str(folder / "made"), str(folder / name), "--to", name]) == 0
    return folder


def damaged_coco(text: str, numbers: random.Random) -> str:
    """One field of one entry replaced."""
    content = json.loads(text)
    block = numbers.choice(list(FIELDS))
    row, field = numbers.choice(content[block]), numbers.choice(FIELDS[block])
    kind = numbers.randrange(len(ODD) + 3)
    if kind < len(ODD):
        row[field] = ODD[kind]
        return json.dumps(content)
    row[field] = "@@"
    return json.dumps(content).replace('"@@"', (DEEP, LONG, "1e999")[kind - len(ODD)])


def damaged_bytes(data: bytes, numbers: random.Random) -> bytes:
    """Cut, emptied, of another kind, or with some bytes changed."""
    kind = numbers.randrange(5)
    if kind == 0:
        return data[: numbers.randrange(len(data) + 1)]
    if kind == 1:
        return b""
    if kind == 2:
        return numbers.choice((DEEP.encode(), b'{"a": ' + LONG.encode() + b"}", b"\0\1\2\xff" * 50, b"null", b"7 " * 9))
    changed = bytearray(data)
    for _ in range(numbers.randrange(1, 8) if changed else 0):
        changed[numbers.randrange(len(changed))] = numbers.randrange(256)
    return bytes(changed)


def check(what: str, *words: object) -> None:
    outcome = forked(Command(words), megabytes=3000, clean=words[0] == "evaluate")
    COUNTS[f"{what} {words[0]} {'refused' if outcome.status == 2 else 'read'}"] += 1
    assert outcome.is_sound, f"{words}\n{outcome.output[-3000:]}"
    assert outcome.status != 2 or outcome.output.strip().splitlines()[-1].startswith("eachmask: ")


COMMANDS: tuple[Callable[[Path, Path, Path], tuple[object, ...]], ...] = (
    lambda data, file, out: ("convert", data, out / "converted", "--to", "labelme"),
    lambda data, file, out: ("doctor", data, "--fix", out / "fixed"),
    lambda data, file, out: ("evaluate", "--data", file, "--predictions", out / "p.json", "--out", out / "evaluated"),
)


@seeds(8, 400)
def test_fields_of_coco(sets: Path, tmp_path: Path, seeds: range) -> None:
    for seed in seeds:
        numbers, data = random.Random(seed), tmp_path / str(seed) / "data"
        shutil.copytree(sets / "coco", data)
        file = next(data.rglob("instances_val.json"))
        annotation = json.loads(file.read_text())["annotations"][0]
        kept = {key: annotation[key] for key in ("image_id", "category_id", "segmentation")}
        (data.parent / "p.json").write_text(json.dumps([kept | {"score": 0.9}]))
        file.write_text(damaged_coco(file.read_text(), numbers))
        check("coco", *COMMANDS[seed % 3](data, file, data.parent))
        shutil.rmtree(data.parent)


@seeds(8, 400)
def test_files_of_every_format(sets: Path, tmp_path: Path, seeds: range) -> None:
    for seed in seeds:
        numbers, name = random.Random(seed), NAMES[seed % len(NAMES)]
        data = tmp_path / str(seed) / "data"
        shutil.copytree(sets / name, data)
        files = sorted(p for p in data.rglob("*") if p.is_file() and p.name != "convert-report.json")
        texts = [p for p in files if p.suffix not in (".png", ".jpg")]
        file = numbers.choice(texts if texts and numbers.random() < 0.7 else files)
        file.write_bytes(damaged_bytes(file.read_bytes(), numbers))
        check(name, *COMMANDS[seed // len(NAMES) % 2](data, file, data.parent))
        shutil.rmtree(data.parent)


@seeds(6, 300)
def test_prediction_files(sets: Path, tmp_path: Path, seeds: range) -> None:
    file = next((sets / "coco").rglob("instances_val.json"))
    rows = [
        {k: row[k] for k in ("image_id", "category_id", "segmentation", "bbox")} | {"score": 0.9}
        for row in json.loads(file.read_text())["annotations"]
    ]
    for seed in seeds:
        numbers, predictions = random.Random(seed), tmp_path / f"{seed}.json"
        changed = json.loads(json.dumps(rows))
        numbers.choice(changed)[numbers.choice(list(changed[0]))] = numbers.choice(ODD)
        text = json.dumps(changed).encode()
        predictions.write_bytes(damaged_bytes(text, numbers) if seed % 3 == 2 else text)
        check("predictions", "evaluate", "--data", file, "--predictions", predictions, "--out", tmp_path / f"out{seed}")
