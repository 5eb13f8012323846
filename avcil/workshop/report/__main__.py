"""`python -m avcil.workshop.report [FOLDER]`, in the project's root: renders the report into FOLDER (report/).

The same inputs give the same bytes, but for `revision.js`, which says at which revision the report was rendered: DVC is
told to leave that file out (.dvcignore), or no two commits could share a report.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import jinja2
import nbformat
import pandas as pd
import vl_convert
import yaml
from sphinx.application import Sphinx

from avcil.comparison import tables
from avcil.params import Params, load
from avcil.workshop import claims, readme
from avcil.workshop.report import lock, reference
from avcil.workshop.report.clips import films

HERE = Path(__file__).parent
MEASURES = ("average_accuracy", "last_accuracy", "forgetting_last")


def revision(root: Path) -> str:
    """The commit at hand and its date, with a remark if files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True).stdout.strip()

    head = git("log", "-1", "--format=%H of %cs")
    # files that git does not track change no revision
    changed = " with uncommitted changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return head + changed if head else "unknown: no git repository"


def copies(root: Path, stages: list[lock.Stage]) -> dict[str, list[str]]:
    """Of each notebook, by its name, the copies that the pipeline executed, or itself as it is stored."""
    # those that dvc.lock records: others are there only where somebody ran them
    made = [(path, stage.notebook) for stage in stages for path in stage.outs if path.endswith(".ipynb")]
    listed = {}
    for file in sorted((root / "notebooks").glob("*.ipynb")):
        source = str(file.relative_to(root))
        executed = [path for path, executes in made if executes == source and (root / path).is_file()]
        listed[file.stem] = executed or [source]
    return listed


def notebook(paths: list[Path]) -> nbformat.NotebookNode:
    """The copies of one notebook as a single one: text once, code folded, figures with the words before them."""
    whole = nbformat.read(paths[0], as_version=4)
    for path in paths[1:]:
        title = nbformat.v4.new_markdown_cell(f"## {path.stem}")
        cells = nbformat.read(path, as_version=4).cells
        # of further copies what they computed; their text is that of the first
        whole.cells += [title, *(cell for cell in cells if cell.cell_type == "code" and cell.outputs)]
    words = ""
    for number, cell in enumerate(whole.cells):
        cell["id"] = f"cell-{number}"  # copies of one notebook have the same ones
        if cell.cell_type == "markdown":
            # for those who cannot see the figure, the paragraph before it, without marks that would be read aloud
            words = re.sub(r"[#*`\[\]\n]+", " ", cell.source.strip().split("\n\n")[-1]).strip()
        else:
            cell.metadata["tags"] = ["hide-input"]
            cell.metadata["mystnb"] = {"image": {"alt": f"Figure: {words[:200]}"}}
    return whole


def rows(params: Params, summary: pd.DataFrame) -> list[dict[str, object]]:
    """Each row: what it is, what it has otherwise than lll_prior, and what it reaches in the standard setting."""
    ours, table = params.methods["lll_prior"].model_dump(), []
    for name, method in params.methods.items():
        choices = [f"{key}: {value}" for key, value in method.model_dump().items() if value != ours[key]]
        row = method.about.model_dump() | {"row": name, "choices": ", ".join(choices)}
        # rows that the standard setting does not have keep empty cells
        row |= dict.fromkeys([*MEASURES, "seeds"], "")
        if name in summary.index:
            line = summary.loc[name]
            row |= dict(zip(MEASURES, tables.cells(line, MEASURES), strict=True)) | {"seeds": int(line.seeds)}
        table.append(row)
    return table


def with_origin(text: str, made_by: dict[str, lock.Stage]) -> str:
    """Markdown with each picture of figures/ as a figure whose caption says which stage made it."""

    def figure(picture: re.Match) -> str:
        alt, file, path = picture.groups()
        stage = made_by.get(path)
        origin = f"From stage [{stage.name}](#{stage.anchor}), MD5 `{stage.outs[path][:8]}`." if stage else ""
        return f"```{{figure}} {file}\n:alt: {alt}\n\n{alt}. {origin}\n```"

    # `figures/` in README.md, `../figures/` in docs/
    return re.sub(r"!\[([^\]]*)\]\(((?:\.\./)?(figures/[^)]+))\)", figure, text)


