"""From the results of single tasks to the tables under metrics/, and paired comparisons between variants."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from avcil.base.files import write_json
from avcil.comparison.intervals import Interval, holm, over_seeds_and_clips, verdict
from avcil.learn import metrics
from avcil.learn.checkpoint import run_folder
from avcil.learn.evaluate import TaskResult
from avcil.learn.train import load_result

MAIN = ["average_accuracy", "last_accuracy", "forgetting_mean", "forgetting_last", "plasticity"]
_HIT = "localisation_hit_first_task"
_MEASURES = (
    "average_accuracy",
    "last_accuracy",
    "forgetting_mean",
    "forgetting_last",
    "retention",
    "plasticity",
    "backward_transfer",
    _HIT,
)


class Tables(NamedTuple):
    """runs: a row a task; matrix: a row a cell of R, with its clips; localisation: the same for attention."""

    runs: pd.DataFrame
    matrix: pd.DataFrame
    localisation: pd.DataFrame


def _run_row(key: dict, result: TaskResult) -> dict:
    accuracy, clips = np.array(result.accuracy), np.array(result.clips)
    past = clips[:-1].sum()

    def over_clips(values) -> float:
        return float(np.average(values, weights=clips)) if values is not None else float("nan")

    return key | {
        "task": result.task,
        "accuracy": over_clips(accuracy),
        "new_accuracy": accuracy[-1],
        "past_accuracy": float((accuracy[:-1] * clips[:-1]).sum() / past) if past else float("nan"),
        "localisation_hit": over_clips(result.hit),
        "localisation_auc": over_clips(result.auc),
        "memory_bytes": result.memory_bytes,
        "trained_parameters": result.trained_parameters,
    }


def frames(results: dict[tuple[str, int], list[TaskResult]], benchmark: str) -> Tables:
    """The tables of runs, each named (variant, seed), from their results by task."""
    runs, matrix, localisation = [], [], []
    for (variant, seed), found in results.items():
        key = {"benchmark": benchmark, "variant": variant, "seed": seed}
        for task, result in enumerate(found):
            runs.append(_run_row(key, result))
            for j, accuracy in enumerate(result.accuracy):
                cell = key | {"task": task, "on_task": j}
                matrix.append(cell | {"accuracy": accuracy, "clips": result.clips[j]})
                if result.hit is not None and result.auc is not None:
                    localisation.append(cell | {"hit": result.hit[j], "auc": result.auc[j]})
    places = pd.DataFrame(localisation, columns=["benchmark", "variant", "seed", "task", "on_task", "hit", "auc"])
    return Tables(pd.DataFrame(runs), pd.DataFrame(matrix), places)


def collect(folder: Path, benchmark: str, variants: list[str], seeds: list[int], tasks: int) -> Tables:
    """Read the results below ``folder`` of exactly the runs named."""
    results = {
        (variant, seed): [load_result(run_folder(folder, variant, t, seed)) for t in range(tasks)]
        for variant in variants
        for seed in seeds
    }
    return frames(results, benchmark)


def accuracy_matrix(cells: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """R [T,T] with NaN above the diagonal, and clips per task [T], from the cells of one run."""
    tasks = int(cells.task.max()) + 1
    matrix, clips = np.full((tasks, tasks), np.nan), np.zeros(tasks)
    matrix[cells.task, cells.on_task] = cells.accuracy
    clips[cells.on_task] = cells.clips
    return matrix, clips


def per_seed(tables: Tables) -> pd.DataFrame:
    """One row a variant and seed: every measure of avcil/learn/metrics.py.

    ``localisation_hit_first_task`` is the hit rate on task 0's clips after the last task, ``_change`` what became of it
    since the first.
    """
    found = []
    for (benchmark, variant, seed), cells in tables.matrix.groupby(["benchmark", "variant", "seed"], sort=False):
        matrix, clips = accuracy_matrix(cells)
        row = {"benchmark": benchmark, "variant": variant, "seed": seed}
        row |= {name: getattr(metrics, name)(matrix, clips) for name in ("average_accuracy", "last_accuracy")}
        names = ("forgetting_mean", "forgetting_last", "retention", "plasticity", "backward_transfer")
        row |= {name: getattr(metrics, name)(matrix) for name in names}
        where = tables.localisation
        hits = where[(where.variant == variant) & (where.seed == seed) & (where.on_task == 0)].sort_values("task").hit
        row[_HIT] = hits.iloc[-1] if len(hits) else np.nan
        row["localisation_change_first_task"] = hits.iloc[-1] - hits.iloc[0] if len(hits) else np.nan
        found.append(row)
    return pd.DataFrame(found)


def mean_and_spread(groups, measures: Iterable[str]) -> pd.DataFrame:
    """Of each measure the mean over a group, and beside it, as ``…_std``, the standard deviation (n − 1)."""
    measures = list(measures)
    mean, spread = groups[measures].mean(), groups[measures].std(ddof=1).add_suffix("_std")
    columns = [name for measure in measures for name in (measure, f"{measure}_std")]
    return pd.concat([mean, spread], axis=1)[columns]


def percent(value: float, spread: float) -> str:
    """A fraction and its spread in percent, to one decimal: `71.9 ± 0.4`; empty for NaN, alone without a spread."""
    if pd.isna(value):
        return ""
    return f"{100 * value:.1f}" + ("" if pd.isna(spread) else f" ± {100 * spread:.1f}")


def summarise(tables: Tables) -> pd.DataFrame:
    """One row a variant: mean and standard deviation (n − 1) over seeds of what `per_seed` gives."""
    frame = per_seed(tables)
    groups = frame.groupby(["benchmark", "variant"], sort=False)
    last = tables.runs[tables.runs.task == tables.runs.task.max()].groupby(["benchmark", "variant"], sort=False)
    summary = mean_and_spread(groups, _MEASURES)
    summary["seeds"] = groups.seed.nunique()
    summary["memory_bytes"] = last.memory_bytes.mean().round().astype(int)
    summary["trained_parameters"] = last.trained_parameters.max()
    summary["localisation_change_first_task"] = groups.localisation_change_first_task.mean()
    return summary.reset_index()


def confusion(results: dict[int, TaskResult], orders: dict[str, list[str]], manifest: pd.DataFrame) -> pd.DataFrame:
    """Columns seed, clip_id, actual and predicted: of each clip classified its label, and the one that it was given.

    orders: the class order of each seed, as orders.json has it.
    """
    rows = [
        (seed, clip, orders[str(seed)][number])
        for seed, result in results.items()
        for clip, number in result.predictions.items()
    ]
    found = pd.DataFrame(rows, columns=["seed", "clip_id", "predicted"])
    found.insert(2, "actual", found.clip_id.map(manifest.set_index("clip_id").label))
    return found


def write(folder: Path, tables: Tables, summary: pd.DataFrame) -> None:
    """runs.csv, accuracy_matrix.csv, localisation.csv and summary.csv, fractions rounded to 4 digits.

    For DVC also variants/<variant>.json, the main measures of each, and curves.csv, mean accuracy after each task, a
    column a variant.
    """
    variants = folder / "variants"
    variants.mkdir(parents=True, exist_ok=True)
    curves = tables.runs.pivot_table(index="task", columns="variant", values="accuracy", sort=False)
    files = {
        "runs": tables.runs.drop(columns=["memory_bytes", "trained_parameters"]),
        "accuracy_matrix": tables.matrix.drop(columns="clips"),
        "localisation": tables.localisation,
        "summary": summary,
        "curves": curves.reset_index(),
    }
    for name, frame in files.items():
        frame.round(4).to_csv(folder / f"{name}.csv", index=False)
    for variant, row in summary.set_index("variant")[[*MAIN, _HIT]].round(4).iterrows():
        write_json(variants / f"{variant}.json", row.dropna().to_dict())


def paired(runs: pd.DataFrame, reference: str, variants: list[str]) -> pd.DataFrame:
    """Last accuracy of ``reference`` minus that of each variant, seed by seed: columns variant, seed, difference."""
    last = runs[runs.task == runs.task.max()].pivot(index="seed", columns="variant", values="accuracy")
    wide = (-last[variants]).add(last[reference], axis=0)
    return wide.reset_index().melt(id_vars="seed", var_name="variant", value_name="difference")


def accuracy_after(result: TaskResult) -> float:
    """Accuracy on all clips of the classes seen so far."""
    return float(np.average(result.accuracy, weights=result.clips))


def last_accuracy(results: list[TaskResult]) -> float:
    """Accuracy on all clips after the last task."""
    return accuracy_after(results[-1])


def correctness(last: dict[tuple[str, int], TaskResult], labels: dict[int, dict[str, int]]) -> pd.DataFrame:
    """Columns variant, seed and correct: a digit a clip, in the order of their names, 1 if it is classified rightly.

    last: of each run, named (variant, seed), the result after its last task; labels: class index by clip, by seed.
    Raises ValueError if runs classified other clips, for then they cannot be paired.
    """
    rows, clips = [], sorted(next(iter(last.values())).predictions)
    for (variant, seed), result in last.items():
        if sorted(result.predictions) != clips:
            raise ValueError(
                f"{variant}, seed {seed}: other test clips than those of {next(iter(last))}; learn it again"
            )
        right = (result.predictions[clip] == labels[seed][clip] for clip in clips)
        rows.append((variant, seed, "".join(str(int(one)) for one in right)))
    return pd.DataFrame(rows, columns=["variant", "seed", "correct"])


def read_correctness(path: Path) -> pd.DataFrame:
    """What `correctness` gave, from its file."""
    return pd.read_csv(path, dtype={"correct": str})


def lead(correct: pd.DataFrame, reference: str, other: str | None = None) -> Interval:
    """Last accuracy of ``reference``, minus that of ``other``, by seed and clip: `intervals.over_seeds_and_clips`.

    correct: as `correctness` gives it. Raises KeyError for a variant that it lacks.
    """
    wide = correct.pivot(index="seed", columns="variant", values="correct")
    wide = wide[[reference] if other is None else [reference, other]].dropna()
    first, *second = (np.array([[*line] for line in wide[name]]).astype(float) for name in wide)
    return over_seeds_and_clips(first - second[0] if second else first)


def compare(correct: pd.DataFrame, reference: str, others: Iterable[str]) -> pd.DataFrame:
    """`lead` of ``reference`` over each of ``others``: variant, difference, low, high, p, p_holm and verdict.

    p_holm is adjusted for the number of comparisons (`intervals.holm`); interval and verdict are of one comparison.
    """
    leads = {other: lead(correct, reference, other) for other in others}
    found = pd.DataFrame(leads.values(), index=pd.Index(leads, name="variant")).drop(columns="seeds")
    found = found.rename(columns={"mean": "difference"})
    found["p_holm"] = holm(found.p)
    found["verdict"] = [verdict(one) for one in leads.values()]
    return found.reset_index()
