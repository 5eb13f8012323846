"""Figures that are the same on another person's machine."""

import io

import matplotlib.pyplot as plt
import pytest
from matplotlib import font_manager, get_data_path

from avcil.results import plots


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
