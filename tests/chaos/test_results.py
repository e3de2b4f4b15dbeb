"""Results folders, headers, videos and panoptic maps that are damaged, and `track` killed: a sentence, or what an
undisturbed run gives."""

from __future__ import annotations

import json
import random
import shutil
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from chaos.forked import COUNTS, Command, forked, seeds
from chaos.test_annotations import DEEP, LONG, ODD, damaged_bytes
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_model import Spots, main_with_spots, spots_image, spots_info

from eachmask.weights.file import CHECKSUMS, HEADER, save_model

ON_CPU = ("--device", "cpu", "--precision", "fp32")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, three frames, and what commands make of them."""
    folder = tmp_path_factory.mktemp("made")
    save_model(folder / "m.safetensors", Spots(), spots_info())
    (folder / "frames").mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"frames/{i}.png"), spots_image(1, 48, 64, 3))
    for command, more in (("predict", ("--save", "labels")), ("track", ("--save", "davis"))):
        outcome = forked(command_of(folder, command, folder / command, *more))
        assert outcome.status == 0, outcome.output
    return folder


def command_of(made: Path, command: str, out: Path, *more: object) -> Command:
    words = (command, made / "frames", "--model", made / "m.safetensors", "--out", out, *ON_CPU, *more)
    return Command(words, main_with_spots)


def check(what: str, command: Command) -> None:
    outcome = forked(command, megabytes=3000)
    COUNTS[f"{what} {command.words[0]} {'refused' if outcome.status == 2 else 'read'}"] += 1
    assert outcome.is_sound, f"{what} {command.words}\n{outcome.output[-3000:]}"


def damaged_json(text: str, numbers: random.Random) -> str:
    """One value, however deep, replaced."""
    content = json.loads(text)
    places = list(_places(content, ()))
    *above, last = numbers.choice(places)
    part = content
    for key in above:
        part = part[key]
    kind = numbers.randrange(len(ODD) + 2)
    if kind < len(ODD):
        part[last] = ODD[kind]
        return json.dumps(content)
    part[last] = "@@"
    return json.dumps(content).replace('"@@"', (DEEP, LONG)[kind - len(ODD)])


def _places(content: Any, above: tuple[Any, ...]) -> Any:
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield (*above, key)
        yield from _places(content[key], (*above, key))


def damaged_records(data: bytes, numbers: random.Random) -> bytes:
    """Records of a journal with right checksums and wrong values."""
    lines = []
    for line in data.splitlines():
        parts = [part.decode() for part in line.partition(b"\t")[2].split(b"\t")]
        which = numbers.randrange(len(parts))
        parts[which] = damaged_json(parts[which], numbers)
        text = "\t".join(parts).encode()
        lines.append(b"%08x\t%s\n" % (zlib.crc32(text), text))
    return b"".join(lines)


@seeds(4, 300)
def test_headers(made: Path, tmp_path: Path, seeds: range) -> None:
    weights = load_file(made / "m.safetensors")
    with safe_open(made / "m.safetensors", framework="pt") as handle:
        text = (
            handle.metadata()[HEADER].rpartition(CHECKSUMS)[0] + "}"
        )  # what is damaged shall not show by its checksum
    for seed in seeds:
        path = tmp_path / f"{seed}.safetensors"
        save_file(weights, path, metadata={HEADER: damaged_json(text, random.Random(seed))})
        words = ("predict", made / "frames/0.png", "--model", path, "--out", tmp_path / str(seed), *ON_CPU)
        check("header", Command(words, main_with_spots))


@seeds(4, 300)
def test_results_folders(made: Path, tmp_path: Path, seeds: range) -> None:
    for seed in seeds:
        numbers, command = random.Random(seed), ("predict", "track")[seed % 2]
        out = shutil.copytree(made / command, tmp_path / str(seed))
        file = numbers.choice([p for p in sorted(out.rglob("*")) if p.is_file() and p.stat().st_size])
        if file.name == "records.jsonl" and numbers.random() < 0.7:
            file.write_bytes(damaged_records(file.read_bytes(), numbers))
        elif file.suffix == ".json" and numbers.random() < 0.5:
            file.write_text(damaged_json(file.read_text(), numbers))
        else:
            file.write_bytes(damaged_bytes(file.read_bytes(), numbers))
        check("results", command_of(made, command, out, "--save", {"predict": "labels", "track": "davis"}[command]))


@seeds(4, 200)
def test_videos_and_their_truth(made: Path, tmp_path: Path, seeds: range) -> None:
    labels = np.zeros((48, 64), np.uint8)
    labels[10:30, 10:40] = 1
    frames = [
        Image.fromarray(spots_image(number, 48, 64, 3)) for number in range(3)
    ]  # equal ones would be one in a GIF
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])

    def command(clip: Path, truth: Path, out: Path) -> Command:
        words = ("track", clip, "--truth", truth, "--out", out, "--model", made / "m.safetensors", *ON_CPU)
        return Command(words, main_with_spots)

    for seed in seeds:
        truth, clip, out = tmp_path / f"truth{seed}", tmp_path / f"{seed}.gif", tmp_path / f"out{seed}"
        truth.mkdir()
        for i in range(3):
            cv2.imwrite(str(truth / f"{i}.png"), labels)
        shutil.copy(tmp_path / "clip.gif", clip)
        if seed == seeds.start:
            sound = forked(command(clip, truth, tmp_path / "sound"))
            assert sound.status == 0, sound.output
        file = clip if seed % 2 else truth / "1.png"
        file.write_bytes(damaged_bytes(file.read_bytes(), random.Random(seed)))
        check("video", command(clip, truth, out))


@seeds(6, 200)
def test_panoptic_maps(tmp_path: Path, seeds: range) -> None:
    segments = [{"id": 1, "category_id": 1, "area": 225, "bbox": [5, 5, 15, 15], "iscrowd": 0}]
    text = json.dumps({
        "images": [{"id": 1, "file_name": "a.png", "height": 48, "width": 64}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 1, "name": "a", "isthing": 1}],
    })  # fmt: skip
    ids = np.zeros((48, 64, 3), np.uint8)
    ids[5:20, 5:20, 2] = 1
    for seed in seeds:
        numbers, data = random.Random(seed), tmp_path / str(seed)
        for folder, image in (("images", spots_image(0, 48, 64)), ("pan", ids)):
            (data / folder).mkdir(parents=True)
            cv2.imwrite(str(data / folder / "a.png"), image)
        (data / "pan.json").write_text(damaged_json(text, numbers) if seed % 2 else text)
        if not seed % 2:
            (data / "pan/a.png").write_bytes(damaged_bytes((data / "pan/a.png").read_bytes(), numbers))
        convert = ("convert", data / "pan.json", data / "converted", "--to", "coco")
        check("panoptic", Command(("doctor", data / "pan.json") if seed % 3 else convert))


@seeds(2, 60)
def test_a_killed_track(made: Path, tmp_path: Path, seeds: range) -> None:
    whole = forked(command_of(made, "track", tmp_path / "whole", "--save", "davis"))
    assert whole.status == 0, whole.output
    for seed in seeds:
        run = command_of(made, "track", tmp_path / f"out{seed}", "--save", "davis")
        outcome = forked(run, kill_after=random.Random(seed).uniform(0, 1.3 * whole.seconds))
        COUNTS[f"track {'killed' if outcome.status is None else 'ended'}"] += 1
        again = forked(run)
        assert again.is_sound and again.status == 0, again.output
        for name in ("tracks.json", "tracks.csv", "davis/00002.png"):
            assert (tmp_path / f"out{seed}" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
