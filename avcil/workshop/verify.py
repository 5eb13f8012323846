"""Are the results of this machine those that are committed? `make verify`, after `make repro`.

    python -m avcil.workshop.verify              a table, row by row; exit status 0 unless a row is outside
    python -m avcil.workshop.verify --record     the same, and keep what each table was made on
    (avcil/workshop/provenance.py)

Compared are a row's committed text and the one that stands here, all columns but the measured `seconds`, in the table
of means and in that of single seeds.

* **same bytes**: both texts are the same.
* **within the interval**: they are not, but each of `MEASURES` is as near to the committed mean as that mean is known:
  half a 95 % interval, Student's t over the n committed seeds, t(0.975, n - 1) s / √n, and no less than `FLOOR`, for
  rows whose seeds hardly differ and for those of one seed.
* **outside**: a measure is farther off, or the row stands on one side only. The reason is given.
* **not run here**: the text is the committed one, but git put it here (`provenance.ran`).

The interval is of the committed mean, not of the difference of two: with *other seeds*, about one measure in ten would
be outside. Rounding, where training amplifies it, is about as strong as that (LOG.md).
"""

import argparse
import csv
import io
import sys
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from avcil.base import portable
from avcil.comparison import intervals
from avcil.params import load
from avcil.workshop import probe, processors, provenance
from avcil.workshop.provenance import Files

MEASURES = ("last_accuracy", "average_accuracy", "forgetting_mean", "forgetting_last")
FLOOR = 0.003  # a little more than one of 400 clips
SAME, WITHIN, OUTSIDE, NOT_RUN = "same bytes", "within the interval", "outside", "not run here"

Line = dict[str, str]


class Row(NamedTuple):
    """A line of the table: last accuracy in percent, committed with half its interval, and here."""

    table: str
    name: str
    committed: str
    here: str
    outcome: str
    reason: str = ""


def half_interval(line: Line, measure: str) -> float:
    """How far from a committed mean is within: the larger of t(0.975, n − 1) s / √n and `FLOOR`."""
    seeds, spread = int(line["seeds"]), line[f"{measure}_std"]
    if seeds < 2 or not spread:
        return FLOOR
    return max(FLOOR, intervals.half_width(float(spread), seeds))


def _why_outside(old: Line, new: Line) -> str:
    """Why a row is outside; empty if it is within. old and new: its line in the table of means."""
    if old["seeds"] != new["seeds"]:
        return f"{old['seeds']} seeds committed, {new['seeds']} here"
    for measure in MEASURES:
        if not old[measure] or not new[measure]:
            if old[measure] != new[measure]:
                return f"{measure} is given on one side only"
            continue
        apart, allowed = float(new[measure]) - float(old[measure]), half_interval(old, measure)
        # four digits are written: more than that is the subtraction's own rounding. Not a number is outside
        if not round(abs(apart), 6) <= round(allowed, 6):
            was, now = (f"{100 * float(line[measure]):.1f}" for line in (old, new))
            return f"{measure} {was} committed, {now} here: {100 * apart:+.1f}, allowed ± {100 * allowed:.1f}"
    return ""


def _lines(table: str, files: Files, key: tuple[str, ...]) -> dict[str, list[Line]]:
    """The lines of each row of a table, as text; none if there is no such table."""
    found: dict[str, list[Line]] = {}
    for line in csv.DictReader(io.StringIO(files.get(table, b"").decode())):
        line.pop(provenance.MEASURED, None)
        found.setdefault(" / ".join(line[column] for column in key), []).append(line)
    return found


def compare(
    means: str, seeds: str, key: tuple[str, ...], before: Files, here: Files, ran: Callable[[str], bool]
) -> list[Row]:
    """The rows of one table, in its order, new ones last.

    means and seeds: paths of the table of means and of that of single seeds; key: the columns that name a row; ran:
    whether the row of that name was made here. Raises KeyError or ValueError for a table that cannot be compared.
    """
    old, new = _lines(means, before, key), _lines(means, here, key)
    old_seeds, new_seeds = _lines(seeds, before, key), _lines(seeds, here, key)
    rows = []
    for name in old | new:
        was, now = (lines[name][0] if name in lines else None for lines in (old, new))
        reason = ""
        if was is None or now is None:
            outcome, reason = OUTSIDE, "not among the committed rows" if was is None else "committed, but not here"
        elif old[name] == new[name] and old_seeds.get(name) == new_seeds.get(name):
            outcome = SAME if ran(name) else NOT_RUN
        else:
            reason = _why_outside(was, now)
            outcome = OUTSIDE if reason else WITHIN
        left = f"{_percent(was)} ± {100 * half_interval(was, 'last_accuracy'):.1f}" if was else "-"
        rows.append(Row(means, name, left, _percent(now) if now else "-", outcome, reason))
    return rows


