"""From the results of single tasks to the tables under metrics/, and paired comparisons between methods.

Every table has a line a run or finer, named by setting, method and seed. What a table has of rows that were not asked
for this time stays as it stands (`write`).
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from avcil.base.files import read_sealed, write_bytes, write_json
from avcil.comparison.intervals import Interval, holm, over_seeds, over_seeds_and_clips, verdict
from avcil.comparison.protocol import choices, run_folder, tasks_of
from avcil.comparison.sweep import Done, read_run
from avcil.learn import metrics
from avcil.learn.evaluate import TaskResult
from avcil.learn.train import load_result
from avcil.params import Params
from avcil.params.comparison import Protocol
from avcil.tokens.manifest import class_index, read_manifest, read_orders

RUN = ["setting", "method", "seed"]
MAIN = ["average_accuracy", "last_accuracy", "forgetting_mean", "forgetting_last", "plasticity"]
MEASURES = [
    *MAIN, "retention", "backward_transfer", "rise", "localisation_hit_first_task", "localisation_change_first_task",
]  # fmt: skip
# the few rows that `dvc metrics show` tells of
HEADLINE = ("lll_prior", "lll_closed", "replay", "joint_guided")

Key = tuple[str, str, int]


class Tables(NamedTuple):
    """runs: a line a task; matrix: a line a cell of R, with its clips; localisation: the same for attention."""

    runs: pd.DataFrame
    matrix: pd.DataFrame
    localisation: pd.DataFrame


class Swept(NamedTuple):
    """Results by task of the runs that were asked for; seconds of each on one thread, where they were measured; of
    settings whose seeds share their clips, the class order of a seed and the index in it of every clip's class."""

    results: dict[Key, list[TaskResult]]
    seconds: dict[Key, float]
    orders: dict[tuple[str, int], list[str]]
    labels: dict[tuple[str, int], dict[str, int]]


def run_of(artifacts: Path, key: Key, protocol: Protocol, params: Params | None) -> Done:
    """What a sweep, or a chain of tasks, left of the run of that setting, row and seed.

    Raises ValueError naming what is missing or damaged and, with ``params``, a run of other choices, and of a sweep one
    of other tasks or class order: DVC does not version a sweep's files, so that they may be of an experiment that was
    taken back, or of a protocol that was changed.
    """
    name, row, seed = key
    file = artifacts / "sweep" / name / row / f"seed{seed}.json"
    if file.exists():
        done, origin = read_run(file)
        if params:
            order, orders = origin["order"], file.parents[1] / "orders.json"
            # written anew by whatever of the setting was learnt last; drawn worlds have one each, which do not change
            now = read_orders(orders).get(seed, order) if orders.is_file() else order
            tasks = [task.model_dump(by_alias=True) for task in tasks_of(protocol, name, row, len(order))]
            _check(file, origin, key, protocol, params, order=now, tasks=tasks)
        return done
    # of a chain, or of a clone that has the checkpoints alone: results stand beside these
    # two folders up from ROW/task0/seedS
    runs = run_folder(artifacts, row, 0, seed, name).parents[1]
    there = len(list(runs.glob(f"task*/seed{seed}/result.json")))
    if not there:
        raise ValueError(f"{runs}: no results of seed {seed}; `dvc repro --force sweep` learns what is missing")
    sizes = protocol.settings[name].classes_per_task or protocol.classes_per_task
    # of a longer sequence more are left; of one size for all tasks their number hangs on the classes, not read here
    tasks = range(len(sizes) if isinstance(sizes, list) else there)
    folders = [runs / f"task{task}" / f"seed{seed}" for task in tasks]
    # where some are there, the one that is missing is told by `load_result`
    results = [load_result(folder) for folder in folders]
    if params:
        for file in [folder / "checkpoint.json" for folder in folders]:
            _check(file, read_sealed(file)["origin"], key, protocol, params)
    return Done(results, None)


def _check(file: Path, origin: dict, key: Key, protocol: Protocol, params: Params, **more) -> None:
    """Raise ValueError where a run of this ``origin`` was learnt with other choices, or with another of what there is
    ``more``."""
    name, row, seed = key
    method, training = (section.model_dump(mode="json") for section in choices(params, protocol, name, row))
    wanted = {"method": method, "training": training, "seed": seed} | more
    if other := next((what for what, value in wanted.items() if origin.get(what) != value), None):
        words = {"order": "class order", "tasks": "sequence of tasks"}
        raise ValueError(
            f"{file}: learnt with another {words.get(other, other)}; `dvc repro --force sweep` learns it again"
        )


