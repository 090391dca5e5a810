"""Labelling by keys in the real page, and how the front end opens it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onereward.reward.preference import Preference, PreferenceSet
from support import front_end
from support.browser import Browser, find_chromium
from support.candidate_folders import make_candidates
from support.front_end import EVERY_RENDERER, NODES
from support.server import ComfyServer

PAGE = "onereward/labelling/"
NAME = "onereward.labelling.name"
IS_DRAWN = "document.querySelectorAll('.outline').length >= 2 && !document.body.matches('.busy')"
BUTTON = "widgets.find(w => w.name === 'label by hand')"
BOXES = """
[...document.querySelectorAll('header, #question, .pane, #message, footer')].map(e => {
  const { left, top, right, bottom } = e.getBoundingClientRect();
  return [e.id || e.className || e.tagName, left, top, right, bottom];
})
"""


@pytest.fixture
def folder(comfyui: ComfyServer) -> Iterator[Path]:
    path = comfyui.base_directory / "output" / "onereward" / "preferences" / "kites"
    make_candidates(path, (2, 4), size=(384, 256))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def page(comfyui: ComfyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser of its own, so that the front end stays open in the other one."""
    if find_chromium() is None:
        pytest.skip("no Chromium is installed")
    with Browser(tmp_path_factory.mktemp("labelling")) as opened:
        opened.call("Page.navigate", url=f"{comfyui.url}/{PAGE}")
        opened.wait_for("document.querySelector('#list h1')")
        yield opened


def open_page(page: Browser, server: ComfyServer, name: str = "Ada") -> None:
    page.evaluate(f"localStorage[{json.dumps(NAME)}] = {json.dumps(name)}")
    page.call("Page.navigate", url="about:blank")  # a change of the hash alone loads nothing
    page.call("Page.navigate", url=f"{server.url}/{PAGE}?folder=kites")
    page.wait_for(IS_DRAWN, 20)


def press(page: Browser, key: str) -> None:
    """Press a key, and wait for the next screen."""
    page.evaluate("document.querySelectorAll('.outline').forEach(e => e.remove())")
    names = {"Backspace": 8}
    if key in names:
        event = {"key": key, "windowsVirtualKeyCode": names[key]}
        page.call("Input.dispatchKeyEvent", type="keyDown", **event)
        page.call("Input.dispatchKeyEvent", type="keyUp", **event)
    else:
        page.type_text(key)
    page.wait_for(IS_DRAWN, 20)


def pairs(folder: Path, name: str = "Ada") -> list[Preference]:
    return [p for p in PreferenceSet(folder).pairs() if p.judged_by == f"human:{name}"]


def text(page: Browser, selector: str) -> str:
    return page.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")


def shown(page: Browser) -> list[int]:
    """Return the candidates' indices in the order on the screen."""
    query = "[...document.querySelectorAll('.candidate')].map(pane => +pane.dataset.index)"
    return page.evaluate(query)


def test_a_folder_is_labelled_by_keys_with_a_reload_in_the_middle(
    page: Browser, comfyui: ComfyServer, folder: Path
):
    open_page(page, comfyui)
    order = shown(page)
    press(page, "2")
    (pair,) = pairs(folder)
    assert pair.winner_file_name.endswith(f"/{order[1]}.png")
    press(page, "=")
    press(page, "0")
    assert [p.dimension.value for p in pairs(folder)] == ["text_alignment", "consistency"]
    press(page, "Backspace")
    press(page, "Backspace")
    assert [p.dimension.value for p in pairs(folder)] == ["text_alignment"]
    for key in "111":
        press(page, key)
    # Four candidates: the best, a reload, the worst.
    order = shown(page)
    assert len(order) == 4
    press(page, "3")
    assert text(page, "#sentence") == "And which one shows it worst?"
    open_page(page, comfyui)
    assert shown(page) == order
    assert text(page, "#sentence") == "And which one shows it worst?"
    page.type_text("3")  # the best cannot be the worst: nothing happens
    assert len(pairs(folder)) == 4
    press(page, "1")
    pair = pairs(folder)[-1]
    assert pair.winner_file_name.endswith(f"/{order[2]}.png")
    assert pair.loser_file_name.endswith(f"/{order[0]}.png")
    assert text(page, "#count") == "5 of 8"
    for _ in range(3):
        page.evaluate("document.querySelectorAll('.outline').forEach(e => e.remove())")
        page.type_text("0")
        page.wait_for(f"{IS_DRAWN} || document.querySelector('#work').hidden", 20)
    assert text(page, "#list h1").startswith("All questions are answered")
    assert page.console == []


