"""Light attention: fewer patches, fewer slots, fewer bits of a clip's tokens, fewer heads and channels of attention
that is learnt, and what is lost by it.

A variant stores every clip in its own way; all that is learnt and tested is what can be read again from there.

Dimension letters: ``N`` clips, ``L`` slots, ``S`` patches of a slot, ``V`` and ``A`` channels of a visual and of an
audio token.
"""

import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from avcil.beyond import study
from avcil.beyond.settings import Beyond, Variant
from avcil.comparison import sweep, tables, worlds
from avcil.comparison.sweep import Done, Job, Source
from avcil.learn.attention import Attention, unit_spread
from avcil.learn.evaluate import build
from avcil.learn.methods.scaled_guided import TAU
from avcil.learn.train import run_tasks
from avcil.params import ParameterError, Params
from avcil.params.learning import Training, chain
from avcil.tokens.store import load_header
from avcil.tokens.tokens import Tokens

MEASURING = "beyond/light.py"
TIMED, TURNS = 100, 7  # clips whose attention is timed, and how often


class Numbers(NamedTuple):
    """A stream: ``values`` float16, or int8 times ``scale``, float16, one a token or one a channel of a clip."""

    values: Tensor
    scale: Tensor | None

    def read(self) -> Tensor:
        values = self.values.float()
        return values if self.scale is None else values * self.scale.float()


class Stored(NamedTuple):
    """All that is stored of N clips. similarity [N,L,S], float16; places [N,L,S]: which patches of the encoder's grid
    these are, uint8, of more than 256 patches int32; none where all are there, or means."""

    visual: Numbers
    audio: Numbers
    similarity: Tensor
    places: Tensor

    def read(self) -> Tokens:
        return Tokens(self.visual.read(), self.audio.read(), self.similarity.float())

    @property
    def clip_bytes(self) -> float:
        """Of one clip."""
        parts = (*self.visual, *self.audio, self.similarity, self.places)
        return sum(part.numel() * part.element_size() for part in parts if part is not None) / len(self.similarity)


def numbers(stream: Tensor, kind: str) -> Numbers:
    """Of tokens [N,...,D], as a variant's ``numbers``.

        q = round(x / s),   s = max |x| / 127

    the maximum being over the channels of a token, or over the tokens of a clip by channel. Source: dynamic symmetric
    quantisation, Gholami et al., arXiv 2103.13630, III.B and III.E.
    """
    if kind == "float16":
        return Numbers(stream.half(), None)
    over = -1 if kind == "int8_token" else tuple(range(1, stream.dim() - 1))
    # rounded to float16 first: what is divided by here is what `read` multiplies by (at least the least, for zeros)
    scale = (stream.abs().amax(over, keepdim=True) / 127).half().clamp_min(torch.finfo(torch.float16).tiny)
    return Numbers((stream / scale.float()).round().clamp(-127, 127).to(torch.int8), scale)


def stored(tokens: Tokens, variant: Variant, generator: torch.Generator) -> Stored:
    """What a variant keeps of clips. Chosen patches stand in the order of their similarity, so that what follows a
    patch over the slots follows the best one; with ``by: random`` ``generator`` draws them."""
    if variant.slots:
        slots = tokens.shape[1]
        # the middle of each of so many equal parts of the clip
        rows = (2 * torch.arange(variant.slots) + 1) * slots // (2 * variant.slots)
        # of the sound every token stays
        tokens = tokens._replace(visual=tokens.visual[:, rows], similarity=tokens.similarity[:, rows])
    visual, similarity = tokens.visual, tokens.similarity
    places = torch.empty(0, dtype=torch.uint8)
    if variant.by == "grid":
        tokens = tokens.coarse(variant.side)
        visual, similarity = tokens.visual, tokens.similarity
    elif variant.by == "attention":
        # as `frozen_sources` weighs patches under the store's similarity: the mean that it would read itself
        weights = (TAU * unit_spread(similarity)).softmax(-1)
        # [N,L,1,V]: a mean is one patch of its slot
        visual = torch.einsum("nls,nlsv->nlv", weights, visual)[:, :, None]
        similarity = (weights * similarity).sum(-1, keepdim=True)
    elif variant.patches:
        # the largest of random numbers are patches drawn without repetition
        score = similarity if variant.by == "guidance" else torch.rand(similarity.shape, generator=generator)
        chosen = score.topk(variant.patches, -1).indices
        visual = visual.gather(2, chosen[..., None].expand(-1, -1, -1, visual.shape[-1]))
        # a byte names one of up to 256 patches
        byte = torch.uint8 if similarity.shape[-1] <= 256 else torch.int32
        similarity, places = similarity.gather(2, chosen), chosen.to(byte)
    return Stored(numbers(visual, variant.numbers), numbers(tokens.audio, variant.numbers), similarity.half(), places)


def flops(tokens: Tokens) -> int:
    """Of the attention of `frozen_sources`, for one clip: 2 L V (5 S + A), two for a product and its sum.

    A weighted mean of L S patches for each of three sources; of synchrony beside it, L queries through its form [V,A],
    asked of every patch and of its mean. Softmax, means and norms are left out.
    """
    _, slots, patches, visual = tokens.shape
    return 2 * slots * visual * (5 * patches + tokens.channels[1])


