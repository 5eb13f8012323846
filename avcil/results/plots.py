"""One function a figure: DataFrame or arrays in, Figure out. No file is read or written here.

Colours are seaborn's colour-blind palette, one colour a row everywhere; lines carry their names at their ends. Tables
hold fractions, axes show percent, as tables in the text do.
"""

import textwrap
from collections.abc import Iterable

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import font_manager
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from avcil.results.names import short_name_of

PALETTE = sns.color_palette("colorblind", 10)
# places in PALETTE, and behind it in its dark form: rows that share one stand in no figure together
_COLOURS = {
    "lll_prior": 0, "naive_fusion": 1, "audio_only": 2, "visual_only": 4, "replay": 3, "finetune": 5,
    "ridge": 2, "lll": 4, "joint_guided": 7, "without_both_levels": 9, "without_prior": 6, "ssil": 11,
    "lll_closed": 17, "lll_closed_synchrony": 19, "lll_analytic": 10, "lll_analytic_no_exemplars": 14,
    "acil": 13, "acil_guided": 18, "scaled_ridge": 12, "ranpac": 15, "avcil": 16,
}  # fmt: skip


def use_style() -> None:
    """Call once a notebook."""
    # seaborn's own choice is Arial, wherever that is installed (LOG.md)
    sns.set_theme(context="notebook", style="ticks", font_scale=0.9, font="DejaVu Sans")
    # the fonts that come with matplotlib alone: those of the system, and the cache of its user, are others elsewhere
    own = font_manager.findSystemFonts([f"{matplotlib.get_data_path()}/fonts/ttf"])
    font_manager.fontManager.ttflist.clear()
    # of fonts that suit alike the first is taken, and files are found in no order
    for path in sorted(own):
        font_manager.fontManager.addfont(path)
    matplotlib.rcParams |= {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.dpi": 80,
        "savefig.dpi": 110,
        "savefig.bbox": "tight",
        "axes.titleweight": "bold",
        "axes.titlesize": "medium",
    }


def colours_of(methods: Iterable[str], grey: bool = True) -> dict:
    """By row: its own; of rows that have none, or without ``grey`` the grey one, colours that differ."""
    places = [*PALETTE, *sns.color_palette("dark", 10)]
    own = {row: places[place] for row, place in _COLOURS.items() if grey or place != 7}
    rest = [row for row in methods if row not in own]
    return own | dict(zip(rest, sns.husl_palette(len(rest), l=0.5), strict=True))


def in_percent(axis: Axis) -> None:
    """Fractions along the axis are shown in percent; its label says so."""
    axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))


def label_ends(axes, ends: list[tuple], x: float, gap: float, fontsize: str | float | None = "small") -> None:
    """Write names right of their lines' ends, pushed apart by at least ``gap``. ends: height, name and colour."""
    placed = -np.inf
    # from below, so that a name only ever moves up, out of the way of the one before
    for y, name, colour in sorted(ends, key=lambda end: end[0]):
        placed = max(y, placed + gap)
        # names stand beside the axes, where they would be clipped away
        axes.annotate(name, (x, placed), color=colour, va="center", fontsize=fontsize, annotation_clip=False)


def band(axes, groups, name: str, colour, style: str = "-", alpha: float = 0.13) -> tuple:
    """Draw the mean of each group, and a band from its least to its greatest value. Returns the line's end, as
    `label_ends` wants it."""
    table = groups.agg(["mean", "min", "max"])
    axes.plot(table.index, table["mean"], style, marker="o", markersize=4, color=colour)
    axes.fill_between(table.index, table["min"], table["max"], color=colour, alpha=alpha, linewidth=0)
    return table["mean"].iloc[-1], name, colour


def accuracy_curves(runs: pd.DataFrame, methods: list[str], *, title: str) -> Figure:
    """Accuracy on the classes seen so far after each task: mean over seeds, band from the worst to the best seed."""
    figure, axes = plt.subplots(figsize=(7.2, 4.2))
    ends, colours = [], colours_of(methods)
    for method in methods:
        by_task = runs[runs.method == method].groupby("task").accuracy
        # bounds, which have all data at once, are dashed
        style = "--" if method.startswith("joint") else "-"
        ends.append(band(axes, by_task, short_name_of(method), colours[method], style))
    last = int(runs.task.max())
    # gaps are in units of the y axis
    label_ends(axes, ends, last + 0.12, 0.042)
    axes.set(xlabel="task", ylabel="accuracy on all classes seen, %", ylim=(0, 1), xticks=range(last + 1))
    axes.set_title(f"{title} (band: worst to best seed)")
    in_percent(axes.yaxis)
    figure.tight_layout()
    return figure


