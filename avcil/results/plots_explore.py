"""Figures of the playground: DataFrame or arrays in, Figure out, as in avcil/results/plots.py."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from avcil.results.names import short_name_of
from avcil.results.plots import PALETTE, colour_of

MARGINS = (0.12, 0.15, 0.88, 0.91)  # left, bottom, right, top of pictures that grow: nothing else in them moves


def class_changes(accuracy: pd.DataFrame, confusion: np.ndarray, labels: list[str], *, title: str) -> Figure:
    """Accuracy of each class (rows, in the order learnt) after each task, and which tasks' classes clips are taken for.

    accuracy: classes x tasks, NaN where not learnt yet; confusion [t,t]: shares of each task's clips.
    """
    height = 0.9 + 0.21 * len(accuracy)
    figure, axes = plt.subplots(1, 2, figsize=(10, max(3.2, height)), width_ratios=(1.1, 1))
    options = {"vmin": 0, "vmax": 1, "annot": True, "fmt": ".2f", "annot_kws": {"size": 8}, "cbar": False}
    sns.heatmap(accuracy, cmap="cividis", ax=axes[0], linewidths=0.5, **options)
    axes[0].set(xlabel="after task", ylabel="", title=f"Accuracy by class: {title}")
    axes[0].set_yticks(np.arange(len(accuracy)) + 0.5, [labels[c] for c in accuracy.index], rotation=0, fontsize=8)
    sns.heatmap(confusion, cmap="rocket_r", ax=axes[1], square=True, linewidths=0.5, **options)
    axes[1].set(xlabel="taken for a class of task", ylabel="clips of task", title="Confusion between tasks, at the end")
    figure.tight_layout()
    return figure


def live(now: pd.DataFrame, stored: pd.DataFrame, *, tasks: int, title: str) -> Figure:
    """A run that is being learnt beside stored ones.

    now: task, accuracy, past_accuracy, new_accuracy; stored: method, task, accuracy.
    """
    figure, axes = plt.subplots(figsize=(5.6, 3.4))
    for method, rows in stored.groupby("method", sort=False):
        name = short_name_of(method)
        axes.plot(rows.task, rows.accuracy, "--", color=colour_of(method), linewidth=1.4, label=f"{name}, stored")
    axes.plot(now.task, now.accuracy, "-o", color="black", linewidth=2.2, markersize=5, label="this run")
    axes.plot(now.task, now.past_accuracy, ":", color="0.35", linewidth=1.4, label="this run, past classes")
    axes.set(xlabel="task", ylabel="accuracy on all classes seen", ylim=(0, 1.02), xlim=(-0.2, tasks - 0.8))
    axes.set(xticks=range(tasks), title=title)
    axes.legend(frameon=False, fontsize="small", loc="lower left")
    figure.subplots_adjust(*MARGINS)
    return figure


def live_losses(losses: pd.DataFrame) -> Figure:
    """The losses of a run so far, epoch by epoch: columns task, epoch, and one a loss.

    Where epochs were scored on validation clips, ``validation_accuracy`` has an axis of its own.
    """
    figure, axes = plt.subplots(figsize=(5.2, 3.4))
    dots = {"marker": "."} if len(losses) < 10 else {}  # one epoch makes no line
    for number, name in enumerate(c for c in losses if c not in ("task", "epoch", "validation_accuracy")):
        colour = PALETTE[number % len(PALETTE)]
        axes.plot(losses[name].to_numpy(), color=colour, label=name.replace("_", " "), **dots)
    for start in np.flatnonzero(losses.epoch == 0):
        axes.axvline(start, color="0.85", linewidth=1, zorder=0)
    axes.set(xlabel="epoch, task after task", ylabel="loss", title="Losses", ylim=(0, None))
    axes.set(xlim=(-0.2, max(len(losses), 10) - 0.8))
    axes.legend(edgecolor="none", fontsize="small", loc="upper right")
    if "validation_accuracy" in losses:
        beside = axes.twinx()
        beside.plot(losses.validation_accuracy.to_numpy(), ":", color="black", linewidth=1.4, **dots)
        beside.set(ylim=(0, 1.02), ylabel="validation accuracy (dotted)")
        beside.spines.right.set_visible(True)
    figure.subplots_adjust(*MARGINS)
    return figure
