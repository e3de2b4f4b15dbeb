"""Which downloadable model is chosen for a machine, and the offer of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest

from eachmask.files.progress import Progress, no_progress
from eachmask.inference import model_choice, speed
from eachmask.inference.model_choice import Offer, choose
from eachmask.inference.speed import Rival, front, measured, rated
from eachmask.inference.speed_page import speed_chart, speed_page
from eachmask.weights.catalogue import Entry, entries


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EACHMASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def by_size(entry: Entry) -> float:
    """Seconds of a machine on which larger files take longer."""
    return entry.size_mb / 100


def test_what_segments_anything_is_no_rival() -> None:
    names = [entry.name for entry in rated()]
    assert "rtmdet_ins_x" in names and "mask_rcnn_r50_fpn" in names
    assert not {"sam_vit_h", "fcos_r50_fpn", "deeplabv3_r50"} & set(names)
    aps = [entry.by_metric()["mask AP"] for entry in rated()]
    assert aps == sorted(aps, reverse=True)


def test_best_is_the_highest_ap_and_tiny_the_smallest_file() -> None:
    assert choose("best", clock=unasked).name == "mask2former_swin_t_instance"
    assert choose("tiny", clock=unasked).name == "rtmdet_ins_tiny"


def unasked(entry: Entry) -> float:
    raise AssertionError(f"{entry.name} was timed")


def test_fast_is_the_best_within_half_a_second() -> None:
    chosen = choose("fast", clock=by_size)  # so are files up to 50 MB
    assert chosen.name == "rtmdet_ins_s"


def test_on_a_slow_machine_fast_is_the_fastest() -> None:
    assert choose("fast", clock=lambda entry: 100 * by_size(entry)).name == "rtmdet_ins_tiny"


def test_a_model_is_timed_once_on_a_machine(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    entry = rated()[0]
    assert measured([entry], clock=by_size) == measured([entry], clock=unasked)
    monkeypatch.setattr(speed, "cpu_name", lambda: "another CPU")
    monkeypatch.setattr(speed, "find_device", lambda name: speed.torch.device("cpu"))
    with pytest.raises(AssertionError, match="was timed"):
        measured([entry], clock=unasked)
    (empty_cache / "speed.json").write_text("{damaged")
    assert measured([entry], clock=by_size)[0].seconds == by_size(entry)


def test_a_model_is_timed_without_its_weights() -> None:
    seconds = speed.seconds_of(entries()["rtmdet_ins_tiny"])
    assert math.isfinite(seconds) and seconds > 0


def rivals(*values: tuple[float, float]) -> list[Rival]:
    return [Rival(entry, ap, seconds) for entry, (ap, seconds) in zip(rated(), values, strict=False)]


def test_the_front_is_what_no_other_beats() -> None:
    some = rivals((30, 1.0), (40, 2.0), (35, 3.0), (29, 1.0), (20, 0.5), (40, 2.5))
    assert [(one.ap, one.seconds) for one in front(some)] == [(20, 0.5), (30, 1.0), (40, 2.0)]


def test_the_page_shows_every_model_and_names_the_front() -> None:
    some = rivals((30, 1.0), (40, 2.0), (35, 3.0))
    page, root = speed_page(some), ElementTree.fromstring(speed_chart(some))
    dots = [node for node in root.iter() if node.tag.endswith("circle")]
    words = {node.text for node in root.iter() if node.tag.endswith("text")}
    assert len(dots) == 3 and {some[0].entry.name, some[1].entry.name} <= words and some[2].entry.name not in words
    assert all(one.entry.name in page for one in some)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(speed, "seconds_of", by_size)
    monkeypatch.setattr(model_choice, "reachable", lambda host: True)
    return "rtmdet_ins_s"


def answering(yes: bool, asked: list[str]) -> Callable[[str], bool]:
    def ask(question: str) -> bool:
        asked.append(question)
        return yes

    return ask


@pytest.mark.parametrize("yes", [True, False])
def test_the_offer_is_made_once(fast: str, yes: bool) -> None:
    asked: list[str] = []
    answers = [Offer(answering(yes, asked)).model("objects") for _ in range(2)]
    assert answers == [fast if yes else "objects"] * 2 and len(asked) == 1
    assert all(word in asked[0] for word in (fast, "38.7", "41 MB", "0.4 s", "license", "Download it"))


def test_without_a_network_nothing_is_asked_and_nothing_remembered(
    fast: str, monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    monkeypatch.setattr(model_choice, "reachable", lambda host: False)
    assert Offer(answering(True, asked := [])).model("objects") == "objects" and not asked
    monkeypatch.setattr(model_choice, "reachable", lambda host: True)
    assert Offer(answering(True, asked)).model("objects") == fast
    (empty_cache / "answers.json").write_text(json.dumps({"photographs": "retired_model"}))
    assert Offer(answering(False, asked)).model("objects") == "objects" and len(asked) == 2


def test_a_cache_is_no_must(fast: str, empty_cache: Path) -> None:
    empty_cache.write_text("a file where a folder is wanted")
    asked: list[str] = []
    answers = [Offer(answering(True, asked)).model("objects") for _ in range(2)]
    assert answers == [fast] * 2 and len(asked) == 2


def test_what_is_no_time_is_timed_anew(empty_cache: Path) -> None:
    entry = rated()[0]
    measured([entry], clock=by_size)
    file = empty_cache / "speed.json"
    file.write_text(file.read_text().replace(str(by_size(entry)), '"fast"'))
    assert measured([entry], clock=by_size)[0].seconds == by_size(entry)


def test_the_question_is_asked_when_the_bar_is_gone(fast: str) -> None:
    shown = []

    @contextmanager
    def watching() -> Iterator[Progress]:
        shown.append("bar")
        yield no_progress
        shown.append("gone")

    def ask(question: str) -> bool:
        shown.append("question")
        return True

    Offer(ask, watching).model("objects")
    assert shown == ["bar", "gone", "question"]
