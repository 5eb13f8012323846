"""Figures of the field: many rows at once, in families. As in avcil/results/plots.py: data in, Figure out."""

import textwrap

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from avcil.results.names import about, families, family_of, of_family, rows, short_name_of
from avcil.results.plots import PALETTE, band, colours_of, in_percent, label_ends

# of families: six that ship, and two of one's own, which would else be drawn as the first ones are
_COLOURS = (0, 7, 3, 4, 2, 5, 9, 1)


def _family_colour(row: str):
    return _colour_of_family(family_of(row))


def _colour_of_family(family: str):
    return PALETTE[_COLOURS[families().index(family) % len(_COLOURS)]]


def field_ranking(seeds: pd.DataFrame, *, title: str) -> Figure:
    """Last accuracy and forgetting of every row, best first within its family: bar is the mean, dots are seeds.

    seeds: method, seed, last_accuracy, forgetting_last.
    """
    means = seeds.groupby("method").last_accuracy.mean()
    # rows that params.yaml does not have come last
    listed = [*rows(), *means.index]
    # of equal means the order of params.yaml decides
    order = sorted(means.index, key=lambda row: (families().index(family_of(row)), -means[row], listed.index(row)))
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 0.9 + 0.24 * len(order)), sharey=True, width_ratios=[3, 2])
    for y, row in enumerate(order):
        mine = seeds[seeds.method == row]
        for axis, measure in zip(axes, ("last_accuracy", "forgetting_last"), strict=True):
            axis.barh(y, mine[measure].mean(), 0.7, color=_family_colour(row), alpha=0.7)
            axis.plot(mine[measure], [y] * len(mine), "o", color="0.2", markersize=2.5)
        axes[0].annotate(f"{100 * means[row]:.0f}", (0.008, y), va="center", fontsize="x-small")
    firsts = [y for y in range(1, len(order)) if family_of(order[y]) != family_of(order[y - 1])]
    for y in firsts:
        for axis in axes:
            axis.axhline(y - 0.5, color="0.8", linewidth=0.8)
    for y in [0, *firsts]:
        axes[1].annotate(
            family_of(order[y]), (1.03, y), xycoords=("axes fraction", "data"), va="center",
            color=_family_colour(order[y]), fontsize="small", fontweight="bold", annotation_clip=False,
        )  # fmt: skip
    axes[0].set(yticks=range(len(order)), yticklabels=[short_name_of(row) for row in order], xlim=(0, 1))
    axes[0].tick_params(axis="y", labelsize="small")
    axes[0].set(xlabel="last accuracy, %", title=f"{title} (bar: mean, dots: seeds)")
    axes[1].set(xlabel="forgetting (last), points", xlim=(0, 1))
    for axis in axes:
        in_percent(axis.xaxis)
    # best first at the top, in both panels, which share y
    axes[0].set_ylim(len(order) - 0.4, -0.6)
    axes[1].tick_params(axis="y", length=0)
    figure.tight_layout()
    return figure


