"""Kernels against float64 oracles, every gradient by name; Triton's are in test_triton.py."""

import json
import math
from functools import partial

import pytest
import torch

from avcil import kernels
from avcil.kernels import (
    OldAttention,
    channelwise,
    channelwise_attention,
    dual_distillation,
    guided_attention,
    remember_attention,
)
from conftest import ROOT

pytestmark = pytest.mark.arithmetic

DOUBLE = {"dtype": torch.float64}


def errors(found: dict, exact: dict) -> dict[str, float]:
    """Largest absolute error of each tensor, as a share of its oracle's largest entry."""
    return {
        name: ((found[name].double() - exact[name]).abs().max() / exact[name].abs().max().clamp_min(1e-12)).item()
        for name in exact
    }


def within_twice(found: dict, eager: dict, exact: dict, floor: float) -> None:
    """No tensor errs more than twice what eager code of that type does, and ``floor``: what chance gives or takes."""
    budget = errors(eager, exact)
    for name, error in errors(found, exact).items():
        assert error <= 2 * budget[name] + floor, (name, error, budget[name])


# ---- guided attention


@pytest.mark.parametrize("impl", ["folded", "projected", "auto"])
@pytest.mark.parametrize(
    ("batch", "slots", "queries", "patches", "channels", "width", "heads"),
    [
        (2, 3, 1, 49, 32, 64, 4),
        (1, 1, 5, 7, 33, 24, 3),
        (3, 2, 2, 1, 17, 16, 1),
        (2, 8, 1, 64, 96, 128, 4),
        (1, 2, 33, 197, 33, 8, 2),
    ],
)
def test_matches_multihead_attention_with_gradients(batch, slots, queries, patches, channels, width, heads, impl):
    torch.manual_seed(0)
    oracle = torch.nn.MultiheadAttention(
        width, heads, kdim=channels, vdim=channels, batch_first=True, bias=True, **DOUBLE
    )
    torch.nn.init.normal_(oracle.in_proj_bias)
    query = torch.randn(batch, slots, queries, width, **DOUBLE)
    tokens = torch.randn(batch, slots, patches, channels, **DOUBLE)
    bias = torch.randn(batch, slots, patches, **DOUBLE)
    # upstream gradients that are not 1, for the output and for the map
    up_output = torch.randn(batch, slots, queries, width, **DOUBLE)
    up_map = torch.randn(batch, slots, queries, patches, **DOUBLE)

    mask = bias[:, :, None].expand(-1, -1, queries, -1).flatten(0, 1).repeat_interleave(heads, 0)
    key_value = tokens.flatten(0, 1)
    expected, expected_map = oracle(query.flatten(0, 1), key_value, key_value, attn_mask=mask)
    ((expected * up_output.flatten(0, 1)).sum() + (expected_map * up_map.flatten(0, 1)).sum()).backward()

    weights = {n: p.detach().clone().requires_grad_() for n, p in oracle.named_parameters()}
    q_bias, _, v_bias = weights["in_proj_bias"].chunk(3)
    attended = guided_attention(
        query @ weights["q_proj_weight"].T + q_bias,
        tokens,
        weights["k_proj_weight"],
        weights["v_proj_weight"],
        v_bias,
        heads=heads,
        bias=bias,
        impl=impl,
    )
    output = attended.output @ weights["out_proj.weight"].T + weights["out_proj.bias"]
    ((output * up_output).sum() + (attended.weights * up_map).sum()).backward()

    torch.testing.assert_close(output.flatten(0, 1), expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(attended.weights.flatten(0, 1), expected_map, atol=1e-10, rtol=1e-10)
    for name, parameter in oracle.named_parameters():
        torch.testing.assert_close(weights[name].grad, parameter.grad, atol=1e-10, rtol=1e-8, msg=name)


def guided_case(*, batch=2, slots=3, queries=2, patches=7, channels=33, width=16, heads=2) -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    shapes = {
        "query": (batch, slots, queries, width),
        "tokens": (batch, slots, patches, channels),
        "key_weight": (width, channels),
        "value_weight": (width, channels),
        "value_bias": (width,),
        "bias": (batch, slots, patches),
    }
    drawn = {name: torch.randn(shape, **DOUBLE) for name, shape in shapes.items()}
    return drawn | {name: drawn[name] / channels**0.5 for name in ("key_weight", "value_weight")}


def run_guided(case, dtype=torch.float64, tokens=None, **options) -> dict[str, torch.Tensor]:
    """Outputs, and gradients of all but the tokens, under drawn upstream gradients."""
    case = {name: value.to(dtype).clone().requires_grad_(name != "tokens") for name, value in case.items()}
    case["tokens"] = case["tokens"].to(tokens or dtype)
    attended = guided_attention(**case, heads=2, **options)
    torch.manual_seed(5)
    loss = sum((out.double() * torch.randn(out.shape, **DOUBLE)).sum() for out in attended)
    loss.backward()
    return attended._asdict() | {name: value.grad for name, value in case.items() if name != "tokens"}


@pytest.mark.parametrize("tokens", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("impl", ["folded", "projected"])
def test_half_precision_tokens_err_as_eager_attention_of_that_type_does(impl, tokens):
    """The oracle sees the rounded tokens; eager is the projected form, as nn.MultiheadAttention computes it."""
    case = guided_case(patches=49)
    case["tokens"] = case["tokens"].to(tokens).double()
    exact = run_guided(case)
    found, eager = (run_guided(case, torch.float32, tokens, impl=i) for i in (impl, "projected"))
    within_twice(found, eager, exact, floor=2e-6 + torch.finfo(tokens).eps / 8)


@pytest.mark.parametrize("impl", ["folded", "projected"])
def test_a_masked_token_is_as_good_as_absent_and_a_slot_without_any_is_zero(impl):
    case = guided_case()
    mask = torch.ones(2, 3, 7, dtype=torch.bool)
    mask[:, :, 5:] = False
    mask[1, 2] = False
    case["tokens"][:, :, 5:] = 1e4
    found = run_guided(case, mask=mask, impl=impl)
    shorter = run_guided(case | {n: case[n][:, :, :5] for n in ("tokens", "bias")}, impl=impl)
    there = torch.ones(2, 3, dtype=torch.bool)
    there[1, 2] = False
    torch.testing.assert_close(found["output"][there], shorter["output"][there])
    torch.testing.assert_close(found["weights"][there][..., :5], shorter["weights"][there])
    assert not found["weights"][..., 5:].any() and not found["weights"][1, 2].any() and not found["output"][1, 2].any()
    assert all(found[name].isfinite().all() for name in ("query", "key_weight", "value_weight", "value_bias", "bias"))
    assert not found["query"][1, 2].any() and not found["bias"][..., 5:].any()


@pytest.mark.parametrize("impl", ["folded", "projected"])
def test_the_joint_layout_attends_to_all_slots_at_once(impl):
    case = guided_case(slots=4)
    joint = {
        "query": case["query"][:, :1],
        "tokens": case["tokens"].flatten(1, 2)[:, None],
        "bias": case["bias"].flatten(1, 2)[:, None],
    }
    found = guided_attention(**case | joint, heads=2, impl=impl)
    assert found.weights.shape == (2, 1, 2, 28)
    # by hand, one head after the other
    maps, outputs = [], []
    for head in range(2):
        of_head = slice(8 * head, 8 * head + 8)
        keys = torch.einsum("blsd,ed->blse", case["tokens"], case["key_weight"][of_head])
        values = torch.einsum("blsd,ed->blse", case["tokens"], case["value_weight"][of_head])
        scores = torch.einsum("bqe,blse->bqls", case["query"][:, 0, :, of_head], keys) / 8**0.5 + case["bias"][:, None]
        maps.append(scores.flatten(2).softmax(2))
        outputs.append(maps[-1] @ values.flatten(1, 2) + case["value_bias"][of_head])
    torch.testing.assert_close(found.output[:, 0], torch.cat(outputs, -1))
    torch.testing.assert_close(found.weights[:, 0], torch.stack(maps).mean(0))


@pytest.mark.parametrize("impl", ["folded", "projected"])
def test_centred_tokens_give_what_the_tokens_give(impl):
    case, centre = guided_case(), torch.full((33,), 3.0, **DOUBLE)
    found = run_guided(case | {"tokens": case["tokens"] - centre}, centre=centre, impl=impl)
    for name, value in run_guided(case, impl=impl).items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_strided_inputs_are_read_as_they_are():
    case = guided_case()
    strided = {name: value.transpose(0, -1).contiguous().transpose(0, -1) for name, value in case.items()}
    assert not strided["tokens"].is_contiguous()
    plain = run_guided(case)
    for name, value in run_guided(strided).items():
        torch.testing.assert_close(value, plain[name], msg=name)


@pytest.mark.parametrize("frozen", [False, True])
def test_gradcheck(frozen):
    """Of tokens that want none, products are taken the other way round."""
    torch.manual_seed(2)
    shapes = [(1, 2, 1, 4), (1, 2, 3, 5), (4, 5), (4, 5), (4,)]
    arguments = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    arguments[1].requires_grad_(not frozen)
    for impl in ("folded", "projected"):
        assert torch.autograd.gradcheck(lambda *a, i=impl: guided_attention(*a, heads=2, impl=i), arguments)


@pytest.mark.parametrize(
    ("queries", "patches", "form"),
    [(1, 64, "folded"), (32, 1568, "folded"), (128, 196, "projected"), (8, 16, "projected")],
)
def test_the_form_with_fewer_multiply_adds_is_chosen(queries, patches, form, monkeypatch):
    """At D = E = 768 and 8 heads."""
    chosen = []
    for name in ("_attend_folded", "_attend_projected"):
        monkeypatch.setattr(kernels.ops, name, lambda *a, n=name: chosen.append(n) or (torch.zeros(1, 1, 768),) * 2)
    shapes = [(1, 1, queries, 768), (1, 1, patches, 768), (768, 768), (768, 768), (768,)]
    guided_attention(*(torch.zeros(s) for s in shapes), heads=8)
    assert chosen == [f"_attend_{form}"]


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="6 attention channels do not divide into 4 heads"):
        guided_attention(
            torch.zeros(1, 1, 1, 6), torch.zeros(1, 1, 2, 3), *torch.zeros(2, 6, 3), torch.zeros(6), heads=4
        )


# ---- channel-wise attention


def channelwise_case(clips=4, slots=3, patches=7, channels=33, remembered=3) -> dict[str, torch.Tensor]:
    torch.manual_seed(6)
    tokens = torch.randn(clips, slots, patches, channels, **DOUBLE)
    weight = torch.randn(channels, channels, **DOUBLE) / channels**0.5
    old = remember_attention(
        torch.randn(remembered, channels, **DOUBLE).tanh(), tokens[:remembered], weight.roll(1, 0),
        torch.randn(channels, **DOUBLE), dtype=torch.float64,
    )  # fmt: skip
    return {
        "audio": torch.randn(clips, channels, **DOUBLE).tanh(),
        "tokens": tokens,
        "weight": weight,
        "bias": torch.randn(channels, **DOUBLE),
        "old": old,
        "of": torch.tensor([-1, 2, 0, 1, -1, 1] * clips)[:clips].clamp_max(remembered - 1),
    }


def run_channelwise(case, impl, dtype=torch.float64, tokens=None, **options) -> dict[str, torch.Tensor]:
    """Outputs and gradients by name, under drawn upstream gradients."""
    learnt = {n: case[n].to(dtype).clone().requires_grad_() for n in ("audio", "weight", "bias")}
    old = case["old"] and OldAttention(*(field.to(dtype) for field in case["old"]))
    given = {"tokens": case["tokens"].to(tokens or dtype), "old": old, "of": case["of"]}
    found = channelwise_attention(**learnt, **given, impl=impl, **options)
    torch.manual_seed(7)
    sum((out.double() * torch.randn(out.shape, **DOUBLE)).sum() for out in found).backward()
    return found._asdict() | {name: value.grad for name, value in learnt.items()}


SHAPES = [(4, 3, 7, 33, 3), (3, 2, 1, 96, 1), (2, 8, 49, 96, 2), (1, 1, 197, 33, 1), (2, 1, 196, 64, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_closed_form_is_the_reference_with_every_gradient(shape):
    case = channelwise_case(*shape)
    for given in (case, case | {"old": None, "of": None}, case | {"of": torch.full_like(case["of"], -1)}):
        exact = run_channelwise(given, "reference")
        for name, value in run_channelwise(given, "fused").items():
            torch.testing.assert_close(value, exact[name], rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("tokens", [torch.float32, torch.bfloat16, torch.float16])
def test_closed_form_errs_no_more_than_twice_what_eager_code_does(tokens, compiled, monkeypatch):
    monkeypatch.setattr(channelwise, "COMPILED_FROM", 0 if compiled else 1 << 60)
    if compiled and not channelwise.compiler():
        pytest.skip("no C++ compiler")
    case = channelwise_case(5, 3, 49, 96, 3)
    case["tokens"] = case["tokens"].to(tokens).double()
    exact = run_channelwise(case, "reference")
    eager, found = (run_channelwise(case, impl, torch.float32, tokens) for impl in ("reference", "fused"))
    within_twice(found, eager, exact, floor=2e-6 + torch.finfo(tokens).eps / 8)


def test_chunks_of_clips_change_nothing(monkeypatch):
    case = channelwise_case(5, 3, 7, 33, 3)
    whole = run_channelwise(case, "fused")
    monkeypatch.setattr(channelwise, "CHUNK", 2 * case["tokens"][0].numel())
    for name, value in run_channelwise(case, "fused").items():
        torch.testing.assert_close(value, whole[name], rtol=1e-12, atol=1e-12, msg=name)


def test_gradcheck_of_the_channelwise_reference():
    case = channelwise_case(3, 2, 4, 5, 2)
    learnt = [case[name].requires_grad_() for name in ("audio", "weight", "bias")]
    attend = partial(channelwise_attention, old=case["old"], of=case["of"], impl="reference")
    assert torch.autograd.gradcheck(lambda a, w, b: attend(a, case["tokens"], w, b), learnt)


@pytest.mark.parametrize("impl", ["reference", "fused"])
def test_centred_tokens_give_what_channelwise_tokens_give(impl):
    case, centre = channelwise_case(), torch.full((33,), 3.0, **DOUBLE)
    found = run_channelwise(case | {"tokens": case["tokens"] - centre}, impl, centre=centre)
    for name, value in run_channelwise(case, impl).items():
        torch.testing.assert_close(found[name], value, msg=name)


@pytest.mark.parametrize("impl", ["reference", "fused"])
def test_divergences_by_hand(impl):
    """Keys 0 and atanh(k): of two patches one scores 0 and one a k; the old map is even."""
    audio, key = torch.tensor([[1.0]]), math.log(3) / 2  # tanh gives 1/2, so weights are as 1 : sqrt(e)
    tokens = torch.tensor([[[[0.0], [key]], [[0.0], [0.0]]]])
    old = OldAttention(torch.full((1, 2, 2, 1), 0.5), torch.full((1, 2, 1), 0.5), torch.full((1, 2, 1), -math.log(2)))
    found = channelwise_attention(audio, tokens, torch.eye(1), torch.zeros(1), old=old, of=torch.tensor([0]), impl=impl)
    second = math.exp(0.5) / (1 + math.exp(0.5))
    moved = -0.5 * math.log(4 * second * (1 - second))  # KL(even || w); the other slot stays even
    first = 1 / (1 + math.exp(-second / 2))  # temporal scores: second / 2 and 0
    assert found.spatial_divergence.item() == pytest.approx(moved, rel=1e-5)
    assert found.temporal_divergence.item() == pytest.approx(-0.5 * math.log(4 * first * (1 - first)), rel=1e-5)
    assert found.output.item() == pytest.approx(first * second * key, rel=1e-5)


@pytest.mark.parametrize("impl", ["reference", "fused"])
def test_where_nobody_is_remembered_there_is_no_divergence(impl):
    case = channelwise_case()
    given, none = [case[name] for name in ("audio", "tokens", "weight", "bias")], torch.full((4,), -1)
    old = OldAttention(*(field[:0] for field in case["old"]))
    found = channelwise_attention(*given, old=old, of=none, impl=impl)
    torch.testing.assert_close(found.output, channelwise_attention(*given, impl=impl).output)
    assert not found.spatial_divergence.any() and not found.temporal_divergence.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_divergence_from_one_s_own_maps_is_nothing(dtype):
    case = channelwise_case(3, 2, 49, 16, 3)
    given = [case[name] for name in ("audio", "tokens", "weight", "bias")]
    old = remember_attention(*given, dtype=dtype)
    found = channelwise_attention(*given, old=old, of=torch.arange(3), impl="fused")
    scale = 1e-10 if dtype == torch.float64 else 2e-2  # of 2 x 16 maps whose entropy is 3.9 each
    assert found.spatial_divergence.abs().max() < scale and found.temporal_divergence.abs().max() < 1e-10


def test_the_closed_form_refuses_what_it_cannot_do():
    case = channelwise_case()
    given = [case[name] for name in ("audio", "tokens", "weight", "bias")]
    with pytest.raises(ValueError, match="`old` and `of` are given together or not at all"):
        channelwise_attention(*given, old=case["old"])
    with pytest.raises(ValueError, match=r"audio must lie in \[-1,1\]"):
        channelwise_attention(2 * given[0], *given[1:], impl="fused")
    with pytest.raises(ValueError, match="gives no gradient to tokens"):
        channelwise_attention(given[0], given[1].requires_grad_(), *given[2:], impl="fused")
    with pytest.raises(ValueError, match="no implementation `fast`; one of auto, reference, fused, triton"):
        channelwise_attention(*given, impl="fast")
    found = channelwise_attention(given[0].requires_grad_(), given[1].detach(), *given[2:], impl="fused").output.sum()
    found.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward has overwritten"):
        found.backward()


def test_a_context_forces_implementations(monkeypatch):
    case = channelwise_case()
    given = [case[name] for name in ("audio", "tokens", "weight", "bias")]
    monkeypatch.setattr(channelwise, "channelwise_attention", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        channelwise_attention(*given)
    with kernels.implementation(channelwise_attention="reference"):
        channelwise_attention(*given)
        with pytest.raises(ZeroDivisionError):
            channelwise_attention(*given, impl="fused")
    with pytest.raises(ValueError, match="no kernel named attention"), kernels.implementation(attention="triton"):
        pass


# ---- dual-level distillation


def test_dual_distillation_is_the_three_losses(monkeypatch):
    torch.manual_seed(8)
    logits, old = torch.randn(6, 7), torch.randn(6, 5)
    features, before = [torch.randn(3, 6, 4) for _ in range(2)]
    labels = torch.tensor([0, 6, 5, 2, 4, 1])
    for separated in (False, True):
        found = dual_distillation(
            logits, labels, old, [2, 3], tuple(features), tuple(before), temperature=2.0, separated=separated
        )
        plain = torch.nn.functional.cross_entropy(logits, labels)
        apart = kernels.separated_cross_entropy(logits, labels, 5)
        torch.testing.assert_close(found.cross_entropy, apart if separated else plain)
        torch.testing.assert_close(found.logit, kernels.logit_distillation(logits, old, 2.0, [2, 3]))
        torch.testing.assert_close(found.feature, kernels.feature_distillation(features, before))
    nothing = dual_distillation(logits, labels, old[:, :0], [], (), (), temperature=2.0, separated=True)
    assert nothing.logit == nothing.feature == 0
    torch.testing.assert_close(nothing.cross_entropy, plain)
    with pytest.raises(ValueError, match=r"blocks \[2\] do not sum to the 5 past classes"):
        dual_distillation(logits, labels, old, [2], (), (), temperature=2.0)


def test_no_triton_kernel_runs_on_a_device_it_was_not_proven_on():
    """PROVEN names the GPUs of which a measurement is committed."""
    measured = [json.loads(path.read_text()) for path in (ROOT / "benchmarks/results").glob("kernels_*.json")]
    assert {content["machine"]["device"] for content in measured} >= kernels.ops.PROVEN
