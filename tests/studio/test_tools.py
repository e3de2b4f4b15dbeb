"""Every tool by hand in a browser, on the real server: what is drawn is what the server then has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install eachmask[dev]")
pytest.importorskip("uvicorn", reason="no uvicorn: pip install eachmask[studio]")
pytest.importorskip("fastapi", reason="the extra `studio` is not installed")

from studio.live import LONG, mark, opened, press, served, shows  # noqa: E402

from eachmask.studio.objects import Drawn, mask_of  # noqa: E402
from eachmask.studio.project import Project  # noqa: E402
from eachmask.studio.schemas import Action  # noqa: E402

pytestmark = pytest.mark.xdist_group("browser")
NAME, SIZE = "left.png", (142, 128)


class Hand:
    """A page over the two images of ``folder``, and what the server knows of the first."""

    def __init__(self, page: Any, project: Project) -> None:
        self.page, self.project = page, project

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a place of the image, px, is in the window; the image fills the stage's height less 48 px."""
        box = self.page.get_by_test_id("stage").bounding_box()
        scale = min((box["width"] - 48) / SIZE[1], (box["height"] - 48) / SIZE[0], 16)
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        return middle[0] + (x - SIZE[1] / 2) * scale, middle[1] + (y - SIZE[0] / 2) * scale

    def click(self, x: float, y: float, **how: Any) -> None:
        self.page.mouse.click(*self.at(x, y), **how)

    def drag(self, *places: tuple[float, float]) -> None:
        self.page.mouse.move(*self.at(*places[0]))
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*self.at(*place), steps=5)
        self.page.mouse.up()

    def done(self, number: int, do: Any) -> list[Drawn]:
        """The objects, after something that changes them to so many."""
        with self.page.expect_response(lambda answer: answer.url.endswith(("/actions", "/undo"))) as answered:
            do()
        assert answered.value.ok, answered.value.text()
        shows(self.page, NAME, number)
        objects = list(self.project.history(0).objects.values())
        assert len(objects) == number
        return objects

    def area(self, one: Drawn) -> int:
        return int(mask_of(one, SIZE).area()[0])


def square(left: float, top: float, side: float) -> Action:
    ring = [left, top, left + side, top, left + side, top + side, left, top + side]
    return Action(kind="add", category=1, rings=[ring])


@pytest.fixture
def project(folder: Path) -> Project:
    made = Project(folder)
    made.act(0, 0, square(20, 20, 40))
    made.act(0, 1, square(80, 80, 30))
    return made


@pytest.fixture
def hand(context: Any, project: Project) -> Iterator[Hand]:
    with served(project) as (address, _):
        yield Hand(opened(context, address, NAME, 2), project)


def test_a_line_splits_and_merging_joins(hand: Hand) -> None:
    hand.page.keyboard.press("l")
    parts = hand.done(3, lambda: hand.drag((40.5, 10), (40.5, 70)))
    areas = sorted(hand.area(one) for one in parts)
    assert areas[2] == 900 and areas[0] + areas[1] == 1600 and areas[0] >= 760, "a pixel's width at most"
    hand.page.keyboard.press("v")
    hand.click(30, 40)
    hand.page.keyboard.down("Shift")
    hand.click(50, 40)
    hand.page.keyboard.up("Shift")
    joined = hand.done(2, lambda: hand.page.get_by_role("button", name="Merge selected").click())
    assert sorted(hand.area(one) for one in joined) == [900, 1600]


def test_vertices_are_moved_added_and_taken_away(hand: Hand) -> None:
    hand.page.keyboard.press("v")
    hand.click(40, 40)
    first = hand.done(2, lambda: hand.drag((20, 20), (10, 10)))[0]
    assert hand.area(first) == pytest.approx(1600 + 400, abs=45)
    before = hand.area(first)
    grown = hand.done(2, lambda: hand.drag((60, 40), (70, 40)))[0]
    assert hand.area(grown) == pytest.approx(before + 200, abs=45)
    less = hand.done(2, lambda: hand.click(70, 40, button="right"))[0]
    assert hand.area(less) < hand.area(grown)


def test_the_brush_paints_and_the_eraser_takes_away(hand: Hand) -> None:
    check_brush_and_eraser(hand, hand.drag, rel=0.05)


