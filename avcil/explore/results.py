"""The results browser: curves, matrices and measures of any rows, seeds and tasks, from metrics/ alone."""

import json
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd

from avcil import plots, plots_explore
from avcil.explore.panel import LABEL, WIDE, Panel, Places, choice, line, picture, png, side_by_side, small_table
from avcil.manifest import class_index, class_order, read_manifest
from avcil.params import Params
from avcil.runs import measures as every_seed
from avcil.tables import MAIN, Tables, mean_and_spread, percent

MATRICES = 4  # of the chosen rows, so many fit beside one another


def measures(runs: pd.DataFrame, matrix: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds of each variant's measures at the last task of the tables given."""
    unseen = pd.DataFrame(columns=["variant", "seed", "task", "on_task", "hit"])
    return mean_and_spread(every_seed(Tables(runs, matrix, unseen)).groupby("variant", sort=False), MAIN)


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
    """``numbers``: the measures that are shown, a row a variant."""

    def __init__(self, places: Places, params: Params):
        tables = {name: places.metrics / f"{name}.csv" for name in ("runs", "accuracy_matrix")}
        if missing := [str(path) for path in tables.values() if not path.exists()]:
            raise ValueError(
                f"{missing[0]}: not there; `git checkout metrics` brings it back, `dvc repro` makes it anew"
            )
        self.places, self.params = places, params
        self.runs, self.matrix = (pd.read_csv(path) for path in tables.values())
        names = [name for name in params.rows if name in set(self.runs.variant)]
        first = [name for name in ("lll", "replay", "naive_fusion", "finetune") if name in names] or names[:1]
        seeds, last = sorted(self.runs.seed.unique().tolist()), int(self.runs.task.max())
        benchmarks = sorted(self.runs.benchmark.unique())
        self.benchmark = choice(benchmarks, benchmarks[0], "benchmark")
        options = [(f"{plots.short_name_of(name)}  [{name}]", name) for name in names]
        self.variants = widgets.SelectMultiple(
            options=options, value=first, rows=12, description="rows", style=LABEL, layout=WIDE
        )
        self.seeds = widgets.SelectMultiple(
            options=seeds, value=seeds, rows=min(4, len(seeds)), description="seeds", style=LABEL, layout=WIDE
        )
        self.task = widgets.IntSlider(last, 0, last, description="up to task", style=LABEL, layout=WIDE)
        self.detail = choice([], None, "classes of row")
        self.table, self.note, self.more = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.curves, self.balance, self.matrices, self.classes = (picture() for _ in range(4))
        for widget in (self.benchmark, self.variants, self.seeds, self.task):
            widget.observe(self._update, "value")
        self.detail.observe(self._update_classes, "value")
        controls = [self.benchmark, self.variants, self.seeds, self.task, self.detail, self.note, self.more]
        super().__init__(
            f"Results: {len(names)} rows, {len(seeds)} seeds, {last + 1} tasks of {', '.join(benchmarks)}",
            self.curves,
            [
                side_by_side(widgets.VBox(controls), widgets.VBox([self.curves, self.table])),
                side_by_side(self.matrices, self.balance),
                self.classes,
            ],
        )
        self._update()

    def _update(self, _=None) -> None:
        variants, seeds, task = list(self.variants.value), list(self.seeds.value), self.task.value
        if not variants or not seeds:
            self.note.value = line("choose at least one row and one seed (several: with Ctrl or Shift)", wrong=True)
            return
        runs, matrix = (
            t[(t.benchmark == self.benchmark.value) & t.variant.isin(variants) & t.seed.isin(seeds) & (t.task <= task)]
            for t in (self.runs, self.matrix)
        )
        self.numbers = measures(runs, matrix).loc[variants]
        title = f"{self.benchmark.value}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        self.curves.value = png(plots.accuracy_curves(runs, variants, title=title))
        self.balance.value = png(plots.forgetting_plasticity(self.numbers.reset_index(), variants))
        self.matrices.value = png(plots.accuracy_matrices(matrix, variants[:MATRICES]))
        self.table.value = self._html()
        shown = f"matrices: the first {MATRICES} of {len(variants)} rows" if len(variants) > MATRICES else ""
        self.note.value = line(shown)
        self._quiet, kept = True, self.detail.value  # options and value change one after the other: draw once
        self.detail.options = [(plots.short_name_of(name), name) for name in variants]
        self.detail.value = kept if kept in variants else variants[0]
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
            index=[plots.short_name_of(variant) for variant in self.numbers.index],
        )
        return small_table(shown)

    def _files(self, variant: str, seed: int) -> list[Path]:
        tasks = range(self.task.value + 1)
        return [self.places.runs / variant / f"task{task}" / f"seed{seed}" / "result.json" for task in tasks]

    def _update_classes(self, _=None) -> None:
        if self._quiet:
            return
        variant, seed = self.detail.value, self.seeds.value[0]
        files = self._files(variant, seed)
        if not all(file.exists() for file in files):
            self.classes.value, self.classes.layout.display = b"", "none"
            self.more.value = line(f"`dvc repro` adds: accuracy by class and confusion between tasks ({variant})")
            return
        self.classes.layout.display, self.more.value = None, ""
        table = read_manifest(self.places.corpus / "manifest.csv")
        order = class_order(table, seed)
        labels = pd.Series(class_index(table, order), index=table.clip_id)
        predictions = [json.loads(file.read_text())["predictions"] for file in files]
        sizes = [task.classes for task in self.params.tasks[: len(files)]]
        self.by_class = class_accuracy(predictions, labels)
        self.confusion = task_confusion(predictions[-1], labels, sizes)
        title = f"{plots.short_name_of(variant)}, seed {seed}"
        self.classes.value = png(plots_explore.class_changes(self.by_class, self.confusion, order, title=title))