def outdated(artifacts: Path, protocol: Protocol, params: Params) -> list[tuple[str, str]]:
    """(setting, row) of which a sweep left runs that `run_of` refuses."""
    refused = []
    for key in ((name, row) for name, rows in protocol.chosen("all").items() for row in rows):
        for file in artifacts.joinpath("sweep", *key).glob("seed*.json"):
            try:
                run_of(artifacts, (*key, int(file.stem.removeprefix("seed"))), protocol, params)
            except ValueError:
                refused.append(key)
    return refused


def read(artifacts: Path, protocol: Protocol, rows, params: Params | None = None) -> Swept:
    """What the sweep, and for `lll_prior` the chain of tasks, left below ``artifacts``, of what ``rows`` asks for.
    Raises ValueError naming the file of a run that is missing, damaged or, with ``params``, of other choices.
    """
    results, seconds, orders, labels = {}, {}, {}, {}
    for name, chosen in protocol.chosen(rows).items():
        setting, folder = protocol.settings[name], artifacts / "sweep" / name
        seeds = setting.seeds or protocol.seeds
        for row, seed in product(chosen, seeds):
            key = name, row, seed
            results[key], took = run_of(artifacts, key, protocol, params)
            # a run that went on after a stop has no seconds
            if took is not None:
                seconds[key] = took
        # worlds have clips of their own for each seed, so none of theirs can be paired
        if not setting.worlds:
            # where the chain alone is learnt no sweep has written them, or one of other seeds or labels: `splits` has
            swept = any((folder / row / f"seed{seed}.json").exists() for row in chosen for seed in seeds)
            given = artifacts / "splits"
            if swept or not (given / "orders.json").exists():
                given = folder
            table, drawn = read_manifest(given / "manifest.csv"), read_orders(given / "orders.json")
            for seed in seeds:
                orders[name, seed] = drawn[seed]
                index = class_index(table, drawn[seed]).tolist()
                labels[name, seed] = dict(zip(table.clip_id, index, strict=True))
    return Swept(results, seconds, orders, labels)


def accuracy_after(result: TaskResult) -> float:
    """Accuracy on all clips of the classes seen so far."""
    # weighted, for tasks may have unequal numbers of clips
    return float(np.average(result.accuracy, weights=result.clips))


def _of_task(result: TaskResult) -> dict:
    past, clips = result.accuracy[:-1], result.clips
    return {
        "task": result.task,
        "accuracy": accuracy_after(result),
        "new_accuracy": result.accuracy[-1],
        "past_accuracy": np.average(past, weights=clips[:-1]) if past else np.nan,
        # none where nothing attends, or where it is not known what sounds
        "localisation_hit": np.nan if result.hit is None else np.average(result.hit, weights=clips),
        "localisation_auc": np.nan if result.auc is None else np.average(result.auc, weights=clips),
        "memory_bytes": result.memory_bytes,
        "trained_parameters": result.trained_parameters,
    }


def frames(results: dict[Key, list[TaskResult]]) -> Tables:
    """The tables of runs, each named (setting, method, seed), from their results by task."""
    runs, matrix, localisation = [], [], []
    for run, by_task in results.items():
        key = dict(zip(RUN, run, strict=True))
        for task, result in enumerate(by_task):
            runs.append(key | _of_task(result))
            for j, accuracy in enumerate(result.accuracy):
                cell = key | {"task": task, "on_task": j}
                matrix.append(cell | {"accuracy": accuracy, "clips": result.clips[j]})
                if result.hit is not None and result.auc is not None:
                    localisation.append(cell | {"hit": result.hit[j], "auc": result.auc[j]})
    # columns are named, for rows without attention leave no line to take names from
    places = pd.DataFrame(localisation, columns=[*RUN, "task", "on_task", "hit", "auc"])
    return Tables(pd.DataFrame(runs), pd.DataFrame(matrix), places)


