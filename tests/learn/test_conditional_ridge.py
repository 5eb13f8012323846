"""Clips that lack a sense are learnt from and answered by what they have, and cost those with both nothing."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge

from avcil.learn.attention import Features
from avcil.learn.feed import Feed
from avcil.learn.methods.chosen_ridge import ChosenRidge
from avcil.learn.methods.conditional_ridge import ConditionalRidge, Options, presence
from avcil.learn.methods.frozen_sources import SOURCES
from avcil.learn.methods.modality_dropout import Dropping, withhold
from avcil.tokens.tokens import Tokens

CLASSES, CLIPS, AUDIO, VISUAL = 4, 240, 5, 6


@pytest.fixture
def clips():
    """Features of a third of clips without a sound, a third without a picture, in no order, and their labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (CLIPS,), generator=generator)
    audio, visual = (
        torch.randn(CLASSES, width, generator=generator)[labels] + torch.randn(CLIPS, width, generator=generator)
        for width in (AUDIO, len(SOURCES) * VISUAL)
    )
    lacks = torch.randint(3, (CLIPS, 1), generator=generator)
    audio, visual = audio * (lacks != 0), visual * (lacks != 1)
    return Features(visual, audio, torch.cat([audio, visual], 1)), labels


def head(*parts) -> ConditionalRidge:
    solved = ConditionalRidge(Options(products=20))
    for features, labels in parts:
        solved.update(features, labels, CLASSES)
    return solved


@pytest.mark.parametrize("stream", ["audio", "visual"])
def test_one_stream_is_ridge_regression_on_the_clips_that_have_it(clips, stream):
    """scikit-learn's, with the λ that was chosen, on the stream of unit length brought to variance 1 in all."""
    features, labels = clips
    solved = head(clips)
    there = presence(features)
    own = features.audio if stream == "audio" else features.visual[:, -VISUAL:]
    unit = F.normalize(own.double(), dim=1)[there[stream]]
    scale = unit.var(0, correction=0).sum().rsqrt()
    penalty = solved._parts[stream].solution.penalty
    oracle = Ridge(alpha=penalty).fit(scale * unit, F.one_hot(labels, CLASSES)[there[stream]])
    alone = there[stream] & ~there["visual" if stream == "audio" else "audio"]
    asked = scale * F.normalize(own.double(), dim=1)[alone]
    assert int(there[stream].sum()) > int(alone.sum()) > 50
    expected = torch.from_numpy(oracle.predict(asked))
    torch.testing.assert_close(solved.logits(features)[alone].double(), expected, atol=1e-5, rtol=1e-5)


def test_clips_with_both_are_answered_as_if_there_were_no_others(clips):
    features, labels = clips
    there = presence(features)
    both = there["audio"] & there["visual"]
    alone = ChosenRidge(Options(products=20))
    alone.update(features.at(both), labels[both], CLASSES)
    torch.testing.assert_close(head(clips).logits(features)[both], alone.logits(features.at(both)))


def test_it_does_not_matter_how_clips_are_cut_into_tasks(clips):
    """Not even where a task has no clip with both, or the first of them none with a sound."""
    features, labels = clips
    order = presence(features)["audio"].long().argsort(stable=True)
    cut = [order[:90], order[90:100], order[100:]]
    parts = head(*((features.at(rows), labels[rows]) for rows in cut))
    torch.testing.assert_close(parts.logits(features), head(clips).logits(features), atol=1e-5, rtol=1e-4)
    again = ConditionalRidge(Options(products=20), parts.state)
    assert torch.equal(again.logits(features), parts.logits(features))


def test_without_pairs_a_clip_with_both_is_given_the_mean_of_its_streams(clips):
    features, labels = clips
    there = presence(features)
    both = there["audio"] & there["visual"]
    solved = head((features.at(~both), labels[~both]))
    heard = features._replace(visual=torch.zeros_like(features.visual))
    seen = features._replace(audio=torch.zeros_like(features.audio))
    expected = (solved.logits(heard) + solved.logits(seen)) / 2
    torch.testing.assert_close(solved.logits(features)[both], expected[both])
    nothing = head((heard.at(there["audio"]), labels[there["audio"]])).logits(seen)
    assert not nothing.any()


def test_streams_are_withheld_in_training_alone_and_never_both():
    generator = torch.Generator().manual_seed(0)
    tokens = Tokens(torch.ones(400, 1, 4, 3), torch.ones(400, 2, 3), torch.ones(400, 1, 4))
    alone = torch.arange(400) >= 300  # have no sound as it is
    tokens = withhold(tokens, alone, torch.zeros_like(alone))
    feed = Dropping(Feed(tokens, torch.arange(400)), 0.5, generator)
    every = torch.arange(400)
    batch = next(iter(feed.batches([every])))
    deaf, blind = (stream.flatten(1).eq(0).all(1) for stream in (batch.audio, batch.visual))
    assert deaf[alone].all() and not (deaf & blind).any() and not blind[alone].any()
    assert 40 < int(deaf[~alone].sum()) < 110 and 40 < int(blind[~alone].sum()) < 110
    assert torch.equal(batch.similarity.flatten(1).eq(0).all(1), deaf | blind)
    assert torch.equal(feed.clips(every).visual, tokens.visual) and torch.equal(tokens.visual, torch.ones(400, 1, 4, 3))
