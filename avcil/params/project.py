"""Where the project is. Only notebooks and what serves them import this; the library takes explicit paths.

Notebooks start in three different folders (papermill: the project's root or a DVC copy of it; nbval and JupyterLab:
notebooks/), so each calls ``enter(workdir)`` once and then uses paths relative to the root. The root is found from the
working directory, never from ``__file__``: in ``dvc exp run --temp`` the package may be imported from elsewhere.
"""

import os
import subprocess
import sys
import warnings
from pathlib import Path

from avcil.base import portable
from avcil.params import Params, load


def root() -> Path:
    """The nearest folder at or above the working directory that has a dvc.yaml."""
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no dvc.yaml in {here} or above: start from inside the project")


def enter(workdir: str = ".") -> Params:
    """Change to ``workdir`` (relative to the root) and return its parameters.

    `.` is the project itself, as DVC runs it. `build/smoke/<notebook>` is a small sandbox, made on demand, in which the
    notebook has all that it reads: what it shows when it is opened and run by hand. `AVCIL_SANDBOX=ready` says that it
    is there and new: pytest makes it before the first cell, whose time is limited.
    One thread: the same bits however many cores there are (avcil/base/portable.py). Where the arithmetic is the
    processor's own all the same, a warning says so.
    """
    # asked only where torch is there already: the answer imports it, which takes seconds
    if "torch" in sys.modules and portable.possible() and not portable.in_force():
        given = [name for name, value in portable.VARIABLES.items() if os.environ.get(name, value) != value]
        warnings.warn(
            "not the portable arithmetic: results may differ in the last bits from those in git. Start by `make lab`, "
            f"or `python -m avcil.base.portable jupyter lab`{', without ' * bool(given)}{', '.join(given)}",
            stacklevel=2,
        )
    top = root()
    if workdir != "." and os.environ.get("AVCIL_SANDBOX") != "ready":
        # in a process of its own: what builds sandboxes knows notebooks and pipeline, and this module shall not
        command = [sys.executable, "-m", "avcil.workshop.smoke", workdir]
        done = subprocess.run(command, cwd=top, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(f"{workdir}: the sandbox could not be built\n{done.stderr[-3000:]}")
    # only now: where no sandbox could be made, the notebook stays where it is
    os.chdir(top / workdir)
    # a sandbox has parameters of its own, cut down
    return load(Path("params.yaml"))
