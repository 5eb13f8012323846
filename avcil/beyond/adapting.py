"""Adapting the prior: worlds that differ from those it was taught in, and small adapters of its tokens that go on
learning its own objective on unlabelled clips, as they come or beforehand.

An adapter is learnt without labels and without regions, and changes what the encoder gives: both streams of tokens, and
with them the similarity that guides. Rows learn from adapted tokens as from any others.

Dimension letters: ``B`` clips, ``L`` slots, ``S`` patches of a slot, ``A`` audio tokens, ``D`` channels.
"""

import copy
import json
from collections.abc import Iterator
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcil.base.code import code_of
from avcil.base.device import named
from avcil.base.files import digest
from avcil.beyond import robust, study
from avcil.beyond.robust import Shot
from avcil.beyond.settings import Adapting, Shift
from avcil.comparison import sweep, worlds
from avcil.comparison.sweep import Done, Job
from avcil.encoders.mini import Mini
from avcil.encoders.prior import load_prior, released
from avcil.extraction.extract import PRIORS
from avcil.learn.checkpoint import EMPTY
from avcil.learn.train import run_task
from avcil.params import Params
from avcil.tokens.dataset import Dataset
from avcil.tokens.manifest import SPLITS
from avcil.tokens.store import read_store
from avcil.tokens.tokens import Tokens, TokenSource
from avcil.world.pretraining import frame_matching

# beside the code of worlds that of their shifts and of adapters: a change of any is measured anew
MEASURING = (*worlds.MAKING, "beyond/robust.py", "beyond/adapting.py")
_DRAWN = 12  # the stream of random numbers of shifts
AT_ONCE = 100  # clips that are adapted together


# ---- worlds that differ


def grey(shot: Shot, share: float, rng: np.random.Generator) -> Shot:
    """That share of all colour is gone."""
    # a mean of what was there: no channel leaves 0 to 255
    frames = shot.frames + share * (shot.frames.mean(-1, keepdims=True) - shot.frames)
    return shot._replace(frames=frames.round().astype(np.uint8))


# its order enters the seeds of what is drawn, so a new shift stands at the end
SHIFTS = {"pixel_noise": robust.pixel_noise, "sound_noise": robust.sound_noise, "gain": robust.gain, "grey": grey}


