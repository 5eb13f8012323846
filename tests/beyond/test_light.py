"""Light attention: what a variant stores of a clip, what can be read from there, and what is measured of it."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from avcil.beyond import light, study
from avcil.beyond.light import flops, numbers, stored
from avcil.beyond.settings import Variant, load_beyond
from avcil.comparison import sweep
from avcil.comparison.sweep import Job, Source, standing
from avcil.learn.attention import FrozenAttention
from avcil.learn.methods.frozen_sources import FrozenSources
from avcil.learn.methods.scaled_guided import TAU
from avcil.learn.train import run_tasks
from avcil.params import ParameterError
from avcil.params.learning import chain
from avcil.tokens.store import Header, write_sealed
from avcil.tokens.tokens import Layout
from conftest import ROOT


def kept(toy, **variant):
    return stored(toy.tokens, Variant(**variant), torch.Generator().manual_seed(0))


@pytest.fixture
def beyond(params):
    return load_beyond(params, ROOT / "beyond.yaml")


# ---- what is stored


def test_the_most_similar_patches_are_kept_with_their_similarity(toy):
    """The toy's similarity points at one patch of each slot; of others, the order of the grid is no guide."""
    visual, similarity = toy.tokens.visual, torch.rand(toy.tokens.similarity.shape) + toy.tokens.similarity
    clips = stored(toy.tokens._replace(similarity=similarity), Variant(patches=3), torch.Generator())
    for clip, slot in ((0, 0), (7, 1)):
        best = similarity[clip, slot].argsort(descending=True)[:3]
        assert clips.places[clip, slot].tolist() == best.tolist()
        assert torch.equal(clips.visual.values[clip, slot], visual[clip, slot, best].half())
        assert torch.equal(clips.similarity[clip, slot], similarity[clip, slot, best].half())
    assert torch.equal(clips.places[..., 0], toy.share.argmax(-1))


def test_random_patches_are_distinct_and_drawn_from_the_seed(toy):
    first, again = (kept(toy, patches=4, by="random").places for _ in range(2))
    other = stored(toy.tokens, Variant(patches=4, by="random"), torch.Generator().manual_seed(1)).places
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert all(len(set(slot)) == 4 for slot in first.flatten(0, 1).tolist())
    assert (first.flatten().bincount(minlength=16) > 0).all()


