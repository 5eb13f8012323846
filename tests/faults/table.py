"""The table of the campaign, from what it kept: faults.csv in benchmarks/results, and docs/faults.md.

A row a reader or writer.

inputs    same: read as the sound file; other: read as other content that is as sound (a person's own files have no
          digest, and forgeries have one that fits); refused: in one line that names the file; crashed: any other
          error, or the end of the process; hung: over 30 s of the processor; silent: damage taken for the content
kills     survived: run again, it ended with the files of an unbroken run; lost: it did not; orphans: kills after
          which a process was still there 5 s later
"""

import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd

KEPT = Path("build/faults")
TABLE, PAGE = Path("benchmarks/results/faults.csv"), Path("docs/faults.md")
MARK = "<!-- make faults -->"
OUTCOMES = {
    "input": ("same", "other", "refused", "crashed", "hung", "silent"),
    "kill": ("survived", "lost", "orphans"),
}


def kept(name: str) -> list[dict]:
    """What was tried so far, each once."""
    file = KEPT / f"{name}.jsonl"
    lines = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
    place = ("seed", "reader", "first", "last") if name == "inputs" else ("seed", "work", "number")
    return list({tuple(line[key] for key in place): line for line in lines}.values())


def counted() -> pd.DataFrame:
    counts: dict[tuple[str, str], Counter] = defaultdict(Counter)
    for line in kept("inputs"):
        counts["input", line["reader"]] += Counter(line["counts"])
        counts["input", line["reader"]]["tried"] += line["last"] - line["first"]
    for one in kept("kills"):
        if one["how"] != "too late":
            lost = bool(one["status"] or one["differ"])
            counts["kill", one["work"]] += Counter(tried=1, survived=not lost, lost=lost, orphans=bool(one["orphans"]))
    rows = [
        {"kind": kind, "what": what, "tried": some["tried"]} | {name: some[name] for name in OUTCOMES[kind]}
        for (kind, what), some in sorted(counts.items())
    ]
    columns = ["kind", "what", "tried", *itertools.chain.from_iterable(OUTCOMES.values())]
    whole = pd.DataFrame(rows, columns=columns)
    return whole.astype(dict.fromkeys(whole.columns.drop(["kind", "what"]), "Int64"))


def markdown(rows: pd.DataFrame) -> str:
    """The table as docs/faults.md shows it."""
    parts = []
    for kind, outcomes in OUTCOMES.items():
        shown = rows[rows.kind == kind][["what", "tried", *outcomes]].astype(dict.fromkeys(["tried", *outcomes], int))
        total = ["all", *shown.drop(columns="what").sum()]
        lines = [f"| {kind}s | tried | {' | '.join(outcomes)} |", "| --- |" + " ---: |" * (1 + len(outcomes))]
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in [*shown.itertuples(index=False), total]]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def write() -> None:
    counted().to_csv(TABLE, index=False)
    head, _, tail = PAGE.read_text().split(MARK)
    PAGE.write_text(f"{head}{MARK}\n{markdown(pd.read_csv(TABLE))}\n{MARK}{tail}")


if __name__ == "__main__":
    write()