def accuracy_matrix(cells: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """R [T,T] with NaN above the diagonal, and clips per task [T], from the cells of one run."""
    tasks = int(cells.task.max()) + 1
    matrix, clips = np.full((tasks, tasks), np.nan), np.zeros(tasks)
    matrix[cells.task, cells.on_task] = cells.accuracy
    clips[cells.on_task] = cells.clips
    return matrix, clips


def per_seed(tables: Tables) -> pd.DataFrame:
    """A line a run: every measure of avcil/learn/metrics.py.

    rise: accuracy on all classes seen, last task minus first. ``localisation_hit_first_task``: the hit rate on task 0's
    clips after the last task; ``_change``: what became of it since the first. memory_bytes, trained_parameters: of the
    last task.
    """
    lines = []
    # task 0's clips are tested after every task, so that they show what becomes of attention
    first_clips = tables.localisation[tables.localisation.on_task == 0]
    hits = {run: cells.sort_values("task").hit for run, cells in first_clips.groupby(RUN)}
    tasks = {run: by_task.sort_values("task") for run, by_task in tables.runs.groupby(RUN)}
    # not sorted: lines keep the order of the runs
    for run, cells in tables.matrix.groupby(RUN, sort=False):
        matrix, clips = accuracy_matrix(cells)
        # a row without attention has no line there, and both its hits are NaN
        hit, first, last = hits.get(run, pd.Series([np.nan])), tasks[run].iloc[0], tasks[run].iloc[-1]
        measures = {
            "average_accuracy": metrics.average_accuracy(matrix, clips),
            "last_accuracy": metrics.last_accuracy(matrix, clips),
            "forgetting_mean": metrics.forgetting_mean(matrix),
            "forgetting_last": metrics.forgetting_last(matrix),
            "retention": metrics.retention(matrix),
            "plasticity": metrics.plasticity(matrix),
            "backward_transfer": metrics.backward_transfer(matrix),
            "localisation_hit_first_task": hit.iloc[-1],
            "localisation_change_first_task": hit.iloc[-1] - hit.iloc[0],
            "rise": last.accuracy - first.accuracy,
            "memory_bytes": int(last.memory_bytes),
            "trained_parameters": int(last.trained_parameters),
        }
        lines.append(dict(zip(RUN, run, strict=True)) | measures)
    return pd.DataFrame(lines)


def mean_and_spread(groups, measures: list[str]) -> pd.DataFrame:
    """Of each measure the mean over a group, and beside it, as ``…_std``, the standard deviation (n − 1)."""
    mean, spread = groups[measures].mean(), groups[measures].std(ddof=1).add_suffix("_std")
    columns = [name for measure in measures for name in (measure, f"{measure}_std")]
    return pd.concat([mean, spread], axis=1)[columns]


def percent(value: float, spread: float = np.nan) -> str:
    """A fraction and its spread in percent, to one decimal: `71.9 ± 0.4`; empty for NaN, alone without a spread."""
    if pd.isna(value):
        return ""
    return f"{100 * value:.1f}" + ("" if pd.isna(spread) else f" ± {100 * spread:.1f}")


def cells(row: pd.Series, measures: Iterable[str]) -> list[str]:
    """`percent` of each measure of a line of `mean_and_spread`."""
    return [percent(row[measure], row[f"{measure}_std"]) for measure in measures]


def markdown(head: str, align: str, rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown: ``head`` as it stands, a letter of ``align`` (l or r) for each column, then the rows."""
    rule = "".join({"l": "|---", "r": "|---:"}[side] for side in align) + "|"
    return "\n".join([head, rule, *(f"| {' | '.join(row)} |" for row in rows)])


def summarise(seeds: pd.DataFrame) -> pd.DataFrame:
    """A line a setting and method: mean and standard deviation (n − 1) over seeds of what `per_seed` gives."""
    groups = seeds.groupby(["setting", "method"], sort=False)
    summary = mean_and_spread(groups, MEASURES)
    summary["seeds"] = groups.seed.nunique()
    summary["memory_bytes"] = groups.memory_bytes.mean().round().astype(int)
    summary["trained_parameters"] = groups.trained_parameters.max().astype(int)
    return summary.reset_index()


def budgets(seeds: pd.DataFrame, protocol: Protocol, exemplars: dict[str, int]) -> pd.DataFrame:
    """Last accuracy by exemplars, of methods that were run with several numbers of them, and nothing else changed.

    exemplars: of each method, as its row says.
    """
    alone = {name: setting.exemplars for name, setting in protocol.settings.items() if setting.memory_alone}
    mine = seeds[seeds.setting.isin(alone)]
    # a setting that says nothing of exemplars has the protocol's number, or that of each row
    default = mine.method.map(exemplars) if protocol.exemplars is None else protocol.exemplars
    frame = mine[["method", "seed", "last_accuracy"]].assign(
        exemplars=mine.setting.map(alone).astype(float).fillna(default).astype(int)
    )
    several = frame.groupby("method").exemplars.nunique()
    # two points are no curve
    return frame[frame.method.map(several) > 2].sort_values(["method", "exemplars"], kind="stable")


def confusion(results: dict[int, TaskResult], orders: dict[str, list[str]], manifest: pd.DataFrame) -> pd.DataFrame:
    """Columns seed, clip_id, actual and predicted: of each clip classified its label, and the one that it was given.

    orders: the class order of each seed, as orders.json has it.
    """
    labels = dict(zip(manifest.clip_id, manifest.label, strict=True))
    rows = [
        # seeds are text in JSON
        (seed, clip, labels[clip], orders[str(seed)][number])
        for seed, result in results.items()
        for clip, number in result.predictions.items()
    ]
    return pd.DataFrame(rows, columns=["seed", "clip_id", "actual", "predicted"])


# ---- comparisons


def right(predictions: Mapping[str, int], labels: Mapping[str, int]) -> str:
    """A digit a clip, in the order of their names, 1 if it is right."""
    return "".join(str(int(at == labels[clip])) for clip, at in sorted(predictions.items()))


def correctness(swept: Swept) -> pd.DataFrame:
    """Columns setting, method, seed and correct: a digit a test clip, in the order of their names, 1 if it is right.

    Settings whose seeds have clips of their own are not among them: worlds, and tasks that leave out classes, which are
    others for each seed.

    Raises ValueError if runs of a setting and seed classified other clips, for then they cannot be paired.
    """
    lines, clips = [], dict[tuple[str, int], list[str]]()
    for (setting, method, seed), results in swept.results.items():
        if (setting, seed) not in swept.labels:
            continue
        # both are positions in the class order of this seed
        predictions, labels = results[-1].predictions, swept.labels[setting, seed]
        mine = sorted(predictions)
        # the first run of a seed says which clips the others must have
        if clips.setdefault((setting, seed), mine) != mine:
            raise ValueError(f"{setting}, {method}, seed {seed}: other test clips than other runs have; learn it again")
        lines.append((setting, method, seed, right(predictions, labels)))
    # seeds are paired by clip too
    first = {setting: mine for (setting, _), mine in reversed(clips.items())}
    apart = {setting for (setting, _), mine in clips.items() if mine != first[setting]}
    return pd.DataFrame([line for line in lines if line[0] not in apart], columns=[*RUN, "correct"])


def multilabel_accuracy(swept: Swept, annotated: Mapping[str, Collection[str]]) -> pd.DataFrame:
    """Columns setting, method, seed, multilabel_accuracy: the share of test clips that are given one of their labels
    after the last task.

    annotated: labels of a clip, of those that have several (avcil/workshop/builders/vggsound.py).
    """
    lines = []
    for (setting, method, seed), results in swept.results.items():
        order, labels = swept.orders[setting, seed], swept.labels[setting, seed]
        predictions = results[-1].predictions
        # a clip that is not annotated has its one label
        right = [order[at] in annotated.get(clip, (order[labels[clip]],)) for clip, at in predictions.items()]
        lines.append((setting, method, seed, sum(right) / len(right)))
    return pd.DataFrame(lines, columns=[*RUN, "multilabel_accuracy"])


@dataclass(frozen=True, eq=False)
class Comparable:
    """What stands in a folder of tables: seeds.csv, and correct.csv where seeds share their clips."""

    seeds: pd.DataFrame
    correct: pd.DataFrame

    @classmethod
    def of(cls, folder: Path) -> "Comparable":
        # digits as text: a number would lose the zeros in front
        return cls(pd.read_csv(folder / "seeds.csv"), pd.read_csv(folder / "correct.csv", dtype={"correct": str}))

    # by run, and once for hundreds of leads; sorted, for pandas warns where a part of an unsorted index is looked up
    @cached_property
    def _runs(self) -> pd.DataFrame:
        return self.seeds.set_index(RUN).sort_index()

    @cached_property
    def _digits(self) -> pd.Series:
        return self.correct.set_index(RUN).correct.sort_index()

    @cached_property
    def _clips(self) -> dict[tuple[str, str], int]:
        return self._digits.groupby(level=["setting", "method"]).first().map(len).to_dict()

    def methods(self, setting: str) -> list[str]:
        return list(dict.fromkeys(self.seeds[self.seeds.setting == setting].method))

    def lead(
        self, setting: str, measure: str, first: str, second: str | None = None, against: str | None = None
    ) -> Interval:
        """A measure of ``first``, minus that of ``second``, by seed; last accuracy by clip too if seeds share them.

        against: setting of ``second``, if it is another one, with the same test clips. Raises KeyError for a row that
        was not run in its setting.
        """
        names = [(setting, first)] if second is None else [(setting, first), (against or setting, second)]
        # no other measure is a mean over clips; of a row that was not run again they may be those of other tasks
        clips = {self._clips.get(name, 0) for name in names}
        by_clip = measure == "last_accuracy" and len(clips) == 1 and clips != {0}
        runs = self._digits if by_clip else self._runs[measure]
        # a seed that only one of the two was run with counts for neither
        wide = pd.concat([runs.loc[name] for name in names], axis=1).dropna()
        # after another `seeds`, rows that were not run again have none in common with those that were
        if wide.empty:
            return Interval(math.nan, math.nan, math.nan, math.nan, seeds=0)
        # taken by position, for both columns have the same name, and digits spread out to [seeds, clips]
        values, *minus = (np.array([[*digits] for digits in of] if by_clip else of, float) for _, of in wide.items())
        interval = over_seeds_and_clips if by_clip else over_seeds
        return interval(values - minus[0] if minus else values)

    def compare(self, setting: str, reference: str, others: Iterable[str]) -> pd.DataFrame:
        """`lead` in last accuracy of ``reference`` over each other: method, difference, low, high, p, p_holm, verdict.

        p_holm is adjusted for the number of comparisons (`intervals.holm`); interval and verdict are of one comparison.
        """
        leads = {other: self.lead(setting, "last_accuracy", reference, other) for other in others}
        table = pd.DataFrame(leads.values(), index=pd.Index(leads, name="method")).drop(columns="seeds")
        table = table.rename(columns={"mean": "difference"})
        table["p_holm"] = holm(table.p)
        table["verdict"] = [verdict(one) for one in leads.values()]
        return table.reset_index()


# parts of `lll_prior`, each with the row that is `lll_prior` without it
PARTS = {"guidance": "naive_fusion", "distillation": "without_both_levels", "prior": "without_prior"}


def worth(comparable: Comparable, protocol: Protocol, row: str = "lll_prior") -> pd.DataFrame:
    """What ``row`` is ahead of itself less a part, in last accuracy, as one thing is turned (`Protocol.knobs`).

    Columns knob, value, part, and those of `Interval`; a line for each of `PARTS` in each setting where both rows were
    run. Less a part that a setting prescribes, as one of other tokens does, it is that of the first setting.
    """
    lines, first = [], next(iter(protocol.settings))
    for knob, steps in protocol.knobs.items():
        for (setting, value), (part, without) in product(steps.items(), PARTS.items()):
            methods = comparable.methods(setting)
            # in drawn worlds there are no clips of the first setting to pair with
            against = setting if without in methods or protocol.settings[setting].worlds else first
            if row in methods and without in comparable.methods(against):
                lead = comparable.lead(setting, "last_accuracy", row, without, against)
                lines.append({"knob": knob, "value": value, "part": part} | lead._asdict())
    return pd.DataFrame(lines, columns=["knob", "value", "part", *Interval._fields])


def paired(seeds: pd.DataFrame, reference: str, others: list[str]) -> pd.DataFrame:
    """Last accuracy of ``reference`` minus that of each other, of one setting: columns method, seed, difference."""
    wide = seeds.pivot(index="seed", columns="method", values="last_accuracy")
    apart = (-wide[others]).add(wide[reference], axis=0)
    return apart.reset_index().melt(id_vars="seed", var_name="method", value_name="difference")


# ---- files


def _merged(
    file: Path, fresh: pd.DataFrame, asked: Collection[tuple[str, str]], order: list[tuple[str, str]]
) -> pd.DataFrame:
    """``fresh``, and of the table that stands in ``file`` the lines of rows that were not ``asked`` for; in ``order``.

    Of a row that was asked for and has no line any more, as one without attention has none of its hits, none stays.
    """
    key = ["setting", "method"]
    if file.exists():
        # digits of correct.csv are no number
        before = pd.read_csv(file, dtype={"correct": str} if "correct" in fresh else None)
        # a table of older columns is not mixed with this one
        if list(before.columns) == list(fresh.columns):
            kept = before[[row not in asked for row in before[key].itertuples(index=False, name=None)]]
            # an empty table would have a say in the types of columns, of which pandas warns
            fresh = pd.concat([part for part in (kept, fresh) if len(part)] or [fresh])
    position = {row: number for number, row in enumerate(order)}
    # -1: neither in the protocol any more, nor asked for
    fresh = fresh.assign(at=[position.get(row, -1) for row in fresh[key].itertuples(index=False, name=None)])
    # `.at` is an accessor of pandas, and a stable sort keeps the order of seeds and tasks within a row
    return fresh[fresh["at"] >= 0].sort_values("at", kind="stable").drop(columns="at")


def write(
    folder: Path, swept: Swept, protocol: Protocol, gone: Collection[tuple[str, str]] = (), **more: pd.DataFrame
) -> None:
    """Write runs, accuracy_matrix, localisation, seeds, summary, correct, curves and what there is ``more`` as .csv,
    fractions rounded to 4 digits, and headline.json, which `dvc metrics` shows.

    Lines of rows that were not asked for stay, as long as the protocol has them and they are not ``gone``. Rows that it
    does not have come last, and are told of in headline.json too: somebody asked for them by name. cost.csv, whose
    seconds differ from run to run, is written where it has more rows to tell of than the one that stands there.
    """
    tables = frames(swept.results)
    seeds = per_seed(tables)
    fresh = {
        # seeds.csv has both, of the last task
        "runs": tables.runs.drop(columns=["memory_bytes", "trained_parameters"]),
        "accuracy_matrix": tables.matrix.drop(columns="clips"),
        "localisation": tables.localisation,
        "seeds": seeds,
        "summary": summarise(seeds),
        "correct": correctness(swept),
    } | more
    # lines stand in the protocol's order, whatever was asked for this time
    order = [(setting, row) for setting, rows in protocol.chosen("all").items() for row in rows]
    asked = dict.fromkeys(run[:2] for run in swept.results)
    order = [key for key in order if key in asked or key not in gone]
    own = [key for key in asked if key not in order]
    whole = {
        name: _merged(folder / f"{name}.csv", frame.round(4), asked, [*order, *own]) for name, frame in fresh.items()
    }
    for name, frame in whole.items():
        write_bytes(folder / f"{name}.csv", frame.to_csv(index=False).encode())
    first = next(iter(protocol.settings))
    # of the merged tables: curves and headline tell of rows that were not asked for too
    runs, summary = (whole[name][whole[name].setting == first] for name in ("runs", "summary"))
    # a column a row, as the plots of dvc.yaml name them
    curves = runs.pivot_table(index="task", columns="method", values="accuracy", sort=False)
    write_bytes(folder / "curves.csv", curves.round(4).reset_index().to_csv(index=False).encode())
    means = summary.set_index("method")[["last_accuracy", "forgetting_last"]].set_axis(["last", "forgetting"], axis=1)
    headline = [row for row in dict.fromkeys([*HEADLINE, *(row for _, row in own)]) if row in means.index]
    write_json(folder / "headline.json", means.loc[headline].to_dict("index"))
    cost = pd.DataFrame([(*key[:2], value) for key, value in swept.seconds.items()], columns=[*RUN[:2], "seconds"])
    cost = cost.astype({"seconds": float}).groupby(RUN[:2], sort=False).seconds.mean().round(3).reset_index()
    file = folder / "cost.csv"
    before = pd.read_csv(file) if file.exists() else cost[:0]
    # seconds of fewer rows say less than those that stand there
    now = cost if len(cost) >= len(before) else before
    # of rows and settings that there are no more nothing stays
    kept = pd.MultiIndex.from_frame(now[RUN[:2]]).isin([*order, *own])
    now = now[kept]
    write_bytes(file, now.to_csv(index=False).encode())
