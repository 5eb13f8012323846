"""`papermill --engine plain`: papermill's own engine, then normalised.

Repeating a stage repeats its executed notebook byte for byte and leaves dvc.lock as it was: `git status` is the check
that the results were reproduced.
"""

import csv
import os
import sys
from pathlib import Path

import psutil
from papermill.engines import NBClientEngine

from avcil.base.parent import end_with
from avcil.params import load
from avcil.workshop.nbtools import ignore_settings, normalise


def _end_with_dvc() -> None:
    """End with what started this, a killed DVC say; the notebook's kernel ends with this process by itself."""
    parent = psutil.Process().parent()
    if parent is None:
        return
    # DVC runs a stage by a shell, and some shells stay in between
    shell = parent if "-c" in parent.cmdline()[1:-1] else None
    dvc = parent.ppid() if shell else parent.pid
    if _orphaned(dvc):
        sys.exit("the DVC that started this stage has ended")
    end_with(parent.pid)
    if shell:
        end_with(dvc, shell.pid)


def _orphaned(dvc: int) -> bool:
    """Whether DVC had ended before anybody watched it: then its place was taken by a process of another session, which
    never ends."""
    if "DVC_STAGE" not in os.environ or not hasattr(os, "getsid"):
        return False
    try:
        return os.getsid(dvc) != os.getsid(0)
    except ProcessLookupError:
        return True


def _refuse_early() -> None:
    """End in one line, before a kernel starts and any work is done, where the parameters, or the tasks that a protocol
    makes of the benchmark's classes, cannot be used."""
    if not Path("params.yaml").is_file():  # not in the project: a notebook of its own
        return
    try:
        params = load()
        manifest = Path("data", params.benchmark, "manifest.csv")
        if manifest.is_file():
            with manifest.open(newline="", encoding="utf-8") as file:
                classes = {row.get("label") for row in csv.DictReader(file)}
            params.check_classes(params.benchmark, len(classes), params.rows)
    except ValueError as error:
        sys.exit(str(error))


class PlainEngine(NBClientEngine):
    """The engine behind `papermill --engine plain`."""

    @classmethod
    def execute_notebook(cls, nb, kernel_name, **kwargs):
        _end_with_dvc()
        _refuse_early()
        ignore_settings()
        # text comes in pieces, which fall differently each time
        nb = super().execute_notebook(nb, kernel_name, coalesce_streams=True, **kwargs)
        # a failed run keeps papermill's marks: it needs them to report the failing cell
        return nb if nb.metadata.papermill.get("exception") else normalise(nb)
