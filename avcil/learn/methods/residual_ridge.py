"""Read-out: `ScaledRidge` on frozen streams and, beside them, learnt features, whose sums are carried along as they
drift. As `readout: residual_ridge`.

Dimension letters: ``N`` clips, ``E`` regressors, ``C`` classes seen so far.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from avcil.learn.attention import Features
from avcil.learn.heads import CarriedRidge
from avcil.learn.methods.scaled_ridge import ScaledRidge
from avcil.params.section import Section


class Options(Section):
    damping: float = Field(1.0, gt=0, description="μ")


class ResidualRidge(ScaledRidge, CarriedRidge):
    """Ridge regression onto one-hot labels over x = [â, v̂, ẑ, 1], hats meaning unit length. `ScaledRidge` centres and
    scales every stream and chooses λ; where z was learnt on, `CarriedRidge` carries the sums along.

    a and v are the audio and visual feature, z the fused one. Where nothing is learnt, as with `fusion: frozen_guided`,
    it is exact after every task without any old clip, in any order of clips and tasks; no factor on a stream changes a
    prediction. State: Σ xxᵀ and Σ xyᵀ, and the streams' widths.
    Source: their union is ours.
    """

    def __init__(self, damping: float, state: dict[str, Tensor] | None = None):
        # by name, for ScaledRidge's takes no damping; of the penalty, 0, nothing is read, since λ is chosen
        CarriedRidge.__init__(self, 0.0, damping, state)

    def streams(self, features: Features) -> tuple[Tensor, ...]:
        """â, v̂ and ẑ."""
        # the sound first, as heads are stored
        streams = (features.audio, features.visual, features.fused)
        return tuple(F.normalize(stream.double(), dim=1) for stream in streams)

    def carry(self, old: Features, new: Features) -> None:
        """As `CarriedRidge` does, by the equal A = I + X_oᵀ (X_o X_oᵀ + μI)⁻¹ (X_n − X_o): O(E²N), not O(E³)."""
        before, after = self.expand(old), self.expand(new)
        damped = before @ before.T + self.damping * torch.eye(len(before), dtype=before.dtype)
        # the right factor of A − I: its columns of streams that did not move are zero, so that A leaves these alone
        drift = torch.linalg.solve(damped, after - before)
        # G A, and below Aᵀ(G A): A itself is never made
        gram = self.state["gram"] + (self.state["gram"] @ before.T) @ drift
        carried = {"gram": gram + drift.T @ (before @ gram)}
        carried["cross"] = self.state["cross"] + drift.T @ (before @ self.state["cross"])
        # beside the streams' widths, which CarriedRidge's own form would drop
        self.state, self._solution = self.state | carried, None


def build(options: Options, state: dict[str, Tensor]) -> ResidualRidge:
    return ResidualRidge(options.damping, state)
