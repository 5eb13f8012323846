"""The report as a reader has it: links, tables and provenance, and every page in a real browser without a network.

The report of these tests is made of the committed notebooks with their stored outputs, under the names that the
pipeline gives to executed copies, so that it can be made before anything has been run.
"""

import filecmp
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import numpy as np
import pandas as pd
import pytest
import yaml
from bs4 import BeautifulSoup
from PIL import Image, ImageColor

from avcil.params import load
from avcil.results.names import name_of
from avcil.workshop import claims
from avcil.workshop.readme import HEADLINE
from avcil.workshop.report import lock
from avcil.workshop.report.__main__ import revision
from conftest import CHROMIUM, FLAGS, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.browser]
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name in ("README.md", "CITATION.cff", "params.yaml", "search.yaml", "beyond.yaml", "dvc.yaml", "dvc.lock"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("docs", "protocols", "metrics", "figures", "notebooks", "benchmarks/results"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "data").symlink_to(ROOT / "corpus")  # what data.dvc imports
    (folder / "prior").symlink_to(ROOT / "prior")
    executed = folder / "artifacts/notebooks"
    executed.mkdir(parents=True)
    for stage in lock.stages(folder):
        for path in stage.outs:
            if path.startswith("artifacts/notebooks/"):
                shutil.copy(folder / stage.notebook, folder / path)
    return folder


@pytest.fixture(scope="module")
def sites(project) -> list[Path]:
    """The report, made twice at the same time."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    running = {}
    for seed, name in enumerate(("report", "again")):
        environment = os.environ | {"PYTHONHASHSEED": str(seed), "PYTHONPATH": paths}
        command = [sys.executable, "-m", "avcil.workshop.report", name]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running[name] = subprocess.Popen(command, cwd=project, env=environment, text=True, **pipes)
    for process in running.values():
        out, err = process.communicate()
        # Sphinx warns of links that lead nowhere, of headings and tables that are none
        assert (process.returncode, out, err) == (0, "", ""), err[-3000:]
    return [(project / name).resolve() for name in running]


@pytest.fixture(scope="module")
def site(sites) -> Path:
    return sites[0]


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, BeautifulSoup]:
    return {path: BeautifulSoup(path.read_text(), "html.parser") for path in sorted(site.rglob("*.html"))}


# ---- without a browser


def test_there_is_a_page_for_every_notebook_and_every_module(pages, site):
    assert {p.stem for p in pages if p.parent.name == "notebooks"} == {p.stem for p in ROOT.glob("notebooks/*.ipynb")}
    modules = {p.relative_to(ROOT).with_suffix("") for p in (ROOT / "avcil").rglob("*.py")}
    names = {".".join(m.parts).removesuffix(".__init__") for m in modules}
    assert {p.stem for p in pages if p.parent.name == "api"} == names
    train = pages[site / "notebooks/04_train.html"].get_text()
    assert all(f"04_train-task{task.id}" in train for task in load(ROOT / "params.yaml").tasks[1:])


def test_links_and_pictures_lead_somewhere(site, pages):
    anchors = {path: {tag["id"] for tag in page.select("[id]")} for path, page in pages.items()}
    for path, page in pages.items():
        for tag in page.select("a[href], img[src], script[src], link[href], video[src], source[src]"):
            target = tag.get("href") or tag.get("src")
            if urlsplit(target).scheme in ("http", "https", "data", "mailto"):
                continue
            file, anchor = urldefrag(unquote(target.split("?")[0] if "#" not in target else target))
            file = (path.parent / file).resolve() if file else path
            assert file.is_file() and file.is_relative_to(site), f"{path.name}: {target}"
            assert not anchor or anchor in anchors[file], f"{path.name}: {target}"


def test_equations_are_mathml(pages, site):
    assert len(pages[site / "method.html"].select("article math[display=block]")) >= 10
    assert pages[site / "api/avcil.learn.losses.html"].select("math")
    raw = re.compile(r"\$\$|\\frac|\\sum")
    # looked for in the file first: of a page that has none, no text has to be taken apart
    for path, page in [(path, page) for path, page in pages.items() if raw.search(path.read_text())]:
        text = "".join(part for part in page.find_all(string=True) if not part.find_parent(["pre", "code", "script"]))
        assert not raw.search(text), path.name


def test_code_and_equations_in_docstrings_keep_their_lines(pages, site):
    """They ran together: `learner = avcil.Learner() learner.fit(...)`, and the four equations of guided attention."""
    code = {
        name: [p.get_text() for p in pages[site / f"api/avcil.{name}.html"].select("pre")]
        for name in ("learner.learner", "learn.attention")
    }
    assert any(text.startswith("learner = avcil.Learner()\nlearner.fit(") for text in code["learner.learner"])
    assert any(len(text.strip().splitlines()) == 4 and "softmax_s" in text for text in code["learn.attention"])
    sections = pages[site / "api/avcil.results.runs.html"].get_text()
    assert "Parameters" in sections and "Args:" not in sections


def test_the_headline_table_and_the_rows_are_the_metrics(pages, site):
    summary = pd.read_csv(ROOT / "metrics/summary.csv").query("setting == 'standard'").set_index("method")
    page = pages[site / "index.html"]
    # claim by claim at the top, and then the headline
    assert len(page.table.select("tbody tr")) == len(claims.judged(ROOT / "metrics"))
    result = page.find(id="result").table.select("tbody tr")
    shown = {name: cells for name, *cells in ([cell.get_text() for cell in row.select("td")] for row in result)}
    assert set(shown) == {name_of(method) for method in HEADLINE}
    for method in HEADLINE:
        value, spread = map(float, shown[name_of(method)][1].split(" ± "))
        assert value == pytest.approx(100 * summary.last_accuracy[method], abs=0.0501)
        assert spread == pytest.approx(100 * summary.last_accuracy_std[method], abs=0.0501)
    assert f"{100 * summary.last_accuracy['lll_prior']:.1f} %" in page.get_text()
    rows = [row.select("td")[9].get_text() for row in pages[site / "rows.html"].table.select("tbody tr")]
    assert rows == list(load(ROOT / "params.yaml").methods)


def test_figures_name_the_stage_and_the_digest_that_dvc_recorded(pages, site):
    outs = {
        out["path"]: (name, out.get("md5"))
        for name, stage in yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"].items()
        for out in stage.get("outs", [])
    }
    captions = {}
    for page in pages.values():
        for figure in page.select("figure:has(img)"):
            captions[f"figures/{Path(figure.img['src']).name}"] = figure.figcaption.get_text()
    known = captions.keys() & outs.keys()
    assert len(known) >= 4
    for path in known:
        stage, md5 = outs[path]
        assert f"stage {stage}, MD5 {md5[:8]}" in captions[path]
    recorded = pages[site / "provenance.html"].get_text()
    assert all(md5 in recorded for name, (stage, md5) in outs.items() if stage != "report")
    boxes = {text.get_text() for text in pages[site / "provenance.html"].select("svg.pipeline text")}
    assert {"splits", "train", "figures"} <= boxes


def test_the_same_inputs_give_the_same_bytes(project, sites):
    site, again = sites
    files = sorted(str(path.relative_to(site)) for path in site.rglob("*") if path.is_file())
    assert files == sorted(str(path.relative_to(again)) for path in again.rglob("*") if path.is_file())
    _, different, _ = filecmp.cmpfiles(site, again, files, shallow=False)
    assert set(different) <= {"revision.js"}
    # else each commit would have another report
    assert "/report/revision.js" in (ROOT / ".dvcignore").read_text().split()
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    subprocess.run(["git", "add", "README.md"], cwd=project, check=True)
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *author, "commit", "-qm", "one"], cwd=project, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project, capture_output=True, text=True).stdout.strip()
    assert revision(project).startswith(head) and not revision(project).endswith("changes")
    (project / "README.md").write_text((project / "README.md").read_text() + "\n")
    assert revision(project).endswith("with uncommitted changes")


# ---- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=CHROMIUM, headless=True, args=FLAGS
        )
        yield context
        context.close()


@pytest.fixture
def page(browser):
    """A tab; afterwards, nothing was asked of anything but files, and nothing failed."""
    page, asked, errors = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: errors.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert asked and not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    assert errors == []


def test_pages_are_whole_and_as_wide_as_the_window(page, pages):
    """All of them, but of the API, whose pages are made alike, those with most to read."""
    alike = sorted((path for path in pages if path.parent.name == "api"), key=lambda path: path.stat().st_size)
    for path in [path for path in pages if path not in alike[:-20]]:
        page.goto(path.as_uri())
        for size in (PHONE, DESKTOP):
            page.set_viewport_size(size)
            wide = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
            assert wide[0] <= wide[1], f"{path.name} is {wide[0]} pixels wide in a window of {wide[1]}"
        page.evaluate("for (const image of document.images) image.loading = 'eager'")
        page.wait_for_function("[...document.images].every(image => image.complete)")
        assert page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src.slice(0, 80))") == []
        without = "[...document.querySelectorAll('article img')].filter(i => i.alt.length < 5).length"
        assert page.evaluate(without) == 0, f"{path.name}: pictures without words"


@pytest.mark.parametrize("name", ["index", "rows", "docs/field", "notebooks/07_figures"])
def test_axe_finds_nothing(page, site, name):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page.goto((site / f"{name}.html").as_uri())
    violations = axe.run(page, options={"preload": False}).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in violations if v["impact"] in ("serious", "critical")] == []


def test_tables_sort_and_filter(page, site):
    page.set_viewport_size(DESKTOP)
    page.goto((site / "rows.html").as_uri())
    rows = "[...document.querySelector('article table').tBodies[0].rows]"
    shown = rows + ".filter(row => !row.hidden).map(row => row.cells[{}].innerText)"
    last = page.get_by_role("button", name="last", exact=True)
    for order in (False, True):
        last.click()
        values = [float(text.split()[0]) for text in page.evaluate(shown.format(2)) if text]
        assert len(values) > 10 and values == sorted(values, reverse=order)
    page.get_by_role("searchbox", name="filter the rows of this table").first.fill("joint_")
    assert page.evaluate(shown.format(1)) and all("joint" in text for text in page.evaluate(shown.format(0)))
    # a line that hangs on the one above says so before it is moved
    page.goto((site / "docs/claims.html").as_uri())
    page.get_by_role("button", name="difference").click()
    assert all(page.evaluate(shown.format(0)))


def test_a_reader_with_a_phone(page, site):
    page.set_viewport_size(PHONE)
    page.goto((site / "docs/field.html").as_uri())
    scrolled = page.evaluate("""() => {
        const table = document.querySelector('article table'), box = table.closest('.table-wrapper');
        box.scrollLeft = 200;
        const [first, second] = table.tBodies[0].rows[1].cells;
        return [box.scrollLeft, first.getBoundingClientRect().left, second.getBoundingClientRect().left];
    }""")
    assert scrolled[0] == 200 and scrolled[1] >= 0 > scrolled[2] - 200, "the first column stays"
    page.goto((site / "method.html").as_uri())
    assert page.evaluate("parseFloat(getComputedStyle(document.querySelector('article p')).fontSize)") >= 15
    heights = "[...document.querySelectorAll('.equation math')].map(math => math.getBoundingClientRect().height)"
    assert min(page.evaluate(heights)) > 5
    # contents are a drawer, so the title comes first
    assert page.locator("h1").bounding_box()["y"] < 250
    page.goto((site / "index.html").as_uri())
    page.locator("article a img").first.click()
    page.wait_for_url("**/_images/*.png")


def test_clips_play_pages_follow_one_another_and_are_searched(page, site):
    page.set_viewport_size(DESKTOP)
    page.goto((site / "index.html").as_uri())
    page.wait_for_function("[...document.querySelectorAll('video')].every(v => v.readyState >= 1 && v.duration > 1)")
    assert page.locator("video").count() == 2
    page.goto((site / "notebooks/06_ablations.html").as_uri())
    assert page.locator("details.hide").first.get_attribute("open") is None
    page.click(".related-pages .next-page")
    assert "07_figures" in page.url
    page.wait_for_load_state()  # what a page still loads when one leaves it has failed
    page.goto((site / "search.html").as_uri() + "?q=herding")
    page.wait_for_selector("#search-results li a")


def test_the_plots_of_dvc_are_read_offline(page, project, site):
    """Curves, each of a colour, confusion, pictures, and the losses that DVCLive logs, of the committed metrics."""
    for name in (".dvc/config", ".dvc/plots.html", ".dvc/plots/series.json", "dvc.yaml"):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    if not (project / ".git").exists():
        subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    for task in range(5):
        log = project / f"artifacts/live/lll_prior/task{task}/seed0/plots/metrics/cross_entropy.tsv"
        log.parent.mkdir(parents=True)
        log.write_text("step\tcross_entropy\n0\t1.0\n1\t0.5\n")
    shown = subprocess.run([sys.executable, "-m", "dvc", "plots", "show"], cwd=project, capture_output=True, text=True)
    assert shown.returncode == 0 and "failed to load" not in shown.stderr, shown.stderr
    page.goto((project / "dvc_plots/index.html").as_uri())
    definitions = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    page.wait_for_function(
        f"document.querySelectorAll('.vega-embed canvas, .vega-embed svg').length >= "
        f"{sum(isinstance(plot, dict) for plot in definitions)}"
    )
    assert page.locator("img").count() == sum(isinstance(plot, str) for plot in definitions)
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth)")
    palette = json.loads((ROOT / ".dvc/plots/series.json").read_text())["encoding"]["color"]["scale"]["range"]
    (curves,) = next(plot for plot in definitions if isinstance(plot, dict)).values()
    lines = len(curves["y"]["metrics/curves.csv"])
    drawn = np.asarray(Image.open(io.BytesIO(page.locator(".vega-embed").first.screenshot())).convert("RGB"))
    for colour in palette[:lines]:  # edges are blended with what is behind them
        assert abs(drawn.astype(int) - ImageColor.getrgb(colour)).max(-1).min() < 40, colour
