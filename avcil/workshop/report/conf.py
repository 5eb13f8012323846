"""Sphinx's settings, and its equations as MathML, which browsers draw themselves."""

from functools import cache

from docutils.nodes import SkipNode, document, math, math_block, reference
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.writers.html5 import HTML5Translator

project = html_title = "avcil"
language = "en"
extensions = ["myst_nb"]
smartquotes = False  # names are written as params.yaml has them
default_role = "code"  # docstrings write code between single backticks
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
# links to files that stay in the repository (`_lead_somewhere`); docstrings' lists are not always reStructuredText's
suppress_warnings = ["myst.xref_missing", "docutils", "ref.python"]
html_theme = "furo"
html_static_path = ["static"]
html_css_files, html_js_files = ["report.css"], ["report.js"]
html_math_renderer = "mathml"
html_domain_indices = html_use_index = html_copy_source = html_show_copyright = False
html_show_search_summary = False  # it is fetched: not from `file:`


def _inline(page: HTML5Translator, node: math) -> None:
    page.body.append(convert(node.astext()))
    # written as a whole: Sphinx shall not go into it
    raise SkipNode


def _block(page: HTML5Translator, node: math_block) -> None:
    # a box that scrolls by itself where the equation is wider than a phone
    page.body.append(f'<div class="equation" tabindex="0">{convert(node.astext(), display="block")}</div>')
    raise SkipNode


def _lead_somewhere(app: Sphinx, tree: document, name: str) -> None:
    """MyST makes an anchor of all that it does not find: files that stay in the repository, which become text, and
    headings as JupyterLab spells their anchors."""
    # as a list, for links are replaced on the way
    for link in list(tree.findall(reference)):
        if "/" in link.get("refid", ""):
            link.replace_self(link.children)
        elif "refid" in link and link["refid"] not in tree.ids:
            link["refid"] = link["refid"].lower()


def setup(app: Sphinx) -> None:
    # it looks through all names for each type of a signature, of which most occur again and again
    PythonDomain.find_obj = cache(PythonDomain.find_obj)  # type: ignore[method-assign]
    app.connect("doctree-resolved", _lead_somewhere)
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
