"""Are the results of this machine those that are committed? `make verify`, after `make repro`.

    python -m avcil.workshop.verify              a table, row by row; exit status 0 unless a row is outside
    python -m avcil.workshop.verify --record     the same, and keep what each table was made on

Compared are a row's committed text and the one that stands here, all columns but the measured `seconds`, in the table
of means and in that of single seeds.

* **same bytes**: both texts are the same.
* **within the interval**: they are not, but each of `MEASURES` is as near to the committed mean as that mean is known:
  half a 95 % interval, Student's t over the n committed seeds, t(0.975, n - 1) s / √n, and no less than `FLOOR`, for
  rows whose seeds hardly differ and for those of one seed.
* **outside**: a measure is farther off, or the row stands on one side only. The reason is given.
* **not run here**: the text is the committed one, but git put it here (`ran`).

The interval is of the committed mean, not of the difference of two: with *other seeds*, about one measure in ten would
be outside. Rounding, where training amplifies it, is about as strong as that (LOG.md).

``metrics/made_on.json`` keeps, by a table's path, the sha256 of its bytes (measured seconds left out) and the processor
that made it (null: not known), whether arithmetic was portable, threads and versions; and ``lines_of``, the processors
that made it before, for rows that were not asked for keep their lines.
"""

import argparse
import csv
import hashlib
import io
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from avcil.base import portable
from avcil.base.files import write_json
from avcil.comparison import intervals
from avcil.params import load
from avcil.workshop import probe

SUMMARY, SEEDS, MADE_ON = "metrics/summary.csv", "metrics/seeds.csv", "metrics/made_on.json"
MEASURED = "seconds"  # the one column that is never the same
MEASURES = ("last_accuracy", "average_accuracy", "forgetting_mean", "forgetting_last")
FLOOR = 0.003  # a little more than one of 400 clips
SAME, WITHIN, OUTSIDE, NOT_RUN = "same bytes", "within the interval", "outside", "not run here"
# what a table's name begins with, and the notebook that makes it; the first that fits. No stage runs 08 and 13
NOTEBOOKS = {"prior": "02_prior", "search": "08_search", "beyond": "13_beyond", "": "06_ablations"}

Files = dict[str, bytes]
Line = dict[str, str]


# ---- the tables of metrics/ as git has them and as they stand here


def git(folder: Path, *arguments: str) -> bytes:
    """What git says in ``folder``. Raises ValueError with its complaint."""
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True)
    if done.returncode:
        complaint = " ".join(done.stderr.decode(errors="replace").split())
        raise ValueError(f"nothing to compare with ({complaint}): start in the project's folder, with a commit of git")
    return done.stdout


def committed(folder: Path) -> Files:
    """The tables of the last commit. Raises ValueError if there is no commit, or none of them in it."""
    # names as they are, where git would quote odd ones
    names = git(folder, "ls-tree", "-z", "--name-only", "HEAD", "metrics/").decode().split("\0")
    # from this folder on, which may lie within a larger repository
    tables = {name: git(folder, "show", f"HEAD:./{name}") for name in names if name.endswith(".csv")}
    if SUMMARY not in tables:
        raise ValueError(f"{SUMMARY} is not committed: there is nothing to compare with")
    return tables


def standing(folder: Path) -> Files:
    """The tables of the working tree. Raises ValueError if they are missing."""
    tables = {f"metrics/{file.name}": file.read_bytes() for file in sorted((folder / "metrics").glob("*.csv"))}
    if SUMMARY not in tables:
        raise ValueError(f"{SUMMARY} is missing: `make repro` makes it")
    return tables


def table_digest(content: bytes) -> str:
    """SHA-256 of a table, without the column that is measured where it has one."""
    # as text: numbers that are read and written again may be spelt otherwise
    table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    if MEASURED in table:
        content = table.drop(columns=MEASURED).to_csv(index=False).encode()
    return hashlib.sha256(content).hexdigest()


