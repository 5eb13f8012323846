"""Adapters of the prior: worlds that differ, what each way may learn from, and what rows are told to have gained."""

import numpy as np
import pandas as pd
import pytest
import torch

from avcil.beyond import adapting, answers, plots
from avcil.beyond.adapting import Adapter, Adapters, Growing, Moments, adapted, by_task, fit, middle, objective, shifted
from avcil.beyond.settings import WAYS, Adapting
from avcil.comparison import sweep
from avcil.comparison.intervals import over_seeds, points
from avcil.encoders.mini import Mini
from avcil.learn.train import run_tasks
from avcil.params.learning import chain
from avcil.tokens.tokens import Tokens
from conftest import ROOT, toy_dataset

SETTINGS = Adapting(
    worlds=[1, 2], clips_per_class={"train": 3, "val": 0, "test": 2}, surroundings=3,
    shifts={"as it is": {}, "faint": {"gain": -20}}, rank=4, epochs=2, batch=8, learning_rate=0.01, distillation=1.0,
    rows={"lll_closed": [*WAYS]},
)  # fmt: skip
BOUNDS = [0, 2, 4, 6]


@pytest.fixture
def encoder(params):
    torch.manual_seed(0)
    return Mini(params.encoder.model_copy(update={"channels": 16})).requires_grad_(False)


def weights(adapters):
    return torch.cat([weight.flatten() for weight in adapters.state_dict().values()] or [torch.zeros(0)])


def ways(way, encoder, data, around):
    return [weights(adapters).clone() for adapters in by_task(way, encoder, data, around, BOUNDS, SETTINGS, 3)]


# ---- worlds that differ


def test_a_shift_is_the_same_each_time_and_another_one_for_each_clip():
    rng = np.random.default_rng(0)
    frames, sound = rng.integers(0, 256, (4, 12, 12, 3), dtype=np.uint8), rng.normal(0, 0.2, 8000).astype(np.float32)
    shift = {"grey": 0.5, "pixel_noise": 0.1, "sound_noise": 0.0}

    def of(row, shift):
        return shifted(shift, 16000, 7, frames, sound, row)

    one, again, other = (of(row, shift) for row in (("train", 1, 2), ("train", 1, 2), ("test", 1, 2)))
    assert all(np.array_equal(*pair) for pair in zip(one, again, strict=True))
    assert not any(np.array_equal(*pair) for pair in zip(one, other, strict=True))
    assert all(np.array_equal(*pair) for pair in zip(of(("test", 0, 0), {}), (frames, sound), strict=True))
    colourless, heard = of(("test", 0, 0), {"grey": 1.0})
    assert np.ptp(colourless, axis=-1).max() == 0 and np.array_equal(heard, sound)
    half = of(("test", 0, 0), {"grey": 0.5})[0]
    assert np.ptp(half.astype(int), axis=-1).mean() == pytest.approx(
        np.ptp(frames.astype(int), axis=-1).mean() / 2, abs=1
    )


# ---- adapters


def test_an_adapter_changes_nothing_at_the_start(encoder, toy):
    fresh = Adapters(Adapter(16, 4), Adapter(16, 4))
    tokens = adapted(encoder, fresh, toy.tokens)
    assert torch.equal(tokens.visual, toy.tokens.visual) and torch.equal(tokens.audio, toy.tokens.audio)
    assert torch.allclose(tokens.similarity, encoder.similarity(toy.tokens.visual, toy.tokens.audio), atol=1e-5)


def test_similarity_is_of_tokens_before_they_were_standardised(encoder, toy):
    raw = Tokens(3 * toy.tokens.visual + 1, 0.5 * toy.tokens.audio - 2, toy.tokens.similarity)
    encoder.standardise(raw.visual, raw.audio)
    given = Tokens(
        (raw.visual - encoder.visual_mean) / encoder.visual_std,
        (raw.audio - encoder.audio_mean) / encoder.audio_std,
        raw.similarity,
    )
    tokens = adapted(encoder, Adapters(torch.nn.Identity(), torch.nn.Identity()), given)
    assert torch.allclose(tokens.similarity, encoder.similarity(raw.visual, raw.audio), atol=1e-4)


