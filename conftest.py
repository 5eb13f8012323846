import os
from pathlib import Path

import avcil  # noqa: F401  before all else: tests, and the kernels that nbval starts, inherit avcil/base/portable.py's variables
from avcil.workshop.nbtools import ignore_settings

pytest_plugins = ["tests.nbval_form"]


def pytest_configure(config):
    """Let `pytest` work from any folder: nbval resolves this option against the working directory."""
    given = getattr(config.option, "nbval_sanitize_with", None)
    if given and not os.path.isabs(given):
        config.option.nbval_sanitize_with = str(Path(config.rootpath) / given)
    # the kernels that nbval starts inherit this environment
    ignore_settings()
    os.environ.setdefault("TQDM_DISABLE", "1")
