"""The tables of metrics/ as git has them and as they stand here, and on what each was made.

``metrics/made_on.json``: a table's path to the sha256 of its bytes (measured seconds left out) and to the processor
that made it (null: not known), whether arithmetic was portable, threads and versions; and, as `again_on`, other
processors that made the same bytes.
"""

import csv
import hashlib
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import torch

from avcil.base import portable
from avcil.base.files import write_json
from avcil.workshop import processors

SUMMARY, MADE_ON = "metrics/summary.csv", "metrics/made_on.json"
MEASURED = "seconds"  # the one column that is never the same
# what a table's name begins with, and the notebook that makes it; the first that fits
NOTEBOOKS = {"prior": "02_prior", "search": "08_search", "": "06_ablations"}

Files = dict[str, bytes]


def git(folder: Path, *arguments: str) -> bytes:
    """What git says in ``folder``. Raises ValueError with its complaint."""
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True)
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise ValueError(f"nothing to compare with ({said}): start in the project's folder, with a commit of git")
    return done.stdout


def committed(folder: Path) -> Files:
    """The tables of the last commit. Raises ValueError if there is no commit, or none of them in it."""
    names = git(folder, "ls-tree", "-z", "--name-only", "HEAD", "metrics/").decode().split("\0")
    found = {name: git(folder, "show", f"HEAD:./{name}") for name in names if name.endswith(".csv")}
    if SUMMARY not in found:
        raise ValueError(f"{SUMMARY} is not committed: there is nothing to compare with")
    return found


def standing(folder: Path) -> Files:
    """The tables of the working tree. Raises ValueError if they are missing."""
    found = {f"metrics/{file.name}": file.read_bytes() for file in sorted((folder / "metrics").glob("*.csv"))}
    if SUMMARY not in found:
        raise ValueError(f"{SUMMARY} is missing: `make repro` makes it")
    return found


def digest(content: bytes) -> str:
    """SHA-256 of a table, without the column that is measured where it has one."""
    lines = list(csv.reader(io.StringIO(content.decode())))
    if lines and MEASURED in lines[0]:
        drop, out = lines[0].index(MEASURED), io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(line[:drop] + line[drop + 1 :] for line in lines)
        content = out.getvalue().encode()
    return hashlib.sha256(content).hexdigest()


def ran(folder: Path, table: str) -> bool:
    """Whether a stage made a table here: its executed notebook, which git does not have, stands as dvc.lock says."""
    made_by = next(made for start, made in NOTEBOOKS.items() if Path(table).name.startswith(start))
    notebook = folder / f"artifacts/notebooks/{made_by}.ipynb"
    if not notebook.is_file():
        return False
    md5 = hashlib.md5(notebook.read_bytes(), usedforsecurity=False).hexdigest()
    lock = folder / "dvc.lock"
    return lock.exists() and md5 in lock.read_text()


def read_made_on(folder: Path) -> dict[str, dict[str, Any]]:
    """The record by table; empty if there is none. Raises ValueError if it cannot be read."""
    file = folder / MADE_ON
    try:
        return json.loads(file.read_text()) if file.exists() else {}
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error}); git checkout it") from None


def record(folder: Path, here: Files) -> list[str]:
    """Write what the tables that stand ``here`` were made on. Returns those of which something new was written.

    A table with other bytes than its record's was made here. One with the same keeps its record, to which this
    processor is added if it `ran` too. One without a record that did not run here was made nobody knows where.
    """
    old, me = read_made_on(folder), portable.processor()
    mine = {
        "processor": me,
        "portable": portable.in_force(),
        "threads": torch.get_num_threads(),
        "versions": processors.versions(),
        "again_on": [],
    }
    new = {}
    for name, content in here.items():
        now, before, made_here = digest(content), old.get(name, {}), ran(folder, name)
        if before.get("sha256") == now and before["processor"]:
            again = {*before["again_on"], me} - {before["processor"]} if made_here else before["again_on"]
            new[name] = before | {"again_on": sorted(again)}
        elif made_here or before.get("sha256", now) != now:
            new[name] = {"sha256": now, **mine}
        else:
            new[name] = {"sha256": now, "processor": None}
    write_json(folder / MADE_ON, new)
    return [name for name in new if new[name] != old.get(name)]