def test_moments_standardise(toy):
    x = 5 * toy.tokens.visual + 3
    standard = Moments(x)(x).flatten(0, -2)
    assert torch.allclose(standard.mean(0), torch.zeros(16), atol=1e-5)
    assert torch.allclose(standard.std(0), torch.ones(16), atol=1e-4)
    x[..., 3] = 7
    assert torch.equal(Moments(x)(x)[..., 3], torch.zeros_like(x[..., 3])), "a channel that never changes"


def test_an_adapter_a_task_is_merged_or_gated(toy):
    tokens = toy.tokens.clips(slice(0, 6))
    one, two = (Adapters(Moments(k * tokens.visual + k), Moments(k * tokens.audio)) for k in (1, 2))
    given = one(tokens), two(tokens)
    for stream, mean in enumerate(Growing([one, two], None)(tokens)):
        assert torch.allclose(mean, (given[0][stream] + given[1][stream]) / 2)
    # the first task's clips were as the last three of these
    means = torch.stack([middle(tokens)[3:].mean(0), middle(tokens)[:3].mean(0)])
    nearest = [int((middle(tokens)[clip] - means).norm(dim=1).argmin()) for clip in range(6)]
    assert {*nearest} == {0, 1}
    for stream, chosen in enumerate(Growing([one, two], means)(tokens)):
        for clip, task in enumerate(nearest):
            assert torch.equal(chosen[clip], given[task][stream][clip])


def test_learning_matches_sounds_better_and_distillation_holds_back(encoder, toy):
    """On clips whose sound is the mean of the patch that sounds, which an untrained encoder does not know."""
    source, rows = toy.tokens, torch.arange(40)
    moved = {}
    for weight in (0.01, 100.0):
        torch.manual_seed(0)
        adapters, old = (Adapters(Adapter(16, 8), Adapter(16, 8)) for _ in range(2))
        settings = SETTINGS.model_copy(update={"epochs": 20, "distillation": weight})
        before = objective(encoder, adapters, source.clips(rows), None, 0.0)
        assert torch.equal(objective(encoder, adapters, source.clips(rows), old, weight), before)  # nothing changed yet
        fit(encoder, adapters, source, rows, settings, torch.Generator().manual_seed(0), old)
        after = objective(encoder, adapters, source.clips(rows), None, 0.0)
        assert after < before
        moved[weight] = (adapted(encoder, adapters, source).visual - source.visual).square().mean()
    assert moved[100.0] < 0.2 * moved[0.01]


@pytest.mark.parametrize("way", WAYS)
def test_a_way_learns_from_nothing_that_is_not_there_yet(way, encoder):
    """Nor from test clips, nor from labels, nor from what it is told to leave alone."""
    data, around = toy_dataset(), toy_dataset().tokens.clips(slice(0, 40))
    first = ways(way, encoder, data, around)
    assert len(first) == 3

    def others(rows):
        visual = data.tokens.visual.clone()
        visual[rows] += torch.randn(visual[rows].shape, generator=torch.Generator().manual_seed(1))
        return data._replace(tokens=data.tokens._replace(visual=visual))

    later, tested = data.rows("train", 2, 6), data.splits["test"]
    assert all(torch.equal(*pair) for pair in zip(first, ways(way, encoder, others(tested), around), strict=True))
    changed = ways(way, encoder, others(later), around)
    assert torch.equal(first[0], changed[0]) == (way != "all")
    assert torch.equal(first[2], changed[2]) == (way in ("frozen", "moments", "first", "before"))
    elsewhere = ways(way, encoder, data, around._replace(audio=around.audio.flip(0)))
    assert torch.equal(first[2], elsewhere[2]) == (way != "before")
    same = torch.equal(first[0], first[2]) if first[0].shape == first[2].shape else False
    assert same == (way in ("frozen", "moments", "first", "before", "all"))


# ---- from world to table


