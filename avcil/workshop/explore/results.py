"""The results browser: curves, matrices and measures of any rows, seeds and tasks, from metrics/ alone.

Its source is the pipeline, or a setting of the field, whose tables hold measures, but no accuracy by task.
"""

import json
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd

from avcil.comparison.tables import MAIN, Tables, mean_and_spread, percent
from avcil.learn.checkpoint import run_folder
from avcil.params import Params
from avcil.results import plots, plots_explore, plots_field
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
LEFT_OUT = (
    "metrics/ holds no accuracy by task of the field; `make field` gives it, and notebook 10 draws curves from it"
)


def measures(runs: pd.DataFrame, matrix: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds of each variant's measures at the last task of the tables given."""
    unseen = pd.DataFrame(columns=["variant", "seed", "task", "on_task", "hit"])
    return mean_and_spread(every_seed(Tables(runs, matrix, unseen)).groupby("variant", sort=False), MAIN)


def field_measures(folder: Path) -> dict[str, pd.DataFrame]:
    """By benchmark, the measures of the field's runs that notebook 10 left in ``folder``: a line a run."""
    return {
        path.stem.removeprefix("field_").removesuffix("_seeds"): pd.read_csv(path).rename(columns={"row": "variant"})
        for path in sorted(folder.glob("field_*_seeds.csv"))
    }


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
        self.field = field_measures(places.metrics)
        last, benchmarks = int(self.runs.task.max()), sorted(self.runs.benchmark.unique())
        sources: list[tuple] = [(f"pipeline, {name}", (name, None)) for name in benchmarks]
        sources += [
            (f"field, {name}: {setting}", (name, setting))
            for name, measured in self.field.items()
            for setting in measured.setting.unique()
        ]
        self.source = choice(sources, sources[0][1], "source")
        self.variants, self.seeds = Checks("rows", height=430), Checks("seeds")
        self.task = widgets.IntSlider(last, 0, last, description="up to task", style=SHORT, layout=WIDE)
        self.detail = choice([], None, "classes of row")
        self.table, self.note, self.more = widgets.HTML(), widgets.HTML(layout=WIDE), widgets.HTML(layout=WIDE)
        self.curves, self.balance = (picture(beside_another=True) for _ in range(2))
        self.matrices, self.classes = picture(), picture()
        self.source.observe(self._list, "value")
        for widget in (self.variants, self.seeds, self.task):
            widget.observe(self._update, "value")
        self.detail.observe(self._update_classes, "value")
        controls = [self.source, self.variants, self.seeds, self.task, self.note]
        rows, seeds = self.runs.variant.nunique(), self.runs.seed.nunique()
        super().__init__(
            f"Results: {rows} rows, {seeds} seeds, {last + 1} tasks of {', '.join(benchmarks)}",
            self.curves,
            [
                beside(controls, [side_by_side(self.curves, self.balance), self.table, self.matrices]),
                beside([self.detail, self.more], [self.classes]),
            ],
        )
        self._list()

    @property
    def of_field(self) -> bool:
        return self.source.value[1] is not None

    def _found(self) -> pd.DataFrame:
        """The lines of the chosen source: a task's of the pipeline's runs, a run's of the field's."""
        benchmark, setting = self.source.value
        if setting is None:
            return self.runs[self.runs.benchmark == benchmark]
        return self.field[benchmark][self.field[benchmark].setting == setting]

    def _list(self, _=None) -> None:
        """The rows and seeds of the chosen source; rows that were chosen stay so where it has them."""
        found = self._found()
        names = [name for name in self.params.rows if name in set(found.variant)]
        wanted = self.variants.value or ("lll", "replay", "naive_fusion", "finetune")
        seeds = sorted(found.seed.unique().tolist())
        self._quiet = True  # options and values change one after the other: draw once, at the end
        self.variants.options = [(plots.short_name_of(name), name) for name in names]
        self.variants.value = tuple(name for name in names if name in wanted) or tuple(names[:1])
        self.seeds.options = [(str(seed), seed) for seed in seeds]
        self.seeds.value = tuple(seeds)
        self.task.disabled = self.detail.disabled = self.of_field
        self._quiet = False
        self._update()

    def _update(self, _=None) -> None:
        if self._quiet:
            return
        variants, seeds, task = list(self.variants.value), list(self.seeds.value), self.task.value
        if not variants or not seeds:
            self.note.value = line("choose at least one row and one seed", wrong=True)
            return
        chosen, matrix = (t[t.variant.isin(variants) & t.seed.isin(seeds)] for t in (self._found(), self.matrix))
        name = ", ".join(filter(None, self.source.value))
        title = f"{name}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        if self.of_field:
            self.numbers = mean_and_spread(chosen.groupby("variant"), MAIN).loc[variants]
            ranking = plots_field.field_ranking(chosen.rename(columns={"variant": "row"}), title=title)
            show(self.curves, png(ranking))
            show(self.matrices, b"")
            self.note.value = line(LEFT_OUT)
        else:
            runs, matrix = chosen[chosen.task <= task], matrix[(matrix.benchmark == name) & (matrix.task <= task)]
            self.numbers = measures(runs, matrix).loc[variants]
            show(self.curves, png(plots.accuracy_curves(runs, variants, title=title)))
            show(self.matrices, png(plots.accuracy_matrices(matrix, variants[:MATRICES])))
            shown = f"matrices: the first {MATRICES} of {len(variants)} rows" if len(variants) > MATRICES else ""
            self.note.value = line(shown)
        show(self.balance, png(plots.forgetting_plasticity(self.numbers.reset_index(), variants)))
        self.table.value = self._html()
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
        return [run_folder(self.places.runs, variant, task, seed) / "result.json" for task in tasks]

    def _update_classes(self, _=None) -> None:
        if self._quiet:
            return
        variant, seed = self.detail.value, self.seeds.value[0]
        files = self._files(variant, seed)
        if self.of_field or not all(file.exists() for file in files):
            show(self.classes, b"")
            adds = line(f"`dvc repro` adds: accuracy by class and confusion between tasks ({variant})")
            self.more.value = "" if self.of_field else adds
            return
        self.more.value = ""
        table = read_manifest(self.places.corpus / "manifest.csv")
        order = class_order(table, seed)
        labels = pd.Series(class_index(table, order), index=table.clip_id)
        predictions = [json.loads(file.read_text())["predictions"] for file in files]
        sizes = [task.classes for task in self.params.tasks[: len(files)]]
        self.by_class = class_accuracy(predictions, labels)
        self.confusion = task_confusion(predictions[-1], labels, sizes)
        title = f"{plots.short_name_of(variant)}, seed {seed}"
        show(self.classes, png(plots_explore.class_changes(self.by_class, self.confusion, order, title=title)))
