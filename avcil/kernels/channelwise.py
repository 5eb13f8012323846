r"""Channel-wise attention in closed form: no attention map is ever built, in either direction. For the CPU.

With frozen tokens v, keys k = tanh(W v + b) and audio a, both in [-1,1], scores a k are bounded, so that the softmaxes
need no maximum and everything is a plain sum over a slot's S tokens, channel by channel (e = exp(a k)):

    Λ = Σ e,  Z = Σ e k / Λ,  N = Σ e v / Λ,  C₁ = Σ e k v / Λ,  C₂ = Σ e k² / Λ,  M = Σ w_old k
    τ = softmax_l(a Z),  output = Σ_l τ N
    KL(w_old ‖ w) = Σ w_old log w_old - a M + log Λ

Backward, from the gradients g of the output, κ of the spatial and θ of the temporal divergence (dots run over slots):

    g_N = g τ,  g_a = τ (g N - Σ_l τ g N) + θ (τ - τ_old),  g_Z = a g_a,  R = g_N N + g_Z Z
    da = Σ_l  g_a Z + g_N C₁ + g_Z C₂ - R Z + κ (Z - M)
    dk = w g_Z + a (w (g_N v + g_Z k - R + κ) - κ w_old),  w = e / Λ
    dW = Σ dk (1 - k²) vᵀ,  db = Σ dk (1 - k²)

Only the keys are kept for backward, which overwrites them. The equations are those of Pian et al., ICCV 2023, arXiv
2308.11073, as `avcil.kernels.reference.channelwise_maps` has them; the closed form is ours.

Dimension letters: ``B`` clips, ``L`` slots, ``S`` tokens of a slot, ``D`` channels, ``X`` remembered clips.
"""

import functools
import logging
import shutil

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from avcil.kernels.reference import Channelwise, OldAttention

COMPILED_FROM = 1 << 19  # numbers a batch: below, compiling costs more than it saves
CHUNK = 1 << 20  # numbers at once: what the cache holds


def _exp_polynomial() -> list[float]:
    """Coefficients, highest first, of the polynomial of degree 8 that is exp on [-1,1] to 2e-8: interpolation at
    Chebyshev's points."""
    degree = 8
    at = torch.cos(torch.pi * (torch.arange(degree + 1, dtype=torch.float64) + 0.5) / (degree + 1))
    return torch.linalg.solve(torch.vander(at), at.exp()).tolist()


EXP = _exp_polynomial()


def _exp(x: Tensor) -> Tensor:
    """exp for |x| <= 1: multiply-adds that compilers vectorise, unlike calls of exp."""
    value = EXP[0] * x + EXP[1]
    for coefficient in EXP[2:]:
        value = value * x + coefficient
    return value


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _sums(exp, keys: Tensor, tokens: Tensor, audio: Tensor, old: Tensor | None, of: Tensor | None) -> list[Tensor]:
    """Λ, Z, N, C₁, C₂ and M, each [B,L,D]; keys and tokens [B,L,S,D], audio [B,D], old [X,L,S,D], of [B]."""
    k, v = _wide(keys), _wide(tokens)
    e = exp(audio[:, None, None] * k)
    total = e.sum(2)
    means = [(e * x).sum(2) / total for x in (k, v, k * v, k * k)]
    matched = torch.zeros_like(total) if old is None else (_wide(old[of]) * k).sum(2)
    return [total, *means, matched]


def _overwrite(
    exp,
    keys: Tensor,
    tokens: Tensor,
    audio: Tensor,
    total: Tensor,
    pull_tokens: Tensor,
    pull_keys: Tensor,
    mean_pull: Tensor,
    pull_map: Tensor,
    old: Tensor | None,
    of: Tensor | None,
) -> Tensor:
    """Write dk (1 - k²) over the keys; its sum over tokens, [B,L,D].

    total Λ, pull_tokens g_N, pull_keys g_Z and mean_pull R are [B,L,D], pull_map κ is [B].
    """
    k, v, a = _wide(keys), _wide(tokens), audio[:, None, None]
    kappa = pull_map[:, None, None, None]
    weights = exp(a * k) / total[:, :, None]
    pull = pull_tokens[:, :, None] * v + pull_keys[:, :, None] * k - mean_pull[:, :, None] + kappa
    dk = weights * pull_keys[:, :, None] + a * (weights * pull)
    if old is not None:
        dk = dk - a * (kappa * _wide(old[of]))
    dk = dk * (1 - k * k)
    keys.copy_(dk)
    return dk.sum(2)