def check_brush_and_eraser(hand: Hand, drag: Callable[..., object], rel: float) -> None:
    hand.page.keyboard.press("d")
    hand.page.get_by_label("Brush").last.fill("5")
    hand.page.get_by_test_id("stage").focus()
    painted = hand.done(3, lambda: drag((20, 110), (60, 110)))[-1]
    assert hand.area(painted) == pytest.approx(40 * 10 + 78, rel=rel)
    hand.page.keyboard.press("e")
    erased = hand.done(3, lambda: drag((40, 100), (40, 125)))[-1]
    assert hand.area(erased) < hand.area(painted) - 80


def test_a_scribble_a_box_and_extreme_points_ask_the_model(hand: Hand) -> None:
    hand.page.keyboard.press("s")
    for key, draw in {
        "s": lambda: hand.drag((60, 60), (70, 66), (76, 60)),
        "b": lambda: hand.drag((50, 45), (90, 80)),
        "x": lambda: [hand.click(*place) for place in [(70, 45), (50, 62), (90, 62), (70, 80)]],
    }.items():
        hand.page.keyboard.press(key)
        number = len(hand.project.history(0).objects)
        with hand.page.expect_response("**/click") as answered:
            draw()
        said = answered.value.request.post_data_json
        assert len(said["scribbles"]) == (key == "s") and (said["box"] is None) == (key == "s")
        hand.done(number + 1, lambda: hand.page.get_by_role("button", name="Keep").click())


def test_a_mask_by_keys_alone(hand: Hand) -> None:
    keys = hand.page.keyboard
    hand.page.get_by_role("button", name="Click", exact=True).focus()  # where the keys come from
    keys.press("c")
    keys.press("q")

    def asked(key: str, points: int) -> Any:
        with hand.page.expect_response(
            lambda answer: answer.url.endswith("/click") and len(answer.request.post_data_json["points"]) == points
        ) as answered:
            keys.press(key)
        return answered.value.request.post_data_json

    (first,) = asked("Enter", 1)["points"]
    assert first == pytest.approx([SIZE[1] / 2, SIZE[0] / 2], abs=1), "it begins in the middle"
    for key in ("ArrowLeft", "Shift+ArrowUp"):
        keys.press(key)
    said = asked("Backspace", 2)
    (x, y), (near, far) = said["points"][1], (first[0] - said["points"][1][0], first[1] - said["points"][1][1])
    assert said["signs"] == [True, False] and near >= 1 and far == pytest.approx(8 * near, rel=0.01) and min(x, y) > 0
    hand.done(3, lambda: keys.press("Enter"))
    keys.press("q")
    keys.press("ArrowRight")
    shows(hand.page, "right.png", 0)


class Keys:
    """The pointer that keys move, in the middle of the image when it comes; a key moves it by a step of the screen."""

    def __init__(self, hand: Hand) -> None:
        self.keyboard, self.place = hand.page.keyboard, (SIZE[1] / 2, SIZE[0] / 2)
        stage = hand.page.get_by_test_id("stage").bounding_box()
        self.step = max(1, 8 / min((stage["width"] - 48) / SIZE[1], (stage["height"] - 48) / SIZE[0], 16))
        self.keyboard.press("q")

    def to(self, x: float, y: float) -> None:
        """Go there by arrow keys, to half a step."""
        for axis, (goal, keys) in enumerate([(x, ("ArrowLeft", "ArrowRight")), (y, ("ArrowUp", "ArrowDown"))]):
            steps = round((goal - self.place[axis]) / self.step)
            for _ in range(abs(steps)):
                self.keyboard.press(keys[steps > 0])
            moved = self.place[axis] + steps * self.step
            self.place = (moved, self.place[1]) if axis == 0 else (self.place[0], moved)

    def drag(self, *places: tuple[float, float]) -> None:
        self.to(*places[0])
        self.keyboard.press("Enter")
        for place in places[1:]:
            self.to(*place)
        self.keyboard.press("Enter")


