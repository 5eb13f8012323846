r"""Guided attention in Triton: few folded queries over many tokens, each token read once forward, once backward.

With folded queries :math:`q_r`, tokens :math:`x_s` (keys and values at once), bias :math:`\beta_s`:

.. math:: p_{rs} = \mathrm{softmax}_s(q_r \cdot x_s + \beta_s), \quad c_r = \textstyle\sum_s p_{rs} x_s, \quad
          w_{qs} = \frac1H \sum_h p_{hQ+q,s}, \quad \ell_r = \log \textstyle\sum_s \exp(q_r \cdot x_s + \beta_s)

Forward: online softmax; the scores, small beside the tokens, are kept and become the maps p. Backward, for gradients
:math:`\bar c, \bar w, \bar\ell`, in one pass, because p and c are known:

.. math:: g_{rs} = p_{rs} \big(\bar c_r \cdot x_s + \bar w_{qs} / H - \bar c_r \cdot c_r - o_r\big), \quad
          o_r = \textstyle\sum_s p_{rs} \bar w_{qs} / H - \bar\ell_r, \quad
          \bar q_r = \sum_s g_{rs} x_s, \quad \bar\beta_s = \sum_r g_{rs}

:math:`g` is centred before it is rounded to the tokens' type; a correction afterwards would cancel large terms.

Sources: online softmax, FlashAttention-2, Dao, arXiv 2307.08691; one pooled head for keys and values by absorbing the
projections in the query, DeepSeek-V2, arXiv 2405.04434.

Dimension letters: ``N`` sets of tokens, ``H`` heads, ``Q`` queries, ``R`` = HQ rows, ``S`` tokens, ``D`` channels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from avcil.kernels.reference import FEW, Pooled

# rows of a program: 32 spill registers in the backward; two programs of a set run together and share its tokens in L2
ROWS = 16
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
OPTIONS = {"num_warps": 8, "num_stages": 3}


@triton.jit
def _pool(
    folded,  # [N,R,D]
    tokens,  # [N,S,D], each set contiguous, finite also where masked
    bias,  # [N,S] or None
    mask,  # [N,S] bytes, 0 for a token that does not count, or None
    scores,  # out [N,R,S]
    pooled,  # out [N,splits,R,D], of each split
    log_sum_exp,  # out [N,splits,R], of each split
    set_stride,
    rows,
    count,
    channels,
    per_split,  # tokens of a split, a multiple of TOKENS
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    WIDE: tl.constexpr = pooled.dtype.element_ty
    # the interpreter computes wrongly in bfloat16
    DOT: tl.constexpr = WIDE if INTERPRETED else tokens.dtype.element_ty
    program, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    groups = tl.cdiv(rows, ROWS)
    n = program // groups
    r, d = program % groups * ROWS + tl.arange(0, ROWS), tl.arange(0, CHANNELS)
    inside = (r < rows)[:, None] & (d < channels)[None, :]
    query = tl.load(folded + (n * rows + r)[:, None] * channels + d[None, :], inside, 0.0).to(DOT)
    peak = tl.full((ROWS,), float("-inf"), WIDE)
    mass = tl.zeros((ROWS,), WIDE)
    gathered = tl.zeros((ROWS, CHANNELS), WIDE)
    for start in range(0, per_split, TOKENS):
        s = split * per_split + start + tl.arange(0, TOKENS)
        here = tokens + n * set_stride + s[:, None] * channels + d[None, :]
        x = tl.load(here, (s < count)[:, None] & (d < channels)[None, :], 0.0).to(DOT)
        counts = s < count
        if mask is not None:
            counts = counts & (tl.load(mask + n * count + s, counts, 0) != 0)
        score = tl.dot(query, tl.trans(x), input_precision="ieee", out_dtype=WIDE)
        if bias is not None:
            score += tl.load(bias + n * count + s, counts, 0.0).to(WIDE)[None, :]
        score = tl.where(counts[None, :], score, float("-inf"))
        tl.store(
            scores + (n * rows + r)[:, None] * count + s[None, :], score, (r < rows)[:, None] & (s < count)[None, :]
        )
        highest = tl.maximum(peak, tl.max(score, 1))
        # -inf - -inf is NaN: before the first token that counts, subtract 0
        level = tl.where(highest == float("-inf"), 0.0, highest)
        part = tl.exp(score - level[:, None])
        decay = tl.exp(peak - level)
        mass = mass * decay + tl.sum(part, 1)
        gathered = gathered * decay[:, None] + tl.dot(part.to(DOT), x, input_precision="ieee", out_dtype=WIDE)
        peak = highest
    positive = tl.where(mass > 0, mass, 1.0)
    row = (n * tl.num_programs(1) + split) * rows + r
    tl.store(log_sum_exp + row, tl.where(mass > 0, peak + tl.log(positive), float("-inf")), r < rows)
    tl.store(pooled + row[:, None] * channels + d[None, :], gathered / positive[:, None], inside)


@triton.jit
def _pool_backward(
    tokens,  # [N,S,D], each set contiguous, finite also where masked
    maps,  # [N,R,S]
    pooled,  # [N,R,D]
    grad_pooled,  # [N,R,D]
    grad_weights,  # [N,Q,S] or None
    offset,  # [N,R], o of the docstring
    grad_folded,  # out [N,splits,R,D], of each split
    grad_bias,  # out [N,rows / ROWS,S], of each group of rows, or None
    set_stride,
    rows,
    queries,
    count,
    channels,
    per_split,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    WIDE: tl.constexpr = pooled.dtype.element_ty
    DOT: tl.constexpr = WIDE if INTERPRETED else tokens.dtype.element_ty
    program, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    groups = tl.cdiv(rows, ROWS)
    n = program // groups
    r, d = program % groups * ROWS + tl.arange(0, ROWS), tl.arange(0, CHANNELS)
    inside = (r < rows)[:, None] & (d < channels)[None, :]
    row = n * rows + r
    place = row[:, None] * channels + d[None, :]
    up = tl.load(grad_pooled + place, inside, 0.0).to(DOT)
    # of the rounded gradient, as in the products below
    centre = tl.sum(up.to(WIDE) * tl.load(pooled + place, inside, 0.0), 1) + tl.load(offset + row, r < rows, 0.0)
    gathered = tl.zeros((ROWS, CHANNELS), WIDE)
    for start in range(0, per_split, TOKENS):
        s = split * per_split + start + tl.arange(0, TOKENS)
        within = (r < rows)[:, None] & (s < count)[None, :]
        p = tl.load(maps + row[:, None] * count + s[None, :], within, 0.0)
        here = tokens + n * set_stride + s[:, None] * channels + d[None, :]
        x = tl.load(here, (s < count)[:, None] & (d < channels)[None, :], 0.0).to(DOT)
        slope = tl.dot(up, tl.trans(x), input_precision="ieee", out_dtype=WIDE)
        if grad_weights is not None:
            map_row = n * queries + r % queries
            slope += tl.load(grad_weights + map_row[:, None] * count + s[None, :], within, 0.0) * queries / rows
        g = p * (slope - centre[:, None])
        gathered += tl.dot(g.to(DOT), x, input_precision="ieee", out_dtype=WIDE)
        if grad_bias is not None:
            tl.store(grad_bias + program * count + s, tl.sum(g, 0), s < count)
    out = ((n * tl.num_programs(1) + split) * rows + r)[:, None] * channels + d[None, :]
    tl.store(grad_folded + out, gathered, inside)


def block(channels: int, element_size: int) -> dict[str, int]:
    """What one program holds: where possible 32 KiB of tokens, twice. The interpreter likes large blocks."""
    wide = triton.next_power_of_2(max(channels, 16))
    tokens = 64 if INTERPRETED else max(16, min(64, 2**15 // (wide * element_size)))
    return {"ROWS": ROWS, "TOKENS": tokens, "CHANNELS": wide}


def _splits(tokens: Tensor, block: int) -> tuple[int, int]:
    """Programs that share a set, so that few sets fill the machine, and the tokens of each, a multiple of ``block``."""
    sets, count, _ = tokens.shape
    processors = torch.cuda.get_device_properties(tokens.device).multi_processor_count if tokens.is_cuda else 4
    blocks = triton.cdiv(count, block)
    per_split = triton.cdiv(blocks, max(1, min(blocks, 2 * processors // sets))) * block
    return triton.cdiv(count, per_split), per_split


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, folded, tokens, bias, mask, queries):
        (sets, rows, channels), count = folded.shape, tokens.shape[1]
        mask = mask if mask is None else mask.contiguous().view(torch.uint8)
        shape = block(channels, tokens.element_size())
        splits, per_split = _splits(tokens, shape["TOKENS"])
        wide = {"dtype": torch.float64 if tokens.dtype == torch.float64 else torch.float32, "device": tokens.device}
        maps = torch.empty(sets, rows, count, **wide)
        pooled = torch.empty(sets, splits, rows, channels, **wide)
        total = torch.empty(sets, splits, rows, **wide)
        with torch.cuda.device_of(tokens):
            _pool[(sets * triton.cdiv(rows, ROWS), splits)](
                folded.contiguous(),
                tokens,
                bias if bias is None else bias.contiguous(),
                mask,
                maps,
                pooled,
                total,
                tokens.stride(0),
                rows,
                count,
                channels,
                per_split,
                **shape,
                **OPTIONS,
            )
        parts, total = total, total.logsumexp(1)
        level = total.masked_fill(total == -torch.inf, 0)
        pooled = pooled[:, 0] if splits == 1 else (pooled * (parts - level[:, None]).exp()[..., None]).sum(1)
        maps.sub_(level[..., None]).exp_()
        weights = maps.unflatten(1, (-1, queries)).mean(1)
        ctx.save_for_backward(tokens, maps, pooled, total)
        ctx.queries, ctx.folded_dtype, ctx.bias_dtype = queries, folded.dtype, bias if bias is None else bias.dtype
        ctx.set_materialize_grads(False)
        return pooled, weights, total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_pooled, grad_weights, grad_total):
        tokens, maps, pooled, total = ctx.saved_tensors
        sets, rows, channels = pooled.shape
        shape = block(channels, tokens.element_size())
        splits, per_split = _splits(tokens, shape["TOKENS"])
        groups = triton.cdiv(rows, ROWS)
        offset = torch.zeros_like(total)
        if grad_weights is not None:
            grad_weights = grad_weights.contiguous()
            by_head = maps.unflatten(1, (-1, ctx.queries))
            offset = ((by_head * grad_weights[:, None]).sum(-1) * (ctx.queries / rows)).flatten(1)
        if grad_total is not None:
            offset = offset - grad_total.masked_fill(total == -torch.inf, 0)
        grad_folded = pooled.new_empty(sets, splits, rows, channels)
        grad_bias = pooled.new_empty(sets, groups, tokens.shape[1]) if ctx.needs_input_grad[2] else None
        with torch.cuda.device_of(tokens):
            _pool_backward[(sets * groups, splits)](
                tokens,
                maps,
                pooled.contiguous(),
                torch.zeros_like(pooled) if grad_pooled is None else grad_pooled.contiguous(),
                grad_weights,
                offset,
                grad_folded,
                grad_bias,
                tokens.stride(0),
                rows,
                ctx.queries,
                tokens.shape[1],
                channels,
                per_split,
                **shape,
                **OPTIONS,
            )
        grad_bias = grad_bias if grad_bias is None else grad_bias.sum(1).to(ctx.bias_dtype)
        return grad_folded.sum(1).to(ctx.folded_dtype), None, grad_bias, None, None


def pool(folded: Tensor, tokens: Tensor, bias: Tensor | None, mask: Tensor | None, queries: int) -> Pooled:
    """``avcil.kernels.reference.pool`` for HQ <= 32 rows over tokens that take no gradient.

    Raises:
        ValueError: if there are more rows, or if ``tokens`` require a gradient.
    """
    if folded.shape[1] > FEW:
        raise ValueError(f"folded has {folded.shape[1]} rows (heads x queries), more than {FEW}: use impl='folded'")
    if tokens.requires_grad:
        raise ValueError(
            "tokens require a gradient, which the Triton kernel does not give: detach tokens or use impl='folded'"
        )
    if not tokens[0].is_contiguous():
        tokens = tokens.contiguous()
    return Pooled(*_Pool.apply(folded, tokens, bias, mask, queries))
