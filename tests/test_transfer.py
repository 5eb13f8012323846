"""What LLL needs to transfer: a feature level that leaves room, tokens of any scale, a head beside what is learnt."""

from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge

from avcil.learn.attention import Features
from avcil.learn.checkpoint import EMPTY
from avcil.learn.heads import CarriedRidge
from avcil.learn.hooks import check
from avcil.learn.methods.product_ridge import ProductRidge
from avcil.learn.methods.residual_ridge import ResidualRidge
from avcil.learn.methods.scaled_guided import ScaledGuided, common_scale
from avcil.learn.methods.scaled_ridge import ScaledRidge
from avcil.learn.methods.subspace_distillation import subspace_distillation
from avcil.learn.train import run_task, run_tasks
from avcil.params import load
from avcil.params.learning import chain
from avcil.tokens.tokens import Tokens
from conftest import ROOT, toy_dataset

B, E, P = 7, 5, 3
OURS = (
    "lll_closed", "lll_closed_synchrony", "lll_closed_without_products", "lll_subspace", "lll_residual",
    "lll_residual_no_exemplars", "scaled_ridge", "scaled_ridge_guided",
)  # fmt: skip


@pytest.fixture(scope="module")
def params():
    return load(ROOT / "params.yaml")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- the feature level in the past classes' subspace


def test_subspace_distillation_is_its_equation():
    new, old, past = draw(B, E), draw(B, E, seed=1), draw(P, E, seed=2)
    f, o, w = (x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True) for x in (new, old, past))
    expected = sum(np.dot(w[c], f[b] - o[b]) ** 2 for b in range(B) for c in range(P)) / B
    assert float(subspace_distillation(new, old, past)) == pytest.approx(expected, rel=1e-12)
    assert float(subspace_distillation(3 * new, old / 8, 5 * past)) == pytest.approx(expected, rel=1e-12)


def test_features_are_free_where_no_past_class_looks_and_held_where_one_does():
    old = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    past = torch.tensor([[2.0, 0.0, 0.0, 0.0]])
    free, bound = torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert float(subspace_distillation(free, old, past)) < 1e-12
    assert float(subspace_distillation(bound, old, past)) == pytest.approx(0.5)


def test_without_past_classes_it_is_an_empty_sum_with_a_finite_gradient():
    new = draw(B, E).requires_grad_()
    loss = subspace_distillation(new, draw(B, E, seed=1), torch.zeros(0, E, dtype=torch.float64))
    loss.backward()
    assert loss == 0 and new.grad is not None and (new.grad == 0).all()


def test_it_holds_old_clips_and_is_not_there_in_the_first_task(params):
    data, tasks, row = toy_dataset(), chain([2, 2, 2], 20), params.method("lll_subspace")
    first, _, losses = run_task(data, row, params.training, tasks, 0, 0, EMPTY)
    assert all("feature_distillation" not in epoch for epoch in losses)
    moved = {}
    for weight in (1e-6, 1e3):
        hooks = {"subspace_distillation": {"weight": weight}}
        free = row.model_copy(update={"hooks": hooks, "logit_distillation": 0.0})
        losses = run_task(data, free, params.training, tasks, 1, 0, first)[2]
        moved[weight] = losses[-1]["feature_distillation"] / weight
    assert 0 < moved[1e3] < 0.2 * moved[1e-6]


@pytest.mark.parametrize(
    "change", [{"classifier": "proxies"}, {"fusion": "frozen"}, {"feature_distillation": 1.0}], ids=str
)
def test_a_row_that_it_does_not_suit_is_refused(params, change):
    row = params.method("lll_subspace").model_copy(update=change)
    with pytest.raises(ValueError, match="lll_x: subspace_distillation: needs"):
        check("lll_x", row)


# ---- tokens of any scale


def scaled(tokens, visual=1.0, audio=1.0, similarity=1.0, shift=0.0):
    return Tokens(visual * tokens.visual, audio * tokens.audio, similarity * tokens.similarity + shift)


