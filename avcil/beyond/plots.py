"""Figures of docs/beyond.md. As in avcil/results/plots.py: data in, Figure out."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from avcil.beyond.settings import ALONE, CASES, DUET, WAYS, WHOLE, Light
from avcil.results.names import family_of, short_name_of
from avcil.results.plots import PALETTE, colours_of, in_percent

MEASURED = {  # columns of `light`
    "bytes": "bytes stored",
    "flops": "FLOPs of the attention",
    "time_ratio": "time from store to attended feature",
}


def many_tasks(moments: pd.DataFrame) -> Figure:
    """Accuracy on all classes seen, attention's hits on clips of the first tasks, seconds a task and bytes kept, by the
    number of tasks: mean over worlds of one size, larger ones fainter; dotted what is not LLL.

    moments: row, world, tasks, accuracy, seconds, bytes, hit_of_first.
    """
    figure, axes = plt.subplots(1, 4, figsize=(13.5, 3.8))
    rows = list(dict.fromkeys(moments.row))
    colours = colours_of(rows)
    # worlds are of one size if they have as many tasks
    last = moments.groupby("world").tasks.transform("max")
    means = moments.assign(last=last).groupby(["last", "row", "tasks"]).mean(numeric_only=True)
    first = moments.tasks.min()
    for axis, column, factor, label in (
        (axes[0], "accuracy", 1, "accuracy on all classes seen, %"),
        (axes[1], "hit_of_first", 1, f"attention hits, first {first} tasks, %"),
        (axes[2], "seconds", 1, "seconds per task"),
        (axes[3], "bytes", 1e-6, "megabytes kept"),
    ):
        for size, row in means.index.droplevel("tasks").unique():
            smallest, dashes = size == last.min(), "-" if family_of(row) == "LLL" else ":"
            style = {"color": colours[row], "marker": "o", "markersize": 3, "alpha": 1 if smallest else 0.4}
            # named once for all sizes, or the legend would have each row twice
            named = {"label": short_name_of(row)} if smallest else {}
            axis.plot(factor * means.loc[size, row][column], dashes, **style, **named)
        axis.set(xlabel="tasks", ylabel=label)
        if column in ("seconds", "bytes"):
            # a power of the number of tasks is a straight line there
            axis.set(xscale="log", yscale="log")
        else:
            axis.set_ylim(0, 1)
            in_percent(axis.yaxis)
    # the legend's lines, of four rows each
    figure = _named_below(figure, ncols=4, room=0.06 * (1 + len(rows) // 4))
    if last.nunique() > 1:
        figure.suptitle(f"faint: worlds of {last.max()} tasks", x=0.99, y=0.04, ha="right", fontsize="medium")
    return figure


def missing(table: pd.DataFrame, names: dict[str, str]) -> Figure:
    """Last accuracy by the share of clips that lack a sense: of test clips, with whole training clips, and of training
    clips, with whole test clips; a column a sense. Mean over seeds.

    table: row, seed, sense, train, test, last_accuracy. names: of rows.
    """
    senses = ("sound", "picture")
    figure, axes = plt.subplots(1, 2 * len(senses), figsize=(3.6 * 2 * len(senses), 4), sharey=True)
    panels = [(sense, vary) for vary in ("test", "train") for sense in senses]
    for axis, (sense, vary) in zip(axes, panels, strict=True):
        other = "train" if vary == "test" else "test"
        # of a pair of shares one is turned, and clips of the other split are whole
        mine = table[(table.sense == sense) & (table[other] == 0)]
        curves = 100 * mine.groupby(["row", vary]).last_accuracy.mean()
        for place, (row, name) in enumerate(names.items()):
            # the second, which often lies on the first, shows as dashes on it
            style = {"color": PALETTE[place], "marker": "o", "markersize": 4, "linestyle": "--" if place == 1 else "-"}
            axis.plot(100 * curves[row].index, curves[row], **style, label=name, zorder=10 if place == 1 else 9 - place)
        clips = "test" if vary == "test" else "training"
        axis.set(title=f"no {sense}", xlabel=f"incomplete {clips} clips, %", xticks=range(0, 101, 25), ylim=(0, 100))
    axes[0].set_ylabel("last accuracy, %")
    return _named_below(figure, ncols=3, room=0.13)


def light(table: pd.DataFrame, settings: Light) -> Figure:
    """Points of last accuracy lost against bytes, FLOPs and milliseconds as shares of whole tokens': means over worlds.
    The step joins what nothing beats in both; the goal is shaded, the variant that was named beforehand ringed. Faint:
    what has not been run on test clips yet, on validation clips.

    table: row, variant, world, split, last_accuracy, bytes, flops, time_ratio.
    """
    solved = table[table.row == settings.row]
    shares = solved.groupby("variant")[[*MEASURED]].mean()
    shares /= shares.loc["whole"]
    wide = solved.pivot(index=["split", "world"], columns="variant", values="last_accuracy")
    # world by world: a variant that was not run in all is not set against whole tokens of the others
    gains = 100 * wide.sub(wide["whole"], axis=0).groupby("split").mean()
    tested = gains.loc["test"].dropna()
    # where there are no test clips the mean of both splits is that of validation clips
    gained = tested.combine_first(gains.mean())
    variants = {name: variant for name, variant in settings.variants.items() if name in gained}
    kinds = list(dict.fromkeys(variant.kept for variant in variants.values()))
    colours = dict(zip(kinds, sns.color_palette("colorblind", len(kinds)), strict=True))
    marks = {"float16": "o", "int8_token": "s", "int8_channel": "^"}
    ring: dict[str, Any] = {"marker": "o", "markersize": 13, "markerfacecolor": "none", "markeredgecolor": "black"}
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.8), sharey=True)
    for axis, (column, label) in zip(axes, MEASURED.items(), strict=True):
        # only what was tested is joined: scores of validation clips are of another world
        ordered = pd.DataFrame({"share": shares[column], "points": tested}).dropna().sort_values(["share", "points"])
        # in front is what loses less than all that are smaller (-100: before the first there is none)
        front = ordered[ordered.points > ordered.points.cummax().shift(fill_value=-100)]
        axis.step(front.share, front.points, where="post", color="0.6", linewidth=1, zorder=1)
        for name, variant in variants.items():
            style = {
                "marker": marks[variant.numbers],
                "color": colours[variant.kept],
                "markersize": 6,
                "alpha": 1 if name in tested else 0.35,
            }
            axis.plot(shares[column][name], gained[name], **style, zorder=3)
        axis.plot(shares[column][settings.claimed], gained[settings.claimed], **ring, zorder=4)
        # ticks at halves, quarters and eighths
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda share, _: f"{share:g}" if share >= 1 else f"1/{1 / share:g}")
        axis.set(xlabel=f"{label}, relative to all tokens")
    # as the points have set them: the shade of the goal would widen them
    low, top = axes[0].get_xlim()[0], axes[0].get_ylim()[1]
    axes[0].fill_between([low, settings.share], -100 * settings.loss, top, color="0.92", zorder=0)
    axes[0].set(xlim=(low, None), ylim=(None, top), ylabel="last accuracy minus that of all tokens, points")
    # by kind and by numbers: a name for each variant would fill the page
    entries: list[Artist] = [
        Line2D([], [], marker="o", linestyle="", color=colours[kind], label=kind) for kind in kinds
    ]
    entries += [Line2D([], [], linestyle="", **ring | {"markersize": 9}, label="chosen beforehand")]
    entries += [Patch(color="0.92", label="goal")]
    entries += [
        Line2D([], [], marker=mark, linestyle="", color="0.4", label=kind.replace("_", " by "))
        for kind, mark in marks.items()
    ]
    figure.legend(handles=entries, loc="lower center", ncols=4, frameon=False, fontsize="small")
    figure.tight_layout(rect=(0, 0.15, 1, 1))
    return figure


def robust(table: pd.DataFrame) -> Figure:
    """What share of its last accuracy on whole clips each row loses by each damage: mean over worlds, and the worlds.

    table: row, world, damage, strength, last_accuracy.
    """
    wide = table.pivot(index=["row", "world"], columns=["damage", "strength"], values="last_accuracy")
    shares = 100 * (1 - wide.div(wide[WHOLE, 0.0], axis=0))
    # whole clips lose nothing, and where two objects sound two labels are right
    shares = shares.drop(columns=[WHOLE, DUET], level="damage")
    shares.columns = [CASES[damage].format(strength) for damage, strength in shares]
    figure, axis = plt.subplots(figsize=(7, 0.3 * shares.shape[1] + 1.2))
    _worlds_of_rows(axis, shares, list(dict.fromkeys(table.row)))
    axis.axvline(0, color="0.6", linewidth=1)
    axis.set(xlabel="share of last accuracy lost, % (small dots: worlds)")
    return _named_below(figure, ncols=4, room=0.05)


def adapting(table: pd.DataFrame) -> Figure:
    """Last accuracy and hits of the first row by way of adapting, a panel a shift: means over worlds, and the worlds.

    table: row, shift, way, world, last_accuracy, hit.
    """
    table = table[table.row == table.row.iloc[0]]
    shifts, ways = (list(dict.fromkeys(table[column])) for column in ("shift", "way"))
    size = 3.6 * len(shifts), 0.3 * len(ways) + 1.4
    figure, axes = plt.subplots(1, len(shifts), figsize=size, sharex=True, sharey=True)
    for axis, shift in zip(axes, shifts, strict=True):
        wide = 100 * table[table["shift"] == shift].pivot(index="world", columns="way", values=["last_accuracy", "hit"])
        # what every way is compared with
        for colour, frozen in zip(PALETTE, wide.xs("frozen", axis=1, level="way").mean(), strict=False):
            axis.axvline(frozen, color=colour, linewidth=1, linestyle=":")
        wide = wide.reindex(columns=ways, level="way").rename(columns=WAYS, level="way")
        _worlds(axis, {"last accuracy": wide["last_accuracy"], "attention hits": wide["hit"]})
        axis.set(title=shift, xlabel="%")
    return _named_below(figure, ncols=2, room=0.05)


def streams(table: pd.DataFrame) -> Figure:
    """What each choice of streams adds to last accuracy of each row: means over worlds, and the worlds.

    table: row, streams, world, split, last_accuracy.
    """
    tested = table[table.split == "test"]
    chosen = [way for way in dict.fromkeys(tested.streams) if way != ALONE]
    wide = tested.pivot(index=["row", "world"], columns="streams", values="last_accuracy")
    added = 100 * wide[chosen].sub(wide[ALONE], axis=0)
    figure, axis = plt.subplots(figsize=(7, 0.5 * len(chosen) + 1.3))
    _worlds_of_rows(axis, added, list(dict.fromkeys(tested.row)))
    axis.axvline(0, color="0.6", linewidth=1)
    axis.set(xlabel="gain in last accuracy over sound and picture, points (small dots: worlds)")
    return _named_below(figure, ncols=4, room=0.09)


def _worlds_of_rows(axis: Axes, table: pd.DataFrame, rows: list[str]) -> None:
    """`_worlds` of each row, whose lines ``table`` has by row and world, by its name and in its colour."""
    colours = colours_of(rows)
    _worlds(axis, {short_name_of(row): table.loc[row] for row in rows}, [colours[row] for row in rows])


def _worlds(axis: Axes, rows: dict[str, pd.DataFrame], colours: Sequence = PALETTE) -> None:
    """A line a column, the first at the top: of each row, whose table has a line a world, a faint dot a world and their
    mean, in its colour."""
    for place, (name, worlds) in enumerate(rows.items()):
        # rows side by side about the line
        heights = np.arange(worlds.shape[1]) + 0.18 * (place - (len(rows) - 1) / 2)
        axis.plot(worlds.T, heights, ".", color=colours[place], alpha=0.35, markersize=4)
        axis.plot(worlds.mean(), heights, "o", color=colours[place], markersize=6, label=name)
    axis.set(yticks=range(worlds.shape[1]), yticklabels=worlds, ylim=(worlds.shape[1] - 0.5, -0.5))


def _named_below(figure: Figure, ncols: int, room: float) -> Figure:
    """With the legend of the first axes below all, where it takes so much room."""
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="lower center", ncols=ncols, frameon=False)
    figure.tight_layout(rect=(0, room, 1, 1))
    return figure
