"""Plain PyTorch: what each kernel computes, differentiated by autograd, materialising everything.

Dimension letters: ``B`` clips, ``L`` temporal slots, ``Q`` queries of a slot, ``S`` tokens of a slot, ``D`` token
channels, ``E`` attention channels, ``H`` heads, ``N`` sets of tokens (B x L), ``X`` remembered clips, ``C`` classes,
``P`` past classes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Pooled(NamedTuple):
    """pooled [N,HQ,D]; weights [N,Q,S], mean of the heads' maps."""

    pooled: Tensor
    weights: Tensor


class OldAttention(NamedTuple):
    """Channel-wise attention of an old model for X clips: spatial [X,L,S,D] (any float type), temporal [X,L,D], and
    negentropy [X,L,D], the sums of w log w over the spatial maps."""

    spatial: Tensor
    temporal: Tensor
    negentropy: Tensor


class Channelwise(NamedTuple):
    """output [B,D]; spatial and temporal divergence [B], the KL divergence of a clip's old maps from its new ones."""

    output: Tensor
    spatial_divergence: Tensor
    temporal_divergence: Tensor


class Distillation(NamedTuple):
    """The three losses of dual-level distillation, each a scalar: cross-entropy, logit level, feature level."""

    cross_entropy: Tensor
    logit: Tensor
    feature: Tensor


class _Scores(torch.autograd.Function):
    """r kᵀ [N,R,S] of rows r [N,R,D] and keys k [N,S,D], taken as (k rᵀ)ᵀ. Its gradient is taken as it stands."""

    @staticmethod
    def forward(ctx, rows: Tensor, keys: Tensor) -> Tensor:
        ctx.save_for_backward(keys)
        return (keys @ rows.mT).mT.contiguous()

    @staticmethod
    def backward(ctx, *slopes: Tensor):
        return slopes[0] @ ctx.saved_tensors[0], None


