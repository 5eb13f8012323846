r"""Dual-level distillation in Triton: three losses and all their gradients in one launch, one program a clip.

With logits n, label y, rivals G (all classes, or those on the label's side of the past: separated softmax), old logits
o, blocks k of past classes, temperature :math:`\theta`, features f and their old values f':

.. math:: \mathrm{ce} &= \log \textstyle\sum_{c \in G} e^{n_c} - n_y, \quad
              \partial \mathrm{ce} / \partial n_c = \mathrm{softmax}_G(n)_c - [c = y] \\
          \mathrm{kd} &= \theta^2 \textstyle\sum_k \mathrm{KL}(p'_k \| p_k), \quad
              p_k = \mathrm{softmax}_k(n / \theta), \quad p'_k = \mathrm{softmax}_k(o / \theta), \quad
              \partial \mathrm{kd} / \partial n_c = \theta (p - p')_c \\
          \mathrm{fd} &= \textstyle\sum_f 1 - \cos(f, f'), \quad
              \partial \mathrm{fd} / \partial f = (\cos(f, f') f / |f| - f' / |f'|) / |f|

each the mean over clips. Gradients are kept loss by loss, so backward multiplies by upstream scalars on the device.
Sources: as ``logit_distillation``, ``separated_cross_entropy`` and ``feature_distillation`` in reference.py.

Dimension letters: ``B`` clips, ``C`` classes, ``P`` past classes, ``K`` blocks of past classes, ``E`` feature channels.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from avcil.kernels.reference import Distillation

EPSILON = tl.constexpr(1e-6)  # of F.cosine_similarity in reference.feature_distillation


@triton.jit
def _direction(
    feature,  # [B,E]
    old,  # [B,E]
    grad,  # out [B,E]
    width,
    WIDTH: tl.constexpr,
):
    """1 - cos of this program's row, 0 if its old value is all zeros."""
    WIDE: tl.constexpr = grad.dtype.element_ty
    clip, e = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)
    place = clip * width + e
    f = tl.load(feature + place, e < width, 0.0).to(WIDE)
    g = tl.load(old + place, e < width, 0.0).to(WIDE)
    present = tl.max(tl.abs(g), 0) > 0
    least = tl.full((), EPSILON, WIDE)
    g = g / tl.maximum(tl.sqrt(tl.sum(g * g, 0)), least)
    norm = tl.sqrt(tl.sum(f * f, 0))
    # F.cosine_similarity raises the norm it divides by, and not the one that it differentiates
    raised = tl.maximum(norm, least)
    cosine = tl.sum(f * g, 0) / raised
    slope = (cosine * f / tl.where(norm > 0, norm, 1.0) - g) / raised
    tl.store(grad + place, slope / tl.num_programs(0), e < width)
    return tl.where(present, 1.0 - cosine, 0.0)


@triton.jit
def _distil(
    logits,  # [B,C]
    labels,  # [B]
    old_logits,  # [B,P]
    offsets,  # [K+1], first class of each block; the new classes are the last one
    sizes,  # [K+1]
    features,  # tuple of [B,E]
    old_features,  # tuple of [B,E]
    losses,  # out [B,3]
    grads,  # out [2,B,C], of cross-entropy and of the logit level
    feature_grads,  # out, tuple of [B,E]
    classes,
    past,
    blocks,
    widths,  # tuple of E
    TEMPERATURE: tl.constexpr,
    SEPARATED: tl.constexpr,
    BLOCKS: tl.constexpr,
    CLASSES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    WIDE: tl.constexpr = losses.dtype.element_ty
    clip, k = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCKS)
    size = tl.load(sizes + k, k <= blocks, 0)
    c = tl.load(offsets + k, k <= blocks, 0)[:, None] + tl.arange(0, CLASSES)[None, :]
    inside = tl.arange(0, CLASSES)[None, :] < size[:, None]
    new = tl.load(logits + clip * classes + c, inside, 0.0).to(WIDE)
    label = tl.load(labels + clip)

    rival = inside
    if SEPARATED:
        rival = inside & ((c >= past) == (label >= past))
    score = tl.where(rival, new, float("-inf"))
    score -= tl.max(tl.max(score, 1), 0)
    power = tl.exp(score)
    mass = tl.sum(tl.sum(power, 1), 0)
    true = inside & (c == label)
    cross_entropy = tl.log(mass) - tl.sum(tl.sum(tl.where(true, score, 0.0), 1), 0)
    clips = tl.num_programs(0)
    out = grads + clip * classes + c
    tl.store(out, (power / mass - tl.where(true, 1.0, 0.0)) / clips, inside)

    held = inside & (c < past)
    old = tl.load(old_logits + clip * past + c, held, 0.0).to(WIDE)
    log_new = _log_softmax(new / TEMPERATURE, held)
    log_old = _log_softmax(old / TEMPERATURE, held)
    p = tl.where(held, tl.exp(log_old), 0.0)
    logit = TEMPERATURE * TEMPERATURE * tl.sum(tl.sum(p * (log_old - log_new), 1), 0)
    slope = tl.where(held, TEMPERATURE * (tl.exp(log_new) - p), 0.0)
    tl.store(out + clips.to(tl.int64) * classes, slope / clips, inside)

    feature = logit * 0
    for i in tl.static_range(len(features)):
        feature += _direction(features[i], old_features[i], feature_grads[i], widths[i], WIDTH)
    tl.store(losses + clip * 3, cross_entropy)
    tl.store(losses + clip * 3 + 1, logit)
    tl.store(losses + clip * 3 + 2, feature)


