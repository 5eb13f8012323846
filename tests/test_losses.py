"""Losses against closed forms worked out by hand."""

import math

import pytest
import torch

from avcil.losses import attention_distillation, feature_distillation, logit_distillation
from avcil.model import Features


def test_logit_distillation_closed_form():
    # old probabilities (3/4, 1/4) at temperature 2, new ones (1/2, 1/2) whatever the new class's logit
    old = torch.tensor([[2 * math.log(3.0), 0.0]])
    new = torch.tensor([[5.0, 5.0, -7.0]])
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert logit_distillation(new, old, 2.0).item() == pytest.approx(4 * kl, rel=1e-6)


def test_logit_distillation_is_zero_at_the_old_logits_and_shift_invariant():
    old = torch.randn(5, 3)
    new = torch.cat([old + 3, torch.randn(5, 2)], 1)
    assert logit_distillation(new, old, 2.0).item() == pytest.approx(0, abs=1e-6)


def test_logit_distillation_over_no_past_class_is_an_empty_sum_with_finite_gradient():
    new = torch.randn(4, 3, requires_grad=True)
    loss = logit_distillation(new, torch.zeros(4, 0), 2.0)
    loss.backward()
    assert loss.item() == 0 and torch.equal(new.grad, torch.zeros(4, 3))


def test_logit_distillation_gradient():
    new, old = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.randn(3, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda n: logit_distillation(n, old, 3.0), new)


def _features(*rows) -> Features:
    return Features(*(torch.tensor([row], dtype=torch.float64, requires_grad=True) for row in rows))


def test_feature_distillation_closed_form():
    # cosines 0, -1 and cos 60 degrees
    new = _features([1.0, 0.0], [2.0, 0.0], [1.0, 0.0])
    old = _features([0.0, 9.0], [-1.0, 0.0], [0.5, math.sqrt(0.75)])
    assert feature_distillation(new, old).item() == pytest.approx(1 + 2 + 0.5)


def test_feature_distillation_ignores_an_absent_stream_and_length():
    new = _features([0.0, 0.0], [3.0, 4.0], [3.0, 4.0])
    old = _features([0.0, 0.0], [0.3, 0.4], [6.0, 8.0])
    loss = feature_distillation(new, old)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-9)
    assert all(feature.grad.isfinite().all() for feature in new)


def test_attention_distillation_closed_form_is_a_mean_over_clips_and_slots():
    old = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]])
    new = torch.tensor([[[0.25, 0.75], [1.0, 0.0]]])
    kl = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert attention_distillation(new, old).item() == pytest.approx(kl / 2, rel=1e-5)