class _Pool(torch.autograd.Function):
    """w x [N,R,D] of weights w [N,R,S] and tokens x [N,S,D]: the mirror image of `_Scores`."""

    @staticmethod
    def forward(ctx, weights: Tensor, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        return weights @ tokens

    @staticmethod
    def backward(ctx, *slopes: Tensor):
        return (ctx.saved_tensors[0] @ slopes[0].mT).mT.contiguous(), None


def _turned(rows: Tensor, tokens: Tensor) -> bool:
    """Whether r xᵀ is faster as (x rᵀ)ᵀ: on a CPU up to four rows take half the time, more take longer. In portable
    arithmetic the embedded benchmark's have the same bytes either way (LOG.md)."""
    return rows.shape[1] <= 4 and tokens.device.type == "cpu" and not tokens.requires_grad


def attention_weights(query: Tensor, keys: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
    """softmax_s(q k_s + bias_s) [N,R,S] in float32 or better.

    query [N,R,D]; keys [N,S,D], in whose type products are taken; bias [N,S] and mask [N,S], true where a token counts,
    of every row. A set without any token has weights 0.
    """
    query = query.to(keys.dtype)
    scores = _Scores.apply(query, keys) if _turned(query, keys) else query @ keys.mT
    scores = scores if scores.dtype == torch.float64 else scores.float()
    if bias is not None:
        scores = scores + bias[:, None]
    if mask is None:
        return scores.softmax(-1)
    # finite, so that a set without tokens has gradients 0 and not NaN
    return scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min).softmax(-1) * mask[:, None]


def pool(folded: Tensor, tokens: Tensor, bias: Tensor | None, mask: Tensor | None, queries: int) -> Pooled:
    """Attention of folded queries [N,HQ,D], row h Q + q, over tokens [N,S,D] that are keys and values at once."""
    weights = attention_weights(folded, tokens, bias, mask)
    given = weights.to(tokens.dtype)
    pooled = _Pool.apply(given, tokens) if _turned(given, tokens) else given @ tokens
    return Pooled(pooled.to(weights.dtype), weights.unflatten(1, (-1, queries)).mean(1))


def channelwise_maps(
    audio: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor, centre: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The output [B,D], spatial [B,L,S,D] and temporal [B,L,D] maps of ``avcil.kernels.channelwise_attention``."""
    if centre is not None:
        bias = bias + weight @ centre
    keys = torch.tanh(F.linear(tokens, weight.to(tokens.dtype), bias.to(tokens.dtype)))
    keys = keys if keys.dtype == torch.float64 else keys.float()
    spatial = (keys * audio[:, None, None]).softmax(2)
    temporal = ((spatial * keys).sum(2) * audio[:, None]).softmax(1)
    output = ((spatial * tokens).sum(2) * temporal).sum(1)
    return output if centre is None else output + centre, spatial, temporal


def channelwise_attention(
    audio: Tensor,
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor,
    centre: Tensor | None = None,
    old: OldAttention | None = None,
    of: Tensor | None = None,
) -> Channelwise:
    """See ``avcil.kernels.channelwise_attention``."""
    output, spatial, temporal = channelwise_maps(audio, tokens, weight, bias, centre)
    if old is None or of is None:
        return Channelwise(output, output.new_zeros(len(output)), output.new_zeros(len(output)))
    remembered = (of >= 0).to(output.dtype)
    of = of.clamp_min(0)
    where = F.kl_div(spatial.log(), old.spatial[of].to(output.dtype), reduction="none").sum((1, 2, 3))
    when = F.kl_div(temporal.log(), old.temporal[of], reduction="none").sum((1, 2))
    return Channelwise(output, where * remembered, when * remembered)


def logit_distillation(
    logits: Tensor, old_logits: Tensor, temperature: float, blocks: list[int] | None = None
) -> Tensor:
    r"""Logit level: the new model's past-class probabilities stay those of the old model.

    .. math:: \frac{\tau^2}{B} \sum_b \sum_k
              \mathrm{KL}(\mathrm{softmax}(o_{bk} / \tau) \,\|\, \mathrm{softmax}(n_{bk} / \tau))

    logits [B,C], old_logits [B,P] with P <= C; temperature :math:`\tau` > 0. ``blocks`` are the sizes of the groups k
    of classes that compete with one another and must sum to P: all past classes if left out, the tasks in SS-IL and
    AV-CIL. Zero for P = 0.
    Source: Hinton et al. 2015, arXiv 1503.02531; by task: Li and Hoiem, LwF, ECCV 2016, arXiv 1606.09282, without τ²;
    Ahn et al., SS-IL, ICCV 2021, arXiv 2003.13947.
    """
    past = old_logits.shape[1]
    total = logits.sum() * 0
    for new, old in zip(
        logits[:, :past].split(blocks or [past], 1), old_logits.split(blocks or [past], 1), strict=True
    ):
        if new.shape[1]:
            new, old = F.log_softmax(new / temperature, 1), F.log_softmax(old / temperature, 1)
            total = total + temperature**2 * F.kl_div(new, old, reduction="batchmean", log_target=True)
    return total


def separated_cross_entropy(logits: Tensor, labels: Tensor, past: int) -> Tensor:
    r"""New clips compete among new classes, exemplars among past ones; the mean over all clips.

    logits [B,C], labels [B], the first ``past`` classes are past. Plain cross-entropy for past = 0.
    Source: Ahn et al., SS-IL, ICCV 2021, arXiv 2003.13947 (separated softmax).
    """
    classes = torch.arange(logits.shape[1], device=logits.device)
    rivals = (classes >= past) == (labels >= past)[:, None]
    return F.cross_entropy(logits.masked_fill(~rivals, -torch.inf), labels)


def feature_distillation(features: tuple[Tensor, ...], old: tuple[Tensor, ...]) -> Tensor:
    r"""Feature level: each feature keeps its direction.

    .. math:: \frac{1}{B} \sum_b \sum_f (1 - \cos(f_b, f_b^{old}))

    Features [B,E] (in the classifier: audio, guided visual, fused). One that is absent (all zeros) adds nothing.
    Source: arXiv 2606.10887 names the level, not the distance; cosine as in LUCIR, Hou et al., CVPR 2019.
    """
    total = features[0].sum() * 0
    for new, reference in zip(features, old, strict=True):
        present = (reference.abs().sum(1) > 0).to(new.dtype)
        total = total + (present * (1 - F.cosine_similarity(new, reference, dim=1, eps=1e-6))).mean()
    return total


def dual_distillation(
    logits: Tensor,
    labels: Tensor,
    old_logits: Tensor,
    blocks: list[int],
    features: tuple[Tensor, ...],
    old_features: tuple[Tensor, ...],
    temperature: float,
    separated: bool,
) -> Distillation:
    """See ``avcil.kernels.dual_distillation``."""
    past = old_logits.shape[1]
    zero = logits.sum() * 0
    return Distillation(
        separated_cross_entropy(logits, labels, past) if separated else F.cross_entropy(logits, labels),
        logit_distillation(logits, old_logits, temperature, blocks) if past else zero,
        feature_distillation(features, old_features) if features else zero,
    )
