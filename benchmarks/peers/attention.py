"""Guided attention, forward and backward: ours, and the public ways that give the same output and map.

Dimension letters: ``N`` = B L sets of tokens, ``Q`` queries and ``S`` tokens of a set, ``D`` channels, ``H`` heads.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from avcil.kernels import guided_attention, reference
from peers import Options, cast, compilations, shape
from timing import DTYPES, Group, Variant, Work, differentiated


class Attention(NamedTuple):
    """With a loss on the output and on the map. Q queries look at the S tokens of each of B L sets."""

    B: int
    L: int
    Q: int
    S: int
    D: int = 768
    H: int = 8


def _heads(x: Tensor, heads: int) -> Tensor:
    """[N,S,D] to [N,H,S,D/H]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _projected(query, tokens, key_weight, value_weight, value_bias, heads):
    """Queries [N,H,Q,d], keys and values [N,H,S,d] in the tokens' type."""
    kind = tokens.dtype
    keys, values = F.linear(tokens, key_weight.to(kind)), F.linear(tokens, value_weight.to(kind), value_bias.to(kind))
    return _heads(query.to(kind), heads), _heads(keys, heads), _heads(values, heads)


def _map(query: Tensor, keys: Tensor) -> Tensor:
    """[N,H,Q,S], in float32 or better."""
    scores = query * query.shape[-1] ** -0.5 @ keys.transpose(-1, -2)
    return (scores if scores.dtype == torch.float64 else scores.float()).softmax(-1)


def explicit(query, tokens, key_weight, value_weight, value_bias, heads):
    """As a textbook has it: output [N,Q,D] and weights [N,Q,S]."""
    query, keys, values = _projected(query, tokens, key_weight, value_weight, value_bias, heads)
    weights = _map(query, keys)
    return (weights.to(values.dtype) @ values).transpose(1, 2).flatten(2), weights.mean(1)


def sdpa_and_map(query, tokens, key_weight, value_weight, value_bias, heads):
    query, keys, values = _projected(query, tokens, key_weight, value_weight, value_bias, heads)
    output = F.scaled_dot_product_attention(query, keys, values)
    return output.transpose(1, 2).flatten(2), _map(query, keys).mean(1)


def sdpa(query, tokens, key_weight, value_weight, value_bias, heads):
    query, keys, values = _projected(query, tokens, key_weight, value_weight, value_bias, heads)
    return F.scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2), None


def flex_and_map(query, tokens, key_weight, value_weight, value_bias, heads):
    """FlexAttention gives the log-sum-exp, from which a second pass makes the map. Forward only on a CPU."""
    # imported here, so that a torch that lacks it does without this variant alone
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    query, keys, values = _projected(query, tokens, key_weight, value_weight, value_bias, heads)
    output, aux = flex_attention(query, keys, values, return_aux=AuxRequest(lse=True))
    scores = (query * query.shape[-1] ** -0.5 @ keys.transpose(-1, -2)).float()
    return output.transpose(1, 2).flatten(2), (scores - aux.lse[..., None]).exp().mean(1)


