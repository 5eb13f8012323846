"""`python -m avcil.workshop.report [FOLDER]`, in the project's root: renders the report into FOLDER (report/).

The same inputs give the same bytes, but for `revision.js`, which says at which revision the report was rendered: DVC is
told to leave that file out (.dvcignore), or no two commits could share a report.
"""

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jinja2
import pandas as pd
import vl_convert
import yaml

from avcil.params import load
from avcil.results.plots import name_of
from avcil.workshop import claims, readme
from avcil.workshop.report import lock, markup, notebooks, reference

HERE = Path(__file__).parent
EXPERIMENTS = "notebooks/11_experiments.ipynb"  # as it is stored: no stage of the pipeline executes it


def revision(root: Path) -> str:
    """The commit at hand and its date, with a remark if files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("log", "-1", "--format=%H of %cs")
        changed = " with uncommitted changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    except FileNotFoundError:
        head = changed = ""
    return head + changed if head else "unknown: no git repository"


class Report:
    """What the pages share: the project's files, who made them, and the frame."""

    def __init__(self, root: Path, folder: Path):
        self.root, self.folder = root, folder
        self.stages = lock.stages(root)
        self.makers = lock.makers(self.stages)
        loader = jinja2.FileSystemLoader(HERE)
        self.templates = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True)

    def source(self, path: str) -> str:
        """Where a file comes from, as HTML: its stage, its digest."""
        stage = self.makers.get(path)
        if stage is None:
            return f"<code>{path}</code>, of no stage of the pipeline"
        made = f'stage <a href="provenance.html#{stage.anchor}">{html.escape(stage.name)}</a>'
        return f"<code>{path}</code>, {made}, MD5 <code>{stage.outs[path][:8]}</code>"

    def figure(self, name: str, caption: str) -> str:
        """A figure with its caption and origin, or a line saying that it is not there."""
        path = self.root / "figures" / name
        if not path.is_file():
            return f"<p><em>figures/{name} is not there.</em></p>"
        shutil.copy(path, self.folder / "figures" / name)
        shown, origin = markup.render(caption), self.source(f"figures/{name}")
        shown = shown.strip().removeprefix("<p>").removesuffix("</p>")
        alternative = html.escape(caption.replace("*", "").replace("$", ""), quote=True)
        link = f'<a href="figures/{name}"><img src="figures/{name}" alt="{alternative}"></a>'
        return f'<figure>{link}<figcaption>{shown} <span class="origin">From {origin}.</span></figcaption></figure>'

    def table(self, text: str, *paths: str) -> str:
        """Markdown of a table, with its origin."""
        shown = " and ".join(self.source(path) for path in paths)
        return f'{text}\n\n<p class="origin">From {shown}.</p>'

    def write(self, name: str, title: str, body: str, *, up: str = "") -> None:
        """A page in its frame, its tables in boxes that scroll."""
        body = markup.tables_that_scroll(body)
        page = self.templates.get_template("page.html")
        text = page.render(title=title, body=body, up=up, contents=markup.contents(body))
        (self.folder / name).write_text(text + "\n")


def opening(text: str) -> str:
    """README.md from its title to its first picture."""
    return text.split("\n", 1)[1].split("\n![", 1)[0].strip()


def paragraph(text: str, begin: str) -> str:
    """The paragraph of a text that begins so, without that beginning; empty if there is none."""
    found = (part for part in text.split("\n\n") if part.startswith(begin))
    return next(found, begin).removeprefix(begin).strip()


def methods_of_the_field(notebook: Path) -> str:
    """The table of papers and deviations that notebook 09 holds."""
    cells = json.loads(notebook.read_text())["cells"]
    texts = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return next((text.split("\n", 1)[1].strip() for text in texts if text.startswith("## The methods")), "")


