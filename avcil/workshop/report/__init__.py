"""The report, `python -m avcil.workshop.report`: notebooks, figures and tables as one site that is read offline.

paper.md     what the first page says; every number in it is read from params.yaml or metrics/
page.html    the frame of every page, style.css its looks
markup       Markdown and LaTeX to HTML and MathML, so that no script of equations is fetched
lock         which stage made a file, from what: dvc.lock
notebooks    a page for each executed notebook
reference    the API reference, from docstrings
"""

from importlib.util import find_spec

# said here, before any of the modules below is imported: all of them at once, and how to get them
NEEDED = ("griffe", "jinja2", "latex2mathml", "mistune", "nbconvert", "pygments", "vl_convert")
missing = [name for name in NEEDED if find_spec(name) is None]
if missing:
    raise ImportError(f"the report needs {', '.join(missing)}: pip install 'avcil[report]'")
