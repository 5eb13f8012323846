"""The ridge that chooses its own scale and penalty, against NumPy and scikit-learn on all clips at once."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeCV

from avcil.learn.attention import Features
from avcil.learn.methods.scaled_ridge import PENALTIES, ScaledRidge, factor, gcv, spectrum

pytestmark = pytest.mark.arithmetic
CLASSES, AUDIO, VISUAL = 6, 5, 9


def clips(count, seed=0, noise=1.0, audio=AUDIO, visual=VISUAL):
    """Features of unequal scale and offset, and labels in ascending order."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(CLASSES, size=count))
    means = np.random.default_rng(99).normal(size=(CLASSES, audio + visual))
    x = torch.from_numpy(means[labels] + noise * rng.normal(size=(count, audio + visual)))
    a, v = 0.03 * x[:, :audio] + 0.2, 40 * x[:, audio:] - 300
    return Features(v, a, torch.cat([a, v], 1)), torch.from_numpy(labels)


def learnt(features, labels, parts=None):
    """After tasks of those rows, through a checkpoint before each."""
    head = ScaledRidge()
    for part in parts or [torch.arange(len(labels))]:
        head = ScaledRidge({name: value.clone() for name, value in head.state.items()})
        head.update(features.at(part), labels[part], CLASSES)
    return head


def standardised(features, reference):
    """By stream, as the docstring says, in NumPy."""
    x, r = ([getattr(f, name).numpy() for name in ("audio", "visual")] for f in (features, reference))
    return np.hstack(
        [(s - t.mean(0)) / np.sqrt(((t - t.mean(0)) ** 2).sum(1).mean()) for s, t in zip(x, r, strict=True)]
    )


def brute_gcv(x, y, penalty):
    """With the hat matrix of ridge with an unpenalised intercept."""
    n = len(x)
    x, ones = x - x.mean(0), np.full((n, n), 1 / n)
    hat = ones + x @ np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T)
    left = np.eye(n) - hat
    return (np.linalg.norm(left @ y) ** 2 / n) / (np.trace(left) / n) ** 2


# ---- the directions in which clips differ


@pytest.mark.parametrize("distinct", [2, 7, 39, 40])
def test_of_few_clips_it_has_the_directions_of_all_channels(distinct):
    """40 clips of 60 channels of very unequal spread, of which some may be copies: from a factor of their number, the
    weights of a ridge are those from all eigenvectors."""
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(distinct, 60, generator=generator, dtype=torch.float64) * torch.logspace(0, -3, 60).double()
    clips = clips[torch.arange(40) % distinct]
    clips = clips - clips.mean(0)
    gram, cross = clips.T @ clips, clips.T @ torch.randn(40, 3, generator=generator, dtype=torch.float64)
    floor = 60 * torch.finfo(torch.float64).eps * float(gram.trace())
    lower = factor(gram, 39, floor / 60)
    assert lower.shape[1] < 40
    torch.testing.assert_close(lower @ lower.T, gram, rtol=0, atol=floor)
    modes = spectrum(gram, cross, 40, floor)
    assert len(modes.values) == distinct - 1
    for penalty in 40 * PENALTIES[[0, -1]]:
        weight = modes.vectors @ (modes.turned / (modes.values + penalty)[:, None])
        exact = torch.linalg.solve(gram + penalty * torch.eye(60, dtype=torch.float64), cross)
        torch.testing.assert_close(weight, exact, rtol=1e-8, atol=1e-8 * float(exact.abs().max()))


# ---- the penalty


@pytest.mark.parametrize("count", [9, 14, 15, 16, 200])  # fewer clips than channels, about as many, more
def test_gcv_from_sums_equals_gcv_on_stacked_clips(count):
    features, labels = clips(count)
    x, y = standardised(features, features), np.eye(CLASSES)[labels]
    centred, targets = torch.from_numpy(x - x.mean(0)), torch.from_numpy(y - y.mean(0))
    modes = spectrum(centred.T @ centred, centred.T @ targets, count, 1e-10)
    scores = gcv(modes, targets.square().sum(), count, count * PENALTIES)
    expected = [brute_gcv(x, y, float(penalty)) for penalty in count * PENALTIES]
    np.testing.assert_allclose(scores, expected, rtol=1e-9)
    head = learnt(features, labels)
    assert head.solution.penalty == pytest.approx(float(count * PENALTIES[np.argmin(expected)]), rel=1e-12)


@pytest.mark.parametrize(("count", "noise"), [(30, 1.0), (80, 2.0), (80, 0.3), (300, 4.0)])
def test_its_penalty_errs_hardly_more_than_the_best_of_leave_one_out(count, noise):
    """RidgeCV leaves out every clip; GCV may choose another penalty, but not one that errs more than 5 % more."""
    features, labels = clips(count, noise=noise)
    test, truth = clips(500, seed=1, noise=noise)
    x, y = standardised(features, features), np.eye(CLASSES)[labels]
    grid = (count * PENALTIES).numpy()
    every = RidgeCV(grid, store_cv_results=True).fit(x, y)
    errors = every.cv_results_.mean((0, 1))
    head = learnt(features, labels)
    predicted = head.logits(test).argmax(1)
    assert errors[np.isclose(grid, head.solution.penalty)].item() <= 1.05 * errors.min()
    chosen = every.predict(standardised(test, features)).argmax(1)
    assert (predicted == truth).double().mean() >= np.mean(chosen == truth.numpy()) - 0.02