def folded(query, tokens, key_weight, value_weight, value_bias, heads):
    """What our kernels compute, of plain PyTorch: projections folded into queries and pooled tokens."""
    queries, channels = query.shape[1], tokens.shape[-1]
    q = query.unflatten(-1, (heads, -1)) * (channels // heads) ** -0.5
    rows = torch.einsum("nqhe,hed->nhqd", q, key_weight.view(heads, -1, channels)).flatten(1, 2)
    found = reference.pool(rows, tokens, None, None, queries)
    pooled = found.pooled.unflatten(1, (heads, queries))
    output = torch.einsum("nhqd,hed->nqhe", pooled, value_weight.view(heads, -1, channels)).flatten(2)
    return output + value_bias, found.weights


def _ours(query, tokens, key_weight, value_weight, value_bias, heads, impl):
    # the sets as slots of one clip
    projections = key_weight, value_weight, value_bias
    found = guided_attention(query[None], tokens[None], *projections, heads=heads, impl=impl)
    return found.output[0], found.weights[0]


def group(case: Attention, options: Options) -> Group:
    device, sets = options.device, case.B * case.L
    draw = partial(torch.randn, device=device)
    leaves = {
        "query": draw(sets, case.Q, case.D),
        "key_weight": draw(case.D, case.D) * case.D**-0.5,
        "value_weight": draw(case.D, case.D) * case.D**-0.5,
        "value_bias": draw(case.D),
    }
    tokens = draw(sets, case.S, case.D)
    up_output, up_map = draw(sets, case.Q, case.D), draw(sets, case.Q, case.S)

    def objective(function: Callable, tokens: Tensor, leaves: dict[str, Tensor]) -> tuple[Tensor, dict]:
        output, weights = function(leaves["query"], tokens, *list(leaves.values())[1:], heads=case.H)
        loss = (output * up_output).sum()
        if weights is None:
            return loss, {"output": output}
        return loss + (weights * up_map).sum(), {"output": output, "map": weights}

    exact = {name: value.double().requires_grad_() for name, value in leaves.items()}
    wanted = differentiated(partial(objective, explicit, tokens.double(), exact), exact)()
    wanted = {name: value.detach().float() for name, value in wanted.items()}
    del exact
    leaves = {name: value.requires_grad_() for name, value in leaves.items()}
    cuda = device.type == "cuda"
    variants = []
    for precision in ("fp32", "bf16", "fp16"):
        kept = tokens.to(DTYPES[precision])

        def add(name: str, whose: str, function: Callable, how: dict | None = None, precision=precision, kept=kept):
            run = objective if how is None else torch.compile(objective, dynamic=False, **how)
            forward = partial(run, function, kept, leaves)
            step = differentiated(forward, leaves)
            if whose == "bar":
                # without a map its gradients are those of another loss
                step = partial(_only_output, step)
            variants.append(Variant(name, whose, precision, step, forward))

        for impl in ("auto", "folded", "projected"):
            add(f"ours, {impl}", "ours", partial(_ours, impl=impl))
        if precision == "fp16":
            continue
        variants.extend(_layers(case, kept, leaves, (up_output, up_map), precision, device))
        add("SDPA and explicit map", "peer", sdpa_and_map)
        add("explicit attention", "peer", explicit)
        for name, how in compilations(options).items():
            add(f"explicit attention, {name}", "peer", explicit, how)
            add(f"our reference, {name}", "peer", folded, how)
            if cuda and not how:
                add("FlexAttention and map pass, torch.compile", "peer", flex_and_map, how)
        add("SDPA (no map)", "bar", sdpa)
    works = {precision: work(case, DTYPES[precision].itemsize) for precision in ("fp32", "bf16", "fp16")}
    return Group("guided attention", shape(case), variants, wanted, works)


def _only_output(step: Callable) -> dict[str, Tensor]:
    return {"output": step()["output"]}


def _layers(case: Attention, tokens: Tensor, leaves: dict, up: tuple, precision: str, device) -> list[Variant]:
    """torch.nn.MultiheadAttention, and ours with all that it has: projections of queries and outputs.

    Those two are the identity, so that the results are those of the others. Its key bias has no gradient.
    """
    layer = torch.nn.MultiheadAttention(case.D, case.H, batch_first=True, device=device)
    eye = torch.eye(case.D, device=device)
    with torch.no_grad():
        layer.in_proj_weight.copy_(torch.cat([eye, leaves["key_weight"], leaves["value_weight"]]))
        layer.in_proj_bias.copy_(torch.cat([torch.zeros(2 * case.D, device=device), leaves["value_bias"]]))
        layer.out_proj.weight.copy_(eye)
        layer.out_proj.bias.zero_()
    packed = {"query": leaves["query"], **dict(layer.named_parameters())}

    def theirs(query: Tensor) -> tuple[Tensor, Tensor]:
        return layer(query, tokens, tokens, need_weights=True, average_attn_weights=True)

    def ours(query: Tensor) -> tuple[Tensor, Tensor]:
        ask, key, value = layer.in_proj_weight.chunk(3)
        ask_bias, _, value_bias = layer.in_proj_bias.chunk(3)
        query = F.linear(query, ask, ask_bias)
        output, weights = _ours(query.float(), tokens, key, value, value_bias, case.H, "auto")
        return layer.out_proj(output), weights

    def whole(function: Callable) -> dict[str, Tensor]:
        def forward():
            output, weights = function(leaves["query"])
            return (output * up[0]).sum() + (weights * up[1]).sum(), {"output": output, "map": weights}

        found = differentiated(cast(forward, precision, device), packed)()
        _, key, value = found.pop("d in_proj_weight").chunk(3)
        return found | {
            "d key_weight": key,
            "d value_weight": value,
            "d value_bias": found["d in_proj_bias"][-case.D :],
        }

    return [
        Variant("ours, auto, as nn.MultiheadAttention", "ours", precision, partial(whole, ours)),
        Variant("nn.MultiheadAttention with weights", "peer", precision, partial(whole, theirs)),
    ]


def work(case: Attention, item: int) -> list[Work]:
    """Tokens are read forward and backward. Folded: four products of rows with them. Projected: keys and values too."""
    sets, width = case.B * case.L, case.D
    tokens, maps = sets * case.S * width * item, 2 * 4 * sets * case.Q * case.S
    rows = sets * case.Q
    fold = Work(8 * rows * case.H * case.S * width + 12 * rows * width**2, 2 * tokens + maps)
    # keys and values are written and read, so are their gradients, and they are read once more
    project = Work(8 * sets * case.S * width**2 + 12 * rows * case.S * width, 12 * tokens + maps)
    return [fold, project]
