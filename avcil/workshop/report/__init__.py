"""The report, `python -m avcil.workshop.report`: a site of notebooks, figures and tables that is read offline.

Sphinx with MyST-NB and the theme furo make it; what they don't have is here:

conf         Sphinx's settings, and equations as MathML, so that no script of them is fetched
pages/       the pages that are neither in docs/ nor notebooks, filled in from params.yaml and metrics/
lock         which stage made a file, from what: dvc.lock, as a picture too
reference    the API reference, read from the code, not imported
clips        two clips that play, with what rows attend to
static/      tables that are sorted and filtered, phones
"""

from importlib.util import find_spec

# asked here, before any of the modules below is imported: all of them at once, and how to get them
NEEDED = ("docutils", "furo", "griffe", "jinja2", "latex2mathml", "myst_nb", "networkx", "sphinx", "vl_convert")
missing = [name for name in NEEDED if find_spec(name) is None]
if missing:
    raise ImportError(f"the report needs {', '.join(missing)}: pip install 'avcil[report]'")
