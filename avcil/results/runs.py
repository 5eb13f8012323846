"""What the pipeline made of a variant: results by seed and task, measures, checkpoints."""

import html
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from avcil.comparison import tables
from avcil.learn.checkpoint import Checkpoint, load_checkpoint, run_folder
from avcil.learn.evaluate import TaskResult
from avcil.learn.train import load_result
from avcil.params import ParameterError, load, project
from avcil.params.section import nearest
from avcil.results.plots import name_of


class AccuracyMatrix(NamedTuple):
    """R [T,T] over seeds: a row for each task learnt, a column for the task whose clips are classified.

    mean and std (n − 1), NaN above the diagonal; seeds: how many.
    """

    mean: pd.DataFrame
    std: pd.DataFrame
    seeds: int

    def _cell(self, task: int, on_task: int) -> str:
        return tables.percent(self.mean.loc[task, on_task], self.std.loc[task, on_task])

    def __repr__(self) -> str:
        cells = pd.DataFrame({j: [self._cell(t, j) for t in self.mean.index] for j in self.mean.columns})
        cells.index, cells.columns = self.mean.index, self.mean.columns
        return f"accuracy in percent, {self.seeds} seeds\n{cells.to_string()}"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>on task {j}</th>" for j in self.mean.columns)
        rows = []
        for t in self.mean.index:
            cells = []
            for j in self.mean.columns:
                value = self.mean.loc[t, j]
                shade = "" if pd.isna(value) else f' style="background: rgba(1, 115, 178, {0.6 * value:.2f})"'
                cells.append(f"<td{shade}>{self._cell(t, j)}</td>")
            rows.append(f"<tr><th>after task {t}</th>{''.join(cells)}</tr>")
        note = f"<caption>accuracy in percent, {self.seeds} seeds</caption>"
        return f"<table>{note}<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


@dataclass(frozen=True, repr=False)
class Run:
    """A variant with all its seeds.

    Attributes:
        variant: its row in params.yaml.
        tables: runs (a row a seed and task), matrix (a row a cell of R) and localisation, as
            `avcil.comparison.tables` has them.
        measures: a row a seed, every measure of `avcil.learn.metrics`.
        results: of each seed the results by task, predictions included; empty if only metrics/ is there.
        checkpoints: the folder of each (seed, task); empty if only metrics/ is there.
        note: one line on what is missing and how to get it; empty if nothing is.
    """

    variant: str
    tables: tables.Tables
    measures: pd.DataFrame
    results: dict[int, list[TaskResult]]
    checkpoints: dict[tuple[int, int], Path]
    note: str

    @property
    def seeds(self) -> list[int]:
        return self.measures.index.tolist()

    @property
    def by_task(self) -> pd.DataFrame:
        """Accuracy on all classes seen, on new and on past ones, and attention: a row a seed and task."""
        return self.tables.runs.drop(columns=["benchmark", "variant"]).set_index(["seed", "task"])

    def accuracy(self, seed: int) -> pd.DataFrame:
        """R [T,T] of one seed: rows are tasks learnt, columns the tasks whose clips are classified; NaN above the
        diagonal. Raises KeyError naming the seeds there are."""
        if seed not in self.seeds:
            raise KeyError(f"no seed {seed} in the run of {self.variant}; there are {self.seeds}")
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
            way_out = f"there are (seed, task) {known[0]} to {known[-1]}" if known else self.note
            raise KeyError(f"no checkpoint of {self.variant} after task {task} with seed {seed}: {way_out}")
        return load_checkpoint(self.checkpoints[seed, task])

    def _summary(self) -> pd.DataFrame:
        shown = 100 * self.measures[[*tables.MAIN, "localisation_hit_first_task"]]
        return pd.DataFrame({"mean": shown.mean(), "std": shown.std(ddof=1)}).dropna(how="all").round(1)

    def __repr__(self) -> str:
        head = f"{name_of(self.variant)} (`{self.variant}`): {len(self.seeds)} seeds, {len(self.matrix.mean)} tasks"
        note = f"\n{self.note}" if self.note else ""
        return f"{head}; percent{note}\n{self._summary().to_string(na_rep='')}"

    def _repr_html_(self) -> str:
        title = html.escape(f"{name_of(self.variant)} ({self.variant})")
        note = f"<p><em>{html.escape(self.note)}</em></p>" if self.note else ""
        summary = self._summary().to_html(na_rep="", border=0)
        return f"<h4>{title}</h4>{note}{summary}{self.matrix._repr_html_()}"


def load_run(variant: str, *, root: Path | None = None) -> Run:
    """The run of a variant: `lll` or a row of `variants` in params.yaml.

    Read from artifacts/runs if all of it is there, else from the tables in metrics/, which are rounded to four digits:
    then there are no predictions and no checkpoints, and a warning of one line says so.

    Args:
        variant: the row's name.
        root: the project's folder; the one that the working directory is in, if left out.

    Raises:
        ParameterError: for a name that is not there, with the nearest one.
        FileNotFoundError: outside of a project, or where neither artifacts/ nor metrics/ has the run.
    """
    root = project.root() if root is None else Path(root)
    params = load(root / "params.yaml")
    known = ["lll", *params.variants]
    if variant not in known:
        raise ParameterError(f"no run of `{variant}`{nearest(variant, known)}; those of the field are in metrics/")
    runs = root / "artifacts/runs"
    places = {(s, t.id): run_folder(runs, variant, t.id, s) for s in params.seeds for t in params.tasks}
    missing = [place for place in places.values() if not (place / "result.json").is_file()]
    if missing:
        note = f"from metrics/ alone: no {missing[0].relative_to(root)}; `dvc repro` gives predictions and checkpoints"
        warnings.warn(note, stacklevel=2)
        found = _committed(root / "metrics", variant)
        return Run(variant, found, _of_one(found), {}, {}, note)
    results = {s: [load_result(places[s, t.id]) for t in params.tasks] for s in params.seeds}
    found = tables.frames({(variant, s): result for s, result in results.items()}, params.benchmark)
    whole = {key: place for key, place in places.items() if (place / "checkpoint.json").is_file()}
    return Run(variant, found, _of_one(found), results, whole, "")


def _committed(folder: Path, variant: str) -> tables.Tables:
    """The tables of one variant, as far as they are in git. Raises FileNotFoundError if it is not among them."""
    runs, matrix, localisation = (
        table[table.variant == variant].reset_index(drop=True)
        for table in (pd.read_csv(folder / f"{name}.csv") for name in ("runs", "accuracy_matrix", "localisation"))
    )
    if runs.empty:
        raise FileNotFoundError(f"{folder}/runs.csv has no run of `{variant}`; `dvc repro` makes it")
    return tables.Tables(runs, matrix, localisation)


def measures(found: tables.Tables) -> pd.DataFrame:
    """Every measure of `avcil.learn.metrics`, a row a variant and seed.

    The matrices in metrics/ do not say how many clips a task has; what depends on that is taken from ``found.runs``.
    """
    counted = found._replace(matrix=found.matrix.assign(clips=1))
    whole = tables.per_seed(counted).set_index(["variant", "seed"]).drop(columns="benchmark")
    after = found.runs.sort_values("task").groupby(["variant", "seed"]).accuracy
    return whole.assign(average_accuracy=after.mean(), last_accuracy=after.last())


def _of_one(found: tables.Tables) -> pd.DataFrame:
    return measures(found).droplevel("variant")