def test_the_guided_mean_is_the_picture_of_frozen_attention(toy):
    """Nothing is lost of it, but by float16."""
    read = kept(toy, patches=1, by="attention").read()
    picture = FrozenAttention(16, "frozen_scaled", TAU)(toy.tokens, None).feature
    torch.testing.assert_close(read.visual.mean((1, 2)), picture, rtol=1e-3, atol=1e-3)
    grid = kept(toy, patches=1, by="grid").read()
    torch.testing.assert_close(grid.visual.mean((1, 2)), toy.tokens.visual.mean((1, 2)), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(read.visual, grid.visual, atol=0.1)


def test_slots_are_evenly_spread(toy):
    tokens = toy.tokens._replace(
        visual=torch.arange(8.0).view(1, 8, 1, 1).expand(5, 8, 4, 3), similarity=torch.zeros(5, 8, 4)
    )
    for slots, rows in ((1, [4]), (2, [2, 6]), (4, [1, 3, 5, 7]), (8, [*range(8)])):
        clips = stored(tokens, Variant(slots=slots), torch.Generator())
        assert clips.visual.values[0, :, 0, 0].tolist() == rows and clips.similarity.shape == (5, slots, 4)


@pytest.mark.parametrize(
    "variant, visual, audio, beside",
    [
        # 2 slots x 16 patches x 16 channels, 5 audio tokens x 16 channels
        ({}, 2 * 2 * 16 * 16, 2 * 5 * 16, 2 * 2 * 16),
        ({"patches": 4}, 2 * 2 * 4 * 16, 2 * 5 * 16, 2 * 4 * (2 + 1)),
        ({"patches": 4, "by": "grid"}, 2 * 2 * 4 * 16, 2 * 5 * 16, 2 * 4 * 2),
        ({"patches": 1, "by": "attention"}, 2 * 2 * 16, 2 * 5 * 16, 2 * 2),
        ({"slots": 1}, 2 * 16 * 16, 2 * 5 * 16, 2 * 16),
        ({"patches": 4, "numbers": "int8_token"}, 2 * 4 * (16 + 2), 5 * (16 + 2), 2 * 4 * (2 + 1)),
        ({"patches": 4, "numbers": "int8_channel"}, 2 * 4 * 16 + 2 * 16, 5 * 16 + 2 * 16, 2 * 4 * (2 + 1)),
    ],
)
def test_bytes_are_all_that_is_stored(toy, variant, visual, audio, beside):
    """Numbers, scales, kept similarities, and the places of kept patches."""
    assert kept(toy, **variant).clip_bytes == visual + audio + beside


def test_whole_tokens_take_what_a_feature_store_takes(toy):
    clips = kept(toy)
    assert clips.clip_bytes == Layout(2, 16, 5, 16, 16).clip_bytes
    for stream, read in zip(toy.tokens, clips.read(), strict=True):
        assert torch.equal(read, stream.half().float())


# ---- numbers


@pytest.mark.parametrize("kind, over", [("int8_token", -1), ("int8_channel", (1, 2))])
def test_int8_errs_by_half_a_step_at_most(kind, over):
    x = torch.randn(4, 3, 5, 7, generator=torch.Generator().manual_seed(0)) * torch.logspace(-1, 3, 7)
    for factor in (1.0, 0.2, 5.0):
        quantised = numbers(factor * x, kind)
        step = factor * x.abs().amax(over, keepdim=True) / 127
        # the scale is rounded to float16, by one in 2,048
        bound = (0.5 + 127 / 2048) * step + 1e-7
        assert quantised.values.dtype == torch.int8
        assert (quantised.read() - factor * x).abs().le(bound).all()
    assert not numbers(torch.zeros(1, 2, 3, 4), kind).read().any()


def test_a_scale_serves_its_own_token_or_channel():
    """A loud token costs other tokens nothing where each has a scale, and a loud channel other channels."""
    x = torch.rand(1, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    token, channel = x.clone(), x.clone()
    token[0, 0, 0] *= 1000
    channel[..., 0] *= 1000

    def error(stream, kind, quiet):
        return float((numbers(stream, kind).read() - stream)[quiet].abs().max())

    quiet_tokens, quiet_channels = (slice(None), 1), (..., slice(1, None))
    assert error(token, "int8_token", quiet_tokens) < 0.005 < 0.1 < error(token, "int8_channel", quiet_tokens)
    assert error(channel, "int8_channel", quiet_channels) < 0.005 < 0.1 < error(channel, "int8_token", quiet_channels)


# ---- what is measured


@pytest.mark.parametrize("patches", [16, 5, 1])
def test_flops_are_those_that_torch_counts(toy, patches):
    tokens = kept(toy, patches=patches).read()
    with FlopCounterMode(display=False) as counter:
        FrozenSources(tokens.channels)(tokens, None)
    assert counter.get_total_flops() == flops(tokens) * len(tokens.audio)


def job(tmp_path, beyond, params, name, method=None):
    (tmp_path / "manifest.csv").write_text("")
    source = Source(tmp_path / "manifest.csv", tmp_path, tmp_path)
    solved = method or beyond.solved(params)
    return Job(("lll_closed", name), source, solved, params.training, chain([6], 1), 0, file=tmp_path / f"{name}.json")


def test_a_run_is_that_of_the_method_on_what_is_read(toy, params, beyond, tmp_path, monkeypatch):
    """Whole tokens: as the row of the tables, task by task. And what stands there is not run again."""
    # sound alone tells the toy's classes
    toy = toy._replace(tokens=toy.tokens._replace(audio=torch.zeros_like(toy.tokens.audio)))
    monkeypatch.setattr(sweep, "datasets", lambda source: {0: toy})
    learnt = []
    monkeypatch.setattr(light, "run_tasks", lambda *a, **k: learnt.append(run_tasks(*a, **k)) or learnt[-1])
    asked = {name: job(tmp_path, beyond, params, name) for name in ("whole", "best_1", "random_1")}
    for one in asked.values():
        light.learn(one, beyond, params.training)
    whole = toy._replace(tokens=kept(toy).read())
    row = run_tasks(whole, beyond.solved(params), params.training, chain([2, 2, 2], 1), 0, None)[-1]
    assert learnt[0][-1].predictions == row.predictions
    measured = {name: study.measured(one) for name, one in asked.items()}
    assert measured["whole"]["last_accuracy"] == pytest.approx(np.average(row.accuracy, weights=row.clips))
    # and of the picture the one patch that the similarity points at
    assert measured["best_1"]["last_accuracy"] > measured["random_1"]["last_accuracy"] + 0.1
    assert measured["best_1"]["bytes"] == measured["random_1"]["bytes"] < measured["whole"]["bytes"]

    def never(*_, **__):
        raise AssertionError("run again")

    monkeypatch.setattr(light, "run_tasks", never)
    light.learn(job(tmp_path, beyond, params, "whole"), beyond, params.training)
    other = beyond.solved(params).model_copy(update={"readout_options": {"sources": ["none"]}})
    with pytest.raises(AssertionError, match="run again"):
        light.learn(job(tmp_path, beyond, params, "whole", other), beyond, params.training)


def test_a_shape_is_of_learnt_attention_over_whole_tokens(toy, params, beyond, tmp_path, monkeypatch):
    """Learnt by a row that trains, with the FLOPs of its own heads and channels."""
    monkeypatch.setattr(sweep, "datasets", lambda source: {0: toy})
    monkeypatch.setattr(light, "TIMED", 10)
    shaped = beyond.shaped(params)
    assert (shaped["width_32"].width, shaped["width_32"].heads) == (32, params.training.heads)
    measured = {}
    for name in ("whole", "width_32", "heads_1"):
        one = job(tmp_path, beyond, params, name, params.method("lll_prior"))
        one = one._replace(tasks=chain([3, 3], 1), training=shaped.get(name, params.training))
        light.learn(one, beyond, params.training)
        measured[name] = study.measured(one)
    # of keys, values and queries, whose channels are a quarter; what is asked of moments has their square
    assert measured["width_32"]["flops"] < measured["whole"]["flops"] / 3
    # as many channels, but each head asks all patches through keys of its own
    assert measured["width_32"]["flops"] < measured["heads_1"]["flops"] < measured["whole"]["flops"]
    assert len({of["bytes"] for of in measured.values()}) == 1


def test_what_stands_there_is_whole_and_of_the_same_origin(tmp_path):
    file = tmp_path / "run.json"
    assert not standing(None, {"a": 1}) and not standing(file, {"a": 1})
    write_sealed(file, {"origin": {"a": 1}})
    assert standing(file, {"a": 1}) and not standing(file, {"a": 2})
    file.write_bytes(file.read_bytes()[:-3])
    assert not standing(file, {"a": 1})
    write_sealed(file, {"results": []})
    assert not standing(file, {"a": 1})


def test_more_than_there_is_is_refused_before_anything_is_drawn(params, beyond, tmp_path, monkeypatch):
    monkeypatch.setattr(light.worlds, "drawn", lambda *_: pytest.fail("drawn"))
    header = Header("mini", "1", "0", {}, Layout(8, 64, 25, 128, 128), ["a"], 1)
    write_sealed(tmp_path / "header.json", header.as_json())
    many = beyond.light.model_copy(update={"variants": beyond.light.variants | {"best_65": Variant(patches=65)}})
    with pytest.raises(ParameterError, match=r"light\.variants\.best_65: of 64 patches in 8 slots .*take fewer"):
        light.jobs(
            beyond.model_copy(update={"light": many}), params, Source(tmp_path, tmp_path, tmp_path), tmp_path, tmp_path
        )