@triton.jit
def _log_softmax(x, held):
    """Along axis 1 over the entries held; finite elsewhere, also in a row that holds none."""
    some = tl.max(held.to(tl.int32), 1) > 0
    x = x - tl.where(some, tl.max(tl.where(held, x, float("-inf")), 1), 0.0)[:, None]
    mass = tl.sum(tl.where(held, tl.exp(x), 0.0), 1)
    return tl.where(held, x - tl.log(tl.where(some, mass, 1.0))[:, None], 0.0)


@lru_cache(maxsize=64)
def _layout(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Offsets and sizes of the blocks, copied to the device once."""
    size = torch.tensor(sizes, dtype=torch.int32, device=device)
    return size.cumsum(0, dtype=torch.int32) - size, size


class _Distil(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, labels, old_logits, blocks, old_features, temperature, separated, *features):
        (clips, classes), past = logits.shape, old_logits.shape[1]
        offsets, sizes = _layout((*blocks, classes - past), logits.device)
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        losses = logits.new_empty(clips, 3, dtype=wide)
        grads = logits.new_empty(2, clips, classes, dtype=wide)
        feature_grads = tuple(torch.empty(f.shape, dtype=wide, device=f.device) for f in features)
        widths = tuple(f.shape[1] for f in features)
        with torch.cuda.device_of(logits):
            _distil[(clips,)](
                logits.contiguous(),
                labels.contiguous(),
                old_logits.contiguous(),
                offsets,
                sizes,
                tuple(f.contiguous() for f in features),
                tuple(f.contiguous() for f in old_features),
                losses,
                grads,
                feature_grads,
                classes,
                past,
                len(blocks),
                widths,
                TEMPERATURE=float(temperature),
                SEPARATED=separated,
                BLOCKS=triton.next_power_of_2(len(blocks) + 1),
                CLASSES=triton.next_power_of_2(max(*blocks, classes - past, 1)),
                WIDTH=triton.next_power_of_2(max(*widths, 1, 1)),
            )
        ctx.save_for_backward(grads, *feature_grads)
        ctx.dtypes = logits.dtype, *(f.dtype for f in features)
        return losses.mean(0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        grads, *feature_grads = ctx.saved_tensors
        found = (upstream[0] * grads[0] + upstream[1] * grads[1], *(upstream[2] * g for g in feature_grads))
        logits, *features = (g.to(t) for g, t in zip(found, ctx.dtypes, strict=True))
        return logits, None, None, None, None, None, None, *features


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
    """See ``avcil.kernels.dual_distillation``.

    Raises:
        ValueError: if the blocks do not make up the past classes, or if an old value requires a gradient.
    """
    past = old_logits.shape[1]
    blocks = list(blocks) or ([past] if past else [])
    if sum(blocks) != past:
        raise ValueError(f"blocks {blocks} sum to {sum(blocks)}, old_logits has {past} past classes")
    for name, old in (("old_logits", old_logits), *(("old_features", f) for f in old_features)):
        if old.requires_grad:
            raise ValueError(f"{name} require a gradient, which the Triton kernel does not give: detach them")
    found = _Distil.apply(logits, labels, old_logits, blocks, old_features, temperature, separated, *features)
    return Distillation(*found.unbind())
