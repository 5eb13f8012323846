"""More streams: what is known of patches, how it is joined to their tokens, and what rows are told to have gained."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from avcil.beyond import answers, plots, streams
from avcil.beyond.settings import Streams
from avcil.beyond.streams import STREAMS, by_patch, depth, joined, motion, ways
from avcil.comparison import sweep, worlds
from avcil.comparison.intervals import over_seeds, points
from avcil.learn.train import run_tasks
from avcil.params.learning import chain
from avcil.tokens.tokens import Layout
from avcil.world.scenes import benchmark_scene
from conftest import ROOT

SETTINGS = Streams(worlds=[1, 2], choice=[3], weights=[0.1, 0.3], weight=0.3, rows=["lll_closed", "scaled_ridge"])
LAYOUT = Layout(slots=8, patches=64, audio_tokens=25, visual_channels=16, audio_channels=16)


# ---- what is known of a clip


@pytest.fixture
def scenes(params):
    return [benchmark_scene(params.world, params.film, 7, "test", label, 0) for label in range(6)]


def test_the_nearest_object_is_at_one_and_what_is_seen_of_an_object_at_one_depth(scenes):
    for scene in scenes:
        near = depth(scene)
        steps = np.arange(len(scene.classes) + 1) / len(scene.classes)
        assert near.min() == pytest.approx(0, abs=1e-3) and near.max() == pytest.approx(1, abs=1e-3)
        whole = scene.regions[0] > 0.999  # cells that show nothing but what sounds
        assert np.ptp(near[whole]) < 0.01 and np.abs(steps[1:] - near[whole].mean()).min() < 0.01
    assert len({round(float(depth(scene)[scene.regions[0] > 0.999].mean()), 2) for scene in scenes}) > 1


def test_motion_is_where_something_moves(scenes):
    """What sounds swells and jumps; of the first frame there is no frame before."""
    for scene in scenes:
        moved, sounding, behind = motion(scene), scene.regions[0] > 0.5, scene.nearness == 0
        assert not moved[0].any() and moved[1:][sounding[1:]].mean() > 1.2 * moved[1:][behind[1:]].mean()


def test_a_patch_has_its_cells_of_all_its_frames():
    cells = np.arange(16 * 24 * 24, dtype=np.float32).reshape(16, 24, 24)
    stream = by_patch(cells, LAYOUT)
    assert stream.shape == (8, 64, 18)
    slot, row, column = 5, 2, 7
    mine = cells[2 * slot : 2 * slot + 2, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
    assert np.array_equal(stream[slot, 8 * row + column], mine.ravel())


# ---- what is learnt from


def test_joined_streams_stand_behind_the_tokens_with_the_weight_they_were_given(toy):
    stream = torch.rand(120, 2, 16, 5, generator=torch.Generator().manual_seed(0))
    first = toy.rows("train", 0, 2)
    tokens = joined(toy.tokens, [stream, 7 * stream + 3], 0.5, first)
    visual, parts = toy.tokens.visual, tokens.visual.split([16, 5, 5], -1)
    assert torch.equal(parts[0], visual) and torch.equal(tokens.audio, toy.tokens.audio)
    torch.testing.assert_close(parts[1], parts[2])  # neither scale nor offset matters
    share = parts[1][first].square().sum(-1).mean() / visual[first].square().sum(-1).mean()
    assert share == pytest.approx(0.25)
    assert joined(toy.tokens, [], 0.5, first).visual.shape == visual.shape
    still = joined(toy.tokens, [torch.ones_like(stream)], 0.5, first)
    assert not still.visual[..., 16:].any()


def test_later_clips_change_no_earlier_token(toy):
    stream, first = torch.rand(120, 2, 16, 5), toy.rows("train", 0, 2)
    other = stream.clone()
    other[toy.rows("train", 2, 6)] += 9
    other[toy.splits["test"]] += 9
    tokens, again = (joined(toy.tokens, [given], 0.5, first).visual[first] for given in (stream, other))
    assert torch.equal(tokens, again)


def test_every_choice_among_the_streams_is_a_way():
    assert ways() == {"none": (), "depth": ("depth",), "motion": ("motion",), "depth and motion": ("depth", "motion")}


# ---- from world to table


@pytest.mark.slow
def test_none_is_the_rows_own_result_and_nothing_is_done_twice(params, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    world = params.world.model_copy(update={"classes": 6, "timbres": 3})
    corpus = params.corpus.model_copy(update={"clips_per_class": {"train": 3, "val": 1, "test": 2}})
    alone = params.compute.model_copy(update={"workers": 1})  # processes of its own would take longer to start
    small = params.model_copy(update={"world": world, "corpus": corpus, "tasks": chain([3, 3], 1), "compute": alone})
    changes = {"worlds": [1], "rows": ["scaled_ridge_guided"], "trained": ["scaled_ridge"], "trained_worlds": [1]}
    settings = SETTINGS.model_copy(update=changes)
    # no row here is learnt on untrained tokens
    monkeypatch.setattr(worlds, "drawn", partial(worlds.drawn, tokens=("mini",)))
    drawn, folder = tmp_path / "worlds", tmp_path / "runs"
    table = streams.run(settings, small, drawn, folder)["beyond_streams"]
    assert table.streams.tolist() == [*ways(), "none", *3 * ["depth and motion"]]
    assert table.row.tolist() == [*4 * ["scaled_ridge_guided"], *2 * ["scaled_ridge"], *2 * ["scaled_ridge_guided"]]
    assert table.weight.tolist() == [*6 * [0.3], 0.1, 0.3]
    assert (table.split == "val").tolist() == [*6 * [False], *2 * [True]]
    assert table.last_accuracy.between(0, 1).all() and table.hit[table.row == "scaled_ridge_guided"].between(0, 1).all()
    asked, files = streams.jobs(settings, small, drawn, folder)
    data = sweep.datasets(asked[0].source)[1]
    own = run_tasks(data, asked[0].method, asked[0].training, asked[0].tasks, 1, None)[-1]
    assert table.last_accuracy[0] == pytest.approx(np.average(own.accuracy, weights=own.clips))
    # the streams are those of the clips that the store was made from
    known = streams.read_tensors(files[1])
    split, label, index = data.clip_ids[5].split("-")
    seeded = worlds.seeded(1, small)
    scene = benchmark_scene(seeded.world, seeded.film, seeded.corpus.seed, split, int(label), int(index))
    for name, cells in STREAMS.items():
        layout = LAYOUT._replace(slots=data.tokens.shape[1], patches=data.tokens.shape[2])
        assert np.allclose(known[name][5].float(), by_patch(cells(scene), layout), atol=1e-3)

    def never(*_, **__):
        raise AssertionError("learnt again")

    monkeypatch.setattr(streams, "_rendered", never)
    monkeypatch.setattr(streams, "run_tasks", never)
    monkeypatch.setattr(sweep, "_each", lambda work, jobs, _: enumerate(map(work, jobs)))
    pd.testing.assert_frame_equal(streams.run(settings, small, drawn, folder)["beyond_streams"], table)
    heavier = settings.model_copy(update={"weight": 0.1})
    with pytest.raises(AssertionError, match="learnt again"):
        streams.run(heavier, small, drawn, folder)
    content = bytearray(files[1].read_bytes())
    content[-1] ^= 1
    files[1].write_bytes(content)
    with pytest.raises(ValueError, match=f"{files[1].name}: another digest"):
        streams.run(heavier, small, drawn, folder)


# ---- the page


def test_the_page_tells_what_streams_add(tmp_path):
    rng, lines = np.random.default_rng(0), []
    added = {"none": 0.0, "depth": 0.001, "motion": 0.03, "depth and motion": 0.04}
    for world in (1, 2, 3, 4):
        for row, level in (("lll_closed", 0.8), ("lll_prior", 0.7)):
            luck = rng.normal(0, 0.05)
            for way, gained in added.items():
                if row == "lll_prior" and way in ("depth", "motion"):
                    continue
                accuracy = level + luck + (gained + rng.normal(0, 0.005) if gained else 0)
                lines.append((row, way, 0.3, world, "test", accuracy, 0.9))
    lines += [
        ("lll_closed", "depth and motion", weight, world, "val", 0.7 + weight / 10 + world / 100, 0.9)
        for world in (10, 11)
        for weight in (0.1, 0.3)
    ]
    columns = ["row", "streams", "weight", "world", "split", "last_accuracy", "hit"]
    table = pd.DataFrame(lines, columns=columns)
    table.to_csv(tmp_path / "beyond_streams.csv", index=False)
    text = answers.streams(tmp_path)
    closed = table[(table.row == "lll_closed") & (table.split == "test")]
    wide = closed.pivot(index="world", columns="streams", values="last_accuracy")
    gained = over_seeds(wide["depth and motion"] - wide.none)
    assert text.startswith(
        f"**Adding depth and motion to sound and picture: LLL, closed form ahead by {points(gained)};"
    )
    line = next(line for line in text.splitlines() if line.startswith("| motion |"))
    assert line.split(" | ")[1:3] == [f"{100 * wide.motion.mean():.1f}", points(over_seeds(wide.motion - wide.none))]
    assert "validation clips of worlds 10, 11 (0.1: 81.5; 0.3: 83.5)" in text
    figure = plots.streams(table)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == [*added][1:]
    means = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert means[0].get_xdata() == pytest.approx(100 * (wide[[*added][1:]].sub(wide.none, axis=0)).mean().to_numpy())