def write(root: Path, source: Path, folder: Path) -> None:
    """What Sphinx reads, into ``source``; clips and scripts into ``folder``."""
    for part in ("notebooks", "api", "docs", "figures"):
        shutil.copytree(root / part, source / part) if part == "figures" else (source / part).mkdir(parents=True)
    params, metrics, stages = load(root / "params.yaml"), root / "metrics", lock.stages(root)
    made_by = {path: stage for stage in stages for path in stage.outs}
    # the tables of metrics/ as they are now, which need not be those that were committed
    texts = readme.updated({str(path.relative_to(root)): path.read_text() for path in readme.files(root)}, metrics)
    # README.md is no page of its own: its parts come into the front page
    front, summary = texts.pop("README.md"), readme.standard(metrics)
    (folder / "clips").mkdir(parents=True)
    listed = copies(root, stages)
    known = dict(
        params=params, metrics=metrics, readme=readme, claims=claims, lock=lock, stages=stages,
        abstract=front.split("\n", 1)[1].split("\n![", 1)[0].strip(),
        limits=front.partition("\n\n**Not claimed.**")[2].partition("\n\n")[0].strip(),
        summary=summary,
        rows=rows(params, summary),
        citation=yaml.safe_load((root / "CITATION.cff").read_text())["references"][0],
        clips=films(root, params, folder / "clips"),
        looked="all tasks" if (root / "artifacts/runs/lll_prior").is_dir() else "nothing yet: the prior alone",
        pages={path: name for name, paths in listed.items() for path in paths},
        dump=lambda value: yaml.safe_dump(value, sort_keys=True, allow_unicode=True),
    )  # fmt: skip
    # a misspelt name in a page is an error, not a gap
    templates = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True)
    for page in sorted((HERE / "pages").glob("*.md")):
        texts[page.name] = templates.from_string(page.read_text()).render(known)
    for name, text in texts.items():
        (source / name).write_text(with_origin(text, made_by))
    for name, paths in listed.items():
        nbformat.write(notebook([root / path for path in paths]), source / f"notebooks/{name}.ipynb")
    for name, text in reference.pages(HERE.parents[1]).items():
        (source / f"api/{name}.rst").write_text(text)
    (folder / "revision.js").write_text(
        "for (const place of document.querySelectorAll('[data-revision]')) "
        f"place.textContent = {json.dumps(revision(root))};\n"
    )
    # also for `dvc plots show`, whose page (.dvc/plots.html) reads it from here
    (folder / "vega.js").write_text(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version="5.20"))


def build(root: Path, folder: Path) -> None:
    """Render everything into ``folder``, which is replaced as a whole, once all of it is made.

    Raises FileExistsError if something else than a report is there."""
    # only what this wrote before is ever deleted: revision.js marks it
    if folder.exists() and not (folder / "revision.js").exists():
        raise FileExistsError(f"{folder}: there is something else than a report; name another folder, or move it away")
    # MyST-NB writes beside the folder that it is told of, so all is made in a temporary one
    with TemporaryDirectory() as temporary:
        source, doctrees, made = (Path(temporary) / name for name in ("source", "doctrees", "report"))
        write(root, source, made)
        # warnings alone are printed: links that lead nowhere are among them
        Sphinx(source, HERE, made, doctrees, "html", status=None, warning=sys.stderr).build()
        # for a build that goes on with this one, which none does
        (made / ".buildinfo").unlink()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.move(made, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m avcil.workshop.report", description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("report"))
    try:
        build(Path("."), parser.parse_args().folder)
    except FileExistsError as error:
        sys.exit(str(error))