@pytest.mark.slow
def test_frozen_is_the_rows_own_result_and_nothing_is_done_twice(params, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    training = params.training.model_copy(update={"batch": 16})
    world = params.world.model_copy(update={"classes": 6, "timbres": 3})
    alone = params.compute.model_copy(update={"workers": 1})
    small = params.model_copy(
        update={"world": world, "tasks": chain([3, 3], 1), "training": training, "compute": alone}
    )
    # solved in little time
    rows = {"scaled_ridge_guided": ["frozen", "moments", "merged", "before"]}
    settings = SETTINGS.model_copy(update={"worlds": [1], "rows": rows})
    table = adapting.run(settings, small, tmp_path)["beyond_adapting"]
    assert table.way.tolist() == 2 * rows["scaled_ridge_guided"]
    assert table["shift"].tolist() == 4 * ["as it is"] + 4 * ["faint"]
    assert table.last_accuracy.between(0, 1).all() and table.hit.between(0, 1).all()
    asked, around = adapting.jobs(settings, small, tmp_path)
    for job in (asked[0], asked[4]):
        data = sweep.datasets(job.source)[1]
        own = run_tasks(data, job.method, job.training, job.tasks, 1, None)[-1]
        found = table[(table["shift"] == job.name[1]) & (table.way == "frozen")].last_accuracy.item()
        assert found == pytest.approx(np.average(own.accuracy, weights=own.clips), abs=0.09)  # a clip: float16's bits
    stores = [sweep.datasets(asked[at].source)[1].tokens.clips(slice(None)) for at in (0, 4)]
    assert torch.allclose(stores[0].visual, stores[1].visual) and not torch.allclose(stores[0].audio, stores[1].audio)
    assert len({*around.values()}) == 2 and all((store / "index.json").exists() for store in around.values())

    def never(*_, **__):
        raise AssertionError("learnt again")

    monkeypatch.setattr(adapting, "by_task", never)
    monkeypatch.setattr(sweep, "_each", lambda work, jobs, _: enumerate(map(work, jobs)))
    pd.testing.assert_frame_equal(adapting.run(settings, small, tmp_path)["beyond_adapting"], table)
    with pytest.raises(AssertionError, match="learnt again"):
        adapting.run(settings.model_copy(update={"epochs": 3}), small, tmp_path)


# ---- the page


def test_the_page_tells_what_a_way_adds_to_the_frozen_prior(tmp_path):
    rng, lines = np.random.default_rng(0), []
    gains = {"frozen": 0.0, "continued": -0.2, "distilled": 0.05, "gated_distilled": 0.02, "before": 0.1}
    for shift, level in (("as it is", 0.8), ("faint", 0.6)):
        for world in (1, 2, 3, 4):
            luck = rng.normal(0, 0.05)
            for way, gained in gains.items():
                accuracy = level + luck + (gained + rng.normal(0, 0.01) if gained else 0)
                lines.append(("lll_closed", shift, way, world, accuracy, accuracy + 0.05))
    table = pd.DataFrame(lines, columns=["row", "shift", "way", "world", "last_accuracy", "hit"])
    table.to_csv(tmp_path / "beyond_adapting.csv", index=False)
    text = answers.adapting(tmp_path)
    faint = table[table["shift"] == "faint"].pivot(index="world", columns="way", values="last_accuracy")
    gained = over_seeds(faint.before - faint.frozen)
    assert f"against the frozen prior: {WAYS['continued']}: as it is behind by " in text
    assert f"faint ahead by {points(gained)}.**" in text
    line = next(line for line in text.splitlines() if line.startswith(f"| {WAYS['before']} |"))
    assert line.split(" | ")[4:6] == [f"{100 * faint.before.mean():.1f}", points(gained)]
    figure = plots.adapting(table)
    assert [axis.get_title() for axis in figure.axes] == ["as it is", "faint"]
    means = [line for line in figure.axes[1].lines if line.get_marker() == "o"]
    assert means[0].get_xdata() == pytest.approx(100 * faint[[*gains]].mean().to_numpy())
