"""Every trial of search.yaml on the development collection, on validation clips: is the one setting that all benchmarks
share the best on tokens of other encoders as well?

    AVCIL_DEVELOPMENT=FOLDER python benchmarks/search.py [--rows ROW ...] [--workers 1]

FOLDER holds DEV-C.npz and DEV-D.npz, as benchmarks/transfer.py has them. Beside them stands the first world that
`make search` chooses on: its scores with the prior's tokens are in metrics/search.csv, and it is learnt here with
untrained tokens and with the similarity withheld. One class order, one draw, no test clip. Closed forms that say the
same however clips are cut into tasks learn all classes as one task, in a tenth of the time; `lll_closed`, where it may
believe what is estimated from the first task's clips, does not.

Runs stand in --work, and a search that was stopped goes on; rows whose trials are all there are collected in
benchmarks/results/search.csv, which keeps its lines of other rows, and in the page search.md beside it. On two free
cores (--workers 2) all take an hour and a half.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from avcil.beyond.answers import of_others
from avcil.comparison import search, worlds
from avcil.comparison.sweep import Job, Source, read_run, run
from avcil.comparison.tables import accuracy_after, markdown
from avcil.params import Params, load
from avcil.params.learning import chain
from avcil.results.names import short_name_of
from avcil.tokens.manifest import class_order, read_manifest, write_orders
from transfer import COLLECTIONS, EMBEDDED, source, without_similarity

TABLE = Path("benchmarks/results/search.csv")
OURS = "lll_closed"
COLUMNS = ["row", "trial", "collection", "last_accuracy"]
EXACT = [
    "lll_closed", "lll_closed_without_products", "ridge", "ridge_guided", "scaled_ridge_guided", "slda", "fecam",
    "acil", "acil_guided", "mmal", "mmal_guided",
]  # fmt: skip
BY_TASK = ["ranpac", "ranpac_guided", "lll_prior", "replay"]  # RanPAC's penalty depends on the tasks


def of_world(params: Params, work: Path) -> dict[str, Source]:
    """The development world with the tokens that metrics/search.csv does not have."""
    number = params.search.worlds[0]
    place = worlds.drawn(number, work / "worlds", params)
    orders = work / "world" / "orders.json"
    write_orders(orders, {0: class_order(read_manifest(place.folder / "manifest.csv"), number)})
    clips = Source(place.folder / "manifest.csv", orders, place.stores / "mini")
    withheld = work / "world" / "withheld"
    if not (withheld / "manifest.csv").exists():
        without_similarity(clips, withheld)
    return {
        f"{EMBEDDED}, untrained tokens": clips._replace(store=place.stores / "random"),
        f"{EMBEDDED}, similarity withheld": Source(withheld / "manifest.csv", orders, withheld / "features/imported"),
    }


def jobs(params: Params, rows: list[str], development: Path, work: Path) -> Iterator[Job]:
    known = {name: source(COLLECTIONS[name], development, work) for name in ("DEV-C", "DEV-D")}
    for name, clips in (known | of_world(params, work)).items():
        assert clips is not None  # `source` is given a folder
        classes = read_manifest(clips.manifest).label.nunique()
        size = COLLECTIONS[name].per_task
        sizes = [size] * (classes // size)
        for (row, trial), (method, training) in search.trials(params).items():
            if row in rows:
                # synchrony is estimated from the first task's clips; of stills, which have one slot here, there is none
                exact = row in EXACT and not (row == OURS and name.startswith(EMBEDDED))
                tasks = chain([sum(sizes)] if exact else sizes, params.tasks[0].epochs)
                file = work / "trials" / name / row / f"{trial}.json"
                yield Job(
                    (name, row, trial), clips, method, training, tasks, 0, split="val", file=file,
                    device=params.compute.device,
                )  # fmt: skip


def table(params: Params, work: Path, known: pd.DataFrame, embedded: pd.DataFrame) -> pd.DataFrame:
    """A line a trial and collection: last accuracy on validation clips, of the rows whose trials are all
    in ``work``, or else as ``known``; those of ``embedded``, metrics/search.csv, are of that world alone."""
    lines = []
    for file in sorted((work / "trials").glob("*/*/*.json")):
        collection, row = file.relative_to(work / "trials").parts[:2]
        lines.append((row, file.stem, collection, accuracy_after(read_run(file)[0].results[-1])))
    runs = pd.DataFrame(lines, columns=COLUMNS)
    own = embedded[embedded.world == params.search.worlds[0]].assign(collection=EMBEDDED)
    runs = pd.concat([own[COLUMNS], runs]) if lines else own[COLUMNS]
    wanted = pd.MultiIndex.from_tuples(search.trials(params), names=["row", "trial"])
    there = runs.groupby(["row", "trial"]).collection.nunique().reindex(wanted, fill_value=0) == len(COLLECTIONS)
    whole = there.groupby("row").all()
    runs = runs[runs.row.map(whole).fillna(False) & pd.MultiIndex.from_frame(runs[["row", "trial"]]).isin(wanted)]
    runs = pd.concat([runs, known[~known.row.isin(runs.row)]]).round(4)
    order = {name: place for place, name in enumerate([*wanted.unique("row"), *wanted.unique("trial"), *COLLECTIONS])}
    return runs.sort_values(COLUMNS[:3], key=lambda column: column.map(order), kind="stable", ignore_index=True)


def document(runs: pd.DataFrame) -> str:
    """Of each row its mean over the collection as it ships, and the trial that is best on average; and by how much our
    closed form as it ships is ahead of every trial of other rows."""
    lines = []
    names = [name for name in COLLECTIONS if name in set(runs.collection)]
    for row, scored in runs.groupby("row", sort=False):
        wide = scored.pivot(index="trial", columns="collection", values="last_accuracy")[names]
        shipped, others = wide.loc[search.SHIPPED], wide.drop(search.SHIPPED)
        # a row without trials has its line too
        best = gained = ""
        if len(others):
            best = others.mean(axis=1).idxmax()
            ahead = 100 * (others.loc[best] - shipped)
            gained = f"{ahead.mean():+.1f} ({', '.join(f'{value:+.1f}' for value in ahead)})"
        lines.append([short_name_of(row), str(len(others)), f"{100 * shipped.mean():.1f}", best, gained])
    # of the embedded benchmark, whose own name stands in front of its variants
    short = ", ".join(name.removeprefix(f"{EMBEDDED}, ") for name in names)
    head = f"| row | trials | as it ships | best trial on average | ahead by ({short}) |"
    means = 100 * runs.pivot(index=["row", "trial"], columns="collection", values="last_accuracy")[names].mean(axis=1)
    ours, rivals = means[OURS, search.SHIPPED], means.drop(index=OURS)
    published = rivals[[of_others(row) for row, _ in rivals.index]]
    told = [
        f"{which} reaches {some.max():.1f} ({short_name_of(row)}; {trial})"
        for which, some in (("the best trial of any other row", rivals), ("that of a published row", published))
        for row, trial in [some.idxmax()]
    ]
    return (
        f"{markdown(head, 'lrrlr', lines)}\n\n"
        f"On average {short_name_of(OURS)} has {ours:.1f} as it ships; {', and '.join(told)}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", metavar="ROW", default=[*EXACT, *BY_TASK])
    parser.add_argument("--work", type=Path, default=Path("build/development"))
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    params = load()
    if unknown := sorted(set(given.rows) - set(params.search.trials)):
        parser.error(f"search.yaml has no row `{unknown[0]}`")
    if "AVCIL_DEVELOPMENT" not in os.environ:
        parser.error("AVCIL_DEVELOPMENT names no folder with DEV-C.npz and DEV-D.npz")
    run(jobs(params, given.rows, Path(os.environ["AVCIL_DEVELOPMENT"]), given.work), workers=given.workers)
    known = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=COLUMNS)
    runs = table(params, given.work, known, pd.read_csv("metrics/search.csv"))
    runs.to_csv(TABLE, index=False, lineterminator="\n")
    TABLE.with_suffix(".md").write_text(f"{document(runs)}\n")


if __name__ == "__main__":
    main()
