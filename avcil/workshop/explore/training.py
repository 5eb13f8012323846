"""Live training: choose a row's parts, press Train, watch it beside the stored runs, take the row with you.

Learning goes on in a thread of its own; everything is drawn by the event loop of the notebook, between its cells,
because neither pyplot nor widgets are made for several threads. Without a running loop, pressing Train waits.
"""

import asyncio
import time

import ipywidgets as widgets
import pandas as pd

from avcil.params import ParameterError, Params
from avcil.params.learning import Method, Training
from avcil.results import plots_explore
from avcil.results.names import short_name_of
from avcil.tokens.dataset import Dataset, load_datasets
from avcil.workshop.explore.panel import (
    LABEL,
    WIDE,
    Checks,
    Panel,
    Places,
    beside,
    choice,
    code,
    line,
    picture,
    png,
    show,
    side_by_side,
)
from avcil.workshop.explore.rows import Learning, check, command, control, row_text

SHARED = ("temperature", "learning_rate", "later_learning_rate", "batch")  # those of training that are not folded away
LOOK, DRAW = 0.1, 0.5  # seconds between two looks at a run, and at least between two drawings of it
REST = 19  # times as long as a drawing took nothing is drawn: nineteen twentieths of the time are learning's own


class Trainer(Panel):
    """``numbers``: accuracy after each task of the last run; ``row`` and ``command``: what makes it permanent."""

    def __init__(self, places: Places, params: Params, raw: dict):
        """raw: params.yaml as it stands (`avcil.params.whole`)."""
        self.places, self.params, self.raw = places, params, raw
        stored = places.metrics / "runs.csv"
        self.runs = pd.read_csv(stored) if stored.exists() else pd.DataFrame(columns=["setting", "method", "seed"])
        self.runs = self.runs[self.runs.setting == next(iter(params.protocol().settings))]
        self.numbers, self.row, self.command = pd.DataFrame(), "", ""
        self.job: asyncio.Task | None = None
        self.learning: Learning | None = None
        self._quiet = False
        self._data: tuple[tuple, Dataset] | None = None

        stores = [s.name for s in sorted(places.features.glob("*")) if (s / "index.json").exists()]
        names = [name for name, row in params.methods.items() if row.tokens in (stores or ["mini"])]
        self.base = choice([(short_name_of(n), n) for n in names], names[0], "start from")
        self.name = widgets.Text("my_row", description="name", style=LABEL, layout=WIDE)
        self.seed = choice(params.seeds, params.seeds[0], "seed", style=LABEL)
        self.tasks = widgets.IntSlider(
            len(params.tasks), 1, len(params.tasks), description="tasks", style=LABEL, layout=WIDE
        )
        self.epochs = widgets.BoundedIntText(
            params.tasks[0].epochs, 1, 1000, description="epochs", style=LABEL, layout=WIDE
        )
        known = [name for name in params.methods if name in set(self.runs.method)]
        self.beside = Checks(
            "compare with",
            [(short_name_of(name), name) for name in known],
            [name for name in known if name in ("lll_prior", "replay")],
            height=176,
        )
        self.parts = self._controls(Method, params.methods[names[0]], tokens=stores or ["mini"])
        self.shared = self._controls(Training, params.training)
        self.train = widgets.Button(description="Train", button_style="primary", icon="play")
        self.stop = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.bar = widgets.FloatProgress(value=0.0, min=0.0, max=1.0, layout=widgets.Layout(flex="0 1 420px"))
        self.status, self.saved = widgets.HTML(), widgets.HTML()
        self.curves, self.losses = (picture(beside_another=True) for _ in range(2))

        self.base.observe(self._restart, "value")
        for widget in (self.name, self.tasks, self.epochs, *self.parts.values(), *self.shared.values()):
            widget.observe(self._check, "value")
        for widget in (self.seed, self.beside):
            widget.observe(self._draw, "value")
        self.train.on_click(self._press)
        self.stop.on_click(lambda _: self.learning and self.learning.stop())

        first = list(self.parts)[:12]
        rest = [[w for key, w in self.parts.items() if key not in first]]
        rest += [[w for key, w in self.shared.items() if key not in SHARED]]
        titles = ["more choices of the field", "more of training, which all rows share"]
        more = widgets.Accordion([side_by_side(*folded) for folded in rest], titles=titles)
        run = [self.base, self.name, self.seed, self.tasks, self.epochs, *(self.shared[key] for key in SHARED)]
        super().__init__(
            f"Train a row: {len(self.parts)} choices, {len(params.tasks)} tasks",
            self.curves,
            [
                beside(
                    [*run, self.beside],
                    [
                        side_by_side(self.train, self.stop, self.bar), self.status,
                        side_by_side(self.curves, self.losses), self.saved,
                        side_by_side(*(self.parts[key] for key in first)), more,
                    ],
                ),
            ],
        )  # fmt: skip
        self._check()
        self._draw()
        self._draw_losses()

    def _controls(self, section, values, tokens: list[str] | None = None) -> dict[str, widgets.Widget]:
        found = {name: control(name, field, getattr(values, name)) for name, field in section.model_fields.items()}
        if tokens:
            found["tokens"] = choice(tokens, values.tokens, "tokens", style=LABEL)
        return found

    def _restart(self, _=None) -> None:
        """Show the choices of another row, checked once all stand."""
        self._quiet = True
        for name, widget in self.parts.items():
            widget.value = getattr(self.params.methods[self.base.value], name)
        self._quiet = False
        self._check()

    def _chosen(self) -> tuple[Params, Method]:
        row = {k: w.value for k, w in self.parts.items()}
        shared = {k: w.value for k, w in self.shared.items()}
        tasks = [task | {"epochs": self.epochs.value} for task in self.raw["tasks"][: self.tasks.value]]
        return check(self.raw, self.name.value, row, shared, tasks)

    def _check(self, _=None) -> bool:
        """Whether the choices fit together; if not, one line says why, and Train is off."""
        if self._quiet:
            return False
        busy = self.job is not None and not self.job.done()
        try:
            params, method = self._chosen()
        except ParameterError as error:
            self.status.value, self.saved.value = line(str(error), wrong=True), ""
            self.train.disabled = True
            return False
        if self._missing(method.tokens):
            self.status.value, self.train.disabled = line(self._missing(method.tokens)), True
            return False
        self.row, self.command = (
            row_text(self.name.value, method, self.params.methods["lll_prior"]),
            command(self.name.value, self.params, params),
        )
        self.train.disabled = busy
        if not busy:
            self.status.value = line("ready")
        return True

    def _missing(self, tokens: str) -> str:
        if (self.places.features / tokens / "index.json").exists() and (self.places.splits / "orders.json").exists():
            return ""
        return f"nothing to learn from yet: `dvc repro features` makes the tokens of `{tokens}` in a few minutes"

    def _dataset(self, tokens: str, seed: int) -> Dataset:
        """Read once, and again when tokens or seed change."""
        if self._data is None or self._data[0] != (tokens, seed):
            splits, regions = self.places.splits, self.places.corpus / "regions.npz"
            found = load_datasets(
                splits / "manifest.csv", splits / "orders.json", self.places.features / tokens, [seed], regions=regions
            )
            self._data = (tokens, seed), found[seed]
        return self._data[1]

    def _press(self, _=None) -> None:
        if (self.job is not None and not self.job.done()) or not self._check():
            return
        self.train.disabled, self.stop.disabled, self.saved.value, self.learning = True, False, "", None
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(self._learn())
        else:
            self.job = asyncio.ensure_future(self._learn())

    async def _learn(self) -> None:
        params, method = self._chosen()
        row, repeat = self.row, self.command
        try:
            data = self._dataset(method.tokens, self.seed.value)
            self.learning = run = Learning(data, method, params.training, params.tasks, self.seed.value)
            self._draw()
            self._draw_losses()
            work = asyncio.get_running_loop().run_in_executor(None, run.run)
            await self._follow(run, work, params)
            work.result()
        except Exception as error:  # whatever a combination runs into is told here: nobody sees a task's traceback
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            self.status.value = line(kind + " ".join(str(error).split()), wrong=True)
            return
        finally:
            self.train.disabled, self.stop.disabled = False, True
        self.bar.value = run.share
        self._draw()
        self._draw_losses()
        self.status.value = line(self._told(run))
        self.saved.value = line("To keep it: this line goes under `methods:` in params.yaml") + code(row)
        self.saved.value += line("and this command trains it with all seeds:") + code(repeat)

    async def _follow(self, run: Learning, work: asyncio.Future, params: Params) -> None:
        """Show how far a run is until it ends, and draw what is new in it."""
        drawn, due, last = (0, 0), 0.0, len(params.tasks) - 1
        while not work.done():
            now = len(run.results), len(run.losses)
            task = min(now[0], last)
            epochs = sum(told["task"] == task for told in run.losses[-params.tasks[task].epochs :])
            self.bar.value = run.share
            self.status.value = line(
                f"learning task {task} of 0 to {last}, epoch {epochs} of {params.tasks[task].epochs} …"
            )
            if now != drawn and time.monotonic() >= due:
                began = time.thread_time()
                self._draw_losses()
                if now[0] != drawn[0]:
                    self._draw()
                drawn, due = now, time.monotonic() + max(DRAW, REST * (time.thread_time() - began))
            await asyncio.wait([work], timeout=LOOK)

    def _told(self, run: Learning) -> str:
        if not len(self.numbers):
            return "stopped before the first task was learnt"
        last = self.numbers.iloc[-1]
        beside = self._stored()
        beside = beside[beside.task == last.task]
        others = ", ".join(f"{v} {100 * a:.1f}" for v, a in zip(beside.method, beside.accuracy, strict=True))
        ended = "stopped; " if run.stopped else ""
        return f"{ended}after task {int(last.task)}: {100 * last.accuracy:.1f} % of clips right" + (
            f"; stored, seed {self.seed.value}: {others}" if others else ""
        )

    def _stored(self) -> pd.DataFrame:
        chosen = self.runs.method.isin(self.beside.value) & (self.runs.seed == self.seed.value)
        return self.runs[chosen]

    def _draw(self, _=None) -> None:
        run = self.learning
        self.numbers = run.accuracy() if run else pd.DataFrame(columns=["task", "accuracy", "past_accuracy"])
        title = f"{self.name.value}, seed {run.seed if run else self.seed.value}"
        figure = plots_explore.live(self.numbers, self._stored(), tasks=len(self.params.tasks), title=title)
        show(self.curves, png(figure, live=True))

    def _draw_losses(self) -> None:
        losses = list(self.learning.losses) if self.learning else []
        show(self.losses, png(plots_explore.live_losses(pd.DataFrame(losses)), live=True) if losses else b"")
