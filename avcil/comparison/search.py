"""The search for hyper-parameters: every row as it ships, and beside it trials that change some of its keys, on
validation clips of development worlds, which no table reports."""

from collections import Counter
from itertools import product
from pathlib import Path

import pandas as pd

from avcil.comparison import protocol, tables
from avcil.comparison.sweep import Job, run
from avcil.learn import methods
from avcil.params import ParameterError, Params
from avcil.params.comparison import Setting
from avcil.params.learning import READOUTS, Method, Training
from avcil.params.section import nearest

SHIPPED = "as it ships"  # the trial that changes nothing
# joins row and trial to the one name that a run has
SEPARATOR = ": "
MEASURES = ["average_accuracy", "last_accuracy", "forgetting_last", "plasticity"]


def trials(params: Params) -> dict[tuple[str, str], tuple[Method, Training]]:
    """Method and training by (row, trial), the row as it ships first; a trial is named by what it changes.

    An entry of a row is a grid: every combination of its keys' values. A key is of the row, of `training`, or, with
    dots, an option within. Raises ParameterError for a key that is neither.
    """
    named: dict[tuple[str, str], tuple[Method, Training]] = {}
    for name, grids in params.search.trials.items():
        # without its `about`, so that it compares equal to a trial that changes nothing
        row = Method(**params.method(name).model_dump())
        of_row = {SHIPPED: (row, params.training)}
        known = [_written_out(*of_row[SHIPPED])]
        keys = {key for grid in grids for key in grid}
        last = Counter(key.rpartition(".")[2] for key in keys)
        # its last word, where no other key of the row's ends in it
        short = {key: word if last[word := key.rpartition(".")[2]] == 1 else key for key in keys}
        for grid in grids:
            for values in product(*grid.values()):
                changes = dict(zip(grid, values, strict=True))
                trial = ", ".join(f"{short[key]} {value}" for key, value in changes.items())
                changed = _changed(row, params.training, changes, f"search.trials.{name}")
                try:
                    said = _written_out(*changed)
                except ValueError as error:  # an option that its file does not take
                    raise ParameterError(f"search.trials.{name}: {error}") from None
                # a grid that holds the shipped value, or a file's default, would have it learnt twice
                if said not in known:
                    of_row[trial] = changed
                    known.append(said)
        named |= {(name, trial): changed for trial, changed in of_row.items()}
    return named


def _written_out(row: Method, training: Training) -> tuple[dict, Training]:
    """All that it says, with the defaults of its files' options."""
    options = {}
    if row.readout not in READOUTS:
        options = {"readout_options": methods.options(row.readout, row.readout_options).model_dump()}
    hooks = {name: methods.options(name, given).model_dump() for name, given in row.hooks.items()}
    return row.model_dump() | options | {"hooks": hooks}, training


def _changed(row: Method, training: Training, changes: dict, place: str) -> tuple[Method, Training]:
    # copies as dictionaries: neither the row nor what all rows share is touched
    sections = row.model_dump(), training.model_dump()
    for key, value in changes.items():
        *path, last = key.split(".")
        # the first part of a key tells whose it is
        first = path[0] if path else last
        section = next((section for section in sections if first in section), None)
        if section is None:
            hint = nearest(first, [*sections[0], *sections[1]])
            raise ParameterError(f"{place}.{key}: neither of a row nor of `training`{hint}")
        for name in path:
            # a hook or an option that the row leaves out begins empty
            section = section.setdefault(name, {})
        section[last] = value
    return Method(**sections[0]), Training(**sections[1])


def jobs(params: Params, folder: Path) -> list[Job]:
    """A run for each trial and development world, world by world; worlds are drawn below ``folder``, and finished runs
    kept there."""
    named = {SEPARATOR.join(name): changed for name, changed in trials(params).items()}
    # each trial poses as a row, so that its runs are made as any row's are
    rows = {name: method for name, (method, _) in named.items()}
    setting = Setting(worlds=True, seeds=params.search.worlds)
    alone = {"settings": {"search": setting}, "rows": [*named], "headline": []}
    made = protocol.jobs(
        protocol.place_of(params.benchmark)._replace(chained=False),
        # `model_copy` does not check: these have no `about`, and no run reads it
        params.model_copy(update={"methods": rows}),
        params.protocol().model_copy(update=alone),
        "all",
        folder,
    )
    # jobs come with the training that all rows share, and a trial may have changed it
    scored = [job._replace(training=named[job.name[1]][1], split="val", folder=None) for job in made]
    # a process keeps the last dataset that it read, so runs of one world stand together
    return sorted(scored, key=lambda job: job.seed)


def scores(params: Params, folder: Path) -> pd.DataFrame:
    """Columns row, trial, world, `MEASURES`: a line a run, on validation clips; ``folder`` keeps what is finished."""
    done = run(jobs(params, folder), engine=params.compute.engine)
    seeds = tables.per_seed(
        tables.frames({("search", name, seed): finished.results for ((_, name), seed), finished in done.items()})
    )
    # at the first one: a trial's values may have another
    names = seeds.method.str.split(SEPARATOR, n=1, expand=True).set_axis(["row", "trial"], axis=1)
    table = names.assign(world=seeds.seed, **seeds[MEASURES].round(4))
    # in the order of search.yaml, not world by world as they were learnt
    return table.set_index(["row", "trial"]).loc[[*trials(params)]].reset_index()


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """A line a row of what `scores` gives: how many trials it had, its mean last accuracy as it ships, the best trial,
    and by how much that one is ahead in each world, [worlds].

    The best of many is ahead by luck too, the more trials the more so: a lead is a reason to look, no finding.
    """
    lines = []
    for row, runs in table.groupby("row", sort=False):
        wide = runs.pivot(index="world", columns="trial", values="last_accuracy")
        shipped = wide.pop(SHIPPED)
        # a row without trials has its line too
        best = wide.mean().idxmax() if len(wide.columns) else None
        ahead = [] if best is None else (wide[best] - shipped).round(4).tolist()
        lines.append((row, len(wide.columns), shipped.mean(), best, ahead))
    return pd.DataFrame(lines, columns=["row", "trials", "shipped", "best", "ahead"])
