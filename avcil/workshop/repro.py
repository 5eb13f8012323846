"""`python -m avcil.workshop.repro [ITS ARGUMENTS]`: `dvc repro`, also where an earlier one was killed.

DVC writes .dvc/tmp/rwlock (who uses which path), dvc.lock and data.dvc in place: killed meanwhile, it leaves half of
one, which no DVC reads. Entries of its own it leaves too, and they hold as long as a process has its number: another
one by now, or one that has ended and that nobody waits for, as in a container without an init.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
from dvc.exceptions import DvcException
from dvc.lock import Lock, LockError
from dvc.schema import COMPILED_LOCKFILE_SCHEMA, COMPILED_SINGLE_STAGE_SCHEMA
from dvc.utils.strictyaml import load

from avcil.params import project


def clear(root: Path) -> None:
    """Clear away what killed DVCs left in ``root``. What a living one writes or holds stays."""
    temporary = root / ".dvc/tmp"
    # no DVC has run here yet
    if not temporary.is_dir():
        return
    with suppress(LockError):  # held by a living one
        with Lock(str(temporary / "rwlock.lock")):
            # DVC changes the list under this lock too
            _drop_entries(temporary / "rwlock")
        with Lock(str(temporary / "lock")):
            # DVC writes the files below while it holds this lock, so that half of one was left by a DVC that was killed
            for name, schema in (("dvc.lock", COMPILED_LOCKFILE_SCHEMA), ("data.dvc", COMPILED_SINGLE_STAGE_SCHEMA)):
                if (root / name).exists() and not _whole(root / name, schema):
                    _restore(root / name)


def _drop_entries(file: Path) -> None:
    """Those of processes that do not live."""
    if not file.exists():
        return
    try:
        entries = json.loads(file.read_bytes())
        # DVC leaves out the half that has no entry
        read, write = entries.get("read", {}), entries.get("write", {})
        readers = {path: [one for one in some if _lives(one["pid"])] for path, some in read.items()}
        writers = {path: one for path, one in write.items() if _lives(one["pid"])}
    # of a list that is cut short, nothing is known
    except (ValueError, TypeError, KeyError, AttributeError):
        readers, writers = {}, {}
    # without empty entries, as DVC leaves it
    file.write_text(json.dumps({"read": {path: some for path, some in readers.items() if some}, "write": writers}))


def _lives(pid: int) -> bool:
    """Whether it is a DVC at work."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and any("dvc" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False
    # another user's may not be asked: it might be one
    except psutil.AccessDenied:
        return True


def _whole(file: Path, schema) -> bool:
    try:
        load(str(file), schema)
    except DvcException:
        return False
    return True


def _restore(file: Path) -> None:
    """Bring back what git's index has; without a dvc.lock, stages are looked up in DVC's cache."""
    done = subprocess.run(["git", "checkout", "--quiet", "--", file.name], cwd=file.parent, capture_output=True)
    # dvc.lock can be done without, data.dvc cannot: nothing would say where the data come from
    if done.returncode and file.name == "dvc.lock":
        file.unlink()
    print(f"{file.name}: half written by a DVC that was killed; the last one in git is taken", file=sys.stderr)


if __name__ == "__main__":
    clear(project.root())
    # in place of this process, so that signals and the exit status are DVC's own
    os.execv(sys.executable, [sys.executable, "-m", "dvc", "repro", *sys.argv[1:]])