def counted(attention: Attention, clips: Tokens) -> int:
    """FLOPs of an attention that is learnt, for one clip, as torch counts them: of products, and of nothing else."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        attention(clips, None)
    return counter.get_total_flops() // len(clips.audio)


@torch.no_grad()
def milliseconds(pairs: list[tuple[Attention, Stored]]) -> list[float]:
    """Of a processor, for one clip of each: from what is stored to what is attended, taking turns; their medians."""
    spent: list[list[float]] = [[] for _ in pairs]
    # in turns, so that what slows the machine for a while slows all variants
    for _ in range(TURNS):
        for (attention, one), seconds in zip(pairs, spent, strict=True):
            started = time.process_time()
            # from what is stored: to restore float32 is a part of the price
            attention(one.read(), None)
            seconds.append(time.process_time() - started)
    return [1000 * float(np.median(some)) / len(one.similarity) for (_, one), some in zip(pairs, spent, strict=True)]


def jobs(beyond: Beyond, params: Params, shipped: Source, drawn: Path, folder: Path) -> list[Job]:
    """Every variant in every world, named (row, variant); ``shipped``: world 0. Worlds are drawn below ``drawn`` where
    they are not there yet. What `claimed` was chosen by is scored on validation clips. Raises ParameterError for a
    variant of more than there is."""
    # asked of the shipped store, before worlds are drawn, which takes minutes
    settings, layout = beyond.light, load_header(shipped.store).layout
    for name, variant in settings.variants.items():
        if (variant.patches or 1) > layout.patches or (variant.slots or 1) > layout.slots:
            there = f"{layout.patches} patches in {layout.slots} slots"
            raise ParameterError(f"beyond.yaml: light.variants.{name}: of {there} it asks for more; take fewer")
    sources = {
        world: worlds.source_of(worlds.drawn(world, drawn, params), world, folder) if world else shipped
        for world in (*settings.worlds, settings.choice)
    }
    # what is solved does not depend on how clips are cut into tasks
    solved = beyond.solved(params), params.training, chain([sum(task.classes for task in params.tasks)], 1)
    # in every world, that of the choice among them
    asked = [(settings.row, solved, name, world) for world in sources for name in settings.variants]
    shapes = dict.fromkeys(settings.trained_variants, params.training) | beyond.shaped(params)
    asked += [
        (settings.trained, (params.method(settings.trained), training, params.tasks), name, world)
        for world in settings.trained_worlds
        for name, training in shapes.items()
    ]
    return [
        Job((row, name), sources[world], method, training, tasks, world,
            split="val" if world == settings.choice else "test",
            file=folder / f"{row}-{name}-{world}.json", device=params.compute.device)
        for row, (method, training, tasks), name, world in asked
    ]  # fmt: skip


def learn(job: Job, beyond: Beyond, shared: Training) -> Done:
    """Do one job, unless its file stands there already, made from the same code, clips and choices. ``shared``: what it
    would be trained by without a shape of its own."""
    data = sweep.datasets(job.source)[job.seed]
    # a shape is one of attention, over whole tokens
    variant = beyond.light.variants.get(job.name[1], Variant())

    def measure() -> dict:
        every = data.tokens.clips(slice(None))
        # random patches are drawn anew in each world
        clips = stored(every, variant, torch.Generator().manual_seed(job.seed))
        read = clips.read()
        # the share of each patch that the sounding object has is not known of other patches
        results = run_tasks(
            data._replace(tokens=read, share=None), job.method, job.training, job.tasks, job.seed, None,
            split=job.split, device=job.device,
        )  # fmt: skip
        some = every.clips(torch.arange(TIMED))
        # as they are before they learn, for learning changes no time
        attention, usual = (build(job.method, one, every.channels).attention for one in (job.training, shared))
        # whole tokens take turns beside it: their ratio hangs less on the machine than milliseconds do
        timed = [(attention, variant), (usual, Variant())]
        seconds = milliseconds([(one, stored(some, kind, torch.Generator())) for one, kind in timed])
        frozen = job.method.fusion == "frozen_sources"
        return {
            "last_accuracy": tables.accuracy_after(results[-1]),
            "bytes": clips.clip_bytes,
            "flops": flops(read) if frozen else counted(attention, read.clips(torch.arange(TIMED))),
            "milliseconds": seconds[0],
            "time_ratio": seconds[0] / seconds[1],
        }

    return study.once(job, data, measure, MEASURING, variant=variant.model_dump())


def run(beyond: Beyond, params: Params, shipped: Source, drawn: Path, folder: Path) -> dict[str, pd.DataFrame]:
    """Learn what is not learnt yet and return its table, `beyond_light`, a line a row, variant and world: last_accuracy
    on clips of ``split``; and of one clip `bytes` that are stored, `flops` of its attention, and `milliseconds` from
    what is stored to what is attended, with their ratio to those of whole tokens and of attention as the row has it."""
    asked = jobs(beyond, params, shipped, drawn, folder)
    study.run(partial(learn, beyond=beyond, shared=params.training), asked, params)
    return {"beyond_light": study.table(asked, ("row", "variant"))}
