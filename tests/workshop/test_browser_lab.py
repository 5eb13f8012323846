"""The playground as a reader meets it: JupyterLab in a real, headless Chromium; widgets moved, a row trained.

Screenshots go to build/lab/. The tests skip where there is no Chromium or no playwright, and say so.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from browser import MARKS, MINUTE, free_port, recipe, served

from conftest import CHROMIUM, FLAGS, ROOT

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright; pip install -e '.[test]' brings it")
pytestmark = MARKS
LAB = ROOT / "build" / "lab"


@pytest.fixture(scope="module")
def server():
    """The address of a JupyterLab of our own, with a copy of the notebook that works in a small sandbox."""
    # not the notebook's own sandbox: the tests of the application may make that anew meanwhile
    subprocess.run([sys.executable, "-m", "avcil.workshop.smoke", "build/smoke/lab"], cwd=ROOT, check=True)
    shutil.rmtree(LAB, ignore_errors=True)
    LAB.mkdir(parents=True)
    notebook = nbformat.read(ROOT / "notebooks/explore.ipynb", as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = 'workdir = "build/smoke/lab"'
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, LAB / "explore.ipynb")
    port = free_port()
    options = f"--no-browser --allow-root --ServerApp.port={port} --ServerApp.ip=127.0.0.1 --ServerApp.port_retries=0"
    options += " --IdentityProvider.token= --LabApp.expose_app_in_browser=True"
    command, variables = recipe("lab", f"LAB={options}")
    assert command.pop() == "notebooks/explore.ipynb"
    command.append(str(LAB / "explore.ipynb"))
    more = variables | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),  # the kernel starts in build/lab
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

    with served(command, answers, log=LAB / "server.log", cwd=ROOT, **more):
        yield address


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    """explore.ipynb, opened; nothing is run or clicked."""
    profile = tmp_path_factory.mktemp("profile")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, headless=True, args=FLAGS, viewport={"width": 1500, "height": 1700}
        )
        page = browser.new_page()
        page.set_default_timeout(MINUTE)
        page.goto(f"{server}/lab/tree/explore.ipynb?reset")
        page.wait_for_selector(".jp-Notebook", timeout=2 * MINUTE)
        page.wait_for_function(_ALL_RUN, timeout=3 * MINUTE)
        yield page
        browser.close()


_KERNEL = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
_ALL_RUN = f"""() => {_KERNEL}?.status === 'idle' && [...window.jupyterapp.shell.currentWidget.content.model.cells]
  .filter(cell => cell.type === 'code')
  .every(cell => cell.executionCount !== null && cell.executionState !== 'running')"""


_SEEN = """number => {
  const panel = document.querySelectorAll('.avcil-panel')[number]?.getBoundingClientRect();
  return panel && panel.width > 900 && panel.top > 0 && panel.top < 600;
}"""


def _panel(page, number: int):
    """The number-th panel: the output of a code cell, after parameters and imports."""
    panel = page.locator(".jp-CodeCell").nth(2 + number)
    panel.scroll_into_view_if_needed()
    panel.locator(".widget-vbox").first.wait_for()
    return panel


def _labelled(panel, text: str):
    return panel.locator(".widget-inline-hbox").filter(has=panel.page.locator(f"label:text-is('{text}')")).first


def _digests(panel) -> list[str]:
    """What figures and pictures show: ids and object URLs differ each time."""
    script = """all => Promise.all(all.map(async one => {
        if (!one.src) return [...one.querySelectorAll("path")].map(path => path.getAttribute("d")).join();
        const bytes = await (await fetch(one.src)).arrayBuffer();
        const hash = await crypto.subtle.digest('SHA-256', bytes);
        return [...new Uint8Array(hash)].slice(0, 8).join('-') + ':' + bytes.byteLength;
    }))"""
    return panel.locator("svg.marks, img[src]").evaluate_all(script)


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


def test_every_panel_comes_up_by_itself_the_first_one_first(page):
    page.wait_for_function(_SEEN, arg=0)
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
    assert panel.locator("video").count() == 1 and panel.locator("audio[controls]").count() == 2
    page.wait_for_function(
        "() => [...document.querySelectorAll('video')].every(v => v.readyState >= 1 && v.duration > 1)"
    )
    panel.locator("button[title]:has(img)").first.press("Enter")
    page.wait_for_function("() => [...document.querySelectorAll('audio[title]')].some(one => one.currentTime > 0)")
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
    panel.locator("pre", has_text="dvc exp run").wait_for(timeout=5 * MINUTE)
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


def test_a_reload_of_the_page_leaves_everything_as_it_was(page):
    """Choices, the trained row, the panel that was looked at, and a row that is being trained; no file is written."""
    stored = (LAB / "explore.ipynb").read_bytes()
    trainer = _panel(page, 1)
    epochs = _labelled(trainer, "epochs").locator("input").first
    epochs.fill("900")
    epochs.press("Tab")
    trainer.get_by_role("button", name="Train").click()
    results = _panel(page, 0)
    results.get_by_text("visual only", exact=True).first.click()
    table = "() => document.querySelector('.avcil-panel table').innerText"
    page.wait_for_function(f"({table})().includes('visual only')")
    before = page.evaluate(table)
    clip = _panel(page, 2)
    clip.locator(".widget-toggle-button").nth(1).click()
    clip.locator(".widget-toggle-button.mod-active").nth(0).wait_for()
    chosen = clip.locator(".widget-toggle-button.mod-active").inner_text()
    page.evaluate("document.querySelectorAll('.avcil-panel')[2].scrollIntoView()")
    page.reload()
    page.wait_for_function(_SEEN, arg=2, timeout=2 * MINUTE)
    page.screenshot(path=LAB / "reloaded.png")
    assert page.evaluate(table) == before and "my_row (live)" in before
    assert _panel(page, 2).locator(".widget-toggle-button.mod-active").inner_text() == chosen
    trainer = _panel(page, 1)
    trainer.get_by_text("learning task").wait_for()
    trainer.get_by_role("button", name="Stop").click()
    # which is said of no run that has come to its end
    trainer.get_by_text("stopped").wait_for(timeout=3 * MINUTE)
    assert not page.evaluate("window.jupyterapp.shell.currentWidget.context.model.dirty")
    assert (LAB / "explore.ipynb").read_bytes() == stored
    _no_errors(page)