def ran(folder: Path, table: str) -> bool:
    """Whether a stage made a table here: its executed notebook, which git does not have, stands as dvc.lock says."""
    # the empty start, which fits every name, comes last
    name = next(notebook for start, notebook in NOTEBOOKS.items() if Path(table).name.startswith(start))
    notebook, lock = folder / f"artifacts/notebooks/{name}.ipynb", folder / "dvc.lock"
    if not notebook.is_file() or not lock.is_file():
        return False
    # the digest that DVC records; no safety hangs on it
    return hashlib.md5(notebook.read_bytes(), usedforsecurity=False).hexdigest() in lock.read_text()


# ---- row by row


def half_interval(line: Line, measure: str) -> float:
    """How far from a committed mean is within: the larger of t(0.975, n − 1) s / √n and `FLOOR`."""
    # of one seed no spread is written, and its interval is not a number: of those `max` keeps the first
    return max(FLOOR, intervals.half_width(float(line[f"{measure}_std"] or 0), int(line["seeds"])))


def _why_outside(old: Line, new: Line) -> str:
    """Why a row is outside; empty if it is within. old and new: its line in the table of means."""
    # means over fewer or more seeds are of other luck
    if old["seeds"] != new["seeds"]:
        return f"{old['seeds']} seeds committed, {new['seeds']} here"
    for measure in MEASURES:
        # the same text, which of a measure that neither side has is none
        if old[measure] == new[measure]:
            continue
        if not (old[measure] and new[measure]):
            return f"{measure} is given on one side only"
        apart, allowed = float(new[measure]) - float(old[measure]), half_interval(old, measure)
        # four digits are written: more than that is the subtraction's own rounding. Not a number is outside
        if not round(abs(apart), 6) <= round(allowed, 6):
            was, now = (f"{100 * float(line[measure]):.1f}" for line in (old, new))
            return f"{measure} {was} committed, {now} here: {100 * apart:+.1f}, allowed ± {100 * allowed:.1f}"
    return ""


def _lines(files: Files, table: str) -> dict[str, list[Line]]:
    """The lines of each row of a table, as text; none if there is no such table."""
    lines: dict[str, list[Line]] = {}
    for line in csv.DictReader(io.StringIO(files.get(table, b"").decode())):
        lines.setdefault(f"{line['setting']} / {line['method']}", []).append(line)
    return lines


def asked_here(folder: Path) -> set[str]:
    """The rows that params.yaml asks for, where they were run here."""
    params = load(folder / "params.yaml")
    # where the stage was not run, git has put the rows here, whatever params.yaml asks for
    chosen = params.protocol().chosen(params.rows) if ran(folder, SUMMARY) else {}
    return {f"{setting} / {row}" for setting, rows in chosen.items() for row in rows}


def outcomes(before: Files, here: Files, run_here: set[str]) -> dict[str, tuple[str, str]]:
    """Of each row of metrics/summary.csv, in its order, new ones last, the outcome, and why it is outside."""
    (old, old_seeds), (new, new_seeds) = (
        [_lines(files, name) for name in (SUMMARY, SEEDS)] for files in (before, here)
    )
    rows = {}
    for name in old | new:
        if name not in old or name not in new:
            rows[name] = OUTSIDE, "committed, but not here" if name in old else "not among the committed rows"
        # single seeds too: their means may agree where they do not
        elif old[name] == new[name] and old_seeds.get(name) == new_seeds.get(name):
            rows[name] = SAME if name in run_here else NOT_RUN, ""
        else:
            # the table of means has one line a row
            reason = _why_outside(old[name][0], new[name][0])
            rows[name] = OUTSIDE if reason else WITHIN, reason
    return rows


def table(rows: dict[str, tuple[str, str]], before: Files, here: Files) -> str:
    """Plain text: a line a row, last accuracy committed with half its interval, and here; reasons under rows outside;
    one line if nothing was run here."""
    shown = {name: row for name, row in rows.items() if row[0] != NOT_RUN}
    if not shown:
        return f"{SUMMARY}: {NOT_RUN}, {len(rows)} rows as committed"
    old, new = (_lines(files, SUMMARY) for files in (before, here))
    wide = max(map(len, rows))
    lines = [f"{SUMMARY}, last accuracy in percent", f"{'':{wide}}  {'committed':>12}  {'here':>5}"]
    for name, (outcome, reason) in shown.items():
        was, now = (
            f"{100 * float(some[name][0]['last_accuracy']):.1f}" if name in some else "-" for some in (old, new)
        )
        was += f" ± {100 * half_interval(old[name][0], 'last_accuracy'):.1f}" if name in old else ""
        lines.append(f"{name:{wide}}  {was:>12}  {now:>5}  {outcome}")
        lines += [f"    {reason}"] if reason else []
    return "\n".join(lines)


