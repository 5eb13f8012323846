"""A page for each notebook that the pipeline executed."""

import html
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbconvert import HTMLExporter

from avcil.workshop.report import markup


class Page(NamedTuple):
    """name: of the executed copy; title; body: HTML."""

    name: str
    title: str
    body: str


def page(path: Path) -> Page:
    """Cells and outputs as HTML with its pictures in it."""
    notebook = nbformat.read(path, as_version=4)
    title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
    _, _, which = path.stem.partition("-")
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            # done here, for the template would leave LaTeX to a script from elsewhere
            cell.source = markup.render(cell.source)
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.register_filter("markdown2html", lambda text: text)
    exporter.register_filter("strip_files_prefix", lambda text: text)
    body, _ = exporter.from_notebook_node(notebook)
    title = f"{title}: {which}" if which else title
    return Page(path.stem, title, body)


def code_style() -> str:
    """The colours of code."""
    from pygments.formatters import HtmlFormatter

    return HtmlFormatter(style="default").get_style_defs(".highlight")


def listing(pages: list[Page]) -> str:
    """Links to pages, as a list."""
    items = (f'<li><a href="notebooks/{p.name}.html">{html.escape(p.title)}</a></li>' for p in pages)
    return f"<ul>{''.join(items)}</ul>"