def four_way(summary: pd.DataFrame) -> Figure:
    """The paper's Figure 1: what each stream and each fusion reaches, incrementally and with all data at once."""
    joint_of = {
        "visual_only": "joint_visual", "audio_only": "joint_audio", "naive_fusion": "joint_naive",
        "lll_prior": "joint_guided",
    }  # fmt: skip
    table = summary.set_index("method")
    # only some of the rows may have been learnt
    shown = [row for row in joint_of if row in table.index]
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    for x, row in enumerate(shown):
        value, spread = table.loc[row, ["last_accuracy", "last_accuracy_std"]]
        axes.bar(x, value, 0.62, yerr=spread, color=colours_of(shown)[row], error_kw={"elinewidth": 1})
        axes.annotate(f"{100 * value:.0f}", (x, 0.02), ha="center", color="white", fontweight="bold")
        if joint_of[row] in table.index:
            bound = table.last_accuracy[joint_of[row]]
            axes.hlines(bound, x - 0.4, x + 0.4, color="0.2", linestyle="--", linewidth=1.5)
            axes.annotate(
                f"joint {100 * bound:.0f}", (x, bound), xytext=(0, 4), textcoords="offset points", ha="center",
                fontsize="small", bbox={"facecolor": "white", "alpha": 0.8, "pad": 1, "edgecolor": "none"},
            )  # fmt: skip
    axes.set(
        xticks=range(len(shown)),
        # `lll_prior` as the paper's figure calls it
        xticklabels=["guided fusion" if row == "lll_prior" else short_name_of(row) for row in shown],
        ylabel="accuracy after the last task, %",
        ylim=(0, 1),
        title="One modality, naive fusion, guided fusion (bar: ± 1 standard deviation)",
    )
    in_percent(axes.yaxis)
    figure.tight_layout()
    return figure


def accuracy_matrices(matrix: pd.DataFrame, methods: list[str]) -> Figure:
    """R[t, j] in percent, mean over seeds: rows are moments, columns are the tasks whose clips are classified."""
    figure, axes = plt.subplots(1, len(methods), figsize=(2.9 * len(methods) + 0.6, 3.1), squeeze=False)
    for axis, method in zip(axes[0], methods, strict=True):
        rows = matrix[matrix.method == method]
        table = 100 * rows.pivot_table(index="task", columns="on_task", values="accuracy", aggfunc="mean")
        sns.heatmap(
            table, vmin=0, vmax=100, cmap="cividis", annot=True, fmt=".0f", annot_kws={"size": 8}, cbar=False,
            square=True, ax=axis, linewidths=0.5,
        )  # fmt: skip
        title = "\n".join(textwrap.wrap(short_name_of(method), 20))
        axis.set(title=title, xlabel="accuracy on task, %", ylabel="after task" if axis is axes[0, 0] else "")
    figure.tight_layout()
    return figure


def forgetting_plasticity(summary: pd.DataFrame, methods: list[str]) -> Figure:
    """What is kept against what is learnt; the best corner is at the top left. Bars: spread over seeds."""
    figure, axes = plt.subplots(figsize=(6.6, 4.4))
    table, colours = summary.set_index("method").loc[methods], colours_of(methods)
    axes.errorbar(
        table.forgetting_last, table.plasticity, xerr=table.forgetting_last_std, yerr=table.plasticity_std,
        fmt="none", ecolor="0.75", elinewidth=1,
    )  # fmt: skip
    # in units of the y axis, whose span hangs on the rows
    gap, placed = 0.06 * np.ptp(table.plasticity), list[tuple[float, float]]()
    # from below, so that names are only ever moved up
    for method, row in table.sort_values("plasticity").iterrows():
        x, y = row.forgetting_last, row.plasticity
        axes.plot(x, y, "o", color=colours[method])
        y = max([y, *(below + gap for beside, below in placed if abs(x - beside) < 0.3)])  # names beside one another
        placed.append((x, y))
        axes.annotate(
            short_name_of(method), (x, y),
            xytext=(6, 4), textcoords="offset points", fontsize="small", color=colours[method],
        )  # fmt: skip
    axes.set(xlabel="forgetting after the last task, points", ylabel="accuracy on new classes (plasticity), %")
    in_percent(axes.xaxis)
    in_percent(axes.yaxis)
    axes.set_title("Best: top left (bars: ± 1 standard deviation)")
    # room for the names right of their dots
    axes.margins(x=0.25)
    figure.tight_layout()
    return figure