# ---- on what tables were made


def read_made_on(folder: Path) -> dict[str, dict[str, Any]]:
    """The record by table; empty if there is none. Raises ValueError if it cannot be read."""
    file = folder / MADE_ON
    return probe.read_record(file) if file.exists() else {}


def record(folder: Path, here: Files) -> list[str]:
    """Write what the tables that stand ``here`` were made on. Returns those of which something new was written.

    A table with the same bytes keeps its record. One with others was made here, but for lines of before; so was one
    that nobody was known to have made, if it `ran` here.
    """
    old, new = read_made_on(folder), {}
    mine = {
        "processor": portable.processor(),
        "portable": portable.in_force(),
        "threads": torch.get_num_threads(),
        "versions": probe.versions(),
    }
    for name, content in here.items():
        # a table that is new to the record has neither digest nor maker
        now, before = table_digest(content), old.get(name, {"sha256": None, "processor": None})
        # the maker of these bytes is known
        if before["sha256"] == now and before["processor"]:
            new[name] = before
        else:
            # None is no record of other bytes, but no record at all
            changed = before["sha256"] not in (None, now)
            # rows that were not asked for keep their lines, and so their makers
            earlier = {before["processor"], *before.get("lines_of", ())} - {None, mine["processor"]}
            made = mine | {"lines_of": sorted(earlier)} if changed or ran(folder, name) else {"processor": None}
            new[name] = {"sha256": now, **made}
    write_json(folder / MADE_ON, new)
    return [name for name in new if new[name] != old.get(name)]


def machines(folder: Path, before: Files) -> list[str]:
    """Which processors made the committed bytes, and what this one computes."""
    made_on = read_made_on(folder)
    makers = [
        made
        for name, content in before.items()
        # a record of other bytes says nothing of those that are committed
        if (made := made_on.get(name, {})).get("processor") and made["sha256"] == table_digest(content)
    ]
    counts = Counter(maker["processor"] for maker in makers)
    lines = [f"{count} of {len(before)} committed tables were made on {name}" for name, count in counts.items()]
    lines.append(f"here: {portable.processor()}, arithmetic {probe.arithmetic()}")
    here = probe.versions()
    there = {(package, version) for maker in makers for package, version in maker["versions"].items()}
    lines += [
        f"versions: made with {package} {version}, here {here.get(package)}"
        for package, version in sorted(there)
        if here.get(package) != version
    ]
    return lines + probe.compare(probe.digests(), probe.known(folder / probe.FOLDER))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m avcil.workshop.verify", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--record", action="store_true", help=f"keep what tables were made on, in {MADE_ON}")
    asked, folder = parser.parse_args(arguments), Path()
    try:
        before, here, run_here = committed(folder), standing(folder), asked_here(folder)
        try:
            rows = outcomes(before, here, run_here)
            shown = table(rows, before, here)
        # a column that is gone, or a cell that is no number
        except (KeyError, ValueError) as error:
            raise ValueError(f"{SUMMARY} cannot be compared ({error!r}); git checkout it, or make it again") from None
        counts = Counter(outcome for outcome, _ in rows.values())
        changed = git(folder, "status", "--porcelain", "--", "metrics", "figures").decode().splitlines()
        print(shown, end="\n\n")
        print(
            f"{len(rows)} rows:", ", ".join(f"{counts[o]} {o}" for o in (SAME, WITHIN, OUTSIDE, NOT_RUN) if counts[o])
        )
        # without the two letters and the blank that git puts in front
        print("not as committed in metrics/ and figures/:", ", ".join(line[3:] for line in changed) or "nothing")
        print(*machines(folder, before), sep="\n")
        if asked.record:
            print(f"{MADE_ON}: {', '.join(record(folder, here)) or 'unchanged'}")
    except ValueError as error:
        sys.exit(str(error))
    # so that `make verify` fails where a row is outside
    sys.exit(bool(counts[OUTSIDE]))


if __name__ == "__main__":
    main()
