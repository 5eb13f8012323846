"""A row that is tried out: its widgets, its checks, the text that makes it a row of params.yaml, and its learning."""

import shlex
import threading
from types import NoneType
from typing import Literal, get_args, get_origin

import ipywidgets as widgets
import pandas as pd
import traitlets
import yaml
from pydantic.fields import FieldInfo
from torch.optim.optimizer import register_optimizer_step_post_hook

from avcil.comparison.tables import frames
from avcil.learn.checkpoint import EMPTY, Checkpoint
from avcil.learn.evaluate import TaskResult
from avcil.learn.train import run_task
from avcil.params import ParameterError, Params, parse
from avcil.params.learning import Method, Task, Training
from avcil.tokens.dataset import Dataset
from avcil.workshop.explore.panel import ALIGNED


def in_a_line(value) -> str:
    """A value as YAML."""
    # never folded, and without the `...` that PyYAML writes below a plain value
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).splitlines()[0]


class Yaml(widgets.Text):
    """A value as a line of YAML, ``empty`` (None or {}) where the line is; what is no YAML stays text, for the check to
    refuse."""

    @staticmethod
    def _read(text: str, widget: "Yaml"):
        try:
            return yaml.safe_load(text) if text.strip() else widget.empty
        except yaml.YAMLError:
            return text

    @staticmethod
    def _written(value, widget: "Yaml") -> str:
        # what could not be read is shown as it was typed
        if isinstance(value, str):
            return value
        return "" if value == widget.empty else in_a_line(value)

    value = traitlets.Any(None).tag(sync=True, from_json=_read, to_json=_written)

    def __init__(self, empty, **options):
        self.empty = empty
        super().__init__(placeholder="none", **options)


def control(name: str, field: FieldInfo, value) -> widgets.Widget:
    """The widget for a parameter, by its type."""
    kind = field.annotation
    options = {"value": value, "description": name, "tooltip": field.description or name} | ALIGNED
    # a number that may be left out needs a line that may be empty
    if NoneType in get_args(kind):
        return Yaml(None, **options)
    if get_origin(kind) is dict:
        return Yaml({}, **options)
    if get_origin(kind) is Literal:
        return widgets.Dropdown(options=get_args(kind), **options)
    if kind is bool:
        return widgets.Checkbox(indent=True, **options)
    plain: dict[object, type] = {int: widgets.IntText, float: widgets.FloatText, str: widgets.Text}
    return plain[kind](**options)


def parse_row(raw: dict, name: str, row: dict, training: dict, tasks: list[dict]) -> tuple[Params, Method]:
    """params.yaml as it would be with this row, and the row. Raises ParameterError with one line."""
    # YAML reads `null` or `on` as something else than a name
    if not (name.isidentifier() and name.isascii() and yaml.safe_load(name) == name):
        raise ParameterError(f"name: `{name}` is not a plain name; use letters, digits and underscores")
    if name in raw["methods"]:
        raise ParameterError(f"name: `{name}` is a row of params.yaml already; give this one a name of its own")
    methods = raw["methods"] | {name: row | {"about": {"name": name, "family": "own"}}}
    # the whole file is checked, as it will be once the row stands in it
    params = parse(raw | {"methods": methods, "training": raw["training"] | training, "tasks": tasks})
    return params, params.methods[name]


def row_text(name: str, method: Method, reference: Method) -> str:
    """The line of params.yaml: what differs from `lll_prior`."""
    about = f"about: {{name: {name}, family: own}}"
    # without braces of its own, for it goes into those of the row
    differs = [
        in_a_line({key: value})[1:-1] for key, value in method.model_dump().items() if value != getattr(reference, key)
    ]
    return f"  {name}: {{{', '.join(['<<: *lll_prior', about, *differs])}}}"


