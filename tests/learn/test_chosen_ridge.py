"""Guidance that the clips themselves are asked about: the encoder's similarity, synchrony, or none."""

import pytest
import torch
import torch.nn.functional as F

from avcil.learn.attention import Features
from avcil.learn.checkpoint import EMPTY
from avcil.learn.evaluate import predict, restore, solved_head
from avcil.learn.hooks import check
from avcil.learn.methods.frozen_sources import SOURCES
from avcil.learn.methods.product_ridge import ProductRidge
from avcil.learn.methods.scaled_ridge import ScaledRidge
from avcil.learn.train import run_task
from avcil.params import load
from avcil.params.learning import chain
from conftest import ROOT, toy_dataset

TASKS = chain([2, 2, 2], 1)
SLOTS, PATCHES, CHANNELS = 8, 16, 16


@pytest.fixture(scope="module")
def params():
    return load(ROOT / "params.yaml")


def scenes(*, similarity, synchronous):
    """The toy's classes are told by the look of one patch; its changes may be those of the sound, and the similarity
    may point at it, at another patch, or nowhere."""
    data, generator = toy_dataset(), torch.Generator().manual_seed(1)
    count = len(data.labels)
    looks = torch.randn(6, CHANNELS, generator=generator)
    place = torch.randint(PATCHES, (count,), generator=generator)
    share = torch.nn.functional.one_hot(place, PATCHES).float()[:, None].expand(-1, SLOTS, -1)
    visual = 0.5 * torch.randn(count, SLOTS, PATCHES, CHANNELS, generator=generator)
    audio = torch.randn(count, SLOTS, CHANNELS, generator=generator)
    visual += share[..., None] * 2 * looks[data.labels][:, None, None]
    if synchronous:
        changes = audio @ torch.randn(CHANNELS, CHANNELS, generator=generator) / CHANNELS**0.5
        visual += 2 * share[..., None] * changes[:, :, None]
    maps = {"true": share, "false": share.roll(3, 2), "none": torch.zeros_like(share)}
    tokens = data.tokens._replace(visual=visual, audio=audio, similarity=maps[similarity])
    return data._replace(tokens=tokens, share=share)


def row_of(params, sources=SOURCES):
    """`lll_closed` with few products."""
    options = {"products": 50, "sources": list(sources)}
    return params.method("lll_closed").model_copy(update={"readout_options": options})


def learnt(params, data, sources=SOURCES):
    """The row, its checkpoint after the last task, its model and its result."""
    row, checkpoint = row_of(params, sources), EMPTY
    for task in TASKS:
        checkpoint, result, _ = run_task(data, row, params.training, TASKS, task.id, 0, checkpoint)
    return row, checkpoint, restore(checkpoint, row, params.training, data.tokens.channels), result


@pytest.mark.parametrize(
    ("similarity", "synchronous", "believed"),
    [
        ("true", False, "similarity"),
        ("false", True, "synchrony"),
        ("none", True, "synchrony"),
        ("false", False, "none"),
    ],
)
def test_what_shows_the_sound_is_believed_and_its_map_is_shown(params, similarity, synchronous, believed):
    data = scenes(similarity=similarity, synchronous=synchronous)
    row, checkpoint, model, result = learnt(params, data)
    assert solved_head(row, params.training, checkpoint.readout).believed == believed
    assert SOURCES[int(model.attention.believed)] == believed
    hit = sum(result.hit) / len(result.hit)
    assert hit > 0.8 if believed != "none" else hit < 0.2
    alone = {source: learnt(params, data, [source])[3].accuracy for source in SOURCES}
    assert result.accuracy == alone[believed]
    assert sum(result.accuracy) >= max(map(sum, alone.values())) - 0.1 * len(TASKS)


def test_a_source_left_out_is_not_believed(params):
    data = scenes(similarity="true", synchronous=True)
    row, checkpoint, _, _ = learnt(params, data, ["synchrony", "none"])
    assert solved_head(row, params.training, checkpoint.readout).believed == "synchrony"
    assert len(checkpoint.readout["gram"]) == 2


def test_it_is_the_product_ridge_of_the_source_whose_streams_score_lowest(params):
    data = scenes(similarity="true", synchronous=True)
    row, checkpoint, model, _ = learnt(params, data)
    head = solved_head(row, params.training, checkpoint.readout)
    features = predict(model, data.tokens, torch.arange(len(data.labels))).features
    pictures = [features._replace(visual=part) for part in features.visual.chunk(len(SOURCES), 1)]
    streams, products = [ScaledRidge() for _ in SOURCES], [ProductRidge(50, 0.1) for _ in SOURCES]
    for task in range(len(TASKS)):
        rows = data.rows("train", 2 * task, 2 * task + 2)
        for alone, whole, picture in zip(streams, products, pictures, strict=True):
            unit = Features(*(F.normalize(stream.double(), dim=1) for stream in picture))
            alone.update(unit.at(rows), data.labels[rows], 2 * task + 2)
            whole.update(picture.at(rows), data.labels[rows], 2 * task + 2)
    scores = [one.solution.score for one in streams]
    best = scores.index(min(scores))
    assert head.believed == SOURCES[best]
    torch.testing.assert_close(products[best].without_products().solution.weight, streams[best].solution.weight)
    assert torch.equal(head.logits(features), products[best].logits(pictures[best]))
    assert torch.equal(head.leverage(features), products[best].leverage(pictures[best]))


def test_synchrony_stays_what_the_first_task_made_it(params):
    data, row, checkpoint, forms = scenes(similarity="none", synchronous=True), row_of(params), EMPTY, []
    for task in TASKS:
        checkpoint, _, _ = run_task(data, row, params.training, TASKS, task.id, 0, checkpoint)
        forms.append(checkpoint.model["attention.form"])
    assert forms[0].abs().sum() > 0
    assert all(torch.equal(form, forms[0]) for form in forms)


def test_stills_and_lasting_sounds_are_guided_by_the_similarity_or_by_nothing(params):
    """One slot, or one audio token: nothing changes, and nothing is synchronous."""
    data = scenes(similarity="true", synchronous=True)
    still = data.tokens._replace(audio=data.tokens.audio.mean(1, keepdim=True))
    model = learnt(params, data._replace(tokens=still))[2]
    assert (model.attention.form == 0).all()
    output = predict(model, still, torch.arange(5))
    visual = output.features.visual.unflatten(1, (len(SOURCES), CHANNELS))
    torch.testing.assert_close(visual[:, 1], still.visual[:5].mean((1, 2)))


@pytest.mark.parametrize("changes", [{"fusion": "frozen_scaled"}, {"readout": "product_ridge"}], ids=str)
def test_a_row_without_sources_or_their_choice_is_refused(params, changes):
    with pytest.raises(ValueError, match="lll_x: synchrony: needs"):
        check("lll_x", params.method("lll_closed").model_copy(update=changes))


def test_an_unknown_source_is_refused(params):
    row = params.method("lll_closed").model_copy(update={"readout_options": {"sources": ["rumour"]}})
    with pytest.raises(ValueError, match="lll_x: options of `chosen_ridge`: sources"):
        check("lll_x", row)
