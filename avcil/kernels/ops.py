"""The kernels' public face: shapes, checks, and which implementation runs.

An explicit ``impl`` is never replaced by another; what it cannot do raises ValueError. ``auto`` follows a rule that
each function states. Triton files are imported when first used: they need `triton`, which not every machine has.

Dimension letters: ``B`` clips, ``L`` temporal slots, ``Q`` queries of a slot, ``S`` tokens of a slot, ``D`` token
channels, ``E`` attention channels, ``H`` heads, ``X`` remembered clips, ``C`` classes, ``P`` past classes.
"""

from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from avcil.kernels import channelwise, reference
from avcil.kernels.reference import Channelwise, Distillation, OldAttention

PROVEN = frozenset({"NVIDIA H200"})
"""GPUs on which channel-wise attention in Triton was measured and is what ``auto`` picks: a training step of AV-CIL
takes 6.5 ms with it and 27 with `reference` (bfloat16; benchmarks/results/training_step_nvidia_h200.md)."""

Attention = Literal["auto", "folded", "projected"]
Fused = Literal["auto", "reference", "fused", "triton"]
_forced: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("forced", default=())


class Attended(NamedTuple):
    """output [B,L,Q,E]; weights [B,L,Q,S], the mean of the heads' attention maps (each sums to 1 over S)."""

    output: Tensor
    weights: Tensor


@contextmanager
def implementation(**chosen: str):
    """Force implementations by kernel for a while: ``with implementation(channelwise_attention="reference"): ...``"""
    unknown = set(chosen) - {"guided_attention", "channelwise_attention", "dual_distillation"}
    if unknown:
        raise ValueError(f"no kernel named {', '.join(sorted(unknown))}")
    token = _forced.set((*_forced.get(), *chosen.items()))
    try:
        yield
    finally:
        _forced.reset(token)


def _chosen(kernel: str, impl: str, options: tuple[str, ...]) -> str:
    impl = dict(_forced.get()).get(kernel, impl) if impl == "auto" else impl
    if impl not in options:
        raise ValueError(f"{kernel}: no implementation `{impl}`; one of {', '.join(options)}")
    return impl


def proven(device: torch.device) -> bool:
    """Whether ``auto`` picks channel-wise attention in Triton there."""
    return device.type == "cuda" and torch.cuda.get_device_name(device) in PROVEN


def guided_attention(
    query: Tensor,
    tokens: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    *,
    heads: int,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    centre: Tensor | None = None,
    impl: Attention = "auto",
) -> Attended:
    r"""Multi-head attention of few queries over many tokens, with the map that shows where it looks.

    For head h with d = E/H channels, query q_h and the h-th row blocks K_h, V_h of the projections:

    .. math:: w_h = \mathrm{softmax}_s((K_h^\top q_h / \sqrt d)^\top x_s + \beta_s), \qquad
              o_h = V_h \textstyle\sum_s w_{hs} x_s + b_h

    which equals projecting every token to keys and values first: a key bias cancels in the softmax, and a value bias
    passes through, because weights sum to 1. So folded, tokens are never projected: 2HQSD + 2QED multiply-adds a slot
    instead of 2SED + 2QSE. (Folding projections into queries is what DeepSeek-V2, arXiv 2405.04434, calls absorption.)

    Args:
        query: [B,L,Q,E], projected queries. Queries that look at all slots at once: query [B,1,Q,E] and tokens
            [B,1,LS,D], a view (the joint layout).
        tokens: [B,L,S,D], float32, bfloat16 or float16. Products are taken in their type, sums in float32.
        key_weight, value_weight: [E,D] with the layout of ``nn.Linear.weight``.
        value_bias: [E].
        heads: H; E must be a multiple of it.
        bias: [B,L,S] or None, added to the scores of every head and query.
        mask: [B,L,S] or None, true where a token counts. A slot without tokens (a missing modality) has output and
            weights 0.
        centre: [D] or None, what the true tokens are more than ``tokens``. Centred tokens keep more of a half-precision
            type's bits.
        impl: `auto` takes the form with fewer multiply-adds, where those of folding count twice, being many small
            products, or eight times beside tokens of half precision, since they stay in float32.

    All outputs are differentiable with respect to query, projections, bias and tokens.

    Raises:
        ValueError: if E is not a multiple of ``heads``.
    """
    width, channels = key_weight.shape
    if width % heads:
        raise ValueError(f"{width} attention channels do not divide into {heads} heads")
    queries, count = query.shape[2], tokens.shape[2]
    impl = _chosen("guided_attention", impl, ("auto", "folded", "projected"))
    if impl == "auto":
        folding = 2 * queries * width * channels * (2 if tokens.element_size() > 2 else 8)
        folded = 2 * heads * queries * count * channels + folding
        projected = 2 * count * width * channels + 2 * queries * count * width
        impl = "folded" if folded <= projected else "projected"
    if centre is not None:
        value_bias = value_bias + value_weight @ centre
    attend = _attend_projected if impl == "projected" else _attend_folded
    output, weights = attend(
        query.flatten(0, 1),
        tokens.flatten(0, 1),
        None if bias is None else bias.flatten(0, 1),
        None if mask is None else mask.flatten(0, 1),
        key_weight,
        value_weight,
        heads,
    )
    output = output + value_bias
    if mask is not None:
        output = output * mask.any(2).flatten()[:, None, None]
    shape = query.shape[:2]
    return Attended(output.unflatten(0, shape), weights.unflatten(0, shape))


