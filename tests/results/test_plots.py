"""Figures that are the same on another person's machine."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import font_manager, get_data_path
from PIL import Image
from toys import TASKS, TRAINING, row

from avcil.learn.train import run_tasks
from avcil.results import attention, plots, plots_field


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


def test_rows_and_families_of_one_s_own_have_colours_of_their_own(monkeypatch):
    """Own rows were all as grey as the upper bound, and an own family, the seventh, as blue as LLL."""
    shown = ["mine", "lll_prior", "joint_guided", "mine too", "lll_closed"]
    colours = plots.colours_of(shown)
    assert len({colours[row] for row in shown}) == len(shown) and colours["lll_prior"] == plots.PALETTE[0]
    monkeypatch.setattr(plots_field, "families", lambda: [*"abcdefgh"])
    assert len(set(map(plots_field._colour_of_family, "abcdefgh"))) == 8


@pytest.mark.parametrize("changes", [{}, {"fusion": "frozen_guided", "readout": "ridge"}])
def test_what_is_said_of_a_clip_is_what_its_row_answers(toy, tmp_path, changes):
    """Of a solved head too, whose row has a classifier that learns nothing."""
    last = run_tasks(toy, row(**changes), TRAINING, TASKS, 0, tmp_path)[-1]
    for clip in toy.rows("test", 0, 6).tolist():
        said = attention.probabilities(toy, clip, tmp_path / "task2/seed0", row(**changes), TRAINING)
        assert said.idxmax() == toy.order[last.predictions[toy.clip_ids[clip]]] and abs(said.sum() - 1) < 1e-5


def test_the_animation_has_a_picture_a_slot_and_each_clip_above_its_own_map(tmp_path):
    # each slot lighter than the one before: a .gif keeps one of several pictures that are the same
    grey, nothing = np.full((3, 32, 32, 3), 100, np.uint8), np.zeros((3, 16), np.float32)
    grey += 50 * np.arange(3, dtype=np.uint8)[:, None, None, None]
    first, last = np.eye(16, dtype=np.float32)[[0, 0, 0]], np.eye(16, dtype=np.float32)[[15, 15, 15]]
    attention.write_gif(tmp_path / "a.gif", [grey, grey], [nothing, nothing], {"row": [first, last]}, fps=4)
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 3 and picture.info["duration"] == 250
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    height, width = pixels.shape[0] // 2, (pixels.shape[1] - 104) // 2  # names take 1.3 inches
    heat = pixels[..., 0] - pixels[..., 2]
    corners = {}
    for number in (0, 1):
        panel = heat[height:, 104 + number * width :][:, :width]
        corners[number] = panel[: height // 4, : width // 4].mean(), panel[-height // 4 :, -width // 4 :].mean()
    assert corners[0][0] > 50 > 10 > abs(corners[0][1]) and corners[1][1] > 50 > 10 > abs(corners[1][0])
