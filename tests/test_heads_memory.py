"""Solved heads against scikit-learn, exemplar selection against hand-made cases."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from avcil.heads import NearestMean, RecursiveRidge
from avcil.memory import herding, quota, select


@pytest.mark.parametrize("cuts", [[60], [20, 60], [20, 40, 60]])
def test_recursive_ridge_equals_ridge_on_all_data_at_once(cuts):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 7)), np.repeat(np.arange(6), 10)
    head, start = RecursiveRidge(3.0), 0
    for stop in cuts:
        head.update(torch.tensor(x[start:stop]), torch.tensor(y[start:stop]), y[stop - 1] + 1)
        head = RecursiveRidge(3.0, head.state)  # through a checkpoint
        start = stop
    # ours penalises the constant too: give scikit-learn a column of ones
    oracle = Ridge(alpha=3.0, fit_intercept=False).fit(np.c_[x, np.ones(60)], np.eye(6)[y])
    expected = oracle.predict(np.c_[x, np.ones(60)])
    np.testing.assert_allclose(head.logits(torch.tensor(x)), expected, atol=1e-5)


def test_nearest_mean_keeps_means_of_classes_without_data():
    head = NearestMean()
    head.update(torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1]), 2)
    head.update(torch.tensor([[0.0, -3.0]]), torch.tensor([2]), 3)
    scores = head.logits(torch.tensor([[1.0, 0.0], [0.0, 5.0], [0.1, -1.0]]))
    assert scores.argmax(1).tolist() == [0, 1, 2]
    assert scores[0, 0].item() == pytest.approx(1)


def test_herding_follows_the_mean():
    angles = torch.tensor([0.0, 0.3, -0.3, 1.2, -1.2]).double()
    unit = torch.stack([angles.cos(), angles.sin()], 1)
    chosen = herding(unit, 5)
    assert chosen[0] == 0 and sorted(chosen) == [0, 1, 2, 3, 4]
    # brute force: each prefix's next element is the best of all candidates
    mean = unit.mean(0)
    for k in range(1, 5):
        rest = [i for i in range(5) if i not in chosen[:k]]
        best = min(rest, key=lambda i: float((mean - unit[[*chosen[:k], i]].mean(0)).norm()))
        assert float((mean - unit[[*chosen[:k], best]].mean(0)).norm()) == pytest.approx(
            float((mean - unit[chosen[: k + 1]].mean(0)).norm())
        )


def test_quota():
    assert quota(5, True, 12) == 5
    assert quota(50, False, 12) == 4


def _select(memory, candidates, labels, **options):
    defaults = {"selection": "random", "count": 2, "generator": torch.Generator().manual_seed(0)}
    features = torch.randn(len(candidates), 3)
    return select(memory, candidates, labels, features, **(defaults | options))


def test_select_truncates_old_classes_and_keeps_their_best():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    kept = _select([2, 0, 3], [4, 5, 6], labels)
    assert kept[:2] == [2, 0] and len(kept) == 4 and set(kept[2:]) <= {4, 5, 6}


@pytest.mark.parametrize(("selection", "expected"), [("none", 0), ("random", 4), ("herding", 4), ("all", 6)])
def test_select_counts(selection, expected):
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    kept = _select([0, 1, 2], [3, 4, 5], labels, selection=selection)
    assert len(kept) == expected and len(set(kept)) == expected