def test_two_people_label_at_once(
    page: Browser, comfyui: ComfyServer, folder: Path, tmp_path: Path
):
    with Browser(tmp_path) as second:
        second.call("Page.navigate", url=f"{comfyui.url}/{PAGE}")
        second.wait_for("document.querySelector('#list h1')")
        open_page(page, comfyui, "Ada")
        open_page(second, comfyui, "Ben")
        for key in "121":
            press(page, key)
            press(second, "1")
        press(second, "Backspace")
    assert (len(pairs(folder, "Ada")), len(pairs(folder, "Ben"))) == (3, 2)
    assert "Ben" in text(page, "#agreement summary")


def test_space_shows_the_source_as_long_as_it_is_held(
    page: Browser, comfyui: ComfyServer, folder: Path
):
    open_page(page, comfyui)
    state = "getComputedStyle(document.querySelector('.candidate .source')).visibility"
    press_space = {"key": " ", "code": "Space", "windowsVirtualKeyCode": 32}
    assert page.evaluate(state) == "hidden"
    page.call("Input.dispatchKeyEvent", type="keyDown", **press_space)
    assert page.evaluate(state) == "visible"
    page.call("Input.dispatchKeyEvent", type="keyUp", **press_space)
    assert page.evaluate(state) == "hidden"


def test_zoom_moves_all_pictures_alike(page: Browser, comfyui: ComfyServer, folder: Path):
    open_page(page, comfyui)
    transforms = (
        "[...new Set([...document.querySelectorAll('.layer')].map(l => l.style.transform))]"
    )
    (whole,) = page.evaluate(transforms)
    page.type_text("z")
    (zoomed,) = page.evaluate(transforms)
    assert zoomed != whole
    place = page.evaluate(
        "(({ left, top }) => [left + 40, top + 40])"
        "(document.querySelector('.candidate .view').getBoundingClientRect())"
    )
    wheel = {"x": place[0], "y": place[1], "deltaX": 0, "deltaY": -300}
    page.call("Input.dispatchMouseEvent", type="mouseWheel", **wheel)
    page.wait_for(f"{transforms}[0] !== {json.dumps(zoomed)}", 5)
    assert len(page.evaluate(transforms)) == 1
    page.type_text("z")
    assert page.evaluate(transforms) == [whole]


def test_mouse_answers_and_undoes(page: Browser, comfyui: ComfyServer, folder: Path):
    open_page(page, comfyui)
    order = shown(page)
    click(page, ".candidate button")
    page.wait_for("document.querySelector('#count').textContent === '1 of 8'", 20)
    assert pairs(folder)[0].winner_file_name.endswith(f"/{order[0]}.png")
    page.wait_for(IS_DRAWN, 20)
    click(page, "footer button:last-child")
    page.wait_for("document.querySelector('#count').textContent === '0 of 8'", 20)
    assert pairs(folder) == []


def click(page: Browser, selector: str) -> None:
    page.click(*page.evaluate(middle_of(selector)))


def middle_of(selector: str) -> str:
    """Return JavaScript for the place of an element's middle."""
    box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
    return f"(({{ left, top, width, height }}) => [left + width / 2, top + height / 2])({box})"


@pytest.mark.parametrize("size", [(1600, 900), (1024, 700), (390, 844)], ids=str)
def test_nothing_overlaps_or_leaves_the_screen(
    page: Browser, comfyui: ComfyServer, folder: Path, size: tuple[int, int]
):
    page.resize(*size)
    try:
        open_page(page, comfyui)
        rows = page.evaluate(BOXES)
    finally:
        page.resize(1600, 900)
    for name, left, top, right, bottom in rows:
        assert min(left, top) >= 0, name
        assert (right <= size[0] + 1, bottom <= size[1] + 1) == (True, True), name
    panes = [row for row in rows if "pane" in str(row[0]) or row[0] in ("question", "FOOTER")]
    for i, (_, left, top, right, bottom) in enumerate(panes):
        for _, left2, top2, right2, bottom2 in panes[i + 1 :]:
            overlap = min(right, right2) - max(left, left2), min(bottom, bottom2) - max(top, top2)
            assert min(overlap) <= 1
    widest = max(row[3] - row[1] for row in rows if "candidate" in str(row[0]))
    assert widest >= min(0.35 * size[0], 600) or widest >= 0.9 * size[0]


