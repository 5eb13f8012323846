"""A row that is tried out: its widgets, its checks, the text that makes it a row of params.yaml, and its learning."""

import shlex
import threading
from types import NoneType
from typing import Literal, get_args, get_origin

import ipywidgets as widgets
import pandas as pd
import torch
import traitlets
import yaml
from pydantic.fields import FieldInfo
from torch.optim.optimizer import register_optimizer_step_post_hook

from avcil.comparison.tables import frames
from avcil.learn.checkpoint import EMPTY
from avcil.learn.evaluate import TaskResult
from avcil.learn.train import run_task
from avcil.params import ParameterError, Params, parse
from avcil.params.learning import Method, Task, Training
from avcil.tokens.dataset import Dataset
from avcil.workshop.explore.panel import LABEL, WIDE


class Maybe(widgets.Text):
    """A value that may be absent: an empty line is None. What is no ``kind`` stays text, for the check to refuse."""

    @staticmethod
    def _read(text: str, widget: "Maybe"):
        try:
            return widget.kind(text) if text.strip() else None
        except ValueError:
            return text

    @staticmethod
    def _written(value, _) -> str:
        return "" if value is None else str(value)

    value = traitlets.Any(None).tag(sync=True, from_json=_read, to_json=_written)

    def __init__(self, kind: type, **options):
        self.kind = kind
        super().__init__(placeholder="none", **options)


class Mapping(widgets.Text):
    """A mapping as a line of YAML; what is none stays text, for the check to refuse."""

    @staticmethod
    def _read(text: str, _):
        try:
            value = yaml.safe_load(text) if text.strip() else {}
        except yaml.YAMLError:
            return text
        return value if isinstance(value, dict) else text

    @staticmethod
    def _written(value, _) -> str:
        if not isinstance(value, dict):
            return value
        return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).strip() if value else ""

    value = traitlets.Any(None).tag(sync=True, from_json=_read, to_json=_written)

    def __init__(self, **options):
        super().__init__(placeholder="none", **options)


def control(name: str, field: FieldInfo, value) -> widgets.Widget:
    """The widget for a parameter, by its type."""
    kind = field.annotation
    options = {"description": name, "style": LABEL, "layout": WIDE, "tooltip": field.description or name}
    if NoneType in get_args(kind):
        return Maybe(next(one for one in get_args(kind) if one is not NoneType), value=value, **options)
    if get_origin(kind) is dict:
        return Mapping(value=value, **options)
    if get_origin(kind) is Literal:
        return widgets.Dropdown(options=get_args(kind), value=value, **options)
    if kind is bool:
        return widgets.Checkbox(value=value, indent=True, **options)
    texts: dict[object, type] = {int: widgets.IntText, float: widgets.FloatText, str: widgets.Text}
    return texts[kind](value=value, **options)


def check(raw: dict, name: str, row: dict, training: dict, tasks: list[dict]) -> tuple[Params, Method]:
    """params.yaml as it would be with this row, and the row. Raises ParameterError with one line."""
    if not (name.isidentifier() and name.isascii() and yaml.safe_load(name) == name):
        raise ParameterError(f"name: `{name}` is not a plain name; use letters, digits and underscores")
    if name in raw["methods"]:
        raise ParameterError(f"name: `{name}` is a row of params.yaml already; give this one a name of its own")
    methods = raw["methods"] | {name: row | {"about": {"name": name, "family": "own"}}}
    params = parse(raw | {"methods": methods, "training": raw["training"] | training, "tasks": tasks})
    return params, params.methods[name]


def row_text(name: str, method: Method, reference: Method) -> str:
    """The line of params.yaml: what differs from `lll_prior`."""
    differs = {key: value for key, value in method.model_dump().items() if value != getattr(reference, key)}
    dumped = yaml.safe_dump(differs, default_flow_style=True, sort_keys=False, width=10_000).strip()[1:-1]
    about = f"about: {{name: {name}, family: own}}"
    return f"  {name}: {{<<: *lll_prior, {about}{', ' * bool(dumped)}{dumped}}}"


