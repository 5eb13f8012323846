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
* **not run here**: the text is the committed one, but git put it here: what else the stage of the table makes is
  missing, so that there is nothing to compare yet.

The interval is of the committed mean, not of the difference of two: with *other seeds*, about one measure in ten would
be outside. Rounding, where training amplifies it, is about as strong as that (LOG.md).
"""

import argparse
import csv
import io
import json
import math
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from scipy.special import stdtrit

from avcil.base import portable
from avcil.base.files import write_json
from avcil.workshop import probe, processors, provenance
from avcil.workshop.provenance import Files

MEASURES = ("last_accuracy", "average_accuracy", "forgetting_mean", "forgetting_last")
FLOOR = 0.003
SAME, WITHIN, OUTSIDE, NOT_RUN = "same bytes", "within the interval", "outside", "not run here"

Key = tuple[str, ...]
Lines = dict[Key, list[dict[str, str]]]


class Row(NamedTuple):
    """A line of the table: last accuracy in percent, committed with half its interval, and here."""

    table: str
    name: str
    committed: str
    here: str
    outcome: str
    reason: str = ""


def half_interval(line: dict[str, str], measure: str) -> float:
    """How far from a committed mean is within: the larger of t(0.975, n − 1) s / √n and `FLOOR`."""
    seeds, spread = int(line["seeds"]), line.get(f"{measure}_std", "")
    if seeds < 2 or not spread:
        return FLOOR
    return max(FLOOR, float(stdtrit(seeds - 1, 0.975)) * float(spread) / math.sqrt(seeds))


def _judge(old: dict[str, str], new: dict[str, str]) -> str:
    """Why a row is outside; empty if it is within. old and new: its line in the table of means."""
    if old["seeds"] != new["seeds"]:
        return f"{old['seeds']} seeds committed, {new['seeds']} here"
    for measure in MEASURES:
        if not old.get(measure) or not new.get(measure):
            if old.get(measure) != new.get(measure):
                return f"{measure} is given on one side only"
            continue
        apart, allowed = float(new[measure]) - float(old[measure]), half_interval(old, measure)
        # four digits are written: more than that is the subtraction's own rounding
        if round(abs(apart), 6) > round(allowed, 6):
            was, now = (f"{100 * float(line[measure]):.1f}" for line in (old, new))
            return f"{measure} {was} committed, {now} here: {100 * apart:+.1f}, allowed ± {100 * allowed:.1f}"
    return ""


def _lines(table: str, files: Files, key: Key) -> Lines:
    """The lines of each row of a table, as text; none if there is no such table."""
    found: Lines = {}
    for line in csv.DictReader(io.StringIO(files.get(table, b"").decode())):
        missing = [column for column in key if column not in line]
        if missing:
            raise ValueError(f"{table}: no column `{missing[0]}`; git checkout it, or make it again")
        found.setdefault(tuple(line[column] for column in key), []).append(
            {name: value for name, value in line.items() if name != provenance.MEASURED}
        )
    return found


def compare(means: str, seeds: str, key: Key, before: Files, here: Files, *, ran: bool) -> list[Row]:
    """The rows of one table, in its order, new ones last.

    means and seeds: paths of the table of means and of that of single seeds; key: the columns that name a row; ran:
    whether the table was made here. Raises ValueError for a table that cannot be compared.
    """
    old, new = _lines(means, before, key), _lines(means, here, key)
    old_seeds, new_seeds = _lines(seeds, before, key), _lines(seeds, here, key)
    names = [*old, *(name for name in new if name not in old)]
    # what all rows share, such as the one benchmark, need not be said in each
    telling = [i for i in range(len(key)) if len({name[i] for name in names}) > 1] or [len(key) - 1]
    rows = []
    for name in names:
        was, now = old.get(name), new.get(name)
        try:
            cells = (_percent(was[0] if was else None, interval=True), _percent(now[0] if now else None))
            if max(len(was or ()), len(now or ())) > 1:
                raise ValueError("it stands there twice")
            if was is None or now is None:
                verdict = (OUTSIDE, "not among the committed rows" if was is None else "committed, but not here")
            elif (was, old_seeds.get(name)) == (now, new_seeds.get(name)):
                verdict = (SAME if ran else NOT_RUN, "")
            else:
                reason = _judge(was[0], now[0])
                verdict = (OUTSIDE if reason else WITHIN, reason)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{means}, row {name[-1]}: cannot be compared ({error}); make it again") from None
        rows.append(Row(means, " / ".join(name[i] for i in telling), *cells, *verdict))
    return rows


def _percent(line: dict[str, str] | None, *, interval: bool = False) -> str:
    if line is None or not line["last_accuracy"]:
        return "-"
    text = f"{100 * float(line['last_accuracy']):.1f}"
    return f"{text} ± {100 * half_interval(line, 'last_accuracy'):.1f}" if interval else text


def verify(folder: Path, before: Files, here: Files) -> list[Row]:
    """All rows of metrics/summary.csv and of metrics/field_<benchmark>.csv."""
    ran = provenance.run_here(folder)
    tables = {"metrics/summary.csv": ("metrics/runs.csv", ("benchmark", "variant"))}
    for name in sorted(before | here):
        if name.startswith("metrics/field_") and name.endswith("_seeds.csv"):
            tables[name.removesuffix("_seeds.csv") + ".csv"] = (name, ("setting", "row"))
    found = (compare(means, *rest, before, here, ran=means in ran) for means, rest in tables.items())
    return [row for rows in found for row in rows]


def table(rows: list[Row]) -> str:
    """Plain text: a heading a table, a line a row, reasons under rows outside; one line for a table not run here."""
    wide = max(len(row.name) for row in rows)
    blocks = []
    for name, found in groupby(rows, key=lambda row: row.table):
        mine = list(found)
        lines = [f"{name}, last accuracy in percent", f"{'':{wide}}  {'committed':>12}  {'here':>5}"]
        for row in mine:
            lines.append(f"{row.name:{wide}}  {row.committed:>12}  {row.here:>5}  {row.outcome}")
            lines += [f"    {row.reason}"] if row.reason else []
        if {row.outcome for row in mine} == {NOT_RUN}:
            lines = [f"{name}: {NOT_RUN}, {len(mine)} rows as committed"]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def machine(folder: Path, before: Files, *, same: bool) -> list[str]:
    """Which processors saw the committed bytes and what this one computes; unless ``same``, where else to look."""
    made_on, digests = provenance.read_made_on(folder), {n: provenance.digest(c) for n, c in before.items()}
    makers = [made_on[name] for name, now in digests.items() if made_on.get(name, {}).get("sha256") == now]
    saw = Counter(maker["processor"] or "a processor that was not recorded" for maker in makers)
    records = processors.known(folder / processors.FOLDER)
    for known in records:
        saw += Counter({known["name"]: sum(digests.get(n) == now for n, now in known.get("reproduced", {}).items())})
    lines = [f"{count} of {len(digests)} committed tables had these bytes on {name}" for name, count in saw.items()]
    reasons = processors.not_portable()
    lines.append(f"this processor: {portable.processor()}")
    lines.append(f"arithmetic: {'not portable, ' + ', '.join(reasons) if reasons else 'portable'}")
    lines.append(f"probe: {probe.in_a_line(probe.digests(), records)}")
    if not same:
        here, there = processors.versions(), [maker.get("versions", {}) for maker in makers]
        other = {f"{p} {theirs[p]}, here {here.get(p)}" for theirs in there for p in theirs if theirs[p] != here.get(p)}
        lines.append(f"versions other than the tables': {'; '.join(sorted(other)) or 'none known'}")
        lines.append("changed code, parameters and data: git status, dvc status")
    return lines


def keep(folder: Path, before: Files, here: Files) -> list[str]:
    """`--record`: what the tables were made on, and what this processor made again. Says what was written."""
    wrote = provenance.record(folder, before, here)
    lines = [f"{provenance.MADE_ON}: {', '.join(Path(name).name for name in wrote) or 'unchanged'}"]
    again = provenance.reproduced(folder, before, here)
    if again:
        file = processors.file_of(portable.processor(), folder / processors.FOLDER)
        if not file.exists():
            processors.save(probe.digests(), folder / processors.FOLDER)
        known = json.loads(file.read_text())
        write_json(file, known | {"reproduced": known.get("reproduced", {}) | again})
        lines.append(f"{file.relative_to(folder)}: reproduced {len(again)} tables")
    return lines


def report(folder: Path, *, record: bool) -> tuple[str, bool]:
    """All that is said, and whether nothing is outside. Raises ValueError where there is nothing to compare."""
    before, here = provenance.committed(folder), provenance.standing(folder)
    rows = verify(folder, before, here)
    lines = [table(rows), ""]
    counts = Counter(row.outcome for row in rows)
    lines.append(
        f"{len(rows)} rows: " + ", ".join(f"{counts[o]} {o}" for o in (SAME, WITHIN, OUTSIDE, NOT_RUN) if counts[o])
    )
    others = sorted(provenance.changed(folder) - {row.table for row in rows})
    lines.append(f"other files that are not as committed: {', '.join(others) or 'none'}")
    lines += machine(folder, before, same=not counts[WITHIN] + counts[OUTSIDE])
    if record:
        lines += keep(folder, before, here)
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
