"""The report as a reader has it: links, tables and provenance, and every page in a real browser without a network.

The report of these tests is made of the committed notebooks with their stored outputs, under the names that the
pipeline gives to executed copies, so that it can be made before anything has been run.
"""

import filecmp
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pandas as pd
import pytest
import yaml
from bs4 import BeautifulSoup

from avcil.results.plots import name_of
from avcil.workshop.report import lock, markup
from avcil.workshop.report.__main__ import revision
from conftest import CHROMIUM, FLAGS, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.browser]  # the report is rendered three times
WIDTHS = (390, 1280)


def _render(project: Path, name: str, hash_seed: int) -> Path:
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": paths}
    command = [sys.executable, "-m", "avcil.workshop.report", name]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return project / name


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name in ("README.md", "CITATION.cff", "params.yaml", "dvc.lock", "benchmarks/dvc.lock"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in ("docs", "metrics", "figures", "notebooks"):
        shutil.copytree(ROOT / name, folder / name)
    executed = folder / "artifacts/notebooks"
    executed.mkdir(parents=True)
    for stage in lock.stages(folder).values():
        for path in stage.outs:
            if path.startswith("artifacts/notebooks/") and ":" not in stage.name:
                shutil.copy(folder / stage.notebook, folder / path)
    return folder


@pytest.fixture(scope="module")
def site(project) -> Path:
    return _render(project, "report", 1).resolve()


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, BeautifulSoup]:
    return {path: BeautifulSoup(path.read_text(), "html.parser") for path in sorted(site.rglob("*.html"))}


# ---- without a browser


def test_there_is_a_page_for_every_executed_notebook(project, pages, site):
    executed = {path.stem for path in (project / "artifacts/notebooks").glob("*.ipynb")} | {"11_experiments"}
    assert len(executed) > 1 and {p.stem for p in pages if p.parent.name == "notebooks"} == executed
    linked = {a["href"] for a in pages[site / "index.html"].select("li a")}
    assert {f"notebooks/{name}.html" for name in executed} <= linked
    modules = {p.relative_to(ROOT).with_suffix("") for p in (ROOT / "avcil").rglob("*.py")}
    names = {".".join(m.parts).removesuffix(".__init__") for m in modules}
    assert {p.stem for p in pages if p.parent.name == "api"} == names


def test_links_and_pictures_lead_somewhere(site, pages):
    anchors = {path: {tag["id"] for tag in page.select("[id]")} for path, page in pages.items()}
    for path, page in pages.items():
        for tag in page.select("a[href], img[src], script[src], link[href], video[src], source[src]"):
            target = tag.get("href") or tag.get("src")
            if urlsplit(target).scheme in ("http", "https", "data", "mailto"):
                continue
            file, anchor = urldefrag(unquote(target))
            file = (path.parent / file).resolve() if file else path
            assert file.is_file() and file.is_relative_to(site), f"{path.name}: {target}"
            assert not anchor or anchor in anchors[file], f"{path.name}: {target}"


def test_nothing_is_fetched_from_elsewhere(site, pages):
    """Only links that a reader follows may lead out; neither pages nor styles load anything."""
    for path, page in pages.items():
        for tag in page.select("[src], link[href], [poster], [data]"):
            for name in ("src", "href", "poster", "data"):
                assert not re.match(r"(https?:)?//", tag.get(name) or ""), f"{path.name}: {tag}"[:300]
        text = path.read_text()
        assert not re.search(r"mathjax|require(\.min)?\.js|cdn\.|@import", text.split("<main>")[0], re.I)
    assert not re.search(r"url\((?!data:)|@import", (site / "style.css").read_text())


def test_equations_are_mathml(pages, site):
    assert len(pages[site / "index.html"].select("main math[display=block]")) >= 10
    assert pages[site / "api/avcil.learn.losses.html"].select("math")
    for path, page in pages.items():
        text = "".join(part for part in page.find_all(string=True) if not part.find_parent(["pre", "code"]))
        assert not re.search(r"\$\$|\\frac|MATHQ\d", text), path.name


def test_the_headline_table_is_the_metrics(pages, site):
    summary = pd.read_csv(ROOT / "metrics/summary.csv").set_index("variant")
    measures = [
        "average_accuracy",
        "last_accuracy",
        "forgetting_mean",
        "forgetting_last",
        "localisation_hit_first_task",
    ]
    page = pages[site / "index.html"]
    table = page.find(id="Results").find_next("table")
    rows = {row.td.get_text(): [cell.get_text() for cell in row.select("td")[1:]] for row in table.select("tbody tr")}
    assert set(rows) == {name_of(variant) for variant in summary.index}
    for variant, row in summary.iterrows():
        for shown, measure in zip(rows[name_of(variant)], measures, strict=True):
            if pd.isna(row[measure]):
                assert shown == ""
                continue
            value, spread = (float(number) for number in shown.split(" ± "))
            assert value == pytest.approx(100 * row[measure], abs=0.0501)
            assert spread == pytest.approx(100 * row[f"{measure}_std"], abs=0.0501)
    abstract = page.find(id="Abstract").parent.get_text()
    assert f"{100 * summary.last_accuracy['lll']:.1f} %" in abstract