def with_row(text: str, row: str) -> str:
    """The text of params.yaml with the line as its last method."""
    if "\nmethods:\n" not in text:
        raise ParameterError("params.yaml: no line `methods:` to put the row under")
    return f"{text.rstrip()}\n{row}\n"


def command(name: str, before: Params, now: Params) -> str:
    """What trains the row, once it stands in params.yaml, with all seeds, as an experiment of that name.

    The row alone: the tables keep all others. All rows share `training` and `tasks`: where these differ, no tables are
    made, which would have it beside rows of other numbers.
    """
    changed: list[str] = []
    old, new, stands = before.training.model_dump(), now.training.model_dump(), before.training.model_fields_set
    for key, value in new.items():
        if value != old[key]:  # ++ adds what params.yaml leaves to its default
            changed.append(f"{'' if key in stands else '++'}training.{key}={'null' if value is None else value}")
    if now.tasks != before.tasks:
        tasks = [task.model_dump(by_alias=True) for task in now.tasks]
        changed.append("tasks=" + yaml.safe_dump(tasks, default_flow_style=True, sort_keys=False, width=10_000).strip())
    words = ["dvc", "exp", "run", "-n", name]
    words += [word for change in (*changed, f"rows=[{name}]") for word in ("-S", change)]
    return shlex.join([*words, "sweep" if changed else "ablations"])


class _Stopped(Exception):
    """Raised between two steps of a run that was asked to stop."""


class Learning:
    """A run, task after task: how far it is, and what it gave so far. ``run`` may be called on another thread.

    ``results`` and ``losses`` (a dict an epoch) only ever grow, by one whole entry at a time: other threads may read
    them while it runs.
    """

    def __init__(self, data: Dataset, method: Method, training: Training, tasks: list[Task], seed: int):
        self.given = (data, method, training, tasks)
        self.seed = seed
        self.results: list[TaskResult] = []
        self.losses: list[dict] = []
        self._steps, self._expected = 0, 1
        self._threads = torch.get_num_threads()
        self._stop = threading.Event()

    @property
    def share(self) -> float:
        """Of all tasks, with what is done of the present one; a solved row takes no steps."""
        tasks = len(self.given[3])
        return min(1.0, (len(self.results) + min(self._steps / self._expected, 1.0)) / tasks)

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        """End the run after the step that it is at. What whole tasks and epochs gave stays."""
        self._stop.set()

    def run(self) -> None:
        """Learn all tasks or until stopped. Raises ValueError for what `run_task` refuses."""
        torch.set_num_threads(self._threads)
        thread = threading.get_ident()

        def step(*_) -> None:
            if threading.get_ident() == thread:
                self._steps += 1
                if self.stopped:
                    raise _Stopped

        data, method, training, tasks = self.given
        checkpoint = EMPTY
        handle = register_optimizer_step_post_hook(step)
        try:
            for task in tasks:
                if self.stopped:
                    return
                self._expect(task)
                checkpoint, result, _ = run_task(
                    data, method, training, tasks, task.id, self.seed, checkpoint, watch=self._watch
                )
                self.results.append(result)
                self._steps = 0
        except _Stopped:
            return
        finally:
            handle.remove()

    def _watch(self, task: int, epoch: int, told: dict[str, float]) -> None:
        self.losses.append({"task": task, "epoch": epoch} | told)

    def _expect(self, task: Task) -> None:
        """Steps of a task, for the bar alone: its new clips, and with them what the memory holds."""
        data, method, training, tasks = self.given
        past = sum(t.classes for t in tasks[: task.id])
        clips = len(data.rows("train", 0 if method.memory == "all" else past, past + task.classes))
        if method.memory in ("random", "herding") and method.sampler != "paired":
            clips += method.exemplars * (past if method.budget == "per_class" else bool(past))
        self._expected = task.epochs * -(-clips // training.batch)

    def accuracy(self) -> pd.DataFrame:
        """After each task: accuracy on all classes seen, on past and on new ones, as metrics/runs.csv has them."""
        runs = frames({("", "this run", self.seed): self.results}).runs
        return runs.reindex(columns=["task", "accuracy", "past_accuracy", "new_accuracy"]).round(4)
