"""Figures of docs/beyond.md. As in avcil/results/plots.py: data in, Figure out."""

import textwrap

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from avcil.results.names import short_name_of
from avcil.results.plots import label_ends


def many_tasks(moments: pd.DataFrame) -> Figure:
    """Accuracy on all classes seen, seconds a task and bytes kept, by the number of tasks: mean over worlds.

    moments: row, world, tasks, accuracy, seconds, bytes.
    """
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2))
    rows = list(dict.fromkeys(moments.row))
    colours = dict(zip(rows, sns.color_palette("husl", len(rows)), strict=True))
    means = moments.groupby(["row", "tasks"])[["accuracy", "seconds", "bytes"]].mean()
    for axis, column, factor, label in (
        (axes[0], "accuracy", 1, "accuracy on all classes seen"),
        (axes[1], "seconds", 1, "seconds a task"),
        (axes[2], "bytes", 1e-6, "megabytes kept"),
    ):
        for row in rows:
            curve = factor * means.loc[row][column]
            axis.plot(curve, color=colours[row], marker="o", markersize=3, label=short_name_of(row))
        axis.set(xlabel="tasks", ylabel=label)
        if column != "accuracy":
            axis.set(xscale="log", yscale="log")
    axes[0].set_ylim(bottom=0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=4, frameon=False, fontsize="small")
    figure.tight_layout(rect=(0, 0.06 + 0.05 * (len(rows) > 4), 1, 1))
    return figure


def missing(table: pd.DataFrame, names: dict[str, str]) -> Figure:
    """Last accuracy by the share of clips that lack a sense: of test clips, with whole training clips, and of training
    clips, with whole test clips; a column a sense. Mean over seeds.

    table: row, seed, sense, train, test, last_accuracy. names: of rows.
    """
    senses = list(dict.fromkeys(table.sense))
    figure, axes = plt.subplots(1, 2 * len(senses), figsize=(4.4 * 2 * len(senses), 4.2), sharey=True)
    colours = dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))
    panels = [(sense, vary) for vary in ("test", "train") for sense in senses]
    for axis, (sense, vary) in zip(axes, panels, strict=True):
        other = "train" if vary == "test" else "test"
        mine = table[(table.sense == sense) & (table[other] == 0)]
        curves = mine.groupby(["row", vary]).last_accuracy.mean()
        for row, colour in colours.items():
            axis.plot(100 * curves[row].index, 100 * curves[row], color=colour, marker="o", markersize=3)
        if axis is axes[-1]:
            ends = [(100 * curves[row].iloc[-1], textwrap.fill(name, 30), colours[row]) for row, name in names.items()]
            label_ends(axis, ends, 103, 6.5, "x-small")
        clips = "test" if vary == "test" else "training"
        axis.set(title=f"no {sense}", xlabel=f"% of {clips} clips", xticks=range(0, 101, 25), ylim=(0, 100))
    axes[0].set_ylabel("last accuracy, %")
    figure.tight_layout()
    return figure
