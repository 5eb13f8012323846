"""From the results of single tasks to the tables under metrics/, and paired comparisons between variants."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from avcil.base.files import write_json
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


def intervals(differences: pd.DataFrame, *, draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Mean difference with a 95 % percentile-bootstrap interval over seeds, and in how many seeds it is positive."""
    rng = np.random.default_rng(seed)
    rows = {}
    for variant, group in differences.groupby("variant", sort=False):
        values = group.difference.to_numpy()
        means = values[rng.integers(len(values), size=(draws, len(values)))].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        rows[variant] = {
            "mean": values.mean(), "low": low, "high": high, "seeds ahead": f"{(values > 0).sum()} of {len(values)}",
        }  # fmt: skip
    return pd.DataFrame(rows).T.rename_axis("LLL minus").infer_objects()


def accuracy_after(result: TaskResult) -> float:
    """Accuracy on all clips of the classes seen so far."""
    return float(np.average(result.accuracy, weights=result.clips))


def last_accuracy(results: list[TaskResult]) -> float:
    """Accuracy on all clips after the last task."""
    return accuracy_after(results[-1])


def correctness(results: dict[int, list[TaskResult]], labels: dict[int, dict[str, int]]) -> np.ndarray:
    """Whether each clip is classified rightly after the last task, [seeds, clips], clips in order of their names.

    results and labels (class index by clip) are given by seed.
    """
    rows = []
    for seed, found in sorted(results.items()):
        predicted = found[-1].predictions
        rows.append([predicted[clip] == labels[seed][clip] for clip in sorted(predicted)])
    return np.array(rows)


def compare(reference: np.ndarray, other: np.ndarray, *, draws: int = 10_000, seed: int = 0) -> dict[str, float]:
    """Last accuracy of ``reference`` minus that of ``other``, with a 95 % interval and the chance of no lead.

    Both [seeds, clips], as `correctness` gives them. Paired bootstrap over seeds and over clips: both are drawn with
    replacement, the same for both methods. ``p`` is the share of draws in which the difference has not the sign of its
    mean, doubled.
    """
    rng = np.random.default_rng(seed)
    difference = reference.astype(float) - other
    seeds, clips = difference.shape
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
    over_seeds = weights @ difference
    chosen = rng.multinomial(clips, np.full(clips, 1 / clips), draws) / clips
    drawn = (over_seeds * chosen).sum(1)
    mean = difference.mean()
    against = (drawn <= 0).mean() if mean > 0 else (drawn >= 0).mean()
    low, high = np.quantile(drawn, [0.025, 0.975])
    ahead = int((difference.mean(1) > 0).sum())
    return {"difference": mean, "low": low, "high": high, "p": min(1.0, 2 * against), "seeds_ahead": ahead}
