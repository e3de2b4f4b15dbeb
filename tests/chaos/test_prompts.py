"""Prompts that are none, of every kind, on the command line: a sentence or a result, whatever is written there."""

from __future__ import annotations

import random
from pathlib import Path

import cv2
import pytest
from chaos.forked import COUNTS, Command, forked, seeds
from tiny_model import spots_image

NUMBERS = ("nan", "inf", "-inf", "1e308", "1e-320", "-7", "0", "63.999", "64", "1e9", "9" * 5000, "0x10", "1_0", "")
WORDS = ("", " ", ",", "a,b", "5,5,5", "5;5", "\x00", "\x1b[31m", "None", "٣,٤", "5, 5", "," * 5000, "--", "[5,5]")
OPTIONS = {"--point": 2, "--not-point": 2, "--box": 4, "--scribble": 6, "--not-scribble": 4}
"""How many numbers each wants; scribbles take any even number of them."""
MODELS = ("graph_cut", "grabcut", "clicks")


def damaged(option: str, numbers: random.Random) -> str:
    """A prompt of one to all odd numbers, or a word."""
    if numbers.random() < 0.3:
        return numbers.choice(WORDS)
    values = [str(numbers.randrange(60)) for _ in range(OPTIONS[option])]
    for place in numbers.sample(range(len(values)), numbers.randint(1, len(values))):
        values[place] = numbers.choice(NUMBERS)
    pairs = [",".join(values[i : i + 2]) for i in range(0, len(values), 2)]
    return (" " if "scribble" in option else ",").join(pairs)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompted") / "a.png"
    cv2.imwrite(str(path), spots_image(0, 48, 64))
    return path


@seeds(6, 300)
def test_prompts(image: Path, tmp_path: Path, seeds: range) -> None:
    for seed in seeds:
        numbers = random.Random(seed)
        words: list[object] = ["segment", image, "--model", MODELS[seed % 3], "--out", tmp_path / str(seed)]
        for option in numbers.sample(list(OPTIONS), numbers.randint(1, 2)):
            words.append(f"{option}={damaged(option, numbers)}")
        command = Command((*words, "--point=20,20", "--device", "cpu", "--precision", "fp32"))
        outcome = forked(command, megabytes=3000)
        COUNTS[f"prompts {'refused' if outcome.status == 2 else 'read'}"] += 1
        assert outcome.is_sound, f"{command.words}\n{outcome.output[-3000:]}"
