"""Losses against closed forms worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from avcil.kernels import feature_distillation, logit_distillation, separated_cross_entropy
from avcil.learn.attention import Features
from avcil.learn.methods.afc import importance_distillation, nca
from avcil.learn.methods.attention_distillation import attention_distillation
from avcil.learn.methods.av_cil import channel_attention_distillation, class_contrast, instance_contrast
from avcil.learn.methods.der import dark_replay
from avcil.learn.methods.icarl import sigmoid_distillation

pytestmark = pytest.mark.arithmetic

NAN = math.nan


@pytest.fixture(autouse=True)
def same_draws():
    torch.manual_seed(0)


def gradient(loss, *inputs: torch.Tensor) -> tuple[float, list[torch.Tensor]]:
    """The value of ``loss`` and its gradients, all of which must be finite."""
    inputs = [value.clone().requires_grad_() for value in inputs]
    value = loss(*inputs)
    value.backward()
    assert value.isfinite() and all(x.grad.isfinite().all() for x in inputs)
    return value.item(), [x.grad for x in inputs]


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


@pytest.mark.parametrize("blocks", [None, []])
def test_logit_distillation_over_no_past_class_is_an_empty_sum_with_finite_gradient(blocks):
    value, (slope,) = gradient(lambda new: logit_distillation(new, torch.zeros(4, 0), 2.0, blocks), torch.randn(4, 3))
    assert value == 0 and torch.equal(slope, torch.zeros(4, 3))


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


# ---- logits: one softmax a task, a sigmoid a class


def test_logit_distillation_by_task_is_the_sum_over_tasks():
    # tasks of one and two classes: one class is always certain; probabilities (3/4, 1/4) and (1/2, 1/2) in the other
    old = torch.tensor([[9.0, 2 * math.log(3.0), 0.0]])
    new = torch.tensor([[-4.0, 5.0, 5.0, 7.0]])
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert logit_distillation(new, old, 2.0, [1, 2]).item() == pytest.approx(4 * kl, rel=1e-6)
    assert logit_distillation(new, old, 2.0, [3]).item() > 4 * kl + 1


def test_logit_distillation_by_task_does_not_feel_a_whole_task_shifted():
    old = torch.randn(4, 5)
    new = old + torch.tensor([3.0, 3.0, -2.0, -2.0, -2.0])
    assert logit_distillation(new, old, 2.0, [2, 3]).item() == pytest.approx(0, abs=1e-6)
    assert logit_distillation(new, old, 2.0).item() > 0.1


def test_tasks_of_one_class_have_nothing_to_distil():
    value, (slope,) = gradient(lambda new: logit_distillation(new, torch.randn(3, 2), 2.0, [1, 1]), torch.randn(3, 4))
    assert value == 0 and torch.equal(slope, torch.zeros(3, 4))


def test_tasks_that_are_not_the_past_classes_are_refused():
    with pytest.raises(RuntimeError, match="split"):
        logit_distillation(torch.randn(2, 5), torch.randn(2, 4), 2.0, [1, 2])


def test_sigmoid_distillation_closed_form():
    # σ of the old logits is (3/4, 1/2), of the new ones (1/4, 1/2); the new class is not looked at
    old, new = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[-math.log(3.0), 0.0, 50.0]])
    first = -0.75 * math.log(0.25) - 0.25 * math.log(0.75)
    assert sigmoid_distillation(new, old).item() == pytest.approx((first + math.log(2)) / 2, rel=1e-6)


def test_sigmoid_distillation_pulls_nowhere_at_the_old_logits_but_does_as_published():
    old = torch.tensor([[0.0, -1.0], [2.0, 0.0]])
    _, (slope,) = gradient(lambda new: sigmoid_distillation(new, old), old)
    torch.testing.assert_close(slope, torch.zeros(2, 2))
    _, (slope,) = gradient(lambda new: sigmoid_distillation(new, old, as_published=True), old)
    # at a logit of 0: (σ(1/2) - 1/2) σ'(0), over 4 entries
    assert slope[0, 0].item() == pytest.approx((1 / (1 + math.exp(-0.5)) - 0.5) / 4 / 4, rel=1e-5)


def test_sigmoid_distillation_as_published_closed_form():
    # the new logit 0 is taken for σ(0) = 1/2
    value = sigmoid_distillation(torch.zeros(1, 2), torch.tensor([[math.log(3.0)]]), as_published=True)
    assert value.item() == pytest.approx(math.log(1 + math.exp(0.5)) - 0.75 * 0.5, rel=1e-6)


# ---- classification


def test_separated_cross_entropy_closed_form():
    # a new clip with 3/4 of the new classes' share, an exemplar with 1/5 of the past ones'
    logits = torch.tensor([[9.0, -9.0, math.log(3.0), 0.0], [0.0, math.log(4.0), 7.0, -7.0]])
    value, (slope,) = gradient(lambda x: separated_cross_entropy(x, torch.tensor([2, 0]), 2), logits)
    assert value == pytest.approx((math.log(4 / 3) + math.log(5)) / 2, rel=1e-6)
    # each says nothing of the other group
    assert not slope[0, :2].any() and not slope[1, 2:].any()


def test_separated_cross_entropy_without_past_classes_is_cross_entropy():
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    torch.testing.assert_close(separated_cross_entropy(logits, labels, 0), F.cross_entropy(logits, labels))


@pytest.mark.parametrize(("labels", "group"), [([2, 3, 3], slice(2, None)), ([1, 0, 1], slice(0, 2)), ([0], slice(2))])
def test_separated_cross_entropy_of_a_batch_of_one_kind_is_cross_entropy_in_its_group(labels, group):
    labels = torch.tensor(labels)
    logits = torch.randn(len(labels), 4)
    value, _ = gradient(lambda x: separated_cross_entropy(x, labels, 2), logits)
    assert value == pytest.approx(F.cross_entropy(logits[:, group], labels - group.indices(4)[0]).item(), rel=1e-6)


def test_nca_closed_form():
    similarities = torch.tensor([[0.0, -math.log(2.0), -math.log(4.0)]])
    # where the true class is the nearest it is cross-entropy: log(1 + 1/2 + 1/4)
    assert nca(similarities, torch.tensor([0]), torch.tensor(1.0)).item() == pytest.approx(math.log(1.75), rel=1e-6)
    # where not, 1 stands where the true class was: log(1 + 1 + 1/4) + log 2
    value = nca(similarities, torch.tensor([1]), torch.tensor(1.0)).item()
    assert value == pytest.approx(math.log(2.25) + math.log(2.0), rel=1e-6)
    # twice the scale squares each term
    value = nca(similarities, torch.tensor([1]), torch.tensor(2.0)).item()
    assert value == pytest.approx(math.log(2 + 1 / 16) + math.log(4.0), rel=1e-6)


def test_the_margin_of_nca_cancels():
    similarities, labels, scale = torch.randn(4, 5), torch.tensor([0, 4, 2, 2]), torch.tensor(2.5)
    torch.testing.assert_close(nca(similarities, labels, scale), nca(similarities, labels, scale, margin=0.0))


def test_nca_of_a_single_class_is_zero_and_of_far_ones_finite():
    value, slopes = gradient(
        lambda s, scale: nca(s, torch.zeros(2).long(), scale), torch.randn(2, 1), torch.tensor(3.0)
    )
    assert value == 0 and not any(slope.any() for slope in slopes)
    gradient(lambda s: nca(s, torch.tensor([0]), torch.tensor(1.0)), torch.tensor([[-1e4, 1e4]]))


# ---- features


def test_importance_distillation_closed_form():
    # a right angle, √2 apart, and opposite directions, 2 apart, of lengths that do not count; shares 1/4 and 3/4
    new = torch.tensor([[3.0, 0.0]]), torch.tensor([[2.0, 0.0, 0.0]])
    old = torch.tensor([[0.0, 5.0]]), torch.tensor([[-1.0, 0.0, 0.0]])
    value = importance_distillation(new, old, torch.tensor([[2.0, 6.0]]))
    assert value.item() == pytest.approx(0.25 * math.sqrt(2) + 0.75 * 2, rel=1e-6)


def test_importance_is_a_share_of_each_clip():
    new, old = (torch.randn(2, 3, 4).unbind() for _ in range(2))
    weight = torch.rand(3, 2)
    torch.testing.assert_close(
        importance_distillation(new, old, weight * torch.tensor([[1e-6], [1.0], [1e6]])),
        importance_distillation(new, old, weight),
    )


def test_features_that_stay_that_are_silent_or_that_nothing_depends_on_add_nothing():
    still, moved = torch.randn(1, 4), torch.randn(1, 4)
    for new, old, weight in (
        (still, still, 1.0),
        (torch.zeros(1, 4), torch.zeros(1, 4), 1.0),
        (moved, still, 0.0),
    ):
        weight = torch.full((1, 1), weight)
        value, (slope,) = gradient(lambda x, o=old, w=weight: importance_distillation((x,), (o,), w), new)
        assert value == 0 and not slope.any()


# ---- attention of every channel


def test_channel_attention_distillation_is_half_the_mean_over_exemplars():
    divergence = torch.tensor([0.0, 3.0, 0.0, 5.0])
    value, (slope,) = gradient(
        lambda d: channel_attention_distillation(d, torch.tensor([False, True, False, True])), divergence
    )
    assert value == 2 and slope.tolist() == [0.25] * 4
    value, (slope,) = gradient(lambda d: channel_attention_distillation(d, torch.zeros(2, dtype=bool)), torch.zeros(2))
    assert value == 0


# ---- sound against picture


def test_instance_contrast_closed_form():
    audio, visual = torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    # both sounds are nearer the first picture, by 1
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    assert instance_contrast(visual, audio, 1.0).item() == pytest.approx((right + wrong) / 2, rel=1e-6)
    # a tenth of the temperature makes the difference 10
    sharp = (math.log(1 + math.exp(-10)) + math.log(1 + math.exp(10))) / 2
    assert instance_contrast(visual, audio, 0.1).item() == pytest.approx(sharp, rel=1e-6)
    # seen from the pictures nothing tells the sounds apart: the loss is not symmetric
    assert instance_contrast(audio, visual, 1.0).item() == pytest.approx(math.log(2), rel=1e-6)


def test_class_contrast_closed_form():
    # sound 0 is 1 nearer to picture 0 than to the others; the others' sounds are equally near to all
    audio, visual = (
        torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]),
        torch.tensor([[4.0, 0.0], [0.0, 1.0], [0.0, 2.0]]),
    )
    own = math.log(1 + 2 * math.exp(-1))
    labels = torch.tensor([0, 0, 1])
    # sound 0 finds pictures 0 and 1, sound 1 the same, sound 2 its own alone
    by_clip = [(own + own + 1) / 2, math.log(3), math.log(3)]
    assert class_contrast(visual, audio, labels, 1.0).item() == pytest.approx(sum(by_clip) / 3, rel=1e-6)
    # as published, clips with few of their class in the batch count less
    published = class_contrast(visual, audio, labels, 1.0, as_published=True).item()
    assert published == pytest.approx((by_clip[0] * 2 / 3 + by_clip[1] * 2 / 3 + by_clip[2] / 3) / 3, rel=1e-6)


def test_class_contrast_of_clips_of_different_classes_is_instance_contrast():
    audio, visual = torch.randn(4, 6), torch.randn(4, 6)
    torch.testing.assert_close(
        class_contrast(visual, audio, torch.arange(4), 0.5), instance_contrast(visual, audio, 0.5)
    )


def test_contrasts_of_a_single_clip_are_zero_and_of_silent_ones_finite():
    clip = torch.randn(1, 4)
    for loss in (instance_contrast, lambda a, v, t: class_contrast(a, v, torch.zeros(len(a)), t)):
        value, slopes = gradient(lambda a, v, loss=loss: loss(a, v, 0.05), clip, clip)
        assert value == pytest.approx(0, abs=1e-6) and not any(slope.any() for slope in slopes)
        gradient(lambda a, v, loss=loss: loss(a, v, 0.05), torch.zeros(3, 4), torch.zeros(3, 4))


# ---- stored logits


def test_dark_replay_closed_form_leaves_out_classes_unknown_when_stored():
    stored = torch.tensor([[0.0, NAN], [4.0, 2.0]])
    value, (slope,) = gradient(lambda x: dark_replay(x, stored), torch.tensor([[1.0, 9.0], [3.0, 4.0]]))
    assert value == pytest.approx((1 + 1 + 4) / 3)
    torch.testing.assert_close(slope, torch.tensor([[2.0, 0.0], [-2.0, 4.0]]) / 3)


@pytest.mark.parametrize("stored", [torch.full((2, 3), NAN), torch.empty(0, 3), torch.empty(2, 0)])
def test_dark_replay_of_nothing_stored_is_zero(stored):
    value, (slope,) = gradient(lambda x: dark_replay(x, stored), torch.ones(stored.shape))
    assert value == 0 and not slope.any()


# ---- all of them


STORED = torch.tensor([[0.5, NAN], [NAN, NAN], [1.0, -1.0]], dtype=torch.float64)
# the loss, the shapes of what it is differentiated by, and the shapes of what is given
GRADIENTS = {
    "logit_distillation": (lambda n, o: logit_distillation(n, o, 2.0, [1, 2]), [(4, 5)], [(4, 3)]),
    "sigmoid_distillation": (sigmoid_distillation, [(4, 5)], [(4, 3)]),
    "sigmoid_distillation as published": (
        lambda n, o: sigmoid_distillation(n, o, as_published=True), [(4, 5)], [(4, 3)],
    ),
    "separated_cross_entropy": (lambda n: separated_cross_entropy(n, torch.tensor([1, 4, 3, 0]), 3), [(4, 5)], []),
    "nca": (lambda n, scale: nca(n, torch.tensor([1, 4, 3, 0]), scale), [(4, 5), ()], []),
    "importance_distillation": (
        lambda a, b, c, d, w: importance_distillation((a, b), (c, d), w.abs()),
        [(4, 3), (4, 6)], [(4, 3), (4, 6), (4, 2)],
    ),
    "instance_contrast": (lambda a, v: instance_contrast(a, v, 0.5), [(4, 6), (4, 6)], []),
    "class_contrast": (lambda a, v: class_contrast(a, v, torch.tensor([1, 1, 0, 1]), 0.5), [(4, 6), (4, 6)], []),
    "dark_replay": (lambda n: dark_replay(n, STORED), [(3, 2)], []),
}  # fmt: skip


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_those_of_finite_differences(name):
    loss, learnt, given = GRADIENTS[name]
    drawn = [torch.randn(shape, dtype=torch.float64) for shape in [*learnt, *given]]
    inputs = [value.requires_grad_() for value in drawn[: len(learnt)]]
    assert torch.autograd.gradcheck(lambda *x: loss(*x, *drawn[len(learnt) :]), inputs)
