"""Figures of the playground: DataFrame or arrays in, a Vega-Lite figure (a dict) out.

They answer the pointer: values under it, rows that a click on their name hides, curves that are dragged, and zoomed
with Ctrl and the wheel, until a double click. JupyterLab and Voilà both carry Vega: nothing is fetched from elsewhere.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from avcil.results.names import short_name_of
from avcil.results.plots import PALETTE, colours_of

LIVE, PAST = "this run", "this run, past classes"
SHOWN = [{"filter": {"param": "shown"}}]
# the wheel alone scrolls the page, and `!` keeps the browser from zooming with Ctrl as well
ACROSS: dict = {"type": "interval", "zoom": "wheel![event.ctrlKey]"}
ZOOM = {"name": "zoom", "select": ACROSS, "bind": "scales"}
# limits of 0 are none: names are not cut, and no row is left out of a legend
LABELS = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 0}
CONFIG = {
    "font": "sans-serif", "axis": LABELS, "title": {"fontSize": 13}, "view": {"stroke": None},
    "legend": LABELS | {"title": None, "orient": "bottom", "columns": 4, "symbolLimit": 0, "symbolOpacity": 1},
}  # fmt: skip


def _colours(names: dict[str, str]) -> dict:
    """A colour for each row. names: by row."""
    # what is being learnt is black and grey, as no stored row is
    by_row = colours_of(names, grey=False) | {LIVE: "black", PAST: "gray"}
    colours = [to_hex(by_row[row]) for row in names]
    return {"field": "row", "type": "nominal", "scale": {"domain": list(names.values()), "range": colours}}


def _data(table: pd.DataFrame) -> dict:
    """What is not there is null: JSON has no NaN."""
    # as objects, for a column of numbers would turn None back into NaN
    rounded = table.round(5).astype(object)
    return {"values": rounded.where(table.notna(), None).to_dict("records")}


def _toggles(names: Iterable[str]) -> dict:
    """All are shown, until a click on a name in the legend takes it away, or brings it back."""
    # begun with all rows chosen, so that a click hides one (LOG.md)
    select = {"type": "point", "fields": ["row"], "toggle": "true", "clear": False}
    return {"name": "shown", "value": [{"row": name} for name in names], "select": select, "bind": "legend"}


def _axis(field: str, title: str, **scale) -> dict:
    return {"field": field, "type": "quantitative", "title": title, "scale": scale}


def _tooltip(*fields: str, **values: str) -> list[dict]:
    """fields: as they are; values: by field, their titles: three digits."""
    numbers = [{"field": field, "title": title, "format": ".3f"} for field, title in values.items()]
    return [*({"field": field} for field in fields), *numbers]


def _curves(table: pd.DataFrame, names: dict[str, str], *, tasks: int, title: str) -> dict:
    """table: row, task, accuracy, and the least and greatest over seeds, of rows of those names."""
    # a little room on both sides, or the first and the last dots would be cut
    x = _axis("task", "task", domain=[-0.2, tasks - 0.8]) | {"axis": {"grid": False, "values": [*range(tasks)]}}
    y = _axis("accuracy", "accuracy on all classes seen", domain=[0, 1.02])
    # bounds, which have all data at once, and this run on past classes alone
    dashed = [name for row, name in names.items() if row.startswith("joint") or name == PAST]
    dash = {"condition": {"test": {"field": "row", "oneOf": dashed}, "value": [5, 4]}, "value": [1, 0]}
    tips = _tooltip("row", "task", accuracy="accuracy", least="worst seed", greatest="best seed")
    return {
        "data": _data(table), "transform": SHOWN,
        "description": "accuracy after each task", "title": title, "width": 400, "height": 260,
        "encoding": {"x": x, "color": _colours(names)},
        "layer": [
            {"mark": {"type": "area", "opacity": 0.13, "clip": True, "tooltip": None},
             "encoding": {"y": y | {"field": "least"}, "y2": {"field": "greatest"}}},
            {"mark": {"type": "line", "clip": True, "tooltip": None}, "encoding": {"y": y, "strokeDash": dash}},
            {"mark": {"type": "point", "filled": True, "opacity": 1, "size": 45, "clip": True},
             "params": [_toggles(names.values()), ZOOM], "encoding": {"y": y, "tooltip": tips}},
        ],
    }  # fmt: skip


def curves(runs: pd.DataFrame, names: dict[str, str], *, title: str) -> dict:
    """Accuracy on the classes seen so far after each task: mean over seeds, band from the worst to the best seed.

    runs: method, seed, task, accuracy; names: by method, of the rows shown.
    """
    by_task = runs.groupby(["method", "task"]).accuracy
    table = by_task.agg(accuracy="mean", least="min", greatest="max").reset_index()
    return _curves(table.assign(row=table.method.map(names)), names, tasks=int(runs.task.max()) + 1, title=title)


def forgetting_plasticity(measures: pd.DataFrame, names: dict[str, str]) -> dict:
    """What is kept against what is learnt. Bars: spread over seeds.

    measures: by method, each with its spread as ``…_std``; names: by method.
    """
    points = measures.rename_axis("method").reset_index()
    points["row"] = points.method.map(names)
    for name in ("forgetting_last", "plasticity"):
        for side, sign in (("low", -1), ("high", 1)):
            # one seed has no spread, and its bar no length
            points[f"{name}_{side}"] = points[name] + sign * points[f"{name}_std"].fillna(0)
    x = _axis("forgetting_last", "forgetting after the last task", zero=False)
    y = _axis("plasticity", "accuracy on new classes (plasticity)", zero=False)
    across = {"x": x | {"field": "forgetting_last_low"}, "x2": {"field": "forgetting_last_high"}, "y": y}
    along = {"x": x, "y": y | {"field": "plasticity_low"}, "y2": {"field": "plasticity_high"}}
    values = {"forgetting_last": "forgetting", "plasticity": "plasticity", "last_accuracy": "last accuracy"}
    bar = {"type": "rule", "opacity": 0.5, "clip": True, "tooltip": None}
    return {
        "description": "forgetting and plasticity", "title": "Learning without forgetting is up and to the left",
        "data": _data(points), "transform": SHOWN,
        "width": 340, "height": 260, "encoding": {"color": _colours(names)},
        "layer": [
            {"mark": bar, "encoding": across}, {"mark": bar, "encoding": along},
            {"mark": {"type": "point", "filled": True, "size": 90, "clip": True},
             "params": [_toggles(names.values()), ZOOM],
             "encoding": {"x": x, "y": y, "tooltip": _tooltip("row", **values)}},
        ],
    }  # fmt: skip


def ranking(measures: pd.DataFrame, names: dict[str, str]) -> dict:
    """Rows from the best to the worst by one measure, which is chosen in the figure; less forgetting is better."""
    columns = [name for name in measures if not name.endswith("_std")]
    lines = measures.rename_axis("method").reset_index()
    lines["row"] = lines.method.map(names)
    # ranks are worked out in the page, where the measure is chosen
    sort = {"field": "rank", "op": "min"}
    y = {"field": "row", "type": "nominal", "sort": sort, "title": None}
    labels = [name.replace("_", " ") for name in columns]
    choice = {"input": "select", "options": columns, "labels": labels, "name": "best first by "}
    return {
        "description": "rows from the best to the worst",
        "data": _data(lines),
        "params": [{"name": "by", "value": "last_accuracy", "bind": choice}],
        "transform": [
            {"calculate": "datum[by]", "as": "mean"},
            # null, of one seed, counts as 0
            {"calculate": "datum[by + '_std'] || 0", "as": "spread"},
            {"calculate": "slice(by, 0, 10) == 'forgetting' ? datum.mean : -datum.mean", "as": "rank"},
            {"calculate": "datum.mean - datum.spread", "as": "low"},
            {"calculate": "datum.mean + datum.spread", "as": "high"},
        ],
        "width": 200, "height": {"step": 20},
        "encoding": {"y": y, "tooltip": _tooltip("row", mean="mean", spread="spread over seeds")},
        "layer": [
            {"mark": "bar", "encoding": {"x": _axis("mean", ""), "color": _colours(names) | {"legend": None}}},
            {"mark": "rule", "encoding": {"x": _axis("low", ""), "x2": {"field": "high"}}},
        ],
    }  # fmt: skip


def _cells(x: str, y: str, value: str, *, cell: int, tooltip: list[dict], **more) -> dict:
    """A heatmap of shares with their values written in them; more: of the channel y."""
    across = {"field": x, "type": "ordinal", "axis": {"labelAngle": 0, "title": x}}
    # cividis is dark below a half
    light = {"condition": {"test": f"datum['{value}'] < 0.5", "value": "white"}, "value": "black"}
    text = {"field": value, "type": "quantitative", "format": ".2f"}
    colour = {"type": "quantitative", "scale": {"domain": [0, 1], "scheme": "cividis"}, "legend": None}
    return {
        # sort None: in the order of the table, not of the alphabet
        "encoding": {"x": across, "y": {"field": y, "type": "ordinal", "sort": None} | more, "tooltip": tooltip},
        "width": {"step": cell}, "height": {"step": min(cell, 26)},
        "layer": [
            {"mark": {"type": "rect", "stroke": "white"}, "encoding": {"color": {"field": value} | colour}},
            {"mark": {"type": "text", "fontSize": 10}, "encoding": {"text": text, "color": light}},
        ],
    }  # fmt: skip


def matrices(matrix: pd.DataFrame, names: dict[str, str]) -> dict:
    """R[t, j], mean over seeds: rows are moments, columns are the tasks whose clips are classified.

    matrix: method, seed, task, on_task, accuracy; names: by method, of the rows shown.
    """
    cells = matrix.groupby(["method", "task", "on_task"]).accuracy.agg(accuracy="mean", least="min", greatest="max")
    table = cells.reset_index().rename(columns={"task": "after task", "on_task": "on clips of task"})
    table = table.assign(row=table.method.map(names))
    tips = _tooltip(
        "row", "after task", "on clips of task", accuracy="accuracy", least="worst seed", greatest="best seed"
    )
    # matrices of more tasks are so wide that two fill a line
    few = table["after task"].max() < 6
    return {
        "description": "accuracy matrices",
        "data": _data(table),
        "facet": {"field": "row", "sort": list(names.values()), "title": None, "header": {"labelLimit": 150}},
        "columns": 4 if few else 2, "spacing": 12,
        "spec": _cells("on clips of task", "after task", "accuracy", cell=30, tooltip=tips),
    }  # fmt: skip


def class_changes(accuracy: pd.DataFrame, confusion: np.ndarray, faces: dict[str, str], *, title: str) -> dict:
    """Accuracy of each class (rows, in the order learnt) after each task, and which tasks' classes clips are taken for.

    accuracy: classes x tasks, NaN where not learnt yet; confusion [t,t]: shares of each task's clips; faces: a picture
    of each class by its name, in the order learnt, or "".
    """
    names = list(faces)
    by_class = accuracy.set_axis([names[c] for c in accuracy.index]).rename_axis(index="class", columns="after task")
    # classes that are not learnt yet have no cell
    table = by_class.stack().rename("accuracy").reset_index()
    # once a class, or each of its cells would draw the picture again
    table["face"] = table["class"].map(faces).where(~table["class"].duplicated())
    tasks, taken = np.arange(len(confusion)), "taken for a class of task"
    confused = pd.DataFrame(confusion, tasks, tasks).rename_axis(index="clips of task", columns=taken)
    shares = confused.stack().rename("share").reset_index()
    tips = _tooltip("class", "after task", accuracy="accuracy")
    axis = {"title": None, "labelPadding": 30}  # pictures stand there
    left = _cells("after task", "class", "accuracy", cell=50, tooltip=tips, axis=axis)
    left["layer"].append({
        # neither null, of a class's further cells, nor "", of one without a picture
        "transform": [{"filter": "datum.face"}],
        "mark": {"type": "image", "width": 24, "height": 24},
        "encoding": {"x": {"value": -16}, "url": {"field": "face"}},
    })  # fmt: skip
    tips = _tooltip("clips of task", taken, share="share")
    right = _cells(taken, "clips of task", "share", cell=50, tooltip=tips)
    return {
        "description": "accuracy by class, and confusion of tasks",
        "hconcat": [
            left | {"data": _data(table), "title": f"Accuracy by class: {title}"},
            right | {"data": _data(shares), "title": "Confusion of tasks, at the end"},
        ],
    }


def live(now: pd.DataFrame, stored: pd.DataFrame, *, tasks: int, title: str) -> dict:
    """A run that is being learnt beside stored ones.

    now: task, accuracy, past_accuracy; stored: method, task, accuracy.
    """
    names = {row: f"{short_name_of(row)}, stored" for row in stored.method.unique()} | {LIVE: LIVE, PAST: PAST}
    # before the first task the table is empty, and its columns are of objects
    now = now.astype(float)
    # after the first task there are no past classes
    past = now.assign(accuracy=now.past_accuracy, row=PAST).dropna(subset="accuracy")
    table = pd.concat([stored.assign(row=stored.method.map(names)), now.assign(row=LIVE), past])
    # a single seed has no band
    table = table[["row", "task", "accuracy"]].assign(least=table.accuracy, greatest=table.accuracy)
    return _curves(table, names, tasks=tasks, title=title)


def live_losses(losses: pd.DataFrame) -> dict:
    """The losses of a run so far, epoch by epoch: columns task, epoch, and one a loss.

    Where epochs were scored on validation clips, ``validation_accuracy`` has an axis of its own.
    """
    # epochs begin at 0 in every task, and the axis counts them on
    table = losses.assign(at=range(len(losses)))
    names = [name for name in losses if name not in ("task", "epoch", "validation_accuracy")]
    colours = [to_hex(PALETTE[number % len(PALETTE)]) for number in range(len(names))]
    scale = {"domain": [name.replace("_", " ") for name in names], "range": colours}
    axis = {"grid": False, "tickMinStep": 1}
    # room for ten from the start, so that the first epochs do not fill the figure
    x = _axis("at", "epoch, task after task", domain=[-0.2, max(len(losses), 10) - 0.8]) | {"axis": axis}
    # a line of one epoch has no length, and points that are not seen still answer the pointer
    dots = {"type": "line", "point": len(losses) < 10 or "transparent", "clip": True}
    lines = {
        "transform": [
            {"fold": names, "as": ["key", "loss"]}, {"calculate": "replace(datum.key, /_/g, ' ')", "as": "row"}, *SHOWN
        ],
        # zoomed along x, which losses and accuracy share, and not along y, where each has an axis of its own
        "mark": dots, "params": [_toggles(scale["domain"]), ZOOM | {"select": ACROSS | {"encodings": ["x"]}}],
        "encoding": {"y": _axis("loss", "loss"), "color": {"field": "row", "type": "nominal", "scale": scale},
                     "tooltip": _tooltip("row", "task", "epoch", loss="loss")},
    }  # fmt: skip
    starts = {"transform": [{"filter": "datum.epoch == 0"}], "mark": {"type": "rule", "color": "lightgray"}}
    scored = {
        "mark": dots | {"strokeDash": [2, 2], "color": "black"},
        "encoding": {"y": _axis("validation_accuracy", "validation accuracy (dotted)", domain=[0, 1.02]),
                     "tooltip": _tooltip("task", "epoch", validation_accuracy="validation accuracy")},
    }  # fmt: skip
    return {
        "description": "losses by epoch", "title": "Losses", "width": 340, "height": 260,
        "data": _data(table), "encoding": {"x": x},
        "layer": [starts, lines, *([scored] if "validation_accuracy" in losses else [])],
        "resolve": {"scale": {"y": "independent"}},
    }  # fmt: skip