def test_figures_name_the_stage_and_the_digest_that_dvc_recorded(pages, site):
    outs = {
        out["path"]: (name, out.get("md5"))
        for name, stage in yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"].items()
        for out in stage.get("outs", [])
    }
    shown = 0
    for figure in pages[site / "index.html"].select("figure"):
        path = figure.img["src"]
        origin = figure.select_one(".origin").get_text()
        if path in outs:
            stage, md5 = outs[path]
            assert f"stage {stage}, MD5 {md5[:8]}" in origin
            shown += 1
        assert (site / path).read_bytes() == (ROOT / path).read_bytes()
    assert shown >= 8
    recorded = pages[site / "provenance.html"].get_text()
    assert all(md5 in recorded for name, (stage, md5) in outs.items() if stage != "report")


def test_the_same_inputs_give_the_same_bytes(project, site):
    again = _render(project, "again", 2)
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


def test_markup_leaves_code_alone():
    shown = markup.render("`$a$` costs $x_1$ and $5 or $6.")
    assert "$a$" in shown and shown.count("<math") == 1 and "$5 or $6" in shown


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


def test_every_page_is_whole_and_as_wide_as_the_window(browser, site, pages):
    page = browser.new_page()
    asked, failed, said = [], [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    for path in pages:
        page.goto(path.as_uri())
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            wide = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
            assert wide[0] <= wide[1], f"{path.name} is {wide[0]} pixels wide in a window of {wide[1]}"
        broken = "[...document.images].filter(i => !i.complete || i.naturalWidth == 0).map(i => i.src.slice(0, 80))"
        assert page.evaluate(broken) == [], path.name
        assert "not recorded" not in page.text_content("footer")
    page.close()
    assert asked and not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    assert failed == [] and said == []


@pytest.mark.parametrize("width", WIDTHS)
def test_text_and_equations_can_be_read(browser, site, width):
    page = browser.new_page()
    page.set_viewport_size({"width": width, "height": 900})
    page.goto((site / "index.html").as_uri())
    size = page.evaluate("parseFloat(getComputedStyle(document.querySelector('main p')).fontSize)")
    column = page.evaluate("document.querySelector('main').getBoundingClientRect().width")
    assert size >= 16 and 340 <= column <= 900
    heights = page.evaluate("[...document.querySelectorAll('main math')].map(m => m.getBoundingClientRect().height)")
    assert heights and min(heights) > 5
    # what is wider than the window can be scrolled to
    hidden = """[...document.querySelectorAll('main table, main math[display=block]')].filter(e =>
        e.scrollWidth > window.innerWidth && getComputedStyle(e.parentElement).overflowX != 'auto').length"""
    assert page.evaluate(hidden) == 0
    page.click("nav.contents a[href='#Results']")
    assert page.evaluate("document.getElementById('Results').getBoundingClientRect().top") < 900
    page.click("main a[href='notebooks/06_ablations.html']")
    assert "What each part is worth" in page.text_content("h1")
    page.close()


def test_the_plots_of_dvc_are_read_offline(browser, project, site):
    """Curves, bars, confusion, pictures, and the losses that DVCLive logs, of the committed metrics."""
    for name in (".dvc/config", ".dvc/plots.html", "dvc.yaml"):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    if not (project / ".git").exists():
        subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    for task in range(5):
        log = project / f"artifacts/live/lll/task{task}/plots/metrics/task{task}/seed0/cross_entropy.tsv"
        log.parent.mkdir(parents=True)
        log.write_text("step\tcross_entropy\n0\t1.0\n1\t0.5\n")
    shown = subprocess.run([sys.executable, "-m", "dvc", "plots", "show"], cwd=project, capture_output=True, text=True)
    assert shown.returncode == 0 and "failed to load" not in shown.stderr, shown.stderr
    page = browser.new_page()
    asked, failed = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.goto((project / "dvc_plots/index.html").as_uri())
    definitions = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    page.wait_for_function(
        f"document.querySelectorAll('.vega-embed canvas, .vega-embed svg').length >= "
        f"{sum(isinstance(plot, dict) for plot in definitions)}"
    )
    assert page.locator("img").count() == sum(isinstance(plot, str) for plot in definitions)
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth)")
    page.close()
    assert failed == [] and not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