@functools.cache
def compiler() -> bool:
    """Whether torch.compile has a C++ compiler to call."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


@functools.cache
def _compiled(function, threads: int):
    # it would tell every machine without a GPU that it has none
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    compiled = torch.compile(
        functools.partial(function, _exp),
        options={
            # the cache of compiled code knows nothing of threads: code for two would be run by one, and vice versa
            "cpp.threads": threads,
            # one loop over each slot: by default, long expressions are cut in two and meet again in memory
            "realize_opcount_threshold": 1000,
            # that the processor has its instructions torch knows; to try them it would start a Python for each kind
            "cpp.vec_isa_ok": True,
        },
    )
    # several token types, with and without old maps: more than the 8 variants that are allowed by default
    return torch._dynamo.config.patch(recompile_limit=64)(compiled)


def _plan(function, tokens: Tensor):
    """The function, compiled for large batches, and the slices of clips that it is to be given."""
    clips = len(tokens)
    size = max(1, CHUNK * clips // max(1, tokens.numel()))
    pieces = [slice(i, i + size) for i in range(0, max(1, clips), size)]
    if tokens.numel() >= COMPILED_FROM and tokens.dtype != torch.float64 and compiler():
        return _compiled(function, torch.get_num_threads()), pieces
    return functools.partial(function, torch.exp), pieces


@functools.cache
def _one_call(dtype: torch.dtype) -> bool:
    """Whether oneDNN has a linear layer with tanh for this type: it has none for bfloat16 below AVX-512."""
    if not torch.backends.mkldnn.is_available() or dtype not in (torch.float32, torch.bfloat16):
        return False
    tried = torch.zeros(2, 16, dtype=dtype)
    try:
        torch.ops.mkldnn._linear_pointwise(tried, tried, tried[:, 0].contiguous(), "tanh", [], "")
    except RuntimeError:
        return False
    return True


def _keys(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """tanh(W v + b) in the tokens' type, as one call of oneDNN where there is one."""
    weight, bias = weight.to(tokens.dtype), bias.to(tokens.dtype)
    if _one_call(tokens.dtype):
        return torch.ops.mkldnn._linear_pointwise(tokens, weight, bias, "tanh", [], "")
    return F.linear(tokens, weight, bias).tanh_()


def channelwise_attention(
    audio: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor, old: OldAttention | None, of: Tensor | None
) -> Channelwise:
    """See ``avcil.kernels.channelwise_attention``. Raises ValueError for audio beyond [-1,1], where the sums would not
    hold, and RuntimeError for a second backward pass."""
    if audio.numel() and audio.detach().abs().max() > 1:
        raise ValueError("audio must lie in [-1,1], as after tanh; use impl='reference' for other ranges")
    return Channelwise(*_ClosedForm.apply(audio, tokens.contiguous(), weight, bias, old, of))


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, audio, tokens, weight, bias, old, of):
        keys = _keys(tokens, weight, bias)
        a = _wide(audio)
        maps = None if old is None or not (of >= 0).any() else old.spatial
        rows = None if maps is None else of.clamp_min(0)
        sums, pieces = _plan(_sums, tokens)
        parts = [sums(keys[p], tokens[p], a[p], maps, None if rows is None else rows[p]) for p in pieces]
        total, z, n, c1, c2, matched = (torch.cat(part) for part in zip(*parts, strict=True))
        temporal = (a[:, None] * z).softmax(1)
        output = (temporal * n).sum(1)
        where, when = output.new_zeros(2, len(output))
        remembered = old_temporal = None
        if maps is not None:
            remembered, old_temporal = of >= 0, old.temporal[rows].to(a.dtype)
            found = (old.negentropy[rows].to(a.dtype) - a[:, None] * matched + total.log()).sum((1, 2))
            where = torch.where(remembered, found, 0)
            found = (torch.xlogy(old_temporal, old_temporal) - old_temporal * temporal.log()).sum((1, 2))
            when = torch.where(remembered, found, 0)
        ctx.keys, ctx.old = keys, (maps, rows, remembered, old_temporal)
        ctx.save_for_backward(audio, tokens, total, z, n, c1, c2, matched, temporal)
        ctx.types = weight.dtype, bias.dtype
        return output, where, when

    @staticmethod
    @once_differentiable
    def backward(ctx, g, kappa, theta):
        if ctx.keys is None:
            raise RuntimeError("channelwise_attention keeps one set of keys, which backward has overwritten")
        keys, ctx.keys = ctx.keys, None
        maps, rows, remembered, old_temporal = ctx.old
        audio, tokens, total, z, n, c1, c2, matched, temporal = ctx.saved_tensors
        a = _wide(audio)
        pull_tokens = g[:, None] * temporal
        pull_moment = pull_tokens * n - temporal * (pull_tokens * n).sum(1, keepdim=True)
        kappa = torch.zeros_like(kappa) if maps is None else kappa * remembered
        if maps is not None:
            pull_moment = pull_moment + (theta * remembered)[:, None, None] * (temporal - old_temporal)
        pull_keys = a[:, None] * pull_moment
        mean_pull = pull_tokens * n + pull_keys * z
        pulled = pull_moment * z + pull_tokens * c1 + pull_keys * c2 - mean_pull * z
        grad_audio = (pulled + kappa[:, None, None] * (z - matched)).sum(1)
        overwrite, pieces = _plan(_overwrite, tokens)
        grad_bias = a.new_zeros(a.shape[1])
        for p in pieces:
            of_slot = total[p], pull_tokens[p], pull_keys[p], mean_pull[p], kappa[p]
            changes = overwrite(keys[p], tokens[p], a[p], *of_slot, maps, None if rows is None else rows[p])
            grad_bias += changes.sum((0, 1))
        grad_weight = keys.flatten(0, 2).T @ tokens.flatten(0, 2)
        types = ctx.types
        return grad_audio.to(audio.dtype), None, grad_weight.to(types[0]), grad_bias.to(types[1]), None, None
