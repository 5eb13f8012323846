"""The results browser: curves, matrices and measures of any rows, seeds and tasks, from metrics/ alone."""

from collections.abc import Sequence
from functools import cached_property

import ipywidgets as widgets
import numpy as np
import pandas as pd

from avcil.comparison.protocol import run_folder
from avcil.comparison.tables import MAIN, RUN, Tables, frames, mean_and_spread, percent
from avcil.extraction.clips import ClipError
from avcil.learn.train import load_result
from avcil.params import Params
from avcil.results import plots, plots_explore
from avcil.results.names import short_name_of
from avcil.results.runs import measures
from avcil.tokens.manifest import class_index, class_order, read_manifest
from avcil.workshop.explore.faces import Faces, Regions
from avcil.workshop.explore.panel import WIDE, Checks, Panel, Places, area, beside, line, plot, png, side_by_side
from avcil.workshop.explore.rows import LiveRuns

MATRICES = 4  # of the chosen rows, so many fit beside one another
STYLE = "<style>table.avcil td, table.avcil th {padding: 1px 10px; line-height: 1.6; text-align: right}</style>"


def measures_over_seeds(runs: pd.DataFrame, matrix: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds of each method's measures at the last task of the tables given."""
    # of attention nothing is asked here
    unseen = pd.DataFrame(columns=[*RUN, "task", "on_task", "hit"])
    return mean_and_spread(measures(Tables(runs, matrix, unseen)).groupby("method", sort=False), MAIN)


def class_accuracy(predictions: list[dict[str, int]], labels: pd.Series) -> pd.DataFrame:
    """Accuracy by class (rows, in the order learnt) after each task (columns).

    predictions: after each task, clip to class; labels: class of every clip.
    """
    right = [pd.Series(predicted) == labels.reindex(list(predicted)) for predicted in predictions]
    return pd.DataFrame({task: hit.groupby(labels.reindex(hit.index)).mean() for task, hit in enumerate(right)})


def task_confusion(predicted: dict[str, int], labels: pd.Series, sizes: list[int]) -> np.ndarray:
    """Share [t,t] of each task's clips (rows) that are taken for classes of each task (columns)."""
    # of each class, by its position, the task in which it is learnt
    task = np.repeat(np.arange(len(sizes)), sizes)
    pairs = task[labels.reindex(list(predicted))], task[list(predicted.values())]
    # also tasks for which nobody is taken
    return pd.crosstab(*pairs, normalize="index").reindex(columns=range(len(sizes)), fill_value=0.0).to_numpy()


class Results(Panel):
    """``numbers``: the measures that are shown, a row a method; where runs are stored, ``by_class`` and ``confusion``
    of one row and seed."""

    def __init__(self, places: Places, params: Params, live: LiveRuns | None = None):
        tables = [places.metrics / name for name in ("runs.csv", "accuracy_matrix.csv")]
        if missing := [path for path in tables if not path.exists()]:
            way_out = "`git checkout metrics` brings it back, `dvc repro` makes it anew"
            raise ValueError(f"{missing[0]}: not there; {way_out}")
        self.places, self.params, self.live = places, params, live or LiveRuns()
        # what metrics/ holds is kept apart, since live rows are put beside it again and again
        self.runs, self.matrix = self.stored = tuple(map(pd.read_csv, tables))
        last, settings = int(self.runs.task.max()), list(self.runs.setting.unique())
        options = [(name.replace("_", " "), name) for name in settings]
        self.source = widgets.Dropdown(options=options, value=settings[0], description="setting", **WIDE)
        self.methods, self.seeds = Checks("rows", height=430), Checks("seeds")
        self.task = widgets.IntSlider(last, 0, last, description="up to task", **WIDE)
        self.detail = widgets.Dropdown(description="classes of row", **WIDE)
        self.table, self.note, self.more = widgets.HTML(), *(widgets.HTML(layout=WIDE["layout"]) for _ in range(2))
        self.curves, self.balance, self.matrices, self.ranking, self.classes = (area() for _ in range(5))
        self.react(self._list, self.source)
        self.react(self._update, self.methods, self.seeds, self.task)
        self.react(self._update_classes, self.detail)
        self.live.observe(lambda _: self._take_live(), "runs")
        first = self.runs[self.runs.setting == settings[0]]
        count, seeds, tasks = first.method.nunique(), first.seed.nunique(), first.task.nunique()
        lines, tables = side_by_side(self.curves, self.balance), side_by_side(self.matrices, self.ranking)
        controls = [self.source, self.methods, self.seeds, self.task, self.note]
        super().__init__(
            f"Results: {count} rows, {seeds} seeds, {tasks} tasks of {params.benchmark}",
            [
                beside(controls, [lines, self.table, tables]),
                beside([self.detail, self.more], [self.classes]),
            ],
        )
        self._list()
        if self.live.runs:
            self._take_live()

    @cached_property
    def faces(self) -> Faces:
        # made when a class is first shown: its clips are decoded for it
        corpus = self.places.corpus
        return Faces(corpus, read_manifest(corpus / "manifest.csv"), self.params.film, Regions(corpus / "regions.npz"))

    def _picture(self) -> bytes:
        runs, methods, title = self._shown
        return png(plots.accuracy_curves(runs, methods, title=title))

    def _take_live(self) -> None:
        """Rows trained in this session join those of the first setting; the last one is ticked."""
        # live runs learn the tasks and exemplars of params.yaml, which the first setting leaves as they are
        setting = self.source.options[0][1]
        mine = frames({(setting, name, run.seed): run.results for name, run in self.live.runs.items()})
        self.runs, self.matrix = (
            pd.concat([stored, live], ignore_index=True)
            for stored, live in zip(self.stored, (mine.runs, mine.matrix), strict=True)
        )
        self._list(ticked=list(self.live.runs)[-1:])

    def _list(self, ticked: Sequence[str] = ()) -> None:
        """The rows and seeds of the chosen setting; rows that were chosen stay so where it has them."""
        runs = self.runs[self.runs.setting == self.source.value]
        names = [name for name in (*self.params.methods, *self.live.runs) if name in set(runs.method)]
        # what was chosen, or at first the method and what it is seen against
        wanted = {*(self.methods.value or ("lll_prior", "replay", "naive_fusion", "finetune")), *ticked}
        seeds = sorted(runs.seed.unique().tolist())
        with self.quiet():
            self.methods.options = [(self._name(name), name) for name in names]
            # a setting may have none of them, and something has to be shown
            self.methods.value = tuple(name for name in names if name in wanted) or tuple(names[:1])
            self.seeds.options = [(str(seed), seed) for seed in seeds]
            self.seeds.value = tuple(seeds)
            # from left to right: the slider would cut a value that is beyond its limit
            self.task.max = self.task.value = int(runs.task.max())
        self._update()

    def _name(self, row: str) -> str:
        return f"{row} (live)" if row in self.live.runs else short_name_of(row)

    def _update(self) -> None:
        methods, seeds, setting = list(self.methods.value), list(self.seeds.value), self.source.value
        runs, matrix = (
            t[(t.setting == setting) & t.method.isin(methods) & t.seed.isin(seeds) & (t.task <= self.task.value)]
            for t in (self.runs, self.matrix)
        )
        # of a row trained here there is one seed, which need not be among the chosen
        methods = [name for name in methods if name in set(runs.method)]
        # what was shown stays
        if not methods:
            way_out = "choose at least one row and one of its seeds"
            self.note.value = line(f"none of these rows was learnt with these seeds; {way_out}", wrong=True)
            return
        title = f"{setting}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        self.numbers = measures_over_seeds(runs, matrix).loc[methods]
        names, few = {name: self._name(name) for name in methods}, methods[:MATRICES]
        plot(self.curves, plots_explore.curves(runs, names, title=title))
        plot(self.balance, plots_explore.forgetting_plasticity(self.numbers, names))
        plot(self.matrices, plots_explore.matrices(matrix[matrix.method.isin(few)], {n: names[n] for n in few}))
        plot(self.ranking, plots_explore.ranking(self.numbers, names))
        self._shown = runs, methods, title
        cut = f"matrices: the first {MATRICES} of {len(methods)} rows" if len(methods) > MATRICES else ""
        self.note.value = line(cut)
        cells = {name: [*map(percent, self.numbers[name], self.numbers[f"{name}_std"])] for name in MAIN}
        shown = pd.DataFrame(cells, index=list(map(self._name, methods)))
        shown.columns = shown.columns.str.replace("_", " ")
        self.table.value = STYLE + shown.to_html(border=0, classes="avcil", na_rep="")
        with self.quiet():
            # the row whose classes are shown stays as long as it is among the chosen
            chosen = self.detail.value
            self.detail.options = [(self._name(name), name) for name in methods]
            self.detail.value = chosen if chosen in methods else methods[0]
        self._update_classes()

    def _update_classes(self) -> None:
        # predictions are of single runs: the first of the seeds shown, since none may be ticked any more
        method, seed, setting = self.detail.value, int(self._shown[0].seed.min()), self.source.value
        run, until = self.live.runs.get(method), self.task.value + 1
        if run is not None:
            seed, results, learnt = run.seed, run.results[:until], run.tasks
        else:
            folders = [run_folder(self.places.artifacts, method, task, seed, setting) for task in range(until)]
            if not all((folder / "result.json").exists() for folder in folders):
                plot(self.classes, None)
                protocol = self.params.protocol()
                first = next(iter(protocol.settings))
                command = "dvc repro" if method in protocol.headline else "make field"
                more = f"`{command}` adds: accuracy by class and confusion between tasks ({method})"
                self.more.value = line(more if setting == first else f"predictions are kept of runs in `{first}` alone")
                return
            try:
                results, learnt = list(map(load_result, folders)), self.params.tasks
            except ValueError as error:  # a pipeline that runs takes it away and makes it anew
                plot(self.classes, None)
                self.more.value = line(str(error), wrong=True)
                return
        self.more.value = ""
        table = self.faces.table
        order = class_order(table, seed)
        labels = pd.Series(class_index(table, order), index=table.clip_id)
        predictions = [result.predictions for result in results]
        self.by_class = class_accuracy(predictions, labels)
        sizes = [task.classes for task in learnt[: len(results)]]
        self.confusion = task_confusion(predictions[-1], labels, sizes)
        title = f"{self._name(method)}, seed {seed}"
        try:
            faces = {label: self.faces[label] for label in order}
        except ClipError:  # tokens were imported, without their clips
            faces = dict.fromkeys(order, "")
        plot(self.classes, plots_explore.class_changes(self.by_class, self.confusion, faces, title=title))