@pytest.mark.parametrize(
    ("tool", "places"), [("b", [(48, 44), (88, 82)]), ("s", [(58, 58), (66, 66), (74, 58)])], ids=["box", "scribble"]
)
def test_a_box_and_a_scribble_by_keys_give_the_mask_of_the_mouse(
    hand: Hand, tool: str, places: list[tuple[float, float]]
) -> None:
    page = hand.page
    page.keyboard.press(tool)
    hand.drag(*places)
    by_mouse = hand.done(3, lambda: page.get_by_role("button", name="Keep").click())[-1]
    keys = Keys(hand)
    page.get_by_text("Enter begins").wait_for()
    keys.to(*places[0])
    page.keyboard.press("Enter")
    page.get_by_text("Esc discards").wait_for()
    page.keyboard.press("Escape")  # lets go of what is held, and of no more
    page.get_by_text("Enter begins").wait_for()
    with page.expect_response("**/click") as answered:
        keys.drag(*places)
    said = answered.value.request.post_data_json
    shown = said["box"] if tool == "b" else said["scribbles"][0]
    for there, place in [(shown[:2], places[0]), (shown[-2:], places[-1])]:
        assert there == pytest.approx(place, abs=keys.step)
    by_keys = hand.done(4, lambda: page.keyboard.press("Enter"))[-1]
    assert hand.area(by_keys) > 200 and mask_of(by_keys, SIZE).iou(mask_of(by_mouse, SIZE)).item() > 0.8


def test_enter_before_the_answer_keeps_the_answer(hand: Hand) -> None:
    keys = Keys(hand)
    hand.page.keyboard.press("b")
    hand.page.route("**/click", lambda route: (hand.page.wait_for_timeout(500), route.continue_()))
    made = hand.done(3, lambda: (keys.drag((48, 44), (88, 82)), hand.page.keyboard.press("Enter")))
    assert hand.area(made[-1]) > 200


def test_a_line_by_keys_splits(hand: Hand) -> None:
    keys = Keys(hand)
    hand.page.keyboard.press("l")
    parts = hand.done(3, lambda: keys.drag((40.5, 10), (40.5, 70)))
    areas = sorted(hand.area(one) for one in parts)
    assert areas[2] == 900 and areas[0] + areas[1] == 1600 and areas[0] >= 700


def test_brush_and_eraser_by_keys(hand: Hand) -> None:
    check_brush_and_eraser(hand, Keys(hand).drag, rel=0.1)


def test_a_polygon_and_its_vertices_by_keys(hand: Hand) -> None:
    keys = Keys(hand)
    hand.page.keyboard.press("p")
    for place in [(10, 100), (60, 100), (60, 130), (10, 130)]:
        keys.to(*place)
        hand.page.keyboard.press("Enter")
    made = hand.done(3, lambda: hand.page.keyboard.press("Enter"))[-1]
    assert hand.area(made) == pytest.approx(50 * 30, rel=0.1)
    hand.page.keyboard.press("v")
    wider = hand.done(3, lambda: keys.drag((10, 130), (10, 140)))[-1]
    assert hand.area(wider) == pytest.approx(hand.area(made) + 50 * 10 / 2, rel=0.1)


def test_shift_and_enter_select_one_more(hand: Hand) -> None:
    keys = Keys(hand)
    for place, key in [((40, 40), "Enter"), ((95, 95), "Shift+Enter")]:
        keys.to(*place)
        hand.page.keyboard.press(key)
    hand.done(1, lambda: hand.page.keyboard.press("m"))


def test_what_is_pending_is_kept_where_it_was_drawn(hand: Hand) -> None:
    hand.page.keyboard.press("c")
    hand.click(64, 62)
    hand.page.get_by_role("button", name="Keep").wait_for()
    hand.page.get_by_title("right.png").click()
    shows(hand.page, "right.png", 0)
    hand.page.get_by_role("button", name="Keep").wait_for(state="detached")
    hand.page.get_by_title(NAME).click()
    shows(hand.page, NAME, 3)


