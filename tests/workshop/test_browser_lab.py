"""The playground as a reader meets it: JupyterLab in a real, headless Chromium; widgets moved, a row trained.

Screenshots go to build/lab/. The tests skip where there is no Chromium or no playwright, and say so.
"""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from browser import MARKS, MINUTE, free_port, served

from conftest import CHROMIUM, FLAGS, ROOT

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright; pip install -e '.[test]' brings it")
pytestmark = MARKS
LAB = ROOT / "build" / "lab"


@pytest.fixture(scope="module")
def server():
    """The address of a JupyterLab of our own, with a copy of the notebook that works in a small sandbox."""
    subprocess.run([sys.executable, "-m", "avcil.workshop.smoke", "build/smoke/explore"], cwd=ROOT, check=True)
    shutil.rmtree(LAB, ignore_errors=True)
    LAB.mkdir(parents=True)
    notebook = nbformat.read(ROOT / "notebooks/explore.ipynb", as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = 'workdir = "build/smoke/explore"'
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, LAB / "explore.ipynb")
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}"]
    command += ["--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0", "--IdentityProvider.token="]
    command += ["--LabApp.expose_app_in_browser=True"]
    more = {
        "AVCIL_SANDBOX": "ready",
        "JUPYTER_CONFIG_DIR": str(LAB / "config"),
        "JUPYTERLAB_WORKSPACES_DIR": str(LAB / "workspaces"),
        "JUPYTERLAB_SETTINGS_DIR": str(LAB / "settings"),
    }
    news = LAB / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    address = f"http://127.0.0.1:{port}"

    def answers():
        urllib.request.urlopen(f"{address}/api/status", timeout=1).read()

    with served(command, answers, log=LAB / "server.log", cwd=LAB, **more):
        yield address


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    """explore.ipynb, opened and run from the first cell to the last."""
    profile = tmp_path_factory.mktemp("profile")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, headless=True, args=FLAGS, viewport={"width": 1500, "height": 1700}
        )
        page = browser.new_page()
        page.set_default_timeout(MINUTE)
        page.goto(f"{server}/lab/tree/explore.ipynb?reset")
        page.wait_for_selector(".jp-Notebook", timeout=2 * MINUTE)
        page.wait_for_function(_IDLE, timeout=2 * MINUTE)
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_function(_ALL_RUN, timeout=3 * MINUTE)
        yield page
        browser.close()


_KERNEL = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
_IDLE = f"() => {_KERNEL}?.status === 'idle'"
_ALL_RUN = f"""() => {_KERNEL}?.status === 'idle' && [...window.jupyterapp.shell.currentWidget.content.model.cells]
  .filter(cell => cell.type === 'code')
  .every(cell => cell.executionCount !== null && cell.executionState !== 'running')"""


def _panel(page, number: int):
    """The number-th panel: the output of a code cell, after parameters and imports."""
    panel = page.locator(".jp-CodeCell").nth(2 + number)
    panel.scroll_into_view_if_needed()
    panel.locator(".widget-vbox").first.wait_for()
    return panel


def _labelled(panel, text: str):
    return panel.locator(".widget-inline-hbox").filter(has=panel.page.locator(f"label:text-is('{text}')")).first


def _digests(panel) -> list[str]:
    """What the pictures show: object URLs change with their content."""
    script = """all => Promise.all(all.filter(one => one.src).map(async one => {
        const bytes = await (await fetch(one.src)).arrayBuffer();
        const hash = await crypto.subtle.digest('SHA-256', bytes);
        return [...new Uint8Array(hash)].slice(0, 8).join('-') + ':' + bytes.byteLength;
    }))"""
    return panel.locator("img").evaluate_all(script)


def _wait_for_change(page, panel, before: list[str], seconds: float = 60) -> list[str]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            after = _digests(panel)
        except sync_api.Error:  # a picture was replaced while it was read
            after = before
        if after != before and after:
            return after
        page.wait_for_timeout(200)
    raise AssertionError("no picture changed")


def _no_errors(page) -> None:
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert page.locator(".jp-OutputArea-output[data-mime-type*='stderr']").count() == 0
    assert "Error displaying widget" not in page.content()


def test_every_cell_runs_and_shows_its_panel(page):
    for number, words in enumerate(("up to task", "feature_distillation", "test clip")):
        panel = _panel(page, number)
        assert words in panel.inner_text()
        assert len(_digests(panel)) >= 1
        panel.screenshot(path=LAB / f"panel{number}.png")
    _no_errors(page)


def test_the_slider_changes_figures_and_numbers(page):
    panel = _panel(page, 0)
    pictures, numbers = _digests(panel), panel.locator("table").inner_text()
    handle = _labelled(panel, "up to task").locator(".noUi-handle").first
    handle.focus()
    handle.press("ArrowLeft")
    after = _wait_for_change(page, panel, pictures)
    page.wait_for_timeout(2000)
    assert panel.locator("table").inner_text() != numbers
    assert len(after) >= 3
    panel.screenshot(path=LAB / "results-moved.png")
    _no_errors(page)


def test_the_clip_is_seen_heard_and_looked_at_task_by_task(page):
    panel = _panel(page, 2)
    pictures = _digests(panel)
    assert panel.locator("video").count() == 1 and panel.locator("audio").count() == 2
    page.wait_for_function(
        "() => [...document.querySelectorAll('video')].every(v => v.readyState >= 1 && v.duration > 1)"
    )
    assert len(re.findall(r"after task \d", panel.locator("table").inner_text())) == 2
    handle = _labelled(panel, "look after").locator(".noUi-handle").first
    handle.focus()
    handle.press("Home")
    _wait_for_change(page, panel, pictures)
    panel.screenshot(path=LAB / "clip-moved.png")
    _no_errors(page)


def test_train_learns_in_the_page_and_gives_the_row(page):
    panel = _panel(page, 1)
    before = _digests(panel)
    epochs = _labelled(panel, "epochs").locator("input").first
    epochs.fill("3")
    epochs.press("Tab")
    panel.get_by_role("button", name="Train").click()
    panel.locator("pre", has_text="dvc exp run").wait_for(timeout=2 * MINUTE)
    text = panel.inner_text()
    assert "my_row: {<<: *lll_prior, about: {name: my_row, family: own}}" in text
    assert re.search(r"after task 1: \d+\.\d % of clips right", text)
    assert _digests(panel) != before
    panel.screenshot(path=LAB / "trained.png")
    # and joins the others
    for number, name in ((0, "results-live.png"), (2, "clip-live.png")):
        other = _panel(page, number)
        other.get_by_text("my_row (live)").first.wait_for(timeout=MINUTE)
        other.screenshot(path=LAB / name)
    assert "my_row (live)" in _panel(page, 0).locator("table").inner_text()
    _no_errors(page)


def test_training_stops_when_asked(page):
    panel = _panel(page, 1)
    epochs = _labelled(panel, "epochs").locator("input").first
    epochs.fill("900")
    epochs.press("Tab")
    panel.get_by_role("button", name="Train").click()
    page.wait_for_timeout(1500)
    started = time.monotonic()
    panel.get_by_role("button", name="Stop").click()
    panel.get_by_text("stopped").wait_for(timeout=MINUTE)
    assert time.monotonic() - started < 20
    _no_errors(page)