def field_curves(runs: pd.DataFrame, reference: str) -> Figure:
    """Accuracy after each task, a panel a family; ``reference`` is drawn into each, in black."""
    shown = [family for family in families() if set(of_family(family)) & set(runs.method)]
    across = min(3, len(shown))
    down = -(-len(shown) // across)
    figure, axes = plt.subplots(down, across, figsize=(4.6 * across, 3.1 * down), sharey=True, squeeze=False)
    curves = runs.groupby(["method", "task"]).accuracy.mean()
    last = int(runs.task.max())
    for axis, family in zip(axes.flat, shown, strict=False):
        # parts of a row are no rivals in the field
        mine = [row for row in of_family(family) if row in set(runs.method) and not about(row).part]
        # without the two darkest, which would be taken for the black of the reference
        shades = sns.color_palette(f"dark:{matplotlib.colors.to_hex(_colour_of_family(family))}", len(mine) + 2)[2:]
        colours = dict(zip(mine, shades, strict=True))
        for row, shade in colours.items():
            axis.plot(curves[row], color=shade, marker="o", markersize=3, linewidth=1.4)
        # in the panel of its own family it is drawn already
        if reference not in mine:
            axis.plot(curves[reference], color="black", linewidth=1, linestyle=":")
            colours[reference] = "black"
        ends = [
            (curves[row].iloc[-1], textwrap.shorten(short_name_of(row), 36, placeholder="…"), colour)
            for row, colour in colours.items()
        ]
        label_ends(axis, ends, last + 0.1, 0.055, fontsize=7.5)
        axis.set(title=family, xlabel="task", xticks=range(last + 1), ylim=(0, 1))
    # panels that no family is left for
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    for row in axes:
        row[0].set_ylabel("accuracy on all classes seen, %")
        in_percent(row[0].yaxis)
    figure.tight_layout(w_pad=4)
    return figure


def differences(comparisons: pd.DataFrame, seeds: pd.DataFrame, reference: str) -> Figure:
    """Last accuracy of ``reference`` minus that of each row, with 95 % intervals over seeds and clips; small dots are
    seeds.

    comparisons: method, difference, low, high (fractions), of `tables.compare`; seeds: method, difference, of
    `tables.paired`.
    """
    # not turned over: the nearest rivals stand at the top
    table = comparisons.sort_values("difference", ascending=False).reset_index(drop=True)
    figure, axes = plt.subplots(figsize=(7.6, 0.9 + 0.23 * len(table)))
    for y, line in table.iterrows():
        colour, each = _family_colour(line.method), 100 * seeds.difference[seeds.method == line.method]
        axes.plot([100 * line.low, 100 * line.high], [y, y], color=colour, linewidth=2, alpha=0.6)
        axes.plot(100 * line.difference, y, "o", color=colour, markersize=5)
        axes.plot(each, [y] * len(each), "o", color="0.2", markersize=2)
    axes.axvline(0, color="0.2", linewidth=1)
    axes.set(
        yticks=range(len(table)), yticklabels=table.method.map(short_name_of), ylim=(-0.6, len(table) - 0.4),
        xlabel="difference in last accuracy, points (line: 95 % interval; dots: seeds)",
        title=f"{short_name_of(reference)}, minus each other row",
    )  # fmt: skip
    axes.tick_params(axis="y", labelsize="small")
    figure.tight_layout()
    return figure


def field_cost(table: pd.DataFrame) -> Figure:
    """Last accuracy against seconds of learning and evaluation, and against bytes kept between tasks.

    table: method, last_accuracy, seconds, memory_bytes; NaN where seconds are not known, as of a chain of tasks.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10.4, 4.4), sharey=True)
    # whole methods alone, and those that params.yaml says something of
    table = table[[name in rows() and not about(name).part for name in table.method]]
    # bounds keep every clip and are no rivals
    table = table[table.method.map(family_of) != "all data at once"]
    family = table.method.map(family_of)
    for axis, column, scale, label in (
        (axes[0], "seconds", 1, "seconds of learning and evaluation, one thread"),
        (axes[1], "memory_bytes", 1e-6, "megabytes kept between tasks (nothing: at 0.01)"),
    ):
        known = table[table[column].notna()]
        # from below, so that names are only ever moved up
        best = known.loc[known.groupby(family).last_accuracy.idxmax()].sort_values("last_accuracy")
        # a logarithmic axis has no place for rows that keep nothing
        x = (scale * known[column]).clip(lower=1e-2)
        for at, line in known.iterrows():
            axis.plot(x[at], line.last_accuracy, "o", color=_family_colour(line.method), markersize=6, alpha=0.85)
        placed = -np.inf
        for at, line in best.iterrows():
            placed = max(line.last_accuracy + 0.03, placed + 0.045)
            name, colour = short_name_of(line.method), _family_colour(line.method)
            axis.annotate(name, (x[at], placed), ha="center", fontsize="small", color=colour)
        axis.set(xscale="log", xlabel=label, ylim=(0, 1))
        axis.margins(x=0.2)
    axes[0].set(ylabel="accuracy after the last task, %", title="The best of each family is named")
    in_percent(axes[0].yaxis)
    shown = [name for name in families() if name in set(family)]
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=_colour_of_family(name)) for name in shown]
    axes[1].legend(handles, shown, frameon=False, fontsize="small", loc="lower right")
    figure.tight_layout()
    return figure


def knobs(table: pd.DataFrame) -> Figure:
    """What each part of LLL is worth as one thing is turned, with 95 % intervals: a panel a knob, a colour a part.

    table: knob, value, part, mean, low, high (fractions), as `tables.worth` gives it.
    """
    shown = list(dict.fromkeys(table.knob))
    figure, axes = plt.subplots(1, len(shown), figsize=(3.7 * len(shown), 3.6), sharey=True, squeeze=False)
    parts = dict.fromkeys(table.part)
    for axis, knob in zip(axes.flat, shown, strict=True):
        panel = table[table.knob == knob]
        values = list(dict.fromkeys(panel.value))
        for number, part in enumerate(parts):
            mine = panel[panel.part == part]
            # side by side, so that no interval covers another
            x = mine.value.map(values.index) + 0.12 * (number - 1)
            spread = 100 * np.array([mine["mean"] - mine.low, mine.high - mine["mean"]])
            # one seed has no interval: its NaN is drawn as a bar without length
            axis.errorbar(
                x, 100 * mine["mean"], np.nan_to_num(spread), color=PALETTE[number], marker="o", markersize=4,
                linewidth=1.4, elinewidth=1, label=part,
            )  # fmt: skip
        axis.axhline(0, color="0.2", linewidth=1)
        axis.set(xticks=range(len(values)), xticklabels=values, xlabel=knob, xlim=(-0.4, len(values) - 0.6))
    axes[0, 0].set_ylabel("gain in last accuracy, points")
    axes[0, -1].legend(frameon=False, title="contribution of", loc="upper left")
    figure.tight_layout()
    return figure


def budget_curves(table: pd.DataFrame) -> Figure:
    """Last accuracy against exemplars a class, one curve a row. table: method, exemplars, last_accuracy, by seed."""
    figure, axes = plt.subplots(figsize=(7.4, 4.2))
    # a figure all the same, for the stage `field` has it among its outputs
    if table.empty:
        axes.set_title("every row was run with one memory size only")
        return figure
    counts = sorted(table.exemplars.unique())
    # evenly spaced, or numbers from 0 to 20 would crowd at the left
    table = table.assign(place=table.exemplars.map(counts.index))
    ends, colours = [], colours_of(table.method.unique())
    for row in table.method.unique():
        by_memory = table[table.method == row].groupby("place").last_accuracy
        ends.append(band(axes, by_memory, short_name_of(row), colours[row], alpha=0.12))
    label_ends(axes, ends, len(counts) - 0.88, 0.045)
    axes.set(
        xticks=range(len(counts)), xticklabels=counts, ylim=(0, 1), xlabel="exemplars per class",
        ylabel="accuracy after the last task, %", title="Accuracy by memory size (band: worst to best seed)",
    )  # fmt: skip
    in_percent(axes.yaxis)
    figure.tight_layout()
    return figure
