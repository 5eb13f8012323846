"""What the pipeline made of a row: results by seed and task, measures, checkpoints."""

import html
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from avcil.comparison import tables
from avcil.comparison.protocol import run_folder
from avcil.learn.checkpoint import Checkpoint, load_checkpoint
from avcil.learn.evaluate import TaskResult
from avcil.params import ParameterError, Params, load, project
from avcil.params.section import nearest
from avcil.results.names import name_of


class AccuracyMatrix(NamedTuple):
    """R [T,T] over seeds: a row for each task learnt, a column for the task whose clips are classified.

    mean and std (n − 1), NaN above the diagonal; seeds: how many.
    """

    mean: pd.DataFrame
    std: pd.DataFrame
    seeds: int

    @property
    def _text(self) -> pd.DataFrame:
        cells = {j: map(tables.percent, self.mean[j], self.std[j]) for j in self.mean}
        return pd.DataFrame(cells, index=self.mean.index).rename_axis(columns=self.mean.columns.name)

    def __repr__(self) -> str:
        return f"accuracy in percent, {self.seeds} seeds\n{self._text.to_string()}"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>on task {j}</th>" for j in self.mean)
        rows = []
        # shades by number, cells as text
        for (task, values), (_, cells) in zip(self.mean.iterrows(), self._text.iterrows(), strict=True):
            shades = [
                # the first blue of figures, at most 0.6 opaque, so that numbers stay readable on it
                "" if pd.isna(value) else f' style="background: rgba(1, 115, 178, {0.6 * value:.2f})"'
                for value in values
            ]
            shown = "".join(f"<td{shade}>{cell}</td>" for shade, cell in zip(shades, cells, strict=True))
            rows.append(f"<tr><th>after task {task}</th>{shown}</tr>")
        note = f"<caption>accuracy in percent, {self.seeds} seeds</caption>"
        return f"<table>{note}<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


@dataclass(frozen=True, repr=False)
class Run:
    """A row with all its seeds.

    Attributes:
        method: its row in params.yaml.
        setting: of the benchmark's protocol.
        tables: runs (a line a seed and task), matrix (a line a cell of R) and localisation, as
            `avcil.comparison.tables` has them.
        results: of each seed the results by task, predictions included; empty if only metrics/ is there.
        checkpoints: the folder of each (seed, task); empty if only metrics/ is there.
        note: one line on what is missing and how to get it; empty if nothing is.
    """

    method: str
    setting: str
    tables: tables.Tables
    results: dict[int, list[TaskResult]]
    checkpoints: dict[tuple[int, int], Path]
    note: str

    @cached_property
    def measures(self) -> pd.DataFrame:
        """A row a seed, every measure of `avcil.learn.metrics`."""
        return measures(self.tables).droplevel("method")

    @property
    def seeds(self) -> list[int]:
        return self.measures.index.tolist()

    def accuracy(self, seed: int) -> pd.DataFrame:
        """R [T,T] of one seed: rows are tasks learnt, columns the tasks whose clips are classified; NaN above the
        diagonal. Raises KeyError naming the seeds there are."""
        if seed not in self.seeds:
            raise KeyError(f"no seed {seed} in the run of {self.method}; there are {self.seeds}")
        cells = self.tables.matrix[self.tables.matrix.seed == seed]
        return cells.pivot(index="task", columns="on_task", values="accuracy")

    @property
    def matrix(self) -> AccuracyMatrix:
        """R over all seeds."""
        groups = self.tables.matrix.groupby(["task", "on_task"]).accuracy
        return AccuracyMatrix(groups.mean().unstack(), groups.std(ddof=1).unstack(), len(self.seeds))

    def checkpoint(self, task: int, seed: int) -> Checkpoint:
        """What was carried out of a task. Raises KeyError with the way out if it is not there."""
        if (seed, task) not in self.checkpoints:
            known = sorted(self.checkpoints)
            # of a run that is read from metrics/ the note says how to get checkpoints
            way_out = self.note or f"none are kept of the setting `{self.setting}`; take the first one's"
            if known:
                way_out = f"there are (seed, task) {known[0]} to {known[-1]}"
            raise KeyError(f"no checkpoint of {self.method} after task {task} with seed {seed}: {way_out}")
        return load_checkpoint(self.checkpoints[seed, task])

    def _summary(self) -> pd.DataFrame:
        shown = 100 * self.measures[[*tables.MAIN, "localisation_hit_first_task"]]
        # a row without attention has no hits to show
        return pd.DataFrame({"mean": shown.mean(), "std": shown.std(ddof=1)}).dropna(how="all").round(1)

    def __repr__(self) -> str:
        head = f"{name_of(self.method)} (`{self.method}`): {len(self.seeds)} seeds, {len(self.matrix.mean)} tasks"
        note = f"\n{self.note}" if self.note else ""
        return f"{head}; percent{note}\n{self._summary().to_string(na_rep='')}"

    def _repr_html_(self) -> str:
        title = html.escape(f"{name_of(self.method)} ({self.method})")
        note = f"<p><em>{html.escape(self.note)}</em></p>" if self.note else ""
        summary = self._summary().to_html(na_rep="", border=0)
        return f"<h4>{title}</h4>{note}{summary}{self.matrix._repr_html_()}"


