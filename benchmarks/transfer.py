"""Every row on the development collection, most in five class orders: a table, and a figure of when distillation pays.

    AVCIL_DEVELOPMENT=FOLDER python benchmarks/transfer.py [COLLECTION ...] [--rows ROW ...] [--workers 1]

FOLDER holds DEV-C.npz and DEV-D.npz, which are no part of the project; without it Sounding Objects alone is learnt,
whose stores are artifacts/features/mini and random. Everything is learnt as params.yaml says, with one setting for all.
The slots of DEV-C and DEV-D, which show stills, are averaged for all rows once the similarity has been found: a run
then takes a sixth of the time.

What a run gave stands in --work: a run that was stopped goes on, parts of the collection can be learnt beside one
another, and without a name all that stands there is collected in benchmarks/results/development.csv, which keeps its
lines of what does not stand there, in the pages development.md and distillation.md beside it, and in
figures/distillation.png. Rows on the embedded benchmark are the pipeline's own, from metrics/seeds.csv. Two hours or
more on two free cores (--workers 2).
"""

import argparse
import contextlib
import io
import json
import os
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from avcil.base.files import write_json
from avcil.beyond.answers import apart, of_others
from avcil.beyond.settings import one_draw
from avcil.comparison.intervals import outcome, over_seeds, points, verdict
from avcil.comparison.sweep import Job, Source, read_run, run
from avcil.comparison.tables import RUN, Comparable, accuracy_after, markdown, right
from avcil.params import Params, load
from avcil.params.learning import Method, chain
from avcil.results.names import name_of, short_name_of
from avcil.results.plots import PALETTE, use_style
from avcil.tokens.dataset import Dataset, load_datasets
from avcil.tokens.manifest import class_index, class_order, read_manifest, read_orders
from avcil.workshop.import_tokens import import_tokens
from avcil.workshop.readme import mean_ranks
from development import imported

TABLE = Path("benchmarks/results/development.csv")
FORMS = {
    "none": {"feature_distillation": 0.0, "logit_distillation": 0.0},
    "logit": {"feature_distillation": 0.0},
    "feature": {"logit_distillation": 0.0},
    "both": {},
    "subspace and logit": {"feature_distillation": 0.0, "hooks": {"subspace_distillation": {"weight": 3.0}}},
}
"""What distils in the figure, as changes of a row."""
PARTS = {
    "with exemplars": {
        "none": "without_both_levels", "logit": "without_feature_level", "feature": "without_logit_level",
        "both": "lll_prior",
    },
    (SOLVED := "without exemplars"): {"both": "lll_analytic_no_exemplars"},
}  # fmt: skip
"""A classifier that is learnt, and one that is solved: forms that are rows of the table, `both` that of the part."""
ROWS = [
    # solved, in seconds, but for FeCAM on DEV-C, and `lll_closed` there in a minute
    "lll_closed", "lll_closed_without_products", "ncm", "ridge", "ridge_guided", "scaled_ridge", "scaled_ridge_guided",
    "slda", "fecam", "ranpac", "ranpac_guided", "acil", "acil_guided", "mmal", "mmal_guided",
    # learnt, in minutes
    "lll_prior", "lll", "lll_subspace", "lll_residual", "lll_residual_no_exemplars", "lll_analytic",
    "lll_analytic_no_exemplars", "without_both_levels", "without_feature_level", "without_logit_level", "replay",
    "replay_nme", "derpp", "naive_fusion", "avcil", "icarl_nme",
]  # fmt: skip


class Collection(NamedTuple):
    """tokens: a file of FOLDER, or a store of the embedded benchmark; classes of a task; withheld: as if the encoder
    had no similarity, which the figure leaves out."""

    tokens: str
    per_task: int
    seeds: list[int]
    withheld: bool = False


SEEDS_ALONE = " (†: over seeds alone, which share their clips)"
SEEDS, FEW = [0, 1, 2, 3, 4], 3  # few of what takes minutes a run
EMBEDDED = "Sounding Objects"
COLLECTIONS = {
    "DEV-C": Collection("DEV-C", 2, SEEDS),
    "DEV-D": Collection("DEV-D", 2, SEEDS),
    "Sounding Objects": Collection("mini", 4, SEEDS),
    "Sounding Objects, untrained tokens": Collection("random", 4, SEEDS[:FEW]),
    "Sounding Objects, similarity withheld": Collection("mini", 4, SEEDS[:FEW], withheld=True),
}