def _percent(line: Line) -> str:
    return f"{100 * float(line['last_accuracy']):.1f}"


def verify(folder: Path, before: Files, here: Files) -> list[Row]:
    """All rows of metrics/summary.csv. Raises ValueError if it cannot be compared."""
    params, means, key = load(folder / "params.yaml"), provenance.SUMMARY, ("setting", "method")
    chosen = params.protocol().chosen(params.rows) if provenance.ran(folder, means) else {}
    asked = {f"{setting} / {row}" for setting, rows in chosen.items() for row in rows}
    try:
        return compare(means, "metrics/seeds.csv", key, before, here, asked.__contains__)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{means} cannot be compared ({error!r}); git checkout it, or make it again") from None


def table(rows: list[Row]) -> str:
    """Plain text: a heading a table, a line a row, reasons under rows outside; one line for a table not run here."""
    wide = max(len(row.name) for row in rows)
    blocks = []
    for name, found in groupby(rows, key=lambda row: row.table):
        mine = list(found)
        if {row.outcome for row in mine} == {NOT_RUN}:
            blocks.append(f"{name}: {NOT_RUN}, {len(mine)} rows as committed")
            continue
        lines = [f"{name}, last accuracy in percent", f"{'':{wide}}  {'committed':>12}  {'here':>5}"]
        for row in (row for row in mine if row.outcome != NOT_RUN):
            lines.append(f"{row.name:{wide}}  {row.committed:>12}  {row.here:>5}  {row.outcome}")
            lines += [f"    {row.reason}"] if row.reason else []
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def machines(folder: Path, before: Files) -> list[str]:
    """Which processors made the committed bytes, and what this one computes."""
    made_on, digests = provenance.read_made_on(folder), {n: provenance.digest(c) for n, c in before.items()}
    makers = [made_on[name] for name, now in digests.items() if made_on.get(name, {}).get("sha256") == now]
    saw = Counter(name for maker in makers for name in (maker["processor"], *maker.get("again_on", ())) if name)
    lines = [f"{count} of {len(before)} committed tables were made on {name}" for name, count in saw.items()]
    lines.append(f"here: {portable.processor()}, arithmetic {processors.arithmetic()}")
    here = processors.versions()
    there = {
        f"{p} {v}, here {here.get(p)}" for m in makers for p, v in m.get("versions", {}).items() if here.get(p) != v
    }
    lines += [f"versions: made with {other}" for other in sorted(there)]
    return lines + probe.compare(probe.digests(), processors.known(folder / processors.FOLDER))


def report(folder: Path, *, record: bool) -> tuple[str, bool]:
    """All that is said, and whether nothing is outside. Raises ValueError where there is nothing to compare."""
    before, here = provenance.committed(folder), provenance.standing(folder)
    rows = verify(folder, before, here)
    counts = Counter(row.outcome for row in rows)
    said = ", ".join(f"{counts[o]} {o}" for o in (SAME, WITHIN, OUTSIDE, NOT_RUN) if counts[o])
    status = provenance.git(folder, "status", "--porcelain", "--", "metrics", "figures").decode().splitlines()
    lines = [table(rows), "", f"{len(rows)} rows: {said}"]
    lines.append(f"not as committed in metrics/ and figures/: {', '.join(line[3:] for line in status) or 'nothing'}")
    lines += machines(folder, before)
    if record:
        lines.append(f"{provenance.MADE_ON}: {', '.join(provenance.record(folder, here)) or 'unchanged'}")
    return "\n".join(lines), not counts[OUTSIDE]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m avcil.workshop.verify", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--record", action="store_true", help=f"keep what tables were made on, in {provenance.MADE_ON}")
    try:
        text, inside = report(Path(), record=parser.parse_args(arguments).record)
    except ValueError as error:
        sys.exit(str(error))
    print(text)
    sys.exit(not inside)


if __name__ == "__main__":
    main()
