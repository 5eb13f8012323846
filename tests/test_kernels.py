"""Guided attention against torch.nn.MultiheadAttention, which projects every token."""

import pytest
import torch

from avcil.kernels import guided_attention


@pytest.mark.parametrize(
    ("batch", "slots", "queries", "patches", "channels", "width", "heads"),
    [(2, 3, 1, 49, 32, 64, 4), (1, 1, 5, 7, 33, 24, 3), (3, 2, 2, 1, 17, 16, 1), (2, 8, 1, 64, 96, 128, 4)],
)
def test_matches_multihead_attention_with_gradients(batch, slots, queries, patches, channels, width, heads):
    torch.manual_seed(0)
    double = {"dtype": torch.float64}
    oracle = torch.nn.MultiheadAttention(
        width, heads, kdim=channels, vdim=channels, batch_first=True, bias=True, **double
    )
    torch.nn.init.normal_(oracle.in_proj_bias)
    query = torch.randn(batch, slots, queries, width, **double)
    tokens = torch.randn(batch, slots, patches, channels, **double)
    bias = torch.randn(batch, slots, patches, **double)
    # upstream gradients that are not 1, for the output and for the map
    up_output = torch.randn(batch, slots, queries, width, **double)
    up_map = torch.randn(batch, slots, queries, patches, **double)

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
    )
    output = attended.output @ weights["out_proj.weight"].T + weights["out_proj.bias"]
    ((output * up_output).sum() + (attended.weights * up_map).sum()).backward()

    torch.testing.assert_close(output.flatten(0, 1), expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(attended.weights.flatten(0, 1), expected_map, atol=1e-10, rtol=1e-10)
    for name, parameter in oracle.named_parameters():
        torch.testing.assert_close(weights[name].grad, parameter.grad, atol=1e-10, rtol=1e-8, msg=name)


def test_single_precision_stays_within_1e_5_of_double():
    torch.manual_seed(1)
    arguments = [torch.randn(4, 8, 1, 64), torch.randn(4, 8, 64, 128), *torch.randn(2, 64, 128) / 11, torch.randn(64)]
    single = guided_attention(*arguments, heads=4)
    double = guided_attention(*(a.double() for a in arguments), heads=4)
    torch.testing.assert_close(single.output.double(), double.output, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(single.weights.double(), double.weights, atol=1e-5, rtol=1e-5)


def test_gradcheck():
    torch.manual_seed(2)
    shapes = [(1, 2, 1, 4), (1, 2, 3, 5), (4, 5), (4, 5), (4,)]
    arguments = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    assert torch.autograd.gradcheck(lambda *a: guided_attention(*a, heads=2), arguments)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="6 attention channels do not divide into 4 heads"):
        guided_attention(
            torch.zeros(1, 1, 1, 6), torch.zeros(1, 1, 2, 3), *torch.zeros(2, 6, 3), torch.zeros(6), heads=4
        )