def import_with(data: Dataset, streams: dict[str, Tensor], folder: Path) -> None:
    """The clips of a data set with other tokens, as an import in ``folder``."""
    split = np.empty(len(data.labels), int)
    for number, rows in enumerate(data.splits.values()):
        split[rows] = number
    more = {"label": data.labels.numpy(), "split": split, "clip_id": data.clip_ids, "order": data.order}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "tokens.npz", **{name: stream.numpy() for name, stream in streams.items()}, **more)
    with contextlib.redirect_stdout(io.StringIO()):
        import_tokens(folder / "tokens.npz", folder)


def still(path: Path, folder: Path) -> None:
    """A file of tokens as an import in ``folder``, its slots averaged."""
    data = imported(path, folder / "slots")
    streams = {name: stream.float().mean(1, keepdim=True) for name, stream in data.tokens._asdict().items()}
    import_with(data, streams, folder)


def without_similarity(clips: Source, folder: Path) -> None:
    """The clips as an import in ``folder``, where the encoder's similarity is withheld."""
    data = load_datasets(clips.manifest, clips.orders, clips.store, [0])[0]
    import_with(data, {"visual": data.tokens.visual, "audio": data.tokens.audio}, folder)


def source(collection: Collection, development: Path | None, work: Path) -> Source | None:
    """Where its clips are, or None where there is no FOLDER."""
    folder = work / "clips" / (collection.tokens + "_withheld" * collection.withheld)
    orders = folder / "orders.json"
    if not collection.tokens.startswith("DEV"):
        manifest = Path("data/sounding_objects/manifest.csv")
        write_json(orders, {str(s): class_order(read_manifest(manifest), s) for s in collection.seeds})
        clips = Source(manifest, orders, Path("artifacts/features") / collection.tokens)
        if not collection.withheld:
            return clips
        if not (folder / "manifest.csv").exists():
            without_similarity(clips, folder)
        return Source(folder / "manifest.csv", orders, folder / "features/imported")
    if development is None:
        return None
    if not orders.exists():
        still(development / f"{collection.tokens}.npz", folder)
        # a file has one order, the first seed's; others are drawn as those of any benchmark
        drawn = {str(seed): class_order(read_manifest(folder / "manifest.csv"), seed) for seed in collection.seeds}
        write_json(orders, drawn | {"0": json.loads((folder / "order.json").read_text())})
    return Source(folder / "manifest.csv", orders, folder / "features/imported")


def methods(params: Params, collection: Collection, only: list[str] | None) -> dict[tuple[str, str], Method]:
    """``only`` these rows, or all, and what the figure needs beside them: by (part, name)."""
    # the pipeline has learnt its own
    rows = [] if collection is COLLECTIONS[EMBEDDED] else only or ROWS
    found = {("table", row): params.method(row) for row in rows}
    for part, known in PARTS.items() if not (only or collection.withheld) else ():
        start = params.method(known["both"]).model_dump()
        # forms that are rows are learnt as such
        found |= {(part, form): Method(**start | changes) for form, changes in FORMS.items() if form not in known}
    return found


