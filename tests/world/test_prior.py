"""The released priors, and their pre-training on a small run: stopped, resumed, to the same bytes."""

from itertools import product

import pytest
import torch

from avcil.encoders import prior
from avcil.params import parse, whole
from avcil.world import pretraining, separation
from conftest import ROOT


@pytest.fixture(scope="module")
def small():
    raw = whole(ROOT / "params.yaml")
    raw["prior"] |= {"scenes": 12, "steps": 6, "batch": 4}
    raw["prior"]["world"] |= {"classes": 16, "timbres": 8}
    return parse(raw)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(pretraining, "SAVED_EVERY", 2)
    monkeypatch.setattr(pretraining, "STANDARDISED", 8)


@pytest.mark.slow
def test_a_training_that_was_stopped_ends_with_the_same_bytes(small, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    pretraining.train_prior(small, "3", whole)
    loss, calls = pretraining.prior_loss, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return loss(*arguments)

    monkeypatch.setattr(pretraining, "prior_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretraining.train_prior(small, "3", broken)
    assert [path.name for path in broken.iterdir()] == ["unfinished-3.pt"]
    pretraining.train_prior(small, "3", broken)
    # two steps were saved, so the rest is six less two; the one that was stopped counts as a call
    assert len(calls) == 4 + 4
    for name in ("mini-3.safetensors", "history-3.csv"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()


@pytest.mark.slow
def test_what_was_begun_with_other_settings_is_not_gone_on_with(small, tmp_path):
    pretraining.train_prior(small, "3", tmp_path / "a")
    other = small.model_copy(update={"prior": small.prior.model_copy(update={"learning_rate": 1e-4})})
    (tmp_path / "b").mkdir()
    (tmp_path / "b/unfinished-3.pt").write_bytes((tmp_path / "a/unfinished-3.pt").read_bytes())
    pretraining.train_prior(other, "3", tmp_path / "b")
    pretraining.train_prior(other, "3", tmp_path / "c")
    assert (tmp_path / "b/mini-3.safetensors").read_bytes() == (tmp_path / "c/mini-3.safetensors").read_bytes()
    assert (tmp_path / "a/mini-3.safetensors").read_bytes() != (tmp_path / "b/mini-3.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["0", "frames"])
def test_training_lowers_every_loss(small, name):
    config = small.prior.variant(name)[0].model_copy(update={"steps": 20, "batch": 6})
    scenes = separation.render_scenes(config.world, small.film, 0, config.scenes)
    torch.manual_seed(0)
    learner = pretraining.PriorLearner(small)

    def mean_losses() -> torch.Tensor:
        with torch.no_grad():
            return torch.stack(pretraining.prior_loss(learner, scenes, config.matching))

    before = mean_losses()
    pretraining.pretrain(config, 0, learner, scenes)
    assert (mean_losses() < before).all()


@pytest.fixture
def scenes(small):
    """Two scenes of noise, whose regions are anywhere."""
    frames = torch.randint(256, (2, 16, 96, 96, 3), dtype=torch.uint8)
    return separation.Scenes(
        frames, torch.randn(2, 2, 32000).half(), torch.rand(2, 2, 8, 64), torch.tensor([[0, 8], [3, 11]])
    )


def test_with_frames_no_region_is_read_but_the_prompt_of_separation(small, scenes):
    learner = pretraining.PriorLearner(small)
    elsewhere = scenes._replace(regions=scenes.regions.flip(-1))
    with torch.no_grad():
        losses = {
            matching: [pretraining.prior_loss(learner, part, matching) for part in (scenes, elsewhere)]
            for matching in ("regions", "frames")
        }
    changed = {
        matching: [name for name, one, other in zip(a._fields, a, b, strict=True) if one != other]
        for matching, (a, b) in losses.items()
    }
    assert changed == {"regions": ["separation", "naming", "patches"], "frames": ["separation"]}
    assert losses["frames"][0].separation == losses["regions"][0].separation


def test_frames_are_matched_by_clip_and_by_moment(small):
    """The equation of `frame_matching`, term by term."""
    encoder, clips, slots, patches, channels = pretraining.PriorLearner(small).encoder, 3, 4, 5, 16
    visual, audio = torch.randn(clips, slots, patches, channels), torch.randn(clips, slots, channels)
    loud, scale = torch.rand(clips, slots), encoder.log_scale.exp()

    def score(clip: int, slot: int, seen_clip: int, seen_slot: int) -> torch.Tensor:
        shown = visual[seen_clip, seen_slot]
        return (scale * torch.cosine_similarity(audio[clip, slot][None], shown, 1)).logsumexp(0)

    total = torch.zeros(())
    for clip, slot in product(range(clips), range(slots)):
        by_clip = torch.stack([score(clip, slot, other, slot) for other in range(clips)]).log_softmax(0)[clip]
        by_moment = torch.stack([score(clip, slot, clip, other) for other in range(slots)]).log_softmax(0)[slot]
        total -= loud[clip, slot] * (by_clip + by_moment)
    torch.testing.assert_close(pretraining.frame_matching(encoder, visual, audio, loud), total / loud.sum())


def test_a_prior_is_a_seed_or_a_variant(small):
    assert small.prior.variant("2") == (small.prior, 2)
    config, seed = small.prior.variant("frames")
    assert (config.matching, seed) == ("frames", 0)
    assert config.model_copy(update={"matching": "regions", "variants": small.prior.variants}) == small.prior
    with pytest.raises(ValueError, match=r"no seed and no variant `frame`; prior\.variants has .'frames'"):
        small.prior.variant("frame")


def test_the_outcome_is_told_beside_what_is_released(small, tmp_path):
    made, released = tmp_path / "made", tmp_path / "released"
    for folder in (made, released):
        folder.mkdir()
    (made / "mini-0.safetensors").write_bytes(b"a")
    (made / "mini-1.safetensors").write_bytes(b"b")
    (made / "mini-2.safetensors").write_bytes(b"c")
    (released / "mini-0.safetensors").write_bytes(b"a")
    (released / "mini-1.safetensors").write_bytes(b"x")
    lines = pretraining._comparison(made, released).splitlines()
    assert ["the bytes of" in line for line in lines] == [True, False, False]


def test_every_released_prior_is_there_and_differs(params):
    names = params.own_encoders
    assert names == ["mini", "mini-1", "mini-2", "mini-frames", "random"]
    encoders = {name: prior.load_prior(prior.released(name, ROOT / "prior"), params.encoder)[0] for name in names}
    weights = {name: encoder.visual.out.weight for name, encoder in encoders.items()}
    assert not any(torch.equal(weights[a], weights[b]) for a in names for b in names if a < b)
    for encoder in encoders.values():
        assert (encoder.visual_std > 0.01).all() and encoder.visual_mean.abs().max() > 0


@pytest.mark.slow
def test_the_untrained_twin_is_what_the_release_has(params, monkeypatch, tmp_path):
    """In portable arithmetic it is made again to the byte, in seconds: rendering, first weights, tokens, spread."""
    from avcil.base import portable

    if not portable.in_force():
        pytest.skip("not the portable arithmetic")
    monkeypatch.setattr(pretraining, "STANDARDISED", 200)
    pretraining.untrained(params, tmp_path)
    assert (tmp_path / "random.safetensors").read_bytes() == (ROOT / "prior/random.safetensors").read_bytes()
