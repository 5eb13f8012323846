"""Figures that are the same on another person's machine."""

import io
import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib import font_manager, get_data_path

from avcil.results import plots, plots_field


@pytest.mark.parametrize("known", ["no font", "another Arial"])
def test_the_fonts_are_matplotlibs_own_whatever_the_system_has(known, monkeypatch, caplog):
    """The font list of matplotlib, which a cache in the home folder keeps, once had no font of matplotlib itself."""
    arial = font_manager.FontEntry(fname="/nowhere/arial.ttf", name="Arial")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [] if known == "no font" else [arial])
    plots.use_style()
    axis = plt.figure().subplots()
    axis.set(xscale="log", xlim=(1, 1000), title="10 000")
    axis.figure.savefig(io.BytesIO())
    plt.close(axis.figure)
    assert font_manager.findfont(axis.title.get_fontproperties()).startswith(get_data_path())
    assert not caplog.records


def test_a_knob_is_a_panel_with_what_each_part_adds_and_its_interval():
    lines = [("exemplars", "1", "guidance", 0.2, 0.1, 0.3), ("exemplars", "5", "guidance", 0.1, -0.1, 0.3)]
    lines += [
        ("exemplars", "5", "distillation", 0.05, math.nan, math.nan),
        ("prior", "shipped", "guidance", 0.0, 0.0, 0.1),
    ]
    worth = pd.DataFrame(lines, columns=["knob", "value", "part", "mean", "low", "high"])
    figure = plots_field.knobs(worth)
    first, second = figure.axes
    assert [axis.get_xlabel() for axis in (first, second)] == ["exemplars", "prior"]
    assert [label.get_text() for label in first.get_xticklabels()] == ["1", "5"]
    guidance, distillation, *_ = first.lines
    assert [*guidance.get_ydata()] == [20, 10] and [*distillation.get_ydata()] == [5]
    assert distillation.get_xdata()[0] == pytest.approx(1, abs=0.1)
    ends = [segment[:, 1].tolist() for segment in first.collections[0].get_segments()]
    assert ends == [[10, 30], [pytest.approx(-10), 30]]
    plt.close(figure)


def test_no_knob_is_an_empty_figure():
    plt.close(plots_field.knobs(pd.DataFrame(columns=["knob", "value", "part", "mean", "low", "high"])))