def localisation_curves(localisation: pd.DataFrame, methods: list[str]) -> Figure:
    """Does attention still find the sounding object of the first task's clips? Hit rate and AUC after each task."""
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.6))
    first = localisation[(localisation.on_task == 0) & localisation.method.isin(methods)]
    last = int(first.task.max())
    colours = colours_of(methods)
    titles = {"hit": "attention hits, %", "auc": "area under the ROC curve"}
    for axis, (column, title) in zip(axes, titles.items(), strict=True):
        ends = []
        for method in methods:
            by_task = first[first.method == method].groupby("task")[column]
            ends.append(band(axis, by_task, short_name_of(method), colours[method]))
        floor = min(0.5, np.floor(10 * first[column].min()) / 10)  # no line leaves the figure
        label_ends(axis, ends, last + 0.12, 0.07 * (1 - floor))
        axis.set(xlabel="after task", title=title, xticks=range(last + 1), ylim=(floor, 1))
    in_percent(axes[0].yaxis)
    figure.suptitle("Attention on test clips of task 0 (band: worst to best seed)", fontsize="medium")
    figure.tight_layout()
    return figure


def overlay(frame: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Attention [S] as heat over the greyed frame [H,W,3] uint8: opacity and colour follow weight over maximum."""
    side = round(len(weights) ** 0.5)
    size = frame.shape[0]
    # over many patches even the largest weight is small, and all of it would look pale
    grid = (weights / weights.max()).reshape(side, side)
    # where pixels are between the centres of patches, which are at 0, 1, ... (beyond the outer ones nothing is guessed)
    positions = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
    # the last pixels lie on the last patch, and still need one after `low`
    low = np.minimum(positions.astype(int), side - 2)
    part = positions - low
    # bilinear: first down, then across
    rows = grid[low] * (1 - part[:, None]) + grid[low + 1] * part[:, None]
    smooth = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    grey = 0.3 + 0.7 * frame.mean(-1, keepdims=True) / 255
    heat = matplotlib.colormaps["YlOrRd"](smooth)[..., :3]
    # the root lifts small weights, and 0.85 lets the picture through at the peak
    opacity = np.sqrt(smooth)[..., None] * 0.85
    return ((grey * (1 - opacity) + heat * opacity) * 255).round().astype(np.uint8)


def outline(axis, share: np.ndarray, size: int, colour: str = "white") -> None:
    """Draw the border of the truly sounding region, where share [S] is a half, over an image of ``size`` pixels."""
    side = round(len(share) ** 0.5)
    # in pixels, as imshow counts them: the first one's centre is at 0
    centres = (np.arange(side) + 0.5) * size / side - 0.5
    # of a level that nothing reaches matplotlib warns
    if share.max() >= 0.5:
        axis.contour(centres, centres, share.reshape(side, side), levels=[0.5], colors=colour, linewidths=1.2)


def attention_over_tasks(frames: np.ndarray, maps: dict[str, np.ndarray], share: np.ndarray, *, title: str) -> Figure:
    """One clip, moments across, its maps below.

    frames [L,H,W,3]; maps: row name to weights [L,S]; share [L,S]: outlined is what truly sounds.
    """
    slots, size = len(frames), frames.shape[1]
    figure, axes = plt.subplots(len(maps) + 1, slots, figsize=(1.15 * slots + 0.9, 1.2 * (len(maps) + 1) + 0.3))
    for column in range(slots):
        axes[0, column].imshow(frames[column])
        for row, weights in enumerate(maps.values(), start=1):
            axes[row, column].imshow(overlay(frames[column], weights[column]))
            outline(axes[row, column], share[column], size, colour="black")
    name_rows(axes, ["clip", *maps])
    figure.suptitle(title, fontsize="medium")
    figure.tight_layout(h_pad=0.2, w_pad=0.2)
    return figure


def name_rows(axes: np.ndarray, names: list[str]) -> None:
    """Pictures [rows, columns] without ticks and borders, and the names of the rows in front."""
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        sns.despine(ax=axis, left=True, bottom=True)
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize="small")


def spectrograms(mels: dict[str, np.ndarray], *, seconds: float, title: str) -> Figure:
    """Mel magnitudes [M,frames] by name, on one decibel scale."""
    figure, axes = plt.subplots(1, len(mels), figsize=(2.6 * len(mels), 2.5), sharey=True, squeeze=False)
    # one scale for all, or what is faint would look as loud as the rest (1e-6: silence has no logarithm)
    top = 20 * np.log10(max(mel.max() for mel in mels.values()) + 1e-6)
    for axis, (name, mel) in zip(axes[0], mels.items(), strict=True):
        decibels, extent = 20 * np.log10(mel + 1e-6), (0, seconds, 0, len(mel))
        axis.imshow(decibels, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=top - 60, vmax=top)
        axis.set(title=name, xlabel="seconds")
    axes[0, 0].set_ylabel("mel band")
    figure.suptitle(title, fontsize="medium")
    figure.tight_layout()
    return figure