def test_fingers_enlarge_and_answer_on_a_phone(page: Browser, comfyui: ComfyServer, folder: Path):
    page.resize(390, 844)
    page.call("Emulation.setTouchEmulationEnabled", enabled=True)
    large = "document.querySelector('.large').dataset.index"
    try:
        open_page(page, comfyui)
        first, second = (str(index) for index in shown(page))
        assert page.evaluate(large) == first
        tap(page, f"[data-index='{second}'] .view")
        page.wait_for(f"{large} === '{second}'", 5)
        tap(page, f"[data-index='{second}'] button")
        page.wait_for("document.querySelector('#count').textContent === '1 of 8'", 20)
    finally:
        page.call("Emulation.setTouchEmulationEnabled", enabled=False)
        page.resize(1600, 900)
    assert pairs(folder)[0].winner_file_name.endswith(f"/{second}.png")


def tap(page: Browser, selector: str) -> None:
    x, y = page.evaluate(middle_of(selector))
    point = {"x": x, "y": y}
    page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[point])
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])


def test_deleted_candidates_are_left_out_with_a_note(
    page: Browser, comfyui: ComfyServer, folder: Path
):
    (folder / "images/scene-0/model/1.png").unlink()
    open_page(page, comfyui)
    assert len(shown(page)) == 4
    assert "left out" in text(page, "#message")
    page.console.clear()


def test_a_name_with_slashes_is_refused_in_a_sentence(
    page: Browser, comfyui: ComfyServer, folder: Path
):
    page.evaluate(f"localStorage[{json.dumps(NAME)}] = '../Ben'")
    page.call("Page.navigate", url=f"{comfyui.url}/{PAGE}?folder=kites")
    page.wait_for("document.querySelector('#message.error')", 20)
    assert text(page, "#message").startswith("your name is '../Ben', but up to 100 letters")
    page.console.clear()  # the browser notes the refusal


# --- the front end ------------------------------------------------------------------------------

LABEL = f"{NODES}.find(node => node.type === 'OneRewardLabelPreferences')"


def graph(browser: Browser) -> None:
    """Make Generate Candidates feed Label Preferences, in the folder kites."""
    browser.evaluate("window.app.graph.clear()")
    for name in ("GenerateCandidates", "LabelPreferences"):
        browser.evaluate(
            f"window.app.graph.add(LiteGraph.createNode('OneReward{name}')) && undefined"
        )
    browser.evaluate(
        f"{NODES}[0].widgets.find(w => w.name === 'name').value = 'kites';"
        f"{NODES}[0].connect(0, {NODES}[1], 0); undefined"
    )


@EVERY_RENDERER
def test_the_button_opens_the_folder_of_what_comes_in(browser: Browser, renderer: str):
    graph(browser)
    browser.evaluate("window.opened = []; window.open = url => void window.opened.push(url)")
    browser.evaluate(f"{LABEL}.{BUTTON}.callback(); undefined")
    (url,) = browser.evaluate("window.opened")
    assert url.endswith("/onereward/labelling/?folder=kites")
    front_end.show_all(browser)
    if renderer == "nodes2":
        browser.wait_for(
            "[...document.querySelectorAll('[data-node-id] button')]"
            ".some(b => b.textContent.includes('label by hand'))",
            2,
        )


def test_the_button_takes_no_place_in_a_saved_workflow(browser: Browser):
    graph(browser)
    saved: dict[str, Any] = json.loads(
        browser.evaluate("JSON.stringify(window.app.graph.serialize())")
    )
    node = next(n for n in saved["nodes"] if n["type"] == "OneRewardLabelPreferences")
    assert len([v for v in node["widgets_values"] if v is not None]) == 3
    browser.load_workflow(saved, "again")
    assert browser.evaluate(f"{LABEL}.widgets[0].value") == "judge"
    exported = browser.export_api()
    inputs = next(n for n in exported.values() if n["class_type"] == "OneRewardLabelPreferences")
    assert set(inputs["inputs"]) == {"preferences", "labeller", "margin", "view"}


def test_the_sidebar_lists_folders_and_progress(browser: Browser, folder: Path):
    tabs = "window.app.extensionManager.sidebarTab"
    browser.evaluate(f"{tabs}.toggleSidebarTab('onereward-label')")
    try:
        browser.wait_for(
            "[...document.querySelectorAll('button')].some(b => b.textContent.includes('kites')"
            " && b.textContent.includes('0 of 8 questions'))",
            20,
        )
    finally:
        browser.evaluate(f"{tabs}.toggleSidebarTab('onereward-label')")
