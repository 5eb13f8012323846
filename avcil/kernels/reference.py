"""Plain PyTorch kernels.

Dimension letters: ``B`` clips, ``L`` temporal slots, ``Q`` queries of a slot, ``S`` tokens of a slot, ``D`` token
channels, ``E`` attention channels, ``H`` heads.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Attended(NamedTuple):
    """output [B,L,Q,E]; weights [B,L,Q,S], the mean of the heads' attention maps (each sums to 1 over S)."""

    output: Tensor
    weights: Tensor


def guided_attention(
    query: Tensor,
    tokens: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    *,
    heads: int,
    bias: Tensor | None = None,
) -> Attended:
    r"""Multi-head attention of few queries over many tokens, folded so that tokens are never projected.

    For head h with d = E/H channels, query q_h and the h-th row blocks K_h, V_h of the projections:

    .. math:: w_h = \mathrm{softmax}_s((K_h^\top q_h / \sqrt d)^\top x_s + \beta_s), \qquad
              o_h = V_h \textstyle\sum_s w_{hs} x_s + b_h

    which equals projecting every token to keys and values first: a key bias cancels in the softmax, and a value bias
    passes through, because weights sum to 1. Cost per slot: 4HQSD + 4QED multiply-adds instead of 2SED + 2QSE.

    Args:
        query: [B,L,Q,E], projected queries.
        tokens: [B,L,S,D].
        key_weight, value_weight: [E,D] with the layout of ``nn.Linear.weight``.
        value_bias: [E].
        heads: H; E must be a multiple of it.
        bias: [B,L,S] or None, added to the scores of every head and query.

    Raises:
        ValueError: if E is not a multiple of ``heads``.
    """
    width = query.shape[-1]
    if width % heads:
        raise ValueError(f"{width} attention channels do not divide into {heads} heads")
    per_head = width // heads
    batch, slots, queries, _ = query.shape
    channels = tokens.shape[-1]
    query = query.unflatten(-1, (heads, per_head)) * per_head**-0.5
    folded = torch.einsum("blqhe,hed->blhqd", query, key_weight.view(heads, per_head, channels))
    scores = folded.flatten(2, 3) @ tokens.transpose(2, 3)  # [B,L,HQ,S]
    if bias is not None:
        scores = scores + bias[:, :, None]
    weights = scores.softmax(-1)
    pooled = (weights @ tokens).view(batch, slots, heads, queries, channels)
    output = torch.einsum("blhqd,hed->blqhe", pooled, value_weight.view(heads, per_head, channels)).flatten(3)
    return Attended(output + value_bias, weights.view(batch, slots, heads, queries, -1).mean(2))
