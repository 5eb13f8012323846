"""AV-CIL's attention in a training step: the authors' module with the old model in the loop, and ours.

A step: forward, attention distillation on the second half of the batch (exemplars), backward to the audio features and
to the projection of tokens. Ours knows the old model's maps (``remember_attention``), as tokens are frozen.

Dimension letters: ``B`` clips, ``L`` slots, ``S`` tokens of a slot, ``D`` channels.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from authors_step import Authors
from avcil.kernels import channelwise_attention, channelwise_maps, reference, remember_attention
from peers import Options, cast, compilations, shape
from timing import DTYPES, Group, Variant, Work, differentiated


class Channelwise(NamedTuple):
    B: int
    L: int
    S: int
    D: int = 768


class Projections(NamedTuple):
    """Those of the attention: of audio, and of tokens."""

    audio_weight: Tensor
    audio_bias: Tensor
    weight: Tensor
    bias: Tensor

    def guide(self, sound: Tensor) -> Tensor:
        return torch.tanh(F.linear(sound, self.audio_weight, self.audio_bias))

    def to(self, kind: torch.dtype) -> "Projections":
        return Projections(*(value.to(kind) for value in self))


def objective(output: Tensor, where: Tensor, when: Tensor, up: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """where and when: the spatial and temporal divergence, means over exemplars."""
    return (output * up).sum() + 0.5 * (where + when), {"output": output, "spatial": where, "temporal": when}


def in_the_loop(sound: Tensor, tokens: Tensor, new: Projections, old: Projections, up: Tensor):
    """The authors' way with our reference: both models on the whole batch, whole maps compared."""
    output, *maps = channelwise_maps(new.guide(sound), tokens, new.weight, new.bias)
    with torch.no_grad():
        _, *old_maps = channelwise_maps(old.guide(sound), tokens, old.weight, old.bias)
    half = len(tokens) // 2
    pairs = zip(maps, old_maps, strict=True)
    losses = [F.kl_div(x[half:].log(), y[half:], reduction="sum") / (len(tokens) - half) for x, y in pairs]
    return objective(output, *losses, up)


def from_memory(attention: Callable, sound: Tensor, tokens: Tensor, new: Projections, old, of: Tensor, up: Tensor):
    """Ours: the old model's maps of the exemplars are known."""
    found = attention(new.guide(sound), tokens, new.weight, new.bias, old=old, of=of)
    exemplars = (len(tokens) + 1) // 2
    return objective(
        found.output, found.spatial_divergence.sum() / exemplars, found.temporal_divergence.sum() / exemplars, up
    )


def group(case: Channelwise, options: Options) -> Group:
    device, half = options.device, case.B // 2
    draw = partial(torch.randn, device=device)
    tokens, sound, up = draw(case.B, case.L, case.S, case.D), draw(case.B, case.D), draw(case.B, case.D)
    sizes = [(case.D, case.D), (case.D,)] * 2
    new = Projections(*(draw(*size) * case.D**-0.5 for size in sizes))
    old = Projections(*(value + 0.3 * case.D**-0.5 * torch.randn_like(value) for value in new))

    exact = new.to(torch.float64)
    leaves = {"audio": sound.double(), "weight": exact.weight, "bias": exact.bias}
    leaves = {name: value.requires_grad_() for name, value in leaves.items()}
    forward = partial(in_the_loop, leaves["audio"], tokens.double(), exact, old.to(torch.float64), up)
    wanted = {name: value.detach().float() for name, value in differentiated(forward, leaves)().items()}
    del exact, leaves, forward

    leaves = {"audio": sound, "weight": new.weight, "bias": new.bias}
    leaves = {name: value.requires_grad_() for name, value in leaves.items()}
    if options.authors:
        name = "authors' module"
        forward, own = _authors(options.authors, leaves["audio"], tokens, new, old, up)
    else:
        name, own = "our reference with the old model in the loop", leaves
        forward = partial(in_the_loop, leaves["audio"], tokens, new, old, up)
    variants = _peers(name, forward, own, options)

    of = torch.cat([torch.full((half,), -1), torch.arange(case.B - half)]).to(device)
    for precision in ("fp32", "bf16"):
        kept = tokens.to(DTYPES[precision])
        guided = old.guide(sound).detach()[half:]
        maps = remember_attention(guided, tokens[half:], old.weight, old.bias, dtype=DTYPES[precision])
        given = {"sound": leaves["audio"], "tokens": kept, "new": new, "old": maps, "of": of, "up": up}
        for impl in ("auto", "reference", "triton" if device.type == "cuda" else "fused"):
            forward = partial(from_memory, partial(channelwise_attention, impl=impl), **given)
            variants.append(Variant(f"ours, {impl}", "ours", precision, differentiated(forward, leaves), forward))
        for name, how in compilations(options).items():
            built = torch.compile(from_memory, dynamic=False, **how)
            forward = partial(built, reference.channelwise_attention, **given)
            step = differentiated(forward, leaves)
            variants.append(Variant(f"our reference, {name}", "peer", precision, step, forward))
    works = {v.precision: [work(case, DTYPES[v.precision].itemsize)] for v in variants}
    return Group("channel-wise step", shape(case), variants, wanted, works)


def _peers(name: str, forward: Callable, leaves: dict[str, Tensor], options: Options) -> list[Variant]:
    """As it is, in TensorFloat-32, under autocast, and compiled."""
    precisions = ["fp32", *(["tf32"] if options.device.type == "cuda" else []), "bf16"]
    ways = {name: forward}
    for compiler, how in compilations(options).items():
        ways[f"{name}, {compiler}"] = torch.compile(forward, dynamic=False, **how)
    return [
        Variant(way, "peer", precision, differentiated(cast(run, precision, options.device), leaves), run)
        for way, run in ways.items()
        for precision in precisions
    ]


def _authors(authors: Authors, sound: Tensor, tokens: Tensor, new: Projections, old: Projections, up: Tensor):
    """Their attention of the new model, their whole old model, their losses; and the leaves."""
    models = []
    for weights in (new, old):
        models.append(authors.network(1, tokens.device))
        values = dict(zip(("attn_audio_proj.weight", "attn_audio_proj.bias"), weights[:2], strict=True))
        values |= dict(zip(("attn_visual_proj.weight", "attn_visual_proj.bias"), weights[2:], strict=True))
        models[-1].load_state_dict(values, strict=False)
    student, old_model = models[0].requires_grad_(False), models[1].eval()
    projection = student.attn_visual_proj.requires_grad_(True)
    half = len(tokens) // 2

    def forward():
        spatial, temporal = student.audio_visual_attention(sound, tokens)
        output = (temporal * (spatial * tokens).sum(2)).sum(1)
        with torch.no_grad():
            _, old_spatial, old_temporal = old_model(visual=tokens, audio=sound, out_attn_score=True)
        losses = authors.distil(spatial, temporal, old_spatial, old_temporal, half, len(tokens) - half)
        return objective(output, *losses, up)

    return forward, {"audio": sound, "weight": projection.weight, "bias": projection.bias}


def work(case: Channelwise, item: int) -> Work:
    """Two products (keys, the gradient of the weight). Tokens are read and keys written, then both read for backward,
    and so are the old maps of half the batch."""
    elements = case.B * case.L * case.S * case.D
    return Work(4 * elements * case.D, 5 * elements * item)