def load_run(method: str, setting: str = "standard", *, benchmark: str | None = None, root: Path | None = None) -> Run:
    """The run of a row of params.yaml in a setting of the benchmark's protocol.

    Read from artifacts/ if all of it is there, else from the tables in metrics/, which are rounded to four digits: then
    there are no predictions and no checkpoints, and a warning of one line says so.

    Args:
        method: the row's name.
        setting: which the row was run in; checkpoints are kept in `standard` alone.
        benchmark: an imported one; that of params.yaml, if left out.
        root: the project's folder; the one that the working directory is in, if left out.

    Raises:
        ParameterError: for a name that is not there, with the nearest one.
        FileNotFoundError: outside of a project, or where neither artifacts/ nor metrics/ has the run.
    """
    root = project.root() if root is None else Path(root)
    params = load(root / "params.yaml")
    params = params.model_copy(update={"benchmark": benchmark or params.benchmark})
    # only to refuse a row that there is not, with the nearest one
    params.method(method)
    if setting not in (known := params.protocol().settings):
        raise ParameterError(f"no setting `{setting}` in protocols/{params.benchmark}.yaml{nearest(setting, known)}")
    # an imported benchmark has all of its own (`python -m avcil protocol`), the embedded one what the pipeline makes
    imported = root / "imports" / params.benchmark
    artifacts = imported / "results" if imported.exists() else root / "artifacts"
    metrics = artifacts / "metrics" if imported.exists() else root / "metrics"
    try:
        results, places = _stored(artifacts, params, method, setting)
    except ValueError as error:
        again = (
            f"`python -m avcil protocol {params.benchmark}`" if imported.exists() else _asked(params, method, setting)
        )
        why = str(error).replace(f"{root}/", "").partition("; ")[0]
        kept = " and checkpoints" * (setting == next(iter(known)))
        note = f"from metrics/ alone: {why}; {again} gives predictions{kept}"
        # told at the caller's line, not at this one
        warnings.warn(note, stacklevel=2)
        return Run(method, setting, _committed(metrics, method, setting, again), {}, {}, note)
    made = tables.frames({(setting, method, seed): by_task for seed, by_task in results.items()})
    return Run(method, setting, made, results, places, "")


def _stored(artifacts: Path, params: Params, method: str, setting: str):
    """Results by seed, and the folder of each (seed, task) with a checkpoint. Raises ValueError if a seed lacks any:
    tables of some seeds would look like those of all."""
    prescribed = params.protocol()
    results = {
        seed: tables.run_of(artifacts, (setting, method, seed), prescribed, params).results
        for seed in prescribed.settings[setting].seeds or prescribed.seeds
    }
    folders = {
        (seed, result.task): run_folder(artifacts, method, result.task, seed, setting)
        for seed, by_task in results.items()
        for result in by_task
    }
    # results may be there without checkpoints, which most settings do not keep
    return results, {key: folder for key, folder in folders.items() if (folder / "checkpoint.json").is_file()}


def _asked(params: Params, method: str, setting: str) -> str:
    """What learns the row in the setting: `dvc repro` by itself learns what ``rows`` of params.yaml asks for alone."""
    prescribed, again = params.protocol(), f"`dvc repro` with `rows: [{method}]`"
    if method in prescribed.chosen(params.rows).get(setting, ()):
        # of runs that DVC does not version it misses none
        versioned = setting == next(iter(prescribed.settings)) and method in prescribed.headline
        return "`dvc repro`" if versioned else "`dvc repro --force sweep`"
    if method in prescribed.chosen([method]).get(setting, ()):
        return again
    return f"a line of `{setting}` in protocols/{params.benchmark}.yaml, and {again},"


def _committed(folder: Path, method: str, setting: str, again: str) -> tables.Tables:
    """The tables of one row, as far as they are in git. Raises FileNotFoundError if it is not among them."""
    # numbered anew: a part of a table would keep the numbers that its lines had in the whole
    runs, matrix, localisation = (
        table[(table.method == method) & (table.setting == setting)].reset_index(drop=True)
        for table in (pd.read_csv(folder / f"{name}.csv") for name in ("runs", "accuracy_matrix", "localisation"))
    )
    if runs.empty:
        raise FileNotFoundError(f"{folder}/runs.csv has no run of `{method}` in `{setting}`; {again} makes it")
    return tables.Tables(runs, matrix, localisation)


def measures(made: tables.Tables) -> pd.DataFrame:
    """Every measure of `avcil.learn.metrics`, a line a method and seed, of one setting.

    The matrices in metrics/ do not say how many clips a task has; what depends on that is taken from ``made.runs``.
    """
    # `per_seed` reads these columns, but forgetting, plasticity and the like do not hang on them
    counted = made._replace(
        matrix=made.matrix.assign(clips=1), runs=made.runs.assign(memory_bytes=0, trained_parameters=0)
    )
    # `MEASURES` has neither bytes nor parameters, which are made up here
    whole = tables.per_seed(counted).set_index(["method", "seed"])[tables.MEASURES]
    # accuracies on all classes seen, weighted by clips when they were written
    after = made.runs.sort_values("task").groupby(["method", "seed"]).accuracy
    return whole.assign(average_accuracy=after.mean(), last_accuracy=after.last())