def command(name: str, before: Params, now: Params) -> str:
    """What trains the row, once it stands in params.yaml, with all seeds, as an experiment of that name.

    The row alone: the tables keep all others. All rows share `training` and `tasks`: where these differ, no tables are
    made, which would have it beside rows of other numbers.
    """
    old, new, written = before.training.model_dump(), now.training.model_dump(), before.training.model_fields_set
    changed = [  # ++ adds what params.yaml leaves to its default
        f"{'' if key in written else '++'}training.{key}={in_a_line(value)}"
        for key, value in new.items()
        if value != old[key]
    ]
    # in one line: Hydra's grammar knows no line breaks
    if now.tasks != before.tasks:
        changed.append(f"tasks={in_a_line([task.model_dump(by_alias=True) for task in now.tasks])}")
    words = [word for change in (*changed, f"rows=[{name}]") for word in ("-S", change)]
    return shlex.join(["dvc", "exp", "run", "-n", name, *words, "sweep" if changed else "ablations"])


class _Stopped(Exception):
    """Raised between two steps of a run that was asked to stop."""


class LiveRun:
    """A run on a device, task after task: how far it is, and what it gave so far. ``run`` may be called on another
    thread.

    ``results`` and ``losses`` (a dict an epoch) only ever grow, by one whole entry at a time: other threads may read
    them while it runs. Once ``stopped`` is set, it ends after the step that it is at; what whole tasks and epochs gave
    stays.
    """

    def __init__(
        self, data: Dataset, method: Method, training: Training, tasks: list[Task], seed: int, *,
        name: str = "this run", device: str = "cpu",
    ):  # fmt: skip
        self.data, self.method, self.training, self.tasks, self.seed = data, method, training, tasks, seed
        self.name, self.device = name, device
        self.results: list[TaskResult] = []
        self.checkpoints: list[Checkpoint] = []
        self.losses: list[dict] = []
        self.stopped = threading.Event()

    @property
    def at(self) -> tuple[Task, int]:
        """The task that is learnt, the last one at the end, and how many epochs of it are done."""
        task = self.tasks[min(len(self.results), len(self.tasks) - 1)]
        # losses only ever grow, so that the latest alone tell of the present task
        return task, sum(epoch["task"] == task.id for epoch in self.losses[-task.epochs :])

    @property
    def share(self) -> float:
        """Of all tasks, with what is done of the present one; a solved row has no epochs."""
        task, epochs = self.at
        # at the end the last task counts twice, as one that is done and by its epochs
        return min(1.0, (len(self.results) + epochs / task.epochs) / len(self.tasks))

    def run(self) -> None:
        """Learn all tasks or until stopped. Raises ValueError for what `run_task` refuses."""
        thread = threading.get_ident()

        def stop_here(*_) -> None:
            # torch calls it for every optimiser of the process, and other threads may learn too
            if self.stopped.is_set() and threading.get_ident() == thread:
                raise _Stopped

        checkpoint = EMPTY
        handle = register_optimizer_step_post_hook(stop_here)
        try:
            for task in self.tasks:
                # solved rows take no step, so it is asked between tasks as well
                stop_here()
                checkpoint, result, _ = run_task(
                    self.data, self.method, self.training, self.tasks, task.id, self.seed, checkpoint,
                    device=self.device,
                    watch=lambda task, epoch, losses: self.losses.append({"task": task, "epoch": epoch} | losses),
                )  # fmt: skip
                # before the result: whoever counts results finds a checkpoint for each
                self.checkpoints.append(checkpoint)
                self.results.append(result)
        except _Stopped:
            pass
        finally:
            handle.remove()

    def accuracy(self) -> pd.DataFrame:
        """After each task: accuracy on all classes seen, on past and on new ones, as metrics/runs.csv has them."""
        runs = frames({("", self.name, self.seed): self.results}).runs
        return runs.reindex(columns=["task", "accuracy", "past_accuracy", "new_accuracy"]).round(4)


class LiveRuns(traitlets.HasTraits):
    """What was trained in this session, by name: the panels that are given it show it among the stored rows."""

    runs = traitlets.Dict()

    def keep(self, run: LiveRun) -> None:
        """A run of the same name is replaced."""
        # another dictionary, else observers would not be told
        self.runs = self.runs | {run.name: run}
