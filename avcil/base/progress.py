"""Progress bars: a widget in JupyterLab, a line in a terminal, nothing elsewhere or with TQDM_DISABLE=1."""

import os
import sys

from tqdm.asyncio import tqdm_asyncio
from tqdm.auto import tqdm


def progress(iterable=None, **options):
    """``tqdm.auto.tqdm`` that knows when nobody is watching."""
    in_notebook = tqdm is not tqdm_asyncio  # what tqdm.auto is outside of one
    watched = in_notebook or sys.stderr.isatty()
    return tqdm(iterable, disable=not watched or "TQDM_DISABLE" in os.environ, **options)