def shifted(
    shift: dict[Shift, float], sample_rate: int, seed: int, frames: np.ndarray, waveform: np.ndarray,
    row: tuple[str, int, int],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """A clip under a shift, which maps its parts to their strengths: frames [F,H,W,3] and waveform [N]."""
    split, label, index = row
    # no shift mixes in another object's sound, so that field holds the clip's own
    shot = Shot(frames, waveform, waveform, sample_rate)
    for part, strength in shift.items():
        # by clip and shift: the same noise in whatever order clips are rendered
        rng = np.random.default_rng((seed, _DRAWN, [*SHIFTS].index(part), SPLITS.index(split), label, index))
        shot = SHIFTS[part](shot, strength, rng)
    return shot.frames, shot.waveform


# ---- adapters


class Adapter(nn.Module):
    """x + W₂ max(0, W₁ x + b₁) + b₂ for standardised tokens x [...,D]; nothing is changed at the start.

    Source: Houlsby et al., ICML 2019, arXiv 1902.00751. Deviation: beside the frozen encoder, on what it gives, not
    between its layers: so it is learnt from stored tokens.
    """

    def __init__(self, channels: int, rank: int):
        super().__init__()
        self.down, self.up = nn.Linear(channels, rank), nn.Linear(rank, channels)
        # W₁ stays as it was drawn: with both at zero neither would ever get a gradient
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(F.relu(self.down(x)))


class Moments(nn.Module):
    """(x − mean) / spread of the tokens ``x`` [...,D] that it is made of. Source: Li et al., arXiv 1603.04779."""

    mean: Tensor
    spread: Tensor

    def __init__(self, x: Tensor):
        super().__init__()
        flat = x.flatten(0, -2)
        # buffers, not weights: nothing of it is learnt
        self.register_buffer("mean", flat.mean(0))
        spread = flat.std(0)
        # a channel that never changes stays at zero, and is not divided by it
        self.register_buffer("spread", spread.where(spread > 0, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.spread


class Adapters(nn.Module):
    """One a stream: tokens in, visual tokens [B,L,S,D] and audio tokens [B,A,D] out."""

    def __init__(self, visual: nn.Module, audio: nn.Module):
        super().__init__()
        self.visual, self.audio = visual, audio

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        return self.visual(tokens.visual), self.audio(tokens.audio)


def middle(tokens: Tokens) -> Tensor:
    """[B,2D]: the mean token of each stream of a clip."""
    return torch.cat([stream.flatten(1, -2).mean(1) for stream in (tokens.visual, tokens.audio)], 1)


class Growing(nn.Module):
    """Adapters of T tasks: of what they give the mean; or, with a gate, for each clip what those of the task give whose
    ``means`` [T,2D] of `middle` are nearest to the clip's.

    Source of gates: Aljundi et al., CVPR 2017, arXiv 1611.06194. Deviation: a mean tells a task, not an auto-encoder.
    """

    means: Tensor | None

    def __init__(self, parts: list[nn.Module], means: Tensor | None):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.register_buffer("means", means)

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        visual, audio = (torch.stack(stream) for stream in zip(*(part(tokens) for part in self.parts), strict=True))
        if self.means is None:
            return visual.mean(0), audio.mean(0)
        nearest = torch.cdist(middle(tokens), self.means).argmin(1)
        clips = torch.arange(len(nearest), device=nearest.device)
        return visual[nearest, clips], audio[nearest, clips]


def raw(encoder: Mini, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens as they were before the encoder standardised them."""
    return (
        visual * encoder.visual_std + encoder.visual_mean,
        audio * encoder.audio_std + encoder.audio_mean,
    )


def objective(encoder: Mini, adapters: nn.Module, tokens: Tokens, old: nn.Module | None, distillation: float) -> Tensor:
    """`frame_matching` of adapted tokens, which asks to which clip, and to which moment of it, a sound belongs; where
    there are ``old`` adapters, with feature distillation: ``distillation`` times the mean square, of both streams, of
    what tokens changed since."""
    streams = adapters(tokens)
    # cosines, which the prior was taught by, are of tokens that are not standardised
    visual, audio = raw(encoder, *streams)
    # all moments count alike: how loud they are is not stored
    loss = frame_matching(encoder, visual, audio, tokens.similarity.new_ones(tokens.similarity.shape[:2]))
    if old is not None:
        # what the old adapters give is a target, and they learn nothing from it
        with torch.no_grad():
            before = old(tokens)
        loss = loss + distillation * sum(F.mse_loss(now, then) for now, then in zip(streams, before, strict=True))
    return loss


def fit(
    encoder: Mini, adapters: nn.Module, source: TokenSource, rows: Tensor, settings: Adapting,
    generator: torch.Generator, old: nn.Module | None = None,
) -> None:  # fmt: skip
    """Learn adapters in place from the clips at ``rows``."""
    # of the adapters alone: the encoder's own are frozen where they are loaded
    optimiser = torch.optim.AdamW(adapters.parameters(), settings.learning_rate)
    device = encoder.log_scale.device
    for _ in range(settings.epochs):
        # drawn on the CPU from a generator of its own, so that batches are the same on every device
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(settings.batch):
            tokens = Tokens(*source.clips(batch)).to(device)
            loss = objective(encoder, adapters, tokens, old, settings.distillation)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


@torch.no_grad()
def adapted(encoder: Mini, adapters: nn.Module, source: TokenSource) -> Tokens:
    """All clips through the adapters, with the similarity of what they become."""
    device, parts = encoder.log_scale.device, []
    for rows in torch.arange(source.shape[0]).split(AT_ONCE):
        tokens = Tokens(*source.clips(rows)).to(device)
        visual, audio = adapters(tokens)
        # not the stored similarity, which is of tokens as they were: what guides is adapted with them
        parts.append(Tokens(visual, audio, encoder.similarity(*raw(encoder, visual, audio))).to("cpu"))
    return Tokens(*map(torch.cat, zip(*parts, strict=True)))


def by_task(
    way: str, encoder: Mini, data: Dataset, around: TokenSource, bounds: list[int], settings: Adapting, seed: int
) -> Iterator[nn.Module]:
    """The adapters of each task, as it is learnt, in one of `WAYS`; ``bounds``: the classes seen before each task, and
    in the end.

    ``around``: clips of other classes under the same shift, which `before` learns from ahead of the first task; `all`
    learns from the clips of all tasks at once, of which those to come are not there yet: it is a bound. Source of
    `first`: Panos et al., ICCV 2023, arXiv 2303.13199.
    """
    # batches are drawn from this one, weights from torch's own, which `run_task` seeds anew in every task
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)

    def fresh() -> Adapters:
        sizes = data.tokens.channels
        return Adapters(*(Adapter(channels, settings.rank).to(encoder.log_scale.device) for channels in sizes))

    def learnt(source: TokenSource, rows: Tensor, old: nn.Module | None = None) -> nn.Module:
        adapters = fresh()
        fit(encoder, adapters, source, rows, settings, generator, old)
        return adapters

    def at(rows: Tensor) -> Tokens:
        return Tokens(*data.tokens.clips(rows)).to(encoder.log_scale.device)

    # labels say which clips come with which task, and nothing else
    parts = [data.rows("train", first, last) for first, last in pairwise(bounds)]
    # these change nothing, and `frozen` keeps them
    current: nn.Module = Adapters(nn.Identity(), nn.Identity())
    every: list[nn.Module] = []
    means, (kind, _, held) = [], way.partition("_")
    if way == "moments":
        first = at(parts[0])
        current = Adapters(Moments(first.visual), Moments(first.audio))
    elif way == "first":
        current = learnt(data.tokens, parts[0])
    elif way == "before":
        current = learnt(around, torch.arange(around.shape[0]))
    elif way == "all":
        current = learnt(data.tokens, torch.cat(parts))
    for task, rows in enumerate(parts):
        if way in ("continued", "distilled"):
            # a copy goes on: the one that was handed out, and that it is held to, stays as it was
            old, current = current, copy.deepcopy(current) if task else fresh()
            # in the first task there is nothing learnt to be held to
            fit(encoder, current, data.tokens, rows, settings, generator, old if task and way == "distilled" else None)
        elif kind in ("merged", "gated"):
            # begun anew in every task, where `continued` goes on from the one before
            every.append(learnt(data.tokens, rows, every[0] if held and task else None))
            # of tokens as they are without adapters, so that no later task moves it
            means.append(middle(at(rows)).mean(0))
            current = Growing(every, torch.stack(means) if kind == "gated" else None)
        yield current


# ---- what rows make of them


def place_of(shift: str, settings: Adapting, folder: Path) -> Path:
    """Where the worlds of a shift are drawn, named by what makes them differ."""
    # strengths as well as code, or clips of another strength would be taken for these
    made = json.dumps(settings.shifts[shift]).encode() + code_of(MEASURING)
    return folder / f"{shift}-{digest(made)[:12]}"


def drawn(world: int, shift: str, settings: Adapting, params: Params, folder: Path) -> tuple[worlds.Place, Path]:
    """A world under a shift, drawn below ``folder`` unless it is there; and the store of clips of other classes."""
    sample_rate = params.film.sample_rate

    def of(number: int, clips: dict[str, int]) -> worlds.Place:
        few = params.turned({}, clips)
        # noise is drawn by the seed of the clips, so that each world has its own
        seed = worlds.seeded(number, few).corpus.seed
        # a partial of a module's function, for processes that render get it pickled
        change = partial(shifted, settings.shifts[shift], sample_rate, seed)
        return worlds.drawn(number, place_of(shift, settings, folder), few, ("mini",), change=change)

    place = of(world, settings.clips_per_class)
    # seen and heard by the same prior; a manifest has a test clip of each class, which is one like any other here
    around = of(world + 1000 * len(params.prior.seeds), {"train": settings.surroundings - 1, "val": 0, "test": 1})
    return place, around.stores / "mini"


def jobs(settings: Adapting, params: Params, folder: Path) -> tuple[list[Job], dict[tuple[str, int], Path]]:
    """Every row in every way, named (row, shift, way), and the stores of clips of other classes by shift and world."""
    asked, around = [], {}
    for shift in settings.shifts:
        for world in settings.worlds:
            place, around[shift, world] = drawn(world, shift, settings, params, folder / "worlds")
            source = study.source_of(place, world, folder)
            asked += [
                Job((row, shift, way), source, params.method(row), params.training, params.tasks, world,
                    file=folder / f"{row}-{shift}-{way}-{world}.json", device=params.compute.device)
                for row, ways in settings.rows.items()
                for way in ways
            ]  # fmt: skip
    return asked, around


def learn(job: Job, settings: Adapting, params: Params, around: dict[tuple[str, int], Path]) -> Done:
    """Do one job, unless its file stands there already, made from the same code, clips and choices."""
    data, (_, shift, way) = sweep.datasets(job.source)[job.seed], job.name

    def measure() -> dict:
        encoder, _ = load_prior(released(worlds.prior_of(job.seed, params), PRIORS), params.encoder)
        elsewhere = read_store(around[shift, job.seed]).tokens
        # the first class of each task, and at the end the number of classes
        bounds = [0, *accumulate(task.classes for task in job.tasks)]
        ways = by_task(way, encoder.to(named(job.device)), data, elsewhere, bounds, settings, job.seed)
        checkpoint, before = EMPTY, None
        for task, adapters in enumerate(ways):
            # ways that learn once hand out the same adapters in every task, and all clips have been through them
            if adapters is not before:
                tokens, before = adapted(encoder, adapters, data.tokens), adapters
            # exemplars are kept by name, so their tokens are as they are now, while sums stay of tokens as they were
            checkpoint, result, _ = run_task(
                data._replace(tokens=tokens), job.method, job.training, job.tasks, task, job.seed, checkpoint,
                device=job.device,
            )  # fmt: skip
        return study.last(result)

    # these three are in the job's name and in the place of its world: a longer list learns nothing again
    how = settings.model_dump(exclude={"worlds", "shifts", "rows"})
    return study.once(job, data, measure, *MEASURING, adapted=how)


def run(settings: Adapting, params: Params, folder: Path) -> dict[str, pd.DataFrame]:
    """Draw and learn what is not there yet; `beyond_adapting`, a line a row, shift, way and world: last_accuracy, and
    hit, the share of clips on which attention peaks on what sounds."""
    asked, around = jobs(settings, params, folder)
    study.run(partial(learn, settings=settings, params=params, around=around), asked, params)
    return {"beyond_adapting": study.table(asked, ("row", "shift", "way")).drop(columns="split")}
