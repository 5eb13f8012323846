r"""Channel-wise attention in Triton: a plain matrix product, then one streaming pass forward and one backward.

With audio :math:`a_d \in [-1, 1]`, tokens :math:`v_{lsd}` and keys :math:`k = \tanh(W v + b)`:

.. math:: p_{lsd} &= \mathrm{softmax}_s(a_d k_{lsd}), \quad z_{ld} = \textstyle\sum_s p k, \quad
                     n_{ld} = \textstyle\sum_s p v \\
          \tau_{ld} &= \mathrm{softmax}_l(a_d z_{ld}), \quad o_d = \textstyle\sum_l \tau_{ld} n_{ld}

Scores lie in [-1, 1], so softmax needs no maximum: one pass emits plain sums, :math:`\Lambda = \sum_s e^{ak}`, z, n,
:math:`c_1 = \sum_s p k v`, :math:`c_2 = \sum_s p k^2` and, for a clip that an old model remembers with maps
:math:`p', \tau'`, :math:`m = \sum_s p' k`. No new map is ever stored:

.. math:: \mathrm{KL}(p' \| p) = \textstyle\sum_{lsd} p' \log p' + \sum_{ld} (\log \Lambda - a m)

where a stored map is taken to sum to 1 over s. Backward, for gradients :math:`\bar o`, and :math:`\kappa, \theta` of
the spatial and temporal divergence, in O(BLD) but for :math:`\bar u`, that of W v + b:

.. math:: \bar n &= \bar o \tau, \quad y = \tau(\bar o n - \textstyle\sum_l \tau \bar o n) + \theta (\tau - \tau'),
                    \quad \bar z = a y, \quad r = \bar n n + \bar z z \\
          \bar a &= \textstyle\sum_l y z + \bar n c_1 + \bar z c_2 - r z + \kappa (z - m) \\
          \bar u &= \big(\bar z p + a p (\bar n v + \bar z k - r) + a \kappa (p - p')\big) (1 - k^2), \quad
                    \bar W = \textstyle\sum \bar u v^\top, \quad \bar b = \sum \bar u

Source: Pian et al., AV-CIL, ICCV 2023, arXiv 2308.11073, for the attention and divergences; the closed form is ours.

Dimension letters: ``B`` clips, ``L`` slots, ``S`` tokens of a slot, ``D`` channels, ``X`` remembered clips.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from avcil.kernels.reference import Channelwise, OldAttention

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
# a program's block of tokens x channels, walked along the tokens; the interpreter likes large ones
BLOCK = {"TOKENS": 64, "CHANNELS": 1024} if INTERPRETED else {"TOKENS": 32, "CHANNELS": 64}
OPTIONS = {"num_warps": 4, "num_stages": 2}


@triton.jit
def _tanh(x, FAST: tl.constexpr):
    if FAST:
        # relative error 2^-11, below the rounding of 16-bit keys
        return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        e = tl.exp(-2.0 * tl.abs(x))
        size = (1.0 - e) / (1.0 + e)
        return tl.where(x < 0, -size, size)


@triton.jit
def _attend(
    keys,  # [B L,S,D]: W v, overwritten by tanh(W v + b)
    tokens,  # [B L,S,D]
    bias,  # [D]
    audio,  # [B,D]
    old,  # [X,L,S,D] or None
    of,  # [B], row of old or -1, or None
    sums,  # out [6,B L,D]: Λ z n c₁ c₂ m
    slots,
    count,
    channels,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    WIDE: tl.constexpr = sums.dtype.element_ty
    FAST: tl.constexpr = not INTERPRETED and keys.dtype.element_ty.primitive_bitwidth == 16
    frame = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    clip, present = frame // slots, d < channels
    a = tl.load(audio + clip * channels + d, present, 0.0).to(WIDE)
    b = tl.load(bias + d, present, 0.0).to(WIDE)
    mass = tl.zeros((CHANNELS,), WIDE)
    z, n, c1, c2, m = mass, mass, mass, mass, mass
    if old is not None:
        remembered = tl.load(of + clip)
        old += (remembered * slots + frame % slots) * count * channels
    for start in range(0, count, TOKENS):
        s = start + tl.arange(0, TOKENS)
        inside = (s < count)[:, None] & present[None, :]
        place = s[:, None] * channels + d[None, :]
        here = frame * count * channels + place
        v = tl.load(tokens + here, inside, 0.0).to(WIDE)
        k = _tanh(tl.load(keys + here, inside, 0.0).to(WIDE) + b[None, :], FAST).to(keys.dtype.element_ty)
        tl.store(keys + here, k, inside)
        # as rounded as backward will find them
        k = k.to(WIDE)
        e = tl.where(inside, tl.exp(a[None, :] * k), 0.0)
        mass += tl.sum(e, 0)
        z += tl.sum(e * k, 0)
        n += tl.sum(e * v, 0)
        c1 += tl.sum(e * k * v, 0)
        c2 += tl.sum(e * k * k, 0)
        if old is not None:
            m += tl.sum(tl.load(old + place, inside & (remembered >= 0), 0.0).to(WIDE) * k, 0)
    out = sums + frame * channels + d
    plane = tl.num_programs(0).to(tl.int64) * channels
    mass = tl.where(present, mass, 1.0)
    tl.store(out, mass, present)
    tl.store(out + plane, z / mass, present)
    tl.store(out + 2 * plane, n / mass, present)
    tl.store(out + 3 * plane, c1 / mass, present)
    tl.store(out + 4 * plane, c2 / mass, present)
    tl.store(out + 5 * plane, m, present)


@triton.jit
def _attend_backward(
    keys,  # [B L,S,D], overwritten by the gradient of W v + b
    tokens,  # [B L,S,D]
    audio,  # [B,D]
    old,  # [X,L,S,D] or None
    of,  # [B], row of old or -1, or None
    grad_spatial,  # [B], 0 for a clip without an old map
    sums,  # [6,B L,D], its first plane Λ
    grads,  # [3,B L,D]: of n, of z, and r of the docstring
    grad_bias,  # out [B L,D], of each frame
    slots,
    count,
    channels,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    WIDE: tl.constexpr = sums.dtype.element_ty
    frame = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    clip, present = frame // slots, d < channels
    row = frame * channels + d
    plane = tl.num_programs(0).to(tl.int64) * channels
    a = tl.load(audio + clip * channels + d, present, 0.0).to(WIDE)
    mass = tl.load(sums + row, present, 1.0)
    grad_n = tl.load(grads + row, present, 0.0)
    grad_z = tl.load(grads + plane + row, present, 0.0)
    r = tl.load(grads + 2 * plane + row, present, 0.0)
    total = tl.zeros((CHANNELS,), WIDE)
    if old is not None:
        remembered = tl.load(of + clip)
        old += (remembered * slots + frame % slots) * count * channels
        pull = tl.load(grad_spatial + clip)
    for start in range(0, count, TOKENS):
        s = start + tl.arange(0, TOKENS)
        inside = (s < count)[:, None] & present[None, :]
        place = s[:, None] * channels + d[None, :]
        here = frame * count * channels + place
        v = tl.load(tokens + here, inside, 0.0).to(WIDE)
        k = tl.load(keys + here, inside, 0.0).to(WIDE)
        p = tl.exp(a[None, :] * k) / mass[None, :]
        slope = p * (grad_n[None, :] * v + grad_z[None, :] * k - r[None, :])
        if old is not None:
            slope += pull * (p - tl.load(old + place, inside & (remembered >= 0), 0.0).to(WIDE))
        u = tl.where(inside, (grad_z[None, :] * p + a[None, :] * slope) * (1.0 - k * k), 0.0)
        tl.store(keys + here, u.to(keys.dtype.element_ty), inside)
        total += tl.sum(u, 0)
    tl.store(grad_bias + row, total, present)


def _grid(keys: Tensor):
    return lambda block: (len(keys), triton.cdiv(keys.shape[2], block["CHANNELS"]))


class _Channelwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, audio, tokens, weight, bias, old, of):
        clips, slots, count, channels = tokens.shape
        wide = torch.float64 if tokens.dtype == torch.float64 else torch.float32
        a = audio.to(wide).contiguous()
        keys = (tokens.view(-1, channels) @ weight.to(tokens.dtype).T).view(-1, count, channels)
        sums = torch.empty(6, clips * slots, channels, dtype=wide, device=tokens.device)
        with torch.cuda.device_of(tokens):
            _attend[_grid(keys)](
                keys,
                tokens,
                bias.contiguous(),
                a,
                None if old is None else old.spatial,
                of,
                sums,
                slots,
                count,
                channels,
                **BLOCK,
                **OPTIONS,
            )
        mass, z, n, _, _, m = sums.view(6, clips, slots, channels)
        log_temporal = (z * a[:, None]).log_softmax(1)
        temporal = log_temporal.exp()
        output = (temporal * n).sum(1)
        where, when, old_temporal = output.new_zeros(clips), output.new_zeros(clips), None
        if old is not None:
            forgotten, row = of < 0, of.clamp_min(0)
            # whatever row 0 holds, nothing of it may reach a forgotten clip
            old_temporal = old.temporal[row].to(wide).masked_fill(forgotten[:, None, None], 0)
            where = (old.negentropy[row].to(wide) + mass.log() - a[:, None] * m).sum((1, 2))
            when = (torch.xlogy(old_temporal, old_temporal) - old_temporal * log_temporal).sum((1, 2))
            where, when = where.masked_fill(forgotten, 0), when.masked_fill(forgotten, 0)
        ctx.save_for_backward(a, tokens, sums, temporal, old_temporal, of)
        ctx.keys, ctx.old = keys, None if old is None else old.spatial
        ctx.dtypes = audio.dtype, weight.dtype, bias.dtype
        return output, where, when

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output, grad_spatial, grad_temporal):
        if ctx.keys is None:
            raise RuntimeError("channelwise_attention keeps one set of keys, which the first backward has overwritten")
        keys, ctx.keys = ctx.keys, None
        a, tokens, sums, temporal, old_temporal, of = ctx.saved_tensors
        clips, slots, count, channels = tokens.shape
        _, z, n, c1, c2, m = sums.view(6, clips, slots, channels)
        grad_output = grad_output[:, None]
        slope = grad_output * n
        y = temporal * (slope - (temporal * slope).sum(1, keepdim=True))
        if ctx.old is not None:
            grad_spatial = grad_spatial.masked_fill(of < 0, 0).contiguous()
            grad_temporal = grad_temporal.masked_fill(of < 0, 0)
            y = y + grad_temporal[:, None, None] * (temporal - old_temporal)
        grad_n, grad_z = grad_output * temporal, y * a[:, None]
        r = grad_n * n + grad_z * z
        grad_audio = y * z + grad_n * c1 + grad_z * c2 - r * z
        if ctx.old is not None:
            grad_audio = grad_audio + grad_spatial[:, None, None] * (z - m)
        grad_bias = torch.empty_like(sums[0])
        with torch.cuda.device_of(tokens):
            _attend_backward[_grid(keys)](
                keys,
                tokens,
                a,
                ctx.old,
                of,
                grad_spatial,
                sums,
                torch.stack((grad_n, grad_z, r)),
                grad_bias,
                slots,
                count,
                channels,
                **BLOCK,
                **OPTIONS,
            )
        grad_weight = keys.view(-1, channels).T @ tokens.view(-1, channels)
        found = grad_audio.sum(1), grad_weight, grad_bias.sum(0)
        grad_audio, grad_weight, grad_bias = (g.to(t) for g, t in zip(found, ctx.dtypes, strict=True))
        return grad_audio, None, grad_weight, grad_bias, None, None


def channelwise_attention(
    audio: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor, old: OldAttention | None, of: Tensor | None
) -> Channelwise:
    """See ``avcil.kernels.channelwise_attention``. A clip with ``of`` = -1 has divergences 0 that give no gradient.

    Backward writes over the keys that forward saved, so it runs once. The range of audio is not checked, as that
    would wait for the device; exp overflows from 88 on.

    Raises:
        ValueError: if ``tokens`` require a gradient, or if ``old.spatial`` is not contiguous.
        RuntimeError: on a second backward through the same call.
    """
    if tokens.requires_grad:
        raise ValueError(
            "tokens require a gradient, which the Triton kernel does not give: detach tokens or use impl='fused'"
        )
    if old is not None and not old.spatial.is_contiguous():
        raise ValueError(
            "old.spatial is not contiguous: store it so once, a copy at every call would be as large as it"
        )
    of = None if of is None else of.contiguous()
    return Channelwise(*_Channelwise.apply(audio, tokens.contiguous(), weight, bias, old, of))