def test_shift_and_a_right_click_take_away_from_the_object(hand: Hand) -> None:
    hand.page.keyboard.press("v")
    hand.click(40, 40)
    hand.page.keyboard.press("c")
    hand.page.keyboard.down("Shift")
    with hand.page.expect_response("**/click") as answered:
        hand.click(56, 56, button="right")
    hand.page.keyboard.up("Shift")
    said = answered.value.request.post_data_json
    assert said["signs"] == [False] and said["id"] == 1
    assert answered.value.ok and answered.value.json()["rings"]
    hand.page.get_by_text("Correcting the selected object").wait_for()
    (first, _) = hand.done(2, lambda: hand.page.get_by_role("button", name="Keep").click())
    assert first.id == 1 and hand.area(first) != 1600


def test_a_click_where_the_pointer_rests_asks_nothing_again(hand: Hand) -> None:
    hand.page.keyboard.press("c")
    asked: list[Any] = []
    hand.page.on("request", lambda request: asked.append(request) if request.url.endswith("/click") else None)
    place = hand.at(64, 62)
    with hand.page.expect_response("**/click") as answered:
        hand.page.mouse.move(*place)
    assert answered.value.request.post_data_json["hover"]
    hand.page.mouse.click(*place)
    hand.page.get_by_role("button", name="Keep").wait_for()
    assert len(asked) == 1
    with hand.page.expect_response("**/click") as others:
        hand.page.get_by_role("button", name="Other answer").click()
    assert len(others.value.json()["alternatives"]) == 2


def tapped(page: Any, name: str) -> None:
    """Tap a button that stays pressed until it is: a busy browser drops touches, or clicks after the next one began."""
    pressed = page.get_by_role("button", name=name, exact=True, pressed=True)
    while not pressed.count():
        page.get_by_role("button", name=name, exact=True).tap()
        with suppress(playwright.TimeoutError):
            pressed.wait_for(timeout=20_000)


def test_two_fingers_zoom_and_one_draws(browser: Any, project: Project) -> None:
    tablet = browser.new_context(viewport={"width": 1024, "height": 768}, has_touch=True)
    tablet.set_default_timeout(LONG)
    with served(project) as (address, _):
        page = opened(tablet, address, NAME, 2)
        hand = Hand(page, project)
        tapped(page, "Select and edit vertices")
        page.touchscreen.tap(*hand.at(40, 40))
        page.get_by_role("button", name="Fill holes").wait_for()
        tapped(page, "Click")
        with page.expect_response("**/click"):
            page.touchscreen.tap(*hand.at(64, 62))
        tapped(page, "Take away")
        with page.expect_response("**/click") as answered:
            page.touchscreen.tap(*hand.at(74, 62))
        assert answered.value.request.post_data_json["signs"] == [True, False]
        hand.done(3, lambda: page.get_by_role("button", name="Keep").tap())
        session = tablet.new_cdp_session(page)
        (left, right), pinch = (hand.at(40, 70), hand.at(90, 70)), "Input.dispatchTouchEvent"
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        session.send(pinch, {"type": "touchStart", "touchPoints": [{"x": left[0], "y": left[1]}]})
        session.send(pinch, {"type": "touchCancel", "touchPoints": []})  # as when a palm lies on the screen
        for kind, spread in [("touchStart", 0), ("touchMove", 60), ("touchMove", 120)]:
            points = [{"x": left[0] - spread, "y": left[1]}, {"x": right[0] + spread, "y": right[1]}]
            session.send(pinch, {"type": kind, "touchPoints": points})
        session.send(pinch, {"type": "touchEnd", "touchPoints": []})
        tapped(page, "Select and edit vertices")
        page.touchscreen.tap(*hand.at(125, 70))  # zoomed in about the middle: nothing of the squares is there now
        drawn = [url for url in asked if url.endswith(("/click", "/actions"))]
        assert not drawn, "two fingers draw nothing, nor does one that the system takes"
    tablet.close()


def test_keys_reach_everything_without_a_mouse(hand: Hand) -> None:
    page = hand.page
    page.keyboard.press("n")
    page.get_by_role("button", name="Fill holes").wait_for()
    hand.done(1, lambda: page.keyboard.press("Delete"))
    hand.done(2, lambda: page.keyboard.press("Control+z"))
    page.keyboard.press("g")
    shows(page, "right.png", 2)
    page.keyboard.press("ArrowLeft")
    shows(page, NAME, 2)
    mark(page)
    shows(page, NAME, 3)
    press(page, 0.01, 0.01)