def test_common_scale_is_unit_whatever_the_units():
    tokens = toy_dataset().tokens
    plain = common_scale(tokens)
    for stream in plain:
        torch.testing.assert_close(stream.square().flatten(1).mean(1), torch.ones(len(stream)))
    for change in ({"visual": 10.0}, {"audio": 0.1}, {"similarity": 10.0}, {"shift": 100.0}):
        for one, other in zip(plain, common_scale(scaled(tokens, **change)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    centre = tokens.visual.mean((0, 1, 2))
    away = common_scale(tokens._replace(visual=tokens.visual - centre), centre)
    torch.testing.assert_close(away.visual, plain.visual)


def test_a_stream_that_says_nothing_stays_nothing():
    tokens = Tokens(torch.zeros(2, 3, 4, 5), torch.zeros(2, 1, 5), torch.full((2, 3, 4), 0.1))
    assert all((stream == 0).all() for stream in common_scale(tokens))
    attention = ScaledGuided((5, 5))
    attended = attention(tokens, None)
    assert attended.feature.isfinite().all()
    torch.testing.assert_close(attended.spatial, torch.full((2, 3, 4), 0.25))
    torch.testing.assert_close(attended.temporal, torch.full((2, 3), 1 / 3))


@pytest.fixture(scope="module")
def unchanged(params):
    """Predictions of a row, learnt once, on tokens as they are."""
    return cache(lambda row: predictions(params, row, {}))


@pytest.mark.parametrize("change", [{"visual": 10.0}, {"audio": 10.0}, {"visual": 0.1, "audio": 0.1}], ids=str)
@pytest.mark.parametrize("row", OURS)
def test_ten_times_the_tokens_change_no_prediction_of_our_rows(params, unchanged, row, change):
    assert predictions(params, row, change) == unchanged(row)


def test_they_change_those_of_a_row_that_takes_tokens_as_they_come(params, unchanged):
    assert predictions(params, "lll_prior", {"audio": 10.0}) != unchanged("lll_prior")


def predictions(params, row, change):
    data = toy_dataset()
    data = data._replace(tokens=scaled(data.tokens, **change))
    return [
        result.predictions
        for result in run_tasks(data, params.method(row), params.training, chain([2, 2, 2], 3), 0, None)
    ]


# ---- the solved head


def features(count, seed=0, fused=6):
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(4, size=count))
    x = np.random.default_rng(9).normal(size=(4, 9 + fused))[labels] + rng.normal(size=(count, 9 + fused))
    x = torch.from_numpy(x)
    return Features(visual=50 * x[:, 4:9], audio=0.1 * x[:, :4], fused=x[:, 9:]), torch.from_numpy(labels)


def learnt(streams, labels, parts, classes=4):
    """Task by task, through a checkpoint before each."""
    head = ResidualRidge(1.0)
    for part in parts:
        head = ResidualRidge(1.0, {name: value.clone() for name, value in head.state.items()})
        head.update(streams.at(part), labels[part], classes)
    return head


def test_it_is_ridge_on_streams_of_unit_length_and_common_spread():
    (x, labels), (test, _) = features(80), features(30, seed=1)
    head = learnt(x, labels, [torch.arange(80)])
    got = head.logits(test).numpy()

    def regressors(streams):
        parts = []
        for stream, reference in zip(streams, x, strict=True):
            one, other = (s.numpy() / np.linalg.norm(s.numpy(), axis=1, keepdims=True) for s in (stream, reference))
            parts.append((one - other.mean(0)) / np.sqrt(((other - other.mean(0)) ** 2).sum(1).mean()))
        return np.hstack(parts)

    expected = Ridge(head.solution.penalty).fit(regressors(x), np.eye(4)[labels]).predict(regressors(test))
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("readout", ["chosen_ridge", "product_ridge", "residual_ridge", "scaled_ridge"])
def test_on_frozen_features_it_is_joint_training_in_any_order_of_tasks(params, readout):
    """To 1e-6 of the logits, class by class; clips of one class fall into one task, as they do in a protocol."""
    data, scores = toy_dataset(), {}
    row = "lll_closed" if readout == "chosen_ridge" else "lll_closed_without_products"
    # synchrony is estimated from the first task's clips, so that order matters to it
    options = {"sources": ["none", "similarity"]} if readout == "chosen_ridge" else {}
    frozen = params.method(row).model_copy(update={"readout": readout, "readout_options": options})
    for name, order, sizes in (
        ("joint", [0, 1, 2, 3, 4, 5], [6]),
        ("tasks", [0, 1, 2, 3, 4, 5], [2, 2, 2]),
        ("another order", [4, 2, 5, 0, 3, 1], [1, 3, 2]),
    ):
        place = torch.tensor(order).argsort()
        here = data._replace(labels=place[data.labels], order=[data.order[c] for c in order])
        checkpoint, tasks = EMPTY, chain(sizes, 1)
        for task in range(len(sizes)):
            checkpoint = run_task(here, frozen, params.training, tasks, task, 0, checkpoint)[0]
        scores[name] = logits_of(here, frozen, params.training, checkpoint)[:, place]
    for name, values in scores.items():
        torch.testing.assert_close(values, scores["joint"], rtol=0, atol=1e-6, msg=name)


def logits_of(data, method, training, checkpoint):
    from avcil.learn.evaluate import predict, restore, solved_head

    output = predict(restore(checkpoint, method, training, data.tokens.channels), data.tokens, torch.arange(120))
    return solved_head(method, training, checkpoint.readout).logits(output.features)


def test_products_are_of_centred_streams_as_if_all_clips_were_at_hand():
    (x, labels), (test, _) = features(120), features(30, seed=1)
    head = ProductRidge(7, 0.1)
    for part in torch.arange(120).split(50):
        head.update(x.at(part), labels[part], 4)
    first, second = (p.numpy() for p in head._projections(4, 5))

    def regressors(streams):
        (a, v), (ma, mv) = (
            [s.numpy() / np.linalg.norm(s.numpy(), axis=1, keepdims=True) for s in (f.audio, f.visual)]
            for f in (streams, x)
        )
        a, v, ma, mv = a - ma.mean(0), v - mv.mean(0), ma - ma.mean(0), mv - mv.mean(0)
        parts, references = (a, v, (a @ first) * (v @ second)), (ma, mv, (ma @ first) * (mv @ second))
        return np.hstack(
            [
                (p - r.mean(0)) * np.sqrt(variance / ((r - r.mean(0)) ** 2).sum(1).mean())
                for p, r, variance in zip(parts, references, (1, 1, 0.1), strict=True)
            ]
        )

    got, penalty = head.logits(test).numpy(), head.solution.centred.solution.penalty
    expected = Ridge(penalty).fit(regressors(x), np.eye(4)[labels]).predict(regressors(test))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    fitted, asked = regressors(x), regressors(test)
    inverse = np.linalg.inv(fitted.T @ fitted + penalty * np.eye(fitted.shape[1]))
    leverage = 1 / 120 + np.einsum("nm,mk,nk->n", asked, inverse, asked)
    np.testing.assert_allclose(head.leverage(test), leverage, rtol=1e-6)


def test_products_tell_what_goes_with_what():
    """Two sounds and two looks, each as frequent in both classes: only together they tell."""
    sound, look = torch.arange(200) % 2, torch.arange(200) // 2 % 2
    audio, visual = (
        F.one_hot(which, 2).double() + 0.1 * draw(200, 2, seed=seed) for seed, which in enumerate((sound, look))
    )
    streams, labels = Features(visual, audio, torch.cat([audio, visual], 1)), (sound == look).long()
    found = {}
    for name, head in (("products", ProductRidge(20, 0.1)), ("streams", ScaledRidge())):
        head.update(streams.at(torch.arange(100)), labels[:100], 2)
        right = head.logits(streams.at(torch.arange(100, 200))).argmax(1) == labels[100:]
        found[name] = float(right.double().mean())
    assert found["products"] == 1 and found["streams"] < 0.7


def test_sums_of_learnt_features_follow_a_rotation():
    x, labels = features(200)
    turn = torch.linalg.qr(draw(6, 6, seed=3))[0]
    turned = x._replace(fused=x.fused @ turn)
    head = ResidualRidge(1e-9)
    head.update(x, labels, 4)
    stale = head.state["gram"]
    head.carry(x.at(torch.arange(150, 200)), turned.at(torch.arange(150, 200)))
    fresh = ResidualRidge(1e-9)
    fresh.update(turned, labels, 4)
    # with the many clips and the damping of a task it is CarriedRidge's own form
    mine, theirs = (ResidualRidge(3.0, {name: x.clone() for name, x in fresh.state.items()}) for _ in range(2))
    mine.carry(turned, x)
    CarriedRidge.carry(theirs, turned, x)
    for name in ("gram", "cross"):
        torch.testing.assert_close(mine.state[name], theirs.state[name], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(head.state[name], fresh.state[name], rtol=1e-5, atol=1e-5)
    assert (stale - fresh.state["gram"]).abs().max() > 1
