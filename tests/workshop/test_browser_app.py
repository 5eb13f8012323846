"""The playground as an application (`make app`) in a real, headless Chromium: nothing is run or clicked beforehand.

Screenshots go to build/app/. The tests skip where there is no Chromium or no playwright, and say so.
"""

import os
import shutil
import socket
import sys
from pathlib import Path

import pytest
from browser import MARKS, MINUTE, free_port, recipe, served

from conftest import CHROMIUM, FLAGS, ROOT

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright; pip install -e '.[test]' brings it")
pytestmark = MARKS
SHOTS = ROOT / "build" / "app"
FIGURE = "svg.marks"  # as Vega draws them


@pytest.fixture(scope="module")
def address():
    shutil.rmtree(SHOTS, ignore_errors=True)
    SHOTS.mkdir(parents=True)
    port = free_port()
    command, variables = recipe("app", f"APP=--no-browser --port={port}")
    more = variables | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),  # the kernel starts in notebooks/
    }

    def answers():
        socket.create_connection(("127.0.0.1", port), timeout=1).close()

    with served(command, answers, log=SHOTS / "server.log", cwd=ROOT, **more):
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def asked() -> list[str]:
    """All that the page asked for."""
    return []


@pytest.fixture(scope="module")
def page(address, asked):
    """The application as it comes up by itself."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(MINUTE)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.locator(FIGURE).first.wait_for(timeout=3 * MINUTE)
        page.screenshot(path=SHOTS / "first.png")
        page.locator("video").first.wait_for(timeout=2 * MINUTE)
        yield page
        browser.close()


def test_the_panels_come_up_by_themselves_with_their_controls(page):
    assert page.locator(FIGURE).count() >= 5 and page.locator("video").count() == 1
    for name in ("Train", "Stop"):
        assert page.get_by_role("button", name=name).count() == 1
    assert page.locator("text=Traceback").count() == 0 and "Error displaying widget" not in page.content()


def test_controls_stand_beside_what_they_change_on_one_screen(page):
    panels = page.locator(".avcil-panel").all()
    assert len(panels) == 3
    for number, panel in enumerate(panels):
        panel.evaluate("panel => panel.scrollIntoView()")
        shown = panel.locator(f"{FIGURE}, video").first
        shown.wait_for()
        page.screenshot(path=SHOTS / f"panel{number}.png")
        shown = shown.bounding_box()
        control = panel.locator("select, input").first.bounding_box()
        assert control["x"] + control["width"] <= shown["x"] and control["width"] <= 330
        assert shown["x"] + shown["width"] <= 1440 and shown["y"] + shown["height"] <= 900
    assert page.evaluate("document.documentElement.scrollWidth") <= 1440


def test_nothing_comes_from_elsewhere(page, address, asked):
    assert len(asked) > 10 and not [url for url in asked if not url.startswith((address, "data:", "blob:"))]


def test_axe_finds_nothing(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    violations = axe.run(page, options={"preload": False}).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in violations if v["impact"] in ("serious", "critical")] == []


CUT = """panel => [...panel.querySelectorAll('label, button, select, .widget-html-content')]
  .filter(one => one.clientWidth && one.scrollWidth > one.clientWidth + 1).map(one => one.innerText)"""


def test_no_name_is_cut(page):
    for panel in page.locator(".avcil-panel").all():
        assert panel.evaluate(CUT) == []


def test_figures_answer_the_pointer(page):
    """Values under it; a click on a name hides a row; Ctrl and the wheel zoom, and the wheel alone scrolls the page."""
    figure, paths = page.locator(FIGURE).first, ".role-mark.mark-symbol path"
    figure.evaluate("figure => figure.scrollIntoView()")
    points, ticks = figure.locator(paths), figure.locator(".role-axis-label text")
    points.last.hover()
    page.locator("#vg-tooltip-element.visible").wait_for()
    value = page.locator("#vg-tooltip-element tr", has_text="accuracy").locator("td.value").inner_text()
    label = points.last.get_attribute("aria-label")
    assert f"accuracy: {value}; worst seed" in label
    page.screenshot(path=SHOTS / "hover.png")
    count, name = points.count(), figure.locator(".role-legend-label text").last
    for left in (count * 3 // 4, count):
        name.click()
        page.wait_for_function(
            f"left => document.querySelector('{FIGURE}').querySelectorAll('{paths}').length == left",
            arg=left,
        )
    points.last.hover()
    before = ticks.all_text_contents()
    page.mouse.wheel(0, 100)
    page.wait_for_timeout(500)
    assert ticks.all_text_contents() == before
    points.last.hover()
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    page.wait_for_function(
        f"old => [...document.querySelector('{FIGURE}').querySelectorAll('.role-axis-label text')]"
        ".map(one => one.textContent).join() != old",
        arg=",".join(before),
    )


def test_two_rows_are_compared_in_three_clicks(page):
    panel = page.locator(".avcil-panel").first
    panel.get_by_role("button", name="none", exact=True).click()
    panel.get_by_text("visual only", exact=True).first.click()
    panel.get_by_text("ridge, frozen", exact=True).first.click()
    page.wait_for_function(
        """() => [...document.querySelectorAll('.avcil-panel table')[0].querySelectorAll('tbody th')]
          .map(head => head.innerText).join() === 'visual only,ridge, frozen'"""
    )


def test_a_picture_of_a_class_sounds_when_pressed(page):
    page.locator("button[title]:has(img)").nth(1).press("Enter")
    page.wait_for_function("() => [...document.querySelectorAll('audio[title]')].some(one => one.currentTime > 0)")


def test_a_clip_of_ones_own_is_uploaded_or_refused_in_a_line(page, tmp_path):
    """Larger than a message may be that nobody has told the server to take."""
    clip = next((ROOT / "corpus/sounding_objects/clips").glob("test-*.mp4")).read_bytes()
    (tmp_path / "mine.mp4").write_bytes(clip + bytes(12_000_000))
    (tmp_path / "notes.mp4").write_text("no video")
    for name, answer in (("mine.mp4", "an own clip, mine.mp4"), ("notes.mp4", "notes.mp4: damaged")):
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="upload").press("Enter")
        chooser.value.set_files(tmp_path / name)
        page.get_by_text(answer).wait_for()
    page.screenshot(path=SHOTS / "own.png")


def test_an_upload_that_no_server_takes_is_refused_in_a_line(page, tmp_path):
    with open(tmp_path / "long.mp4", "wb") as file:
        file.truncate(200_000_001)
    said = []
    page.once("dialog", lambda dialog: (said.append(dialog.message), dialog.accept()))
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="upload").press("Enter")
    chooser.value.set_files(tmp_path / "long.mp4")
    page.wait_for_timeout(500)
    assert said == ['long.mp4: 201 MB, and at most 200 MB can be uploaded; give its path under "own clip" instead']


def test_nothing_is_wider_than_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(1000)
    for number, panel in enumerate(page.locator(".avcil-panel").all()):
        panel.evaluate("panel => panel.scrollIntoView()")
        page.screenshot(path=SHOTS / f"phone{number}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1440, "height": 900})