def jobs(
    params: Params, names: list[str], only: list[str] | None, development: Path | None, work: Path
) -> Iterator[Job]:
    for name in names:
        collection = COLLECTIONS[name]
        where = source(collection, development, work)
        if where is None:
            continue
        classes = pd.read_csv(where.manifest, dtype=str).label.nunique()
        tasks = chain([collection.per_task] * (classes // collection.per_task), params.tasks[0].epochs)
        for (part, row), method in methods(params, collection, only).items():
            for seed in collection.seeds[: FEW if part == SOLVED else None]:
                file = work / "runs" / name / part / row / f"seed{seed}.json"
                yield Job(
                    (name, part, row), where, method, params.training, tasks, seed, file=file,
                    device=params.compute.device,
                )  # fmt: skip


def read(file: Path) -> pd.DataFrame:
    # digits as text: a number would lose the zeros in front
    return pd.read_csv(file, dtype={"correct": str})


def of_pipeline(metrics: Path) -> pd.DataFrame:
    """seeds.csv, with the digits of correct.csv where there are."""
    found = Comparable.of(metrics)
    return found.seeds.merge(found.correct, "left", RUN)


@cache
def labels_of(where: Source, seed: int) -> dict[str, int]:
    """Of each clip the position of its class in the order of a seed."""
    table = read_manifest(where.manifest)
    return dict(zip(table.clip_id, class_index(table, read_orders(where.orders)[seed]), strict=True))


def table(
    work: Path, known: pd.DataFrame, pipeline: pd.DataFrame, sources: Mapping[str, Source | None]
) -> pd.DataFrame:
    """A line a run: average and last accuracy, and which test clips are right (`right`), of the runs in ``work``, of
    ``pipeline`` (`of_pipeline`), or else as ``known``. sources: where the clips of a collection are labelled."""
    lines = []
    for file in sorted((work / "runs").glob("*/*/*/seed*.json")):
        results = read_run(file)[0].results
        curve = [accuracy_after(result) for result in results]
        collection, part, row = file.relative_to(work / "runs").parts[:3]
        seed, where = int(file.stem.removeprefix("seed")), sources.get(collection)
        correct = right(results[-1].predictions, labels_of(where, seed)) if where else None
        lines.append((collection, part, row, seed, np.mean(curve), curve[-1], correct))
    # what --rows names may be none of ours
    rows = {*ROWS, *(row for _, part, row, *_ in lines if part == "table")}
    own = pipeline[(pipeline.setting == "standard") & pipeline.method.isin(rows) & pipeline.seed.isin(SEEDS)]
    own = own.assign(collection=EMBEDDED, part="table", row=own.method)
    place = ["collection", "part", "row", "seed"]
    columns = [*place, "average_accuracy", "last_accuracy", "correct"]
    # an empty table has no types of its own, and would change those of the others
    learnt = [pd.DataFrame(lines, columns=columns)] if lines else []
    runs = pd.concat([*learnt, own[columns], known])
    for part, forms in PARTS.items():
        # of the collections that the figure shows
        shown = runs[(runs.part == "table") & ~runs.collection.map(lambda name: COLLECTIONS[name].withheld)]
        for form, row in forms.items():
            runs = pd.concat([shown[shown.row == row].assign(part=part, row=form), runs])
    return runs.drop_duplicates(place).sort_values(place, ignore_index=True).round(6)


def when_distillation_pays(runs: pd.DataFrame) -> Figure:
    """Points of last accuracy that each form of distillation adds to none, with and without exemplars: means over
    seeds and their 95 % intervals."""
    names = [name for name in COLLECTIONS if name in set(runs[runs.part.isin(PARTS)].collection)]
    figure, axes = plt.subplots(1, 2, figsize=(10.4, 3.6), sharey=True)
    for axis, (part, how) in zip(axes, (("with exemplars", "learnt"), ("without exemplars", "solved")), strict=True):
        shown = runs[runs.part == part]
        for place, form in enumerate([form for form in FORMS if form != "none"]):
            gains = [apart(shown[shown.collection == name], "row", form, "none", "seed") for name in names]
            means, reach = [100 * gain.mean for gain in gains], [100 * (gain.high - gain.mean) for gain in gains]
            where, look = np.arange(len(names)) + 0.2 * place - 0.3, {"elinewidth": 1, "ecolor": "0.3"}
            axis.bar(where, means, 0.19, yerr=reach, label=form, color=PALETTE[place], error_kw=look)
        axis.axhline(0, color="0.2", linewidth=1)
        labels = [textwrap.fill(name, 10) for name in names]
        axis.set(xticks=range(len(names)), xticklabels=labels, title=f"{part}: classifier {how}")
    axes[0].set_ylabel("gain over no distillation, points")
    axes[0].legend(frameon=False, fontsize="small", loc="upper left", title="bar: mean; line: 95 % interval")
    figure.tight_layout()
    return figure


def document(runs: pd.DataFrame) -> str:
    """Of every row on every collection average and last accuracy, best mean rank first, and by how much our closed form
    is ahead of it."""
    runs = runs.query("part == 'table'")
    means = runs.groupby(["row", "collection"])[["average_accuracy", "last_accuracy"]].mean().unstack()
    average, last = 100 * means.average_accuracy, 100 * means.last_accuracy
    ranks = mean_ranks(runs)
    there = last.notna()
    lines = [
        [
            name_of(row),
            *(f"{average[name][row]:.1f} / {last[name][row]:.1f}" if there[name][row] else "" for name in last),
            "" if np.isnan(rank) else f"{rank:.1f}",
        ]
        for row, rank in ranks.items()
    ]
    ours = "lll_closed"
    others = [row for row in ranks.index if row != ours]
    named = runs.rename(columns={"collection": "setting", "row": "method"})
    by_clip = named[named.correct.notna()]
    comparable = Comparable(named, by_clip)
    leads = {
        (name, row): comparable.lead(name, "last_accuracy", ours, row)
        for name in last
        for row in others
        if there[name][row]
    }
    best = {name: last[name][others].idxmax() for name in last}
    told = "; ".join(f"{name} {verdict(leads[name, row])} ({short_name_of(row)})" for name, row in best.items())
    # of seeds that all collections have, and rows that all have
    by_seed = runs.groupby(["row", "seed", "collection"]).last_accuracy.mean().unstack().dropna().mean(axis=1)
    rivals = by_seed[[of_others(row) and not np.isnan(ranks[row]) for row in by_seed.index.get_level_values("row")]]
    nearest = rivals.groupby("row").mean().idxmax()
    lead = over_seeds((by_seed[ours] - by_seed[nearest]).dropna())
    # of runs from before predictions were kept the clips are not known
    known = {(name, row) for name, row in leads if {ours, row} <= {*by_clip[by_clip.setting == name].method}}
    told_of = {key: points(lead) + " †" * (key not in known) for key, lead in leads.items()}
    ahead = [[name_of(row), *(told_of.get((name, row), "") for name in last)] for row in others]
    sides, columns = "r" * len(best), " | ".join(last)
    seeds = ", ".join(f"{name} {count}" for name, count in runs.groupby("collection").seed.nunique().items())
    parts = [
        f"**{short_name_of(ours)}, against the best other row of each collection: {told}. Against the "
        f"published row that is best on average ({short_name_of(nearest)}), over all collections: {verdict(lead)}.**",
        markdown(f"| average / last | {columns} | mean rank |", f"l{sides}r", lines),
        f"Test clips, in percent, means over seeds ({seeds}), each with its own class order and initial weights; "
        f"random features are one draw, but on {EMBEDDED}, where each seed has its own. Ranks are by last accuracy.",
        markdown(f"| {short_name_of(ours)} over | {columns} |", f"l{sides}", ahead),
        "Differences of last accuracy in points, with 95 % intervals over seeds and clips"
        f"{SEEDS_ALONE * (known != {*leads})}; nothing is corrected for the number of comparisons.",
    ]
    return "\n\n".join(parts)


def distillation(runs: pd.DataFrame) -> str:
    """What each form of distillation adds to none, with exemplars and without; and which costs more than a point."""
    runs = runs.query("part != 'table'")
    collections, lines, costs = list(dict.fromkeys(runs.collection)), [], []
    for part, of_part in runs.groupby("part"):
        for form in sorted({*of_part.row} - {"none"}):
            gains = {
                name: apart(of_part[of_part.collection == name], "row", form, "none", "seed") for name in collections
            }
            # the whole interval below: else it is not shown
            worse = [name for name, gain in gains.items() if outcome(gain, -0.01) == "does not hold"]
            costs += [f"{form}, {part}, on {name}" for name in worse]
            lines.append([f"{form}, {part}", *map(points, gains.values())])
    head = f"| over no distillation | {' | '.join(collections)} |"
    return (
        f"**Costs more than a point, by the whole interval: {'; '.join(costs) or 'nothing'}.**\n\n"
        f"{markdown(head, 'l' + 'r' * len(collections), lines)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="COLLECTION", help=", ".join(COLLECTIONS))
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="of the table, and nothing for the figure")
    parser.add_argument("--work", type=Path, default=Path("build/development"))
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - set(COLLECTIONS)):
        parser.error(f"no collection `{unknown[0]}`; there are {', '.join(COLLECTIONS)}")
    folder = os.environ.get("AVCIL_DEVELOPMENT")
    # one draw of random features for all seeds: most of these runs were made so, in minutes each
    params, names = one_draw(load()), given.names or list(COLLECTIONS)
    run(jobs(params, names, given.rows, Path(folder) if folder else None, given.work), workers=given.workers)
    if not given.names:
        matplotlib.use("Agg")
        use_style()
        development = Path(folder) if folder else None
        sources = {name: source(collection, development, given.work) for name, collection in COLLECTIONS.items()}
        runs = table(given.work, read(TABLE), of_pipeline(Path("metrics")), sources)
        runs.to_csv(TABLE, index=False, lineterminator="\n")
        TABLE.with_suffix(".md").write_text(f"{document(runs)}\n")
        TABLE.with_name("distillation.md").write_text(f"{distillation(runs)}\n")
        when_distillation_pays(runs).savefig("figures/distillation.png", metadata={"Software": None})


if __name__ == "__main__":
    main()