def test_noise_alone_is_penalised_and_clear_classes_are_not():
    features, labels = clips(200, noise=0.05)
    clear, shuffled = (learnt(features, y) for y in (labels, labels[torch.randperm(200)]))
    assert clear.solution and shuffled.solution
    assert shuffled.solution.penalty > 100 * clear.solution.penalty


# ---- the solution


def test_it_is_ridge_on_standardised_streams():
    (features, labels), (test, _) = clips(100), clips(20, seed=1)
    head = learnt(features, labels)
    predicted = head.logits(test)
    oracle = Ridge(head.solution.penalty).fit(standardised(features, features), np.eye(CLASSES)[labels])
    np.testing.assert_allclose(predicted, oracle.predict(standardised(test, features)), atol=1e-6)
    assert predicted.dtype == torch.float32


CHANGES = {
    "audio x 10": (10.0, 0.0, 1.0, 0.0),
    "visual x 10": (1.0, 0.0, 10.0, 0.0),
    "visual / 1000": (1.0, 0.0, 1e-3, 0.0),
    "audio + 7": (1.0, 7.0, 1.0, 0.0),
    "both": (0.1, -3.0, 10.0, 1e3),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("count", [10, 100])
def test_neither_scale_nor_offset_of_a_stream_changes_a_prediction(change, count):
    (features, labels), (test, _) = clips(count), clips(200, seed=1, noise=2.0)
    by_audio, more_audio, by_visual, more_visual = CHANGES[change]

    def changed(f):
        return Features(f.visual * by_visual + more_visual, f.audio * by_audio + more_audio, f.fused)

    before, after = learnt(features, labels), learnt(changed(features), labels)
    plain, moved = before.logits(test), after.logits(changed(test))
    assert torch.equal(plain.argmax(1), moved.argmax(1)) and after.solution.penalty == before.solution.penalty
    torch.testing.assert_close(plain, moved, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [9, 200])
def test_the_leverage_is_that_of_standardised_streams(count):
    (features, labels), (test, _) = clips(count), clips(40, seed=1)
    head = learnt(features, labels)
    got = head.leverage(test)
    x, z = standardised(features, features), standardised(test, features)
    inverse = np.linalg.inv(x.T @ x + head.solution.penalty * np.eye(x.shape[1]))
    np.testing.assert_allclose(got, 1 / count + np.einsum("nm,mk,nk->n", z, inverse, z), rtol=1e-6)
    louder = [f._replace(audio=10 * f.audio) for f in (features, test)]
    torch.testing.assert_close(learnt(louder[0], labels).leverage(louder[1]), got, rtol=1e-6, atol=0)


@pytest.mark.parametrize("count", [12, 100])
def test_task_by_task_is_all_at_once_in_any_order(count):
    features, labels = clips(count)
    generator = torch.Generator().manual_seed(3)
    shuffled = torch.randperm(count, generator=generator)
    ways = {
        "classes": [(labels == c).nonzero()[:, 0] for c in labels.unique()],
        "parts": list(torch.arange(count).split(7)),
        "shuffled": [shuffled],
        "single clips": list(shuffled.split(1)),
    }
    whole = learnt(features, labels)
    expected = whole.solution[0]
    for way, parts in ways.items():
        head = learnt(features, labels, parts)
        assert (head.solution[0] - expected).abs().max() <= 1e-9 * expected.abs().max(), way
        assert head.solution.penalty == whole.solution.penalty, way


def test_a_stream_that_never_varies_is_absent():
    (features, labels), (test, _) = clips(60), clips(20, seed=1)
    constant, other = ({"visual": torch.full((n, 3), value)} for n, value in ((60, 0.1), (20, 0.1)))
    head = learnt(features._replace(**constant), labels)
    predicted = head.logits(test._replace(**other))
    x = features.audio.numpy()
    x, size = x - x.mean(0), np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean())
    alone = Ridge(head.solution.penalty).fit(x / size, np.eye(CLASSES)[labels])
    expected = alone.predict((test.audio.numpy() - features.audio.numpy().mean(0)) / size)
    np.testing.assert_allclose(predicted, expected, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_one_clip_or_one_class_is_no_special_case(count):
    features, _ = clips(count)
    head = ScaledRidge()
    head.update(features, torch.zeros(count, dtype=torch.long), 1)
    assert torch.equal(head.logits(features), torch.ones(count, 1))
    head.update(*clips(1, seed=5)[:1], torch.ones(1, dtype=torch.long), 2)
    assert head.logits(features).isfinite().all() and (head.logits(features).argmax(1) == 0).all()