def paper(report: Report, pages: list[notebooks.Page], titles: dict[str, str]) -> str:
    """The first page as HTML: paper.md, filled in."""
    root, metrics = report.root, report.root / "metrics"
    text, results = ((root / name).read_text() for name in ("README.md", "docs/results.md"))
    params = load(root / "params.yaml")
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    filled = report.templates.get_template("paper.md").render(
        abstract=opening(text),
        reading=paragraph(results, "**How to read it.**"),
        limits=paragraph(text, "**Not claimed.**"),
        params=params,
        summary=pd.read_csv(metrics / "summary.csv").set_index("variant"),
        citation=citation["references"][0],
        name_of=name_of,
        pages=notebooks.listing(pages),
        titles=titles,
        field=(metrics / "field_sounding_objects.csv").is_file(),
        methods=methods_of_the_field(root / "notebooks/09_field.ipynb"),
        readme=readme,
        claims=claims,
        metrics=metrics,
        figure=report.figure,
        table=report.table,
    )
    return markup.render(filled)


def further(report: Report) -> dict[str, str]:
    """Name and title of the pages of docs/, which are written here, with the figures that they show."""
    titles = {}
    for path in sorted((report.root / "docs").glob("*.md")):
        text = path.read_text()
        for name in re.findall(r"\]\(\.\./figures/([^)]+)\)", text):
            shutil.copy(report.root / "figures" / name, report.folder / "figures" / name)
        titles[path.stem] = text.split("\n", 1)[0].removeprefix("# ")
        body = re.sub(r'href="(\w+)\.md', r'href="\1.html', markup.render(text))
        report.write(f"docs/{path.stem}.html", titles[path.stem], body, up="../")
    return titles


def provenance(report: Report) -> str:
    """Every stage with its parameters, code and outputs, as HTML."""
    return report.templates.get_template("provenance.html").render(
        stages=report.stages.values(), dump=lambda value: yaml.safe_dump(value, sort_keys=True, allow_unicode=True)
    )


def build(root: Path, folder: Path) -> None:
    """Render everything into ``folder``, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("api", "docs", "figures", "notebooks"):
        (folder / part).mkdir(parents=True)
    report = Report(root, folder)
    # those of the pipeline alone: the field's are there only where somebody ran it
    made = sorted(path for path, stage in report.makers.items() if path.startswith("artifacts/notebooks/"))
    own = [path for path in made if ":" not in report.makers[path].name]
    pages = {path: notebooks.page(root / path) for path in [*own, EXPERIMENTS] if (root / path).is_file()}
    (folder / "style.css").write_text((HERE / "style.css").read_text() + notebooks.code_style() + "\n")
    (folder / "revision.js").write_text(
        f"for (const place of document.querySelectorAll('[data-revision]')) place.textContent = "
        f"{json.dumps(revision(root))};\n"
    )
    # also for `dvc plots show`, whose page (.dvc/plots.html) reads it from here
    (folder / "vega.js").write_text(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version="5.20"))
    modules = reference.modules(HERE.parents[1])
    for module in modules:
        index = [m for m in modules if m is not module] if module.name == "avcil" else []
        body = report.templates.get_template("api.html").render(module=module, index=index)
        report.write(f"api/{module.name}.html", module.name, body, up="../")
    report.write("provenance.html", "Provenance", provenance(report))
    for path, page in pages.items():
        origin = f'<p class="origin">{report.source(path)}.</p>'
        body = (origin + page.body).replace('href="provenance.html', 'href="../provenance.html')
        report.write(f"notebooks/{page.name}.html", page.title, body, up="../")
    titles = further(report)
    report.write(
        "index.html", "avcil: audio-visual class-incremental learning", paper(report, [*pages.values()], titles)
    )
    for path in folder.rglob("*.html"):
        path.write_text(markup.without_dead_links(path.read_text(), path.parent))


if __name__ == "__main__":
    build(Path("."), Path(sys.argv[1] if len(sys.argv) > 1 else "report"))
