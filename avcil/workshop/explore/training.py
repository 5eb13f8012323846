"""Live training: choose a row's parts, press Train, watch it beside the stored runs, take the row with you.

Learning goes on in a thread of its own; everything is shown by the event loop of the notebook, between its cells,
because widgets are not made for several threads.
"""

import asyncio
import html
import time

import ipywidgets as widgets
import pandas as pd

from avcil.comparison import sweep
from avcil.params import ParameterError, Params
from avcil.params.learning import Method, Training
from avcil.results import plots, plots_explore
from avcil.results.names import short_name_of
from avcil.tokens.dataset import Dataset
from avcil.workshop.explore.panel import ALIGNED, Checks, Panel, Places, area, beside, line, plot, png, side_by_side
from avcil.workshop.explore.rows import LiveRun, LiveRuns, command, control, parse_row, row_text

SHARED = ("temperature", "learning_rate", "later_learning_rate", "batch")  # those of training that are not folded away
LOOK, DRAW = 0.1, 1.0  # seconds between two looks at a run, and at least between two drawings of it
CODE = "white-space: pre-wrap; line-height: 1.3; background: rgba(128, 128, 128, 0.12); padding: 6px"


class Trainer(Panel):
    """``numbers``: accuracy after each task of the last run; ``row`` and ``command``: what makes it permanent."""

    def __init__(self, places: Places, params: Params, raw: dict, live: LiveRuns | None = None):
        """raw: params.yaml as it stands (`avcil.params.whole`); live: where runs are kept for other panels."""
        self.live = live or LiveRuns()
        self.places, self.params, self.raw = places, params, raw
        stored = places.metrics / "runs.csv"
        self.runs = pd.read_csv(stored) if stored.exists() else pd.DataFrame(columns=["setting", "method", "seed"])
        # rows of the first setting, which is learnt as a live run is
        self.runs = self.runs[self.runs.setting == next(iter(params.protocol().settings))]
        self.numbers, self.row, self.command = pd.DataFrame(), "", ""
        self.job: asyncio.Task | None = None
        self.learning: LiveRun | None = None

        # before anything is extracted the panel comes up too, and says what is missing
        stores = [store.parent.name for store in sorted(places.features.glob("*/index.json"))] or ["mini"]
        names = [name for name, row in params.methods.items() if row.tokens in stores]
        options = [(short_name_of(name), name) for name in names]
        self.base = widgets.Dropdown(options=options, description="start from", **ALIGNED)
        self.name = widgets.Text("my_row", description="name", **ALIGNED)
        self.seed = widgets.Dropdown(options=params.seeds, description="seed", **ALIGNED)
        tasks = len(params.tasks)
        self.tasks = widgets.IntSlider(tasks, 1, tasks, description="tasks", **ALIGNED)
        self.epochs = widgets.BoundedIntText(params.tasks[0].epochs, 1, 1000, description="epochs", **ALIGNED)
        known = [name for name in params.methods if name in set(self.runs.method)]
        options = [(short_name_of(name), name) for name in known]
        self.beside = Checks("compare with", options, ("lll_prior", "replay"), height=176)
        self.parts, self.shared = (
            {name: control(name, field, getattr(values, name)) for name, field in section.model_fields.items()}
            for section, values in ((Method, params.methods[names[0]]), (Training, params.training))
        )
        # chosen among the stores that are there
        own = params.methods[names[0]].tokens
        self.parts["tokens"] = widgets.Dropdown(options=stores, value=own, description="tokens", **ALIGNED)
        self.train = widgets.Button(description="Train", button_style="primary", icon="play")
        self.stop = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.bar = widgets.FloatProgress(value=0.0, min=0.0, max=1.0, layout=widgets.Layout(flex="0 1 420px"))
        self.status, self.saved = widgets.HTML(), widgets.HTML()
        self.curves, self.losses = area(), area()

        self.react(self._restart, self.base)
        self.react(self._check, self.name, self.tasks, self.epochs, *self.parts.values(), *self.shared.values())
        self.react(self._draw, self.seed, self.beside)
        self.train.on_click(self._press)
        self.stop.on_click(lambda _: self.learning and self.learning.stopped.set())

        # the choices that every row makes; the others are those of a few (avcil/params/learning.py)
        first = list(self.parts)[:12]
        rest = [[widget for key, widget in self.parts.items() if key not in first]]
        rest += [[widget for key, widget in self.shared.items() if key not in SHARED]]
        titles = ["more choices of the field", "more of training, which all rows share"]
        shown = [
            side_by_side(self.train, self.stop, self.bar),
            self.status,
            side_by_side(self.curves, self.losses),
            self.saved,
            side_by_side(*(self.parts[key] for key in first)),
            widgets.Accordion([side_by_side(*folded) for folded in rest], titles=titles),
        ]
        run = [self.base, self.name, self.seed, self.tasks, self.epochs, *(self.shared[key] for key in SHARED)]
        super().__init__(f"Train a row: {len(self.parts)} choices, {tasks} tasks", [beside([*run, self.beside], shown)])
        self._check()
        self._draw()
        self._draw_losses()

    def _picture(self) -> bytes:
        stored, title = self._stored(self.seed.value), f"stored, seed {self.seed.value}"
        return b"" if stored.empty else png(plots.accuracy_curves(stored, stored.method.unique(), title=title))

    def _restart(self) -> None:
        """Show the choices of another row, checked once all stand."""
        with self.quiet():
            for name, widget in self.parts.items():
                widget.value = getattr(self.params.methods[self.base.value], name)
        self._check()

    def _chosen(self) -> tuple[Params, Method]:
        row, shared = ({key: w.value for key, w in controls.items()} for controls in (self.parts, self.shared))
        tasks = [task | {"epochs": self.epochs.value} for task in self.raw["tasks"][: self.tasks.value]]
        return parse_row(self.raw, self.name.value, row, shared, tasks)

    def _check(self) -> None:
        """Whether the choices fit together; if not, one line says why, and Train is off."""
        # off until everything has been found to fit
        self.train.disabled = True
        try:
            params, method = self._chosen()
        except ParameterError as error:
            self.status.value, self.saved.value = line(str(error), wrong=True), ""
            return
        if missing := self._missing(method.tokens):
            self.status.value = line(missing)
            return
        self.row = row_text(self.name.value, method, self.params.methods["lll_prior"])
        self.command = command(self.name.value, self.params, params)
        # while a run is learnt, the status is the run's
        if self.job is None or self.job.done():
            self.train.disabled, self.status.value = False, line("ready")

    def _missing(self, tokens: str) -> str:
        if (self.places.features / tokens / "index.json").exists() and (self.places.splits / "orders.json").exists():
            return ""
        return f"nothing to learn from yet: `dvc repro features` makes the tokens of `{tokens}` in a few minutes"

    def _dataset(self, tokens: str, seed: int) -> Dataset:
        manifest, orders = self.places.splits / "manifest.csv", self.places.splits / "orders.json"
        regions = self.places.corpus / "regions.npz"
        by_seed = sweep.datasets(sweep.Source(manifest, orders, self.places.features / tokens, regions))
        if seed not in by_seed:
            raise ValueError(f"{orders}: no class order of seed {seed}; `dvc repro splits` draws it")
        return by_seed[seed]

    # ---- learning

    def _press(self, _) -> None:
        self._check()
        # the check has just said, by the button, whether these choices can be learnt
        if not self.train.disabled:
            self.train.disabled, self.stop.disabled, self.saved.value, self.learning = True, False, "", None
            # the click returns at once; learning goes on beside the event loop
            self.job = asyncio.ensure_future(self._learn())

    async def _learn(self) -> None:
        # as chosen at the press: widgets may change while it learns
        params, method = self._chosen()
        name, row, repeat = self.name.value, self.row, self.command
        try:
            data = self._dataset(method.tokens, self.seed.value)
            seed, on = self.seed.value, params.compute.device
            self.learning = run = LiveRun(data, method, params.training, params.tasks, seed, name=name, device=on)
            self._draw()
            self._draw_losses()
            work = asyncio.get_running_loop().run_in_executor(None, run.run)
            await self._follow(run, work)
            # raises what was raised in the thread
            work.result()
        except Exception as error:  # whatever a combination runs into is told here: nobody sees a task's traceback
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            self.status.value = line(kind + " ".join(str(error).split()), wrong=True)
            return
        finally:
            self.train.disabled, self.stop.disabled = False, True
        # the end is drawn whatever was drawn last
        self.bar.value = run.share
        self._draw()
        self._draw_losses()
        self.status.value = line(self._outcome(run))
        # stopped before its first task was learnt, it has nothing to show
        if run.results:
            self.live.keep(run)
        self.saved.value = (
            f"{line('To keep it: this line goes under `methods:` in params.yaml')}"
            f'<pre style="{CODE}">{html.escape(row)}</pre>'
            f"{line('and this command trains it with all seeds:')}"
            f'<pre style="{CODE}">{html.escape(repeat)}</pre>'
        )

    async def _follow(self, run: LiveRun, work: asyncio.Future) -> None:
        """Show how far a run is until it ends, and draw what is new in it."""
        drawn, due, last = (0, 0), 0.0, len(run.tasks) - 1
        while not work.done():
            (task, epochs), now = run.at, (len(run.results), len(run.losses))
            self.bar.value = run.share
            self.status.value = line(f"learning task {task.id} of 0 to {last}, epoch {epochs} of {task.epochs} …")
            # drawing holds Python's lock, and so costs learning time
            if now != drawn and time.monotonic() >= due:
                self._draw_losses()
                # accuracy changes with a task, losses with an epoch
                if now[0] != drawn[0]:
                    self._draw()
                drawn, due = now, time.monotonic() + DRAW
            # returns at once when the run ends
            await asyncio.wait([work], timeout=LOOK)

    def _outcome(self, run: LiveRun) -> str:
        if self.numbers.empty:
            return "stopped before the first task was learnt"
        last, stored = self.numbers.iloc[-1], self._stored(run.seed)
        # stored rows after as many tasks, for a live run may have fewer
        stored = stored[stored.task == last.task]
        others = ", ".join(f"{row.method} {100 * row.accuracy:.1f}" for row in stored.itertuples())
        outcome = f"after task {int(last.task)}: {100 * last.accuracy:.1f} % of clips right"
        outcome += f"; stored, seed {run.seed}: {others}" if others else ""
        return f"stopped; {outcome}" if run.stopped.is_set() else outcome

    def _stored(self, seed: int) -> pd.DataFrame:
        return self.runs[self.runs.method.isin(self.beside.value) & (self.runs.seed == seed)]

    def _draw(self) -> None:
        run = self.learning
        self.numbers = run.accuracy() if run else pd.DataFrame(columns=["task", "accuracy", "past_accuracy"])
        # a run keeps the seed and the name that it began with, whatever is chosen for the next one
        seed = run.seed if run else self.seed.value
        title, stored = f"{run.name if run else self.name.value}, seed {seed}", self._stored(seed)
        plot(self.curves, plots_explore.live(self.numbers, stored, tasks=len(self.params.tasks), title=title))

    def _draw_losses(self) -> None:
        # a copy, since the thread goes on adding
        losses = list(self.learning.losses) if self.learning else []
        plot(self.losses, plots_explore.live_losses(pd.DataFrame(losses)) if losses else None)
