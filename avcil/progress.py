"""Progress bars: a widget in JupyterLab, a line in a terminal, nothing elsewhere or with TQDM_DISABLE=1."""

import os
import sys

from tqdm.auto import tqdm
from tqdm.std import tqdm as terminal_tqdm


def progress(iterable=None, **options):
    """``tqdm.auto.tqdm`` that knows when nobody is watching."""
    watched = tqdm is not terminal_tqdm or sys.stderr.isatty()
    return tqdm(iterable, disable=not watched or "TQDM_DISABLE" in os.environ, **options)
