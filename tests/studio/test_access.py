"""The page can be read and used by everybody: contrast, names, order of focus; on small windows, light and dark."""

from __future__ import annotations

from typing import Any

import pytest
from studio.made_server import running

pytestmark = pytest.mark.xdist_group("browser")

LOW_CONTRAST = """() => {
  const linear = (v) => (v /= 255, v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const channels = (color) => { const c = color.match(/[\\d.]+/g).map(Number); return c.length < 4 ? [...c, 1] : c; };
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3]));
  const behind = (element) => {
    if (!element) return [255, 255, 255];
    const own = channels(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, behind(element.parentElement));
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join(" ").trim();
    if (!text || !element.getClientRects().length || element.closest("svg, option, :disabled")) continue;
    const back = behind(element);
    const front = over(channels(getComputedStyle(element).color), back);
    const [more, less] = [light(front), light(back)].sort((a, b) => b - a);
    if ((more + 0.05) / (less + 0.05) < 4.5) found.push([text.slice(0, 40), (more + 0.05) / (less + 0.05)]);
  }
  return found;
}"""
NAMELESS = """() => [...document.querySelectorAll("button, input, select, a, canvas")].filter((e) =>
  e.getClientRects().length
  && !(e.ariaLabel || e.title || e.textContent.trim() || e.placeholder || e.labels?.length)).map((e) => e.outerHTML)"""
BEYOND = """() => [...document.querySelectorAll("button, input, select, a")].filter((e) => {
  const { left, right, width } = e.getBoundingClientRect();
  return width && (left < -1 || right > innerWidth + 1);
}).map((e) => e.textContent || e.ariaLabel)"""
FOCUSED = """() => { const e = document.activeElement, c = e.closest("header, nav, .toolbar, canvas, aside");
  return [c?.className ?? "", getComputedStyle(e).outlineStyle]; }"""


def opened(browser: Any, address: str, size: tuple[int, int], scheme: str) -> Any:
    """A page whose content security policy does not keep the test's own script from running, and whose colors do not
    fade into one another: half way a text may be hard to read for a tenth of a second."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce", bypass_csp=True
    )
    page = context.new_page()
    page.goto(address)
    page.get_by_text("coins.png").first.wait_for()
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 720), (768, 1024), (600, 800)], ids=str)
def test_texts_are_read_and_controls_have_names(browser: Any, size: tuple[int, int], scheme: str) -> None:
    with running() as (address, studio):
        studio.act(0, {"kind": "add", "category": 0, "rings": [[10, 10, 60, 10, 60, 60, 10, 60]]})
        page = opened(browser, address, size, scheme)
        page.keyboard.press("n")
        assert page.get_by_test_id("stage").bounding_box()["width"] > 0.5 * size[0]
        for view in ("Annotate", "Models", "Measure"):
            page.get_by_role("tab", name=view).click()
            page.get_by_role("tab", name=view, selected=True).wait_for()
            assert page.evaluate(LOW_CONTRAST) == [], "the least that WCAG 2.1 asks of texts (AA) is 4.5"
            assert page.evaluate(NAMELESS) == []
            assert page.evaluate(BEYOND) == []
        page.keyboard.press("?")
        page.get_by_role("dialog").wait_for()
        assert page.evaluate(LOW_CONTRAST) == []
        page.context.close()


def test_focus_goes_from_the_bar_over_images_and_tools_to_the_side(browser: Any) -> None:
    with running() as (address, _):
        page = opened(browser, address, (1280, 720), "light")
        places, order = [], ["topbar", "thumbnails", "toolbar", "stage", "sidebar"]
        for _ in range(40):
            page.keyboard.press("Tab")
            place, outline = page.evaluate(FOCUSED)
            if not place:  # once around
                break
            assert outline != "none", "where the focus is can be seen"
            places.append(place)
        assert list(dict.fromkeys(places)) == order and places == sorted(places, key=order.index)
        page.context.close()


FOCUS = """() => {
  const e = document.activeElement;
  const own = e.closest("header.topbar, form, article, .exports, section, canvas");
  const { top, bottom } = e.getBoundingClientRect();
  return {
    place: own?.matches("header, canvas, .exports") ? own.className : own?.getAttribute("aria-label")
      ?? own?.querySelector("h2").firstChild.data.trim() ?? "",
    name: e.ariaLabel || e.title || e.textContent.trim() || e.labels?.[0]?.textContent.trim() || "",
    outline: getComputedStyle(e).outlineStyle, seen: top >= 0 && bottom <= innerHeight,
  };
}"""


def walked(page: Any) -> list[str]:
    """The places that Tab goes through, from the first control on and once around."""
    page.evaluate("document.activeElement.blur()")
    found = []
    for _ in range(120):
        page.keyboard.press("Tab")
        focus = page.evaluate(FOCUS)
        if not focus["place"]:
            break
        assert focus["name"] and focus["outline"] != "none" and focus["seen"], focus
        found.append(focus["place"])
    return found


def job(key: str, kind: str, state: str) -> dict[str, Any]:
    about = {"id": key, "kind": kind, "state": state, "progress": 0.5, "message": "", "eta_s": None}
    return about | {"curve": [], "samples": [], "result": None}


def test_focus_goes_through_the_models_and_stays_on_the_job_that_is_stopped(browser: Any) -> None:
    with running() as (address, studio):
        studio.jobs = [job("b", "train", "running"), job("a", "predict", "failed")]
        page = opened(browser, address, (1280, 720), "light")
        page.get_by_role("tab", name="Models").click()
        page.get_by_role("article", name="Proposals").wait_for()
        cards = ["Let a model propose", "Train on your annotations", "Compare with a model", "Training", "Proposals"]
        places = walked(page)
        assert list(dict.fromkeys(places)) == ["topbar", *cards] and places == sorted(places, key=places.index)
        assert places.count("Let a model propose") == 4, "model, score, images, start"
        assert places.count("Train on your annotations") == 5, "network, epochs, two classes, start"
        stop = page.get_by_role("article", name="Training").get_by_role("button")
        stop.focus()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Resume").nth(1).wait_for()
        assert page.evaluate("document.activeElement.textContent") == "Resume"
        assert page.get_by_role("article").first.get_attribute("aria-label") == "Training", "rows stay where they are"
        page.context.close()


def test_focus_goes_through_the_measures_and_into_the_image_that_is_opened(browser: Any) -> None:
    with running() as (address, _):
        page = opened(browser, address, (1280, 720), "light")
        page.get_by_role("tab", name="Measure").click()
        page.get_by_role("button", name="Open coins.png").wait_for()
        places = walked(page)
        assert list(dict.fromkeys(places)) == ["topbar", "row exports", "Images"]
        assert places == sorted(places, key=places.index) and places.count("row exports") == 6
        page.get_by_role("button", name="Open coins.png").focus()
        page.keyboard.press("Enter")
        page.get_by_role("tab", name="Annotate", selected=True).wait_for()
        page.wait_for_function("document.activeElement.className === 'stage'")
        page.context.close()
