"""The studio's server killed in the middle of drawing and saving: what was answered is kept, files are whole."""

from __future__ import annotations

import http.client
import importlib
import json
import random
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from chaos.forked import COUNTS, Command, forked, seeds
from chaos.test_kills import spots_folder

from eachmask.data import read
from eachmask.studio.project import LABELS, Project
from eachmask.studio.save import save

KEY = "a key that nobody can guess"
SQUARE = [10.0, 10, 30, 10, 30, 30, 10, 30]
IMAGES = 2


class Hand(threading.Thread):
    """Draws squares on images in turn and saves after every third, as fast as it is answered, until nobody answers."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.drawn, self.saved, self.seen = [0] * IMAGES, 0, False
        """Squares that were answered for, and those of them that were saved; whether the server ever answered."""

    def run(self) -> None:
        end = time.monotonic() + 60
        while not self.seen and time.monotonic() < end:
            try:
                self.draw_all()
            except (OSError, http.client.HTTPException):
                time.sleep(0.01)

    def draw_all(self) -> None:
        while True:
            for image in range(IMAGES):
                action = {"kind": "add", "category": 1, "rings": [SQUARE]}
                self.post(f"/api/images/{image}/actions", {"revision": self.drawn[image], "action": action})
                self.drawn[image] += 1
                if sum(self.drawn) % 3 == 0:
                    self.post("/api/save", {"format": "coco"})
                    self.saved = sum(self.drawn)

    def post(self, path: str, body: dict[str, Any]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        origin = f"http://127.0.0.1:{self.port}"
        headers = {"authorization": f"Bearer {KEY}", "origin": origin, "content-type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        self.seen = True
        assert answer.status == 200, text
        connection.close()


@seeds(2, 40)
def test_studio(tmp_path: Path, seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fastapi", "uvicorn", "uvicorn.protocols.http.auto", "uvicorn.loops.auto", "eachmask.cli.studio"):
        pytest.importorskip(name, reason="the extra `studio` is not installed")
    importlib.import_module("eachmask.studio.app")
    monkeypatch.setenv("EACHMASK_KEY", KEY)
    for seed in seeds:
        folder = spots_folder(tmp_path / str(seed), IMAGES)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        hand = Hand(port)
        hand.start()
        words = ("studio", folder, "--port", port, "--no-browser")
        outcome = forked(Command(words), kill_after=random.Random(seed).uniform(0.2, 4))
        assert outcome.status is None, outcome.output
        hand.join(70)
        COUNTS[f"studio {'at work' if hand.seen else 'not yet at work'} killed"] += 1
        check_kept(folder, hand)


def check_kept(folder: Path, hand: Hand) -> None:
    """What is on the disk after the kill, and what a studio that is started again makes of it."""
    assert not hand.saved or hand.saved <= annotated(folder) <= sum(hand.drawn) + 1
    project = Project(folder)
    try:
        numbers = [len(project.history(image).objects) for image in range(IMAGES)]
        assert all(drawn <= number <= drawn + 1 for drawn, number in zip(hand.drawn, numbers, strict=True))
        if sum(numbers):
            save(project, "coco", overwrite=True)
            assert annotated(folder) == sum(numbers)
    finally:
        project.journal.close()
    assert not [path for path in folder.rglob("*.part")]


def annotated(folder: Path) -> int:
    """Objects in the file of annotations."""
    return sum(len(image.targets) for _, image in read(folder / LABELS, images=folder).images())
