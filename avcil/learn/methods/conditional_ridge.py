"""Read-out for clips of which some lack a sense: a closed form for each combination of streams, from the clips that
have them. As `readout: conditional_ridge`, over `fusion: frozen_sources`.

Dimension letters: ``N`` clips, ``E`` regressors, ``C`` classes seen so far.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from avcil.learn.attention import Features
from avcil.learn.heads import Head
from avcil.learn.methods import chosen_ridge
from avcil.learn.methods.chosen_ridge import ChosenRidge
from avcil.learn.methods.frozen_sources import SOURCES, Source
from avcil.learn.methods.scaled_ridge import ScaledRidge

COMBINATIONS = {"both": ("audio", "visual"), "audio": ("audio",), "visual": ("visual",)}


class Options(chosen_ridge.Options):
    # synchrony would want its hook, which knows `chosen_ridge` alone
    sources: list[Source] = Field(["similarity", "none"], min_length=1, description="of clips that have both")


class StreamRidge(ScaledRidge):
    """`ScaledRidge` on one stream, of unit length as in `ProductRidge`."""

    def __init__(self, stream: str, state: dict[str, Tensor] | None = None):
        super().__init__(state)
        self.stream = stream

    def streams(self, features: Features) -> tuple[Tensor, ...]:
        # of one stream `ScaledRidge` centres and scales that one, and chooses a λ for it alone
        return (F.normalize(getattr(features, self.stream).double(), dim=1),)


def presence(features: Features) -> dict[str, Tensor]:
    """Which clips have a sound and which a picture, [N] each: of an absent stream all tokens are zero."""
    return {stream: getattr(features, stream).ne(0).any(1) for stream in ("audio", "visual")}


class ConditionalRidge(Head):
    """E[y | the streams S that are there], for S both, the sound alone, the picture alone:

        W_S = (X_SᵀX_S + λ_S I)⁻¹ X_SᵀY,   over the clips that have all of S

    with X_S the regressors of S: for both those of `ChosenRidge`, which a clip that has both is answered by; for one,
    its stream alone (`StreamRidge`), learnt from clips with both as well. The picture alone is the unguided one, for
    without its sound nothing guides it. So a clip that lacks a sense is learnt from, and costs those with both nothing.
    Where no clip with both was learnt, one is given the mean of the scores of its streams; where nothing that a clip
    has was learnt, it scores zero. As exact, and as independent of how clips are cut into tasks, as its parts; no old
    clip is needed.
    State: theirs, by combination.
    Source: ours; sums over the cases that have what is asked for are those of complete-case regression (Little & Rubin,
    Statistical Analysis with Missing Data, 2019, chapter 3), taken anew for each pattern.
    """

    def __init__(self, options: Options, state: dict[str, Tensor] | None = None):
        super().__init__(state)
        self.options = options
        self._parts = {name: self._part(name) for name in COMBINATIONS}

    def _part(self, name: str) -> ChosenRidge | StreamRidge:
        state = {key[len(name) + 1 :]: value for key, value in self.state.items() if key.startswith(f"{name}.")}
        return ChosenRidge(self.options, state) if name == "both" else StreamRidge(name, state)

    def begin(self, seed: int) -> None:
        self._parts["both"].begin(seed)
        self.state = self._states()

    def _states(self) -> dict[str, Tensor]:
        return {f"{name}.{key}": value for name, part in self._parts.items() for key, value in part.state.items()}

    def _with(self, name: str, features: Features) -> tuple[Tensor, Features]:
        """Which clips have the streams of a combination, [N], and the features that its part reads."""
        there = presence(features)
        # not these streams alone: a clip with both teaches each of its streams, too
        rows = torch.stack([there[stream] for stream in COMBINATIONS[name]]).all(0)
        # without a sound all sources show this picture; of a clip with both it has to be asked for
        if name == "visual":
            features = features._replace(visual=features.visual.chunk(len(SOURCES), 1)[SOURCES.index("none")])
        return rows, features.at(rows)

    def update(self, features: Features, labels: Tensor, classes: int) -> None:
        for name, part in self._parts.items():
            rows, mine = self._with(name, features)
            # one that has learnt is updated by no clip as well: new classes are columns of every part
            if rows.any() or _has_learnt(part):  # of no clip ever there is nothing to solve
                part.update(mine, labels[rows], classes)
        if not any(map(_has_learnt, self._parts.values())):
            raise ValueError("no clip has a sound or a picture; give one that has")
        self.state = self._states()

    def logits(self, features: Features) -> Tensor:
        there, scores = presence(features), {}
        # every part that has learnt knows all classes, so any tells how many
        classes = next(value.shape[-1] for key, value in self.state.items() if key.endswith(".cross"))
        for name, part in self._parts.items():
            if _has_learnt(part):
                rows, mine = self._with(name, features)
                scores[name] = features.audio.new_zeros(len(rows), classes, dtype=torch.float32)
                # even of an absent stream a part would say something, so it is asked about its own rows alone
                scores[name][rows] = part.logits(mine)
        alone = [scores[stream] for stream in ("audio", "visual") if stream in scores]
        both = there["audio"] & there["visual"]
        # of a clip with one stream, the other's part scores zero
        # so a sum is the one score there is, and of clips with both it is divided by how many there are
        some = torch.stack(alone).sum(0) / (1 + both[:, None] * (len(alone) - 1))
        return torch.where(both[:, None], scores["both"], some) if "both" in scores else some


FUSION = "frozen_sources"  # as of `chosen_ridge`
KNOWS_ABSENCE = True


def _has_learnt(part: Head) -> bool:
    # in front of the first clip it may know its draw already
    return "cross" in part.state


def build(options: Options, state: dict[str, Tensor]) -> ConditionalRidge:
    return ConditionalRidge(options, state)
