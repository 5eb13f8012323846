"""The results browser: curves, matrices and measures of any rows, seeds and tasks, from metrics/ alone."""

from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd

from avcil.comparison.protocol import run_folder
from avcil.comparison.tables import MAIN, RUN, Tables, mean_and_spread, percent
from avcil.learn.train import load_result
from avcil.params import Params
from avcil.results import plots, plots_explore
from avcil.results.names import short_name_of
from avcil.results.runs import measures as every_seed
from avcil.tokens.manifest import class_index, class_order, read_manifest
from avcil.workshop.explore.panel import (
    SHORT,
    WIDE,
    Checks,
    Panel,
    Places,
    beside,
    choice,
    line,
    picture,
    png,
    show,
    side_by_side,
    small_table,
)

MATRICES = 4  # of the chosen rows, so many fit beside one another


def measures(runs: pd.DataFrame, matrix: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds of each method's measures at the last task of the tables given."""
    unseen = pd.DataFrame(columns=[*RUN, "task", "on_task", "hit"])
    return mean_and_spread(every_seed(Tables(runs, matrix, unseen)).groupby("method", sort=False), MAIN)


def class_accuracy(predictions: list[dict[str, int]], labels: pd.Series) -> pd.DataFrame:
    """Accuracy by class (rows, in the order learnt) after each task (columns).

    predictions: after each task, clip to class; labels: class of every clip.
    """
    right = [pd.Series(said) == labels.reindex(list(said)) for said in predictions]
    return pd.DataFrame({task: hit.groupby(labels.reindex(hit.index)).mean() for task, hit in enumerate(right)})


def task_confusion(said: dict[str, int], labels: pd.Series, sizes: list[int]) -> np.ndarray:
    """Share [t,t] of each task's clips (rows) that are taken for classes of each task (columns)."""
    task = np.repeat(np.arange(len(sizes)), sizes)
    counts = np.zeros((len(sizes), len(sizes)))
    np.add.at(counts, (task[labels.reindex(list(said)).to_numpy()], task[list(said.values())]), 1)
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(1, keepdims=True)


class Results(Panel):
    """``numbers``: the measures that are shown, a row a method."""

    def __init__(self, places: Places, params: Params):
        tables = {name: places.metrics / f"{name}.csv" for name in ("runs", "accuracy_matrix")}
        if missing := [str(path) for path in tables.values() if not path.exists()]:
            raise ValueError(
                f"{missing[0]}: not there; `git checkout metrics` brings it back, `dvc repro` makes it anew"
            )
        self.places, self.params = places, params
        self.runs, self.matrix = (pd.read_csv(path) for path in tables.values())
        last, settings = int(self.runs.task.max()), list(self.runs.setting.unique())
        self.source = choice([(name.replace("_", " "), name) for name in settings], settings[0], "setting")
        self.methods, self.seeds = Checks("rows", height=430), Checks("seeds")
        self.task = widgets.IntSlider(last, 0, last, description="up to task", style=SHORT, layout=WIDE)
        self.detail = choice([], None, "classes of row")
        self.table, self.note, self.more = widgets.HTML(), widgets.HTML(layout=WIDE), widgets.HTML(layout=WIDE)
        self.curves, self.balance = (picture(beside_another=True) for _ in range(2))
        self.matrices, self.classes = picture(), picture()
        self.source.observe(self._list, "value")
        for widget in (self.methods, self.seeds, self.task):
            widget.observe(self._update, "value")
        self.detail.observe(self._update_classes, "value")
        controls = [self.source, self.methods, self.seeds, self.task, self.note]
        first = self.runs[self.runs.setting == settings[0]]
        count, seeds, tasks = first.method.nunique(), first.seed.nunique(), first.task.nunique()
        super().__init__(
            f"Results: {count} rows, {seeds} seeds, {tasks} tasks of {params.benchmark}",
            self.curves,
            [
                beside(controls, [side_by_side(self.curves, self.balance), self.table, self.matrices]),
                beside([self.detail, self.more], [self.classes]),
            ],
        )
        self._list()

    def _list(self, _=None) -> None:
        """The rows and seeds of the chosen setting; rows that were chosen stay so where it has them."""
        found = self.runs[self.runs.setting == self.source.value]
        names = [name for name in self.params.methods if name in set(found.method)]
        wanted = self.methods.value or ("lll_prior", "replay", "naive_fusion", "finetune")
        seeds = sorted(found.seed.unique().tolist())
        self._quiet = True  # options and values change one after the other: draw once, at the end
        self.methods.options = [(short_name_of(name), name) for name in names]
        self.methods.value = tuple(name for name in names if name in wanted) or tuple(names[:1])
        self.seeds.options = [(str(seed), seed) for seed in seeds]
        self.seeds.value = tuple(seeds)
        self.task.max = int(found.task.max())
        self.task.value = self.task.max
        self._quiet = False
        self._update()

    def _update(self, _=None) -> None:
        if self._quiet:
            return
        methods, seeds, task = list(self.methods.value), list(self.seeds.value), self.task.value
        if not methods or not seeds:
            self.note.value = line("choose at least one row and one seed", wrong=True)
            return
        runs, matrix = (
            t[(t.setting == self.source.value) & t.method.isin(methods) & t.seed.isin(seeds) & (t.task <= task)]
            for t in (self.runs, self.matrix)
        )
        title = f"{self.source.value}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        self.numbers = measures(runs, matrix).loc[methods]
        show(self.curves, png(plots.accuracy_curves(runs, methods, title=title)))
        show(self.matrices, png(plots.accuracy_matrices(matrix, methods[:MATRICES])))
        shown = f"matrices: the first {MATRICES} of {len(methods)} rows" if len(methods) > MATRICES else ""
        self.note.value = line(shown)
        show(self.balance, png(plots.forgetting_plasticity(self.numbers.reset_index(), methods)))
        self.table.value = self._html()
        self._quiet, kept = True, self.detail.value  # options and value change one after the other: draw once
        self.detail.options = [(short_name_of(name), name) for name in methods]
        self.detail.value = kept if kept in methods else methods[0]
        self._quiet = False
        self._update_classes()

    def _html(self) -> str:
        shown = pd.DataFrame(
            {
                name.replace("_", " "): [
                    percent(value, spread)
                    for value, spread in zip(self.numbers[name], self.numbers[f"{name}_std"], strict=True)
                ]
                for name in MAIN
            },
            index=[short_name_of(method) for method in self.numbers.index],
        )
        return small_table(shown)

    def _files(self, method: str, seed: int) -> list[Path]:
        tasks = range(self.task.value + 1)
        return [
            run_folder(self.places.artifacts, method, task, seed, self.source.value) / "result.json" for task in tasks
        ]

    def _update_classes(self, _=None) -> None:
        if self._quiet:
            return
        method, seed = self.detail.value, self.seeds.value[0]
        files = self._files(method, seed)
        if not all(file.exists() for file in files):
            show(self.classes, b"")
            self.more.value = line(f"`dvc repro` adds: accuracy by class and confusion between tasks ({method})")
            return
        self.more.value = ""
        table = read_manifest(self.places.corpus / "manifest.csv")
        order = class_order(table, seed)
        labels = pd.Series(class_index(table, order), index=table.clip_id)
        predictions = [load_result(file.parent).predictions for file in files]
        sizes = [task.classes for task in self.params.tasks[: len(files)]]
        self.by_class = class_accuracy(predictions, labels)
        self.confusion = task_confusion(predictions[-1], labels, sizes)
        title = f"{short_name_of(method)}, seed {seed}"
        show(self.classes, png(plots_explore.class_changes(self.by_class, self.confusion, order, title=title)))
