"""Models other than ``clicks`` answer in the studio too; what one does not understand is a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("httpx", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="no uvicorn: pip install eachmask[studio]")
pytest.importorskip("fastapi", reason="the extra `studio` is not installed")

from fastapi.testclient import TestClient  # noqa: E402
from studio.live import opened, served  # noqa: E402
from studio.test_tools import NAME, SIZE, Hand  # noqa: E402

from eachmask import models  # noqa: E402
from eachmask.models.promptable.sam import PREPROCESS  # noqa: E402
from eachmask.structures import RLE, Category  # noqa: E402
from eachmask.studio.app import Studio, create_app  # noqa: E402
from eachmask.studio.clicks import Clicks  # noqa: E402
from eachmask.studio.objects import Drawn, mask_of  # noqa: E402
from eachmask.studio.project import Project  # noqa: E402
from eachmask.studio.schemas import Action  # noqa: E402
from eachmask.weights.coco_categories import ANYTHING  # noqa: E402
from eachmask.weights.file import save_model  # noqa: E402
from eachmask.weights.header import ModelInfo  # noqa: E402

pytestmark = pytest.mark.xdist_group("browser")
COIN, RADIUS = (45.0, 109.0), 20
"""One on left.png, px."""
AROUND = [22.0, 85, 70, 132]
SQUARE = [35.0, 99, 55, 99, 55, 119, 35, 119]
ASKED: dict[str, dict[str, Any]] = {
    "click": {"points": [COIN]},
    "hover": {"points": [COIN], "hover": True},
    "corner": {"points": [(127.9, 141.9)]},
    "two clicks": {"points": [COIN, (10, 10)], "signs": [True, False]},
    "all answers": {"points": [COIN], "alternatives": True},
    "scribble": {"scribbles": [[38, 105, 45, 112, 52, 105]]},
    "box": {"box": AROUND},
    "correction": {"id": 1, "points": [(62, 109)]},
    "taken away": {"id": 1, "points": [(36, 100)], "signs": [False]},
}
POINTED = ["click", "hover", "corner", "two clicks", "all answers", "scribble", "correction", "taken away"]


def untrained(variant: str, config: dict[str, Any], info: dict[str, Any] | None = None) -> Callable[[Path], str]:
    """A file of random weights, whose masks begin at the lowest probabilities, so that they are never empty."""

    def write(folder: Path) -> str:
        torch.manual_seed(0)
        said = {"categories": (Category(1, "object"),), "decode": {"mask_threshold": 1e-3}} | (info or {})
        model = models.variant(variant)(**config).eval()
        return str(save_model(folder / f"{variant}.safetensors", model, ModelInfo(variant, config, **said)))

    return write


SAM = {
    "encoder": {"image_size": 64, "width": 32, "depth": 2, "heads": 2, "window": 3, "everywhere": [1]},
    "prompts": {"width": 32, "mask_width": 8},
    "decoder": {"width": 32, "heads": 2, "mlp": 32, "iou_width": 16},
}
SEEN = {"preprocess": replace(PREPROCESS, short_side=64, long_side=64, divisor=64), "categories": ANYTHING}
CASES: dict[str, tuple[Callable[[Path], str], list[str], str]] = {
    "grabcut": (lambda folder: "grabcut", [], ""),
    "ritm": (untrained("ritm_lite0", {"zoom": {"size": (96,)}}), ["box"], "no boxes: give points"),
    "dextr": (untrained("dextr_lite0", {"size": 96}), POINTED, "give its four extreme points"),
    "sam": (untrained("sam_vit_b", SAM, SEEN), [], ""),
}


@pytest.fixture
def project(folder: Path) -> Iterator[Project]:
    made = Project(folder)
    made.act(0, 0, Action(kind="add", category=1, rings=[SQUARE]))
    yield made
    made.journal.close()


@pytest.mark.parametrize("case", CASES)
def test_every_question_has_a_mask_or_a_sentence(project: Project, tmp_path: Path, case: str) -> None:
    write, refused, why = CASES[case]
    studio = Studio(project, clicks=Clicks(write(tmp_path), cache=tmp_path / "seen"), key="K")
    known = {"authorization": "Bearer K", "origin": "http://127.0.0.1", "content-type": "application/json"}
    client = TestClient(create_app(studio), base_url="http://127.0.0.1", headers=known)
    assert client.post("/api/images/0/look", json={}).status_code == 200
    for name, said in ASKED.items():
        answer = client.post("/api/images/0/click", json=said)
        if name in refused:
            assert answer.status_code == 422 and why in answer.json()["detail"], (name, answer.text)
        else:
            assert answer.status_code == 200 and answer.json()["rings"], (name, answer.text)


def coin(one: Drawn) -> float:
    """IoU of an object with the coin, which is round."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    disk = (columns - COIN[0]) ** 2 + (rows - COIN[1]) ** 2 < RADIUS**2
    return float(mask_of(one, SIZE).iou(RLE.from_bitmaps(disk[None])).item())


def test_grabcut_answers_the_pointer_clicks_boxes_and_corrections(context: Any, project: Project) -> None:
    with served(project, Clicks("grabcut")) as (address, _):
        page = opened(context, address, NAME, 1)
        hand = Hand(page, project)
        page.keyboard.press("c")
        with page.expect_response("**/click") as rested:
            page.mouse.move(*hand.at(*COIN))
        assert rested.value.request.post_data_json["hover"] and rested.value.json()["rings"]
        hand.click(*COIN)
        clicked = hand.done(2, lambda: page.get_by_role("button", name="Keep").click())[-1]
        assert hand.area(clicked) > 1000, "what has its colors, also elsewhere"
        page.keyboard.press("b")
        hand.drag((AROUND[0], AROUND[1]), (AROUND[2], AROUND[3]))
        boxed = hand.done(3, lambda: page.get_by_role("button", name="Keep").click())[-1]
        assert coin(boxed) > 0.7
        page.keyboard.press("c")
        page.keyboard.down("Shift")
        hand.click(45, 95, button="right")
        page.keyboard.up("Shift")
        page.get_by_text("Correcting the selected object").wait_for()
        corrected = hand.done(3, lambda: page.get_by_role("button", name="Keep").click())[-1]
        assert corrected.id == boxed.id and 0 < coin(corrected) < coin(boxed)


def test_what_a_model_does_not_understand_is_said_until_it_is_asked_otherwise(
    context: Any, project: Project, tmp_path: Path
) -> None:
    write, _, why = CASES["dextr"]
    with served(project, Clicks(write(tmp_path), cache=tmp_path / "seen")) as (address, _):
        page = opened(context, address, NAME, 1)
        hand = Hand(page, project)
        page.keyboard.press("c")
        with page.expect_response("**/click") as rested:
            page.mouse.move(*hand.at(*COIN))
        assert rested.value.status == 422 and not page.get_by_text(why).count(), "who rests has not asked"
        hand.click(*COIN)
        page.get_by_text(why).wait_for()
        page.keyboard.press("x")
        for place in [(45, 87), (24, 109), (67, 109), (45, 130)]:
            hand.click(*place)
        page.get_by_role("button", name="Keep").wait_for()
        page.get_by_text(why).wait_for(state="detached")
        hand.done(2, lambda: page.keyboard.press("Enter"))
