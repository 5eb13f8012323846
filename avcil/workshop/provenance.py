"""The tables of metrics/ as git has them and as they stand here, and on what each was made.

``metrics/made_on.json``: a table's path to the sha256 of its bytes (measured seconds left out), the processor, threads
and versions that made it, and whether arithmetic was portable. Whoever makes the same bytes again changes nothing
there; ``metrics/processors`` says who did, as `reproduced`.
"""

import csv
import hashlib
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import torch
import yaml

from avcil.base import portable
from avcil.base.files import write_json
from avcil.workshop import processors

MADE_ON = "metrics/made_on.json"
MEASURED = "seconds"  # the one column that is never the same

Files = dict[str, bytes]


def git(folder: Path, *arguments: str) -> bytes:
    """What git says in ``folder``. Raises ValueError with the last line of its complaint."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True)
    except FileNotFoundError:
        raise ValueError("git is missing: install it (apt install git), then again") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(f"git {arguments[0]}: {said[-1] if said else 'failed'}")
    return done.stdout


def is_table(path: str) -> bool:
    """A .csv or .json in metrics/ itself, but for the record of what they were made on."""
    name = Path(path)
    return name.parent == Path("metrics") and name.suffix in (".csv", ".json") and path != MADE_ON


def committed(folder: Path) -> Files:
    """The tables of the last commit. Raises ValueError if there is no commit, or none of them in it."""
    try:
        git(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    except ValueError:
        raise ValueError(f"{folder.resolve()} has no commit of git: there is nothing to compare with") from None
    names = git(folder, "ls-tree", "-z", "--name-only", "HEAD", "metrics/").decode().split("\0")
    found = {name: git(folder, "show", f"HEAD:./{name}") for name in names if is_table(name)}
    if not found:
        raise ValueError("no table of metrics/ is committed: there is nothing to compare with")
    return found


def standing(folder: Path) -> Files:
    """The tables of the working tree. Raises ValueError if there is none."""
    names = sorted(f"metrics/{file.name}" for file in (folder / "metrics").glob("*.*"))
    found = {name: (folder / name).read_bytes() for name in names if is_table(name)}
    if not found:
        raise ValueError(
            f"{folder.resolve()} has no tables in metrics/: start in the project's folder, or `make repro`"
        )
    return found


def without_seconds(content: bytes) -> bytes:
    """A table's bytes, without the column that is measured where it has one."""
    if MEASURED not in content.partition(b"\n")[0].decode(errors="replace").split(","):
        return content
    lines = list(csv.reader(io.StringIO(content.decode())))
    drop, out = lines[0].index(MEASURED), io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(line[:drop] + line[drop + 1 :] for line in lines)
    return out.getvalue().encode()


def digest(content: bytes) -> str:
    """SHA-256 of a table `without_seconds`."""
    return hashlib.sha256(without_seconds(content)).hexdigest()


def run_here(folder: Path) -> set[str]:
    """The tables whose stage ran here: its outputs that are not in git stand here too, as dvc.lock has them."""
    found = set()
    for lock in (folder / "dvc.lock", folder / "benchmarks/dvc.lock"):
        # libyaml's loader: a lock has thousands of lines
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        stages = yaml.load(lock.read_bytes(), loader)["stages"] if lock.exists() else {}
        for stage in stages.values():
            outs = {out["path"]: out["md5"] for out in stage.get("outs", ()) if not out["md5"].endswith(".dir")}
            tables = set(filter(is_table, outs))
            if tables:
                in_git = set(git(folder, "ls-files", "-z", "--", *outs).decode().split("\0"))
                others = {folder / path: md5 for path, md5 in outs.items() if path not in in_git | tables}
                if others and all(path.is_file() and _md5(path) == md5 for path, md5 in others.items()):
                    found |= tables
    return found


def _md5(path: Path) -> str:
    # DVC's choice
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def changed(folder: Path) -> set[str]:
    """Files of metrics/ and figures/ that are not as committed, but for the records of machines."""
    found = set()
    for said in (
        git(folder, "diff", "--name-only", "--relative", "-z", "HEAD", "--", "metrics", "figures"),
        git(folder, "ls-files", "--others", "--exclude-standard", "-z", "--", "metrics", "figures"),
    ):
        found |= set(said.decode().split("\0")) - {""}
    return {name for name in found if not name.startswith((MADE_ON, f"{processors.FOLDER}/"))}


def read_made_on(folder: Path) -> dict[str, dict[str, Any]]:
    """The record by table; empty if there is none. Raises ValueError if it cannot be read."""
    file = folder / MADE_ON
    try:
        return json.loads(file.read_text()) if file.exists() else {}
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error}); git checkout it") from None


def record(folder: Path, before: Files, here: Files) -> list[str]:
    """Write what each table was made on, and which of others' this processor made again. Returns what was written.

    before, here: the tables `committed` and `standing`. A record whose table has the same bytes stays as it is. A new
    one names this machine if the table's stage ran here or its bytes are not the committed ones, and else nobody.
    """
    old, ran = read_made_on(folder), run_here(folder)
    machine = {
        "processor": portable.processor(),
        "portable": portable.in_force(),
        "threads": torch.get_num_threads(),
        "versions": processors.versions(),
    }
    made_on = {}
    for name, content in here.items():
        now = digest(content)
        mine = name in ran or name not in before or digest(before[name]) != now
        same = old.get(name, {}).get("sha256") == now
        made_on[name] = old[name] if same else {"sha256": now} | (machine if mine else {"processor": None})
    if made_on != old:
        write_json(folder / MADE_ON, made_on)
    return [name for name in made_on if made_on[name] != old.get(name)]


def reproduced(folder: Path, before: Files, here: Files) -> dict[str, str]:
    """Tables that this processor made, and another one before it, with the bytes that are committed: name to sha256."""
    made_on, me = read_made_on(folder), portable.processor()
    return {
        name: digest(here[name])
        for name in sorted(run_here(folder) & set(before) & set(here))
        if digest(here[name]) == digest(before[name])
        and made_on.get(name, {}).get("sha256") == digest(here[name])
        and made_on[name]["processor"] not in (me, None)
    }