def _attend_folded(
    query: Tensor,
    tokens: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    key_weight: Tensor,
    value_weight: Tensor,
    heads: int,
) -> tuple[Tensor, Tensor]:
    """output [N,Q,E] without value bias, weights [N,Q,S]."""
    queries, channels = query.shape[1], tokens.shape[2]
    query = query.unflatten(-1, (heads, -1)) * (query.shape[-1] // heads) ** -0.5
    folded = torch.einsum("nqhe,hed->nhqd", query, key_weight.view(heads, -1, channels)).flatten(1, 2)
    slot = reference.pool(folded, tokens, bias, mask, queries)
    pooled = slot.pooled.unflatten(1, (heads, queries)).to(value_weight.dtype)
    output = torch.einsum("nhqd,hed->nqhe", pooled, value_weight.view(heads, -1, channels)).flatten(2)
    return output, slot.weights


def _attend_projected(
    query: Tensor,
    tokens: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    key_weight: Tensor,
    value_weight: Tensor,
    heads: int,
) -> tuple[Tensor, Tensor]:
    """As ``_attend_folded``, with every token projected to keys and values."""
    keys, values = (
        (tokens @ weight.to(tokens.dtype).T).unflatten(-1, (heads, -1)).transpose(1, 2)
        for weight in (key_weight, value_weight)
    )
    query = query.unflatten(-1, (heads, -1)).transpose(1, 2) * (query.shape[-1] // heads) ** -0.5
    bias, mask = (x if x is None else x.repeat_interleave(heads, 0) for x in (bias, mask))
    weights = reference.attention_weights(query.flatten(0, 1), keys.flatten(0, 1), bias, mask)
    output = (weights.to(values.dtype) @ values.flatten(0, 1)).to(weights.dtype)
    output, weights = (x.unflatten(0, (-1, heads)) for x in (output, weights))
    return output.transpose(1, 2).flatten(2), weights.mean(1)


def channelwise_attention(
    audio: Tensor,
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    centre: Tensor | None = None,
    old: OldAttention | None = None,
    of: Tensor | None = None,
    impl: Fused = "auto",
) -> Channelwise:
    r"""AV-CIL's audio-guided attention, a map of its own for each channel, and how far its maps went from old ones.

    With keys :math:`k_{ls} = \tanh(W v_{ls} + b)`, all products taken channel by channel:

    .. math:: w_{ls} = \mathrm{softmax}_s(a k_{ls}), \quad \alpha_l = \mathrm{softmax}_l(a \textstyle\sum_s w_{ls}
              k_{ls}), \quad o = \textstyle\sum_l \alpha_l \sum_s w_{ls} v_{ls}

    and, for remembered clips, :math:`\sum_{l,d} \mathrm{KL}(w^{old} \| w)` and :math:`\sum_d \mathrm{KL}(\alpha^{old}
    \| \alpha)`.

    Args:
        audio: [B,D], in [-1,1].
        tokens: [B,L,S,D], frozen (no gradient but for `reference`); float32, bfloat16 or float16.
        weight, bias: [D,D] and [D].
        centre: [D] or None, what the true tokens are more than ``tokens``.
        old: what an old model said of X clips (``remember_attention``).
        of: [B], for each clip its row of ``old``, or -1: not remembered, its divergences are 0.
        impl: `reference` builds all maps; `fused` is the closed form for a CPU (avcil/kernels/channelwise.py); `triton`
            the same on a GPU. `auto`: `fused` on a CPU, `triton` on a GPU it was proven on, else `reference`.

    Raises:
        ValueError: if only one of ``old`` and ``of`` is given, or if an implementation is asked for what it cannot do.

    Source: Pian et al., ICCV 2023, arXiv 2308.11073, as their code has it.
    """
    if (old is None) != (of is None):
        raise ValueError("channelwise_attention: `old` and `of` are given together or not at all")
    # of no clip remembered there is no row that an index, were it 0 in place of -1, could read
    if old is not None and not len(old.spatial):
        old = of = None
    impl = _chosen("channelwise_attention", impl, ("auto", "reference", "fused", "triton"))
    if impl == "auto":
        impl = "fused" if tokens.device.type == "cpu" else "triton" if proven(tokens.device) else "reference"
        impl = "reference" if tokens.requires_grad else impl
    if impl == "reference":
        return reference.channelwise_attention(audio, tokens, weight, bias, centre, old, of)
    if tokens.requires_grad:
        raise ValueError(f"channelwise_attention: `{impl}` gives no gradient to tokens; use impl='reference'")
    if centre is not None:
        bias = bias + weight @ centre
    if impl == "fused":
        found = channelwise.channelwise_attention(audio, tokens, weight, bias, old, of)
    else:
        from avcil.kernels import triton_channelwise

        found = triton_channelwise.channelwise_attention(audio, tokens, weight, bias, old, of)
    return found if centre is None else found._replace(output=found.output + centre)


@torch.no_grad()
def remember_attention(
    audio: Tensor,
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    centre: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> OldAttention:
    """An old model's channel-wise maps, for ``channelwise_attention``; the spatial ones are kept in ``dtype``."""
    _, spatial, temporal = reference.channelwise_maps(audio, tokens, weight, bias, centre)
    kept = spatial.to(dtype)
    return OldAttention(kept, temporal, torch.xlogy(kept.to(spatial.dtype), kept.to(spatial.dtype)).sum(2))


def dual_distillation(
    logits: Tensor,
    labels: Tensor,
    old_logits: Tensor,
    blocks: list[int],
    features: tuple[Tensor, ...],
    old_features: tuple[Tensor, ...],
    *,
    temperature: float,
    separated: bool = False,
    impl: Literal["auto", "reference", "triton"] = "auto",
) -> Distillation:
    """Cross-entropy, logit-level and feature-level distillation of one batch, unweighted.

    The equations are those of ``cross_entropy`` (or ``separated_cross_entropy``), ``logit_distillation`` and
    ``feature_distillation`` in avcil/kernels/reference.py.

    Args:
        logits: [B,C]; labels: [B]; old_logits: [B,P], P <= C.
        blocks: how many classes of each group compete in the logit level; they sum to P.
        features, old_features: up to three [B,E] each; none: no feature level.
        impl: `triton` computes losses and gradients in one launch; `auto` is `reference`.
    """
    if sum(blocks) != old_logits.shape[1]:
        raise ValueError(f"blocks {blocks} do not sum to the {old_logits.shape[1]} past classes of the old logits")
    impl = _chosen("dual_distillation", impl, ("auto", "reference", "triton"))
    arguments = logits, labels, old_logits, blocks, features, old_features, temperature, separated
    if impl == "triton":
        from avcil.kernels import triton_distillation

        return triton_distillation.dual_distillation(*arguments)
    return reference.dual_distillation(*arguments)
