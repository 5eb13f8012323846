"""Read-out of MMAL: ridge on fused features, and on what it leaves over for each modality. As `readout: mmal`.

Dimension letters: ``N`` clips, ``E`` feature channels, ``M`` random features, ``C`` classes seen so far.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from avcil.learn.attention import Features
from avcil.learn.heads import ridge_solution
from avcil.learn.methods.ranpac import RandomHead, RandomOptions, random_relu


class Options(RandomOptions):
    expansion: int = Field(1000, gt=0, description="M of each modality")
    # ahead of 1 on validation clips of pooled tokens; guided rows say 1, which was ahead there (LOG.md)
    penalty: float = Field(10.0, gt=0, description="γ")


class Mmal(RandomHead):
    """Ridge on fused random features, and for either modality ridge on what the fused prediction leaves over.

    With x_m = ReLU(B_mᵀ z_m) [M] of m = visual, audio, fused, and one-hot y, over all clips ever seen:

        W_f = (Σ x_f x_fᵀ + γI)⁻¹ Σ x_f yᵀ
        W_m = (Σ x_m x_mᵀ + γI)⁻¹ Σ x_m (y − W_fᵀ x_f)ᵀ     m = visual, audio
        score = W_fᵀ x_f + ½ W_visualᵀ x_visual + ½ W_audioᵀ x_audio

    What is left over of old clips changes whenever W_f does, and yet needs no old clip: with Q_m = Σ x_m yᵀ and
    C_m = Σ x_m x_fᵀ the last sum is Q_m − C_m W_f. So this is exactly the solution on all clips at once, in any order.
    State: Σ x_m x_mᵀ, Q_m and C_m: 5 matrices [M,M] and 3 [M,C]; and the seed of the B_m.
    Source: Yue et al., MMAL, ACM MM 2024, doi 10.1145/3664647.3681607, whose abstract gives a fusion module "through a
    Recursive Least-Square perspective" and a compensation "harnessing individual knowledge from audio and visual
    modality in tandem" against under-fitting. Deviation: only the abstract could be read, so the equations are ours. A
    second ridge on what is left over follows the compensation stream of Zhuang et al., DS-AL, AAAI 2024, arXiv
    2403.17503, which however takes what W_f left over at the time of each task, and zero for old classes; the buffers
    are those of ACIL. One γ for all, and a half of each modality, as both fit the same leftover, are ours too.
    """

    def __init__(self, size: int, penalty: float, state: dict[str, Tensor] | None = None, draw: int | None = None):
        super().__init__(state)
        self.size = size
        self.penalty = penalty
        self.draw = draw

    def expand(self, features: Features) -> Features:
        """x of each modality [N,M]."""
        generator = self.generator()
        # one buffer after the other, the sound's first: sums of older runs are over these
        audio, visual, fused = (
            # the variance of ACIL's buffer, 1/(3E)
            random_relu(z, self.size, generator) / (3 * z.shape[1]) ** 0.5
            for z in (features.audio, features.visual, features.fused)
        )
        return Features(visual, audio, fused)

    def _sums(self, features: Features, labels: Tensor, classes: int) -> dict[str, Tensor]:
        expanded, y = self.expand(features), F.one_hot(labels, classes).double()
        sums: dict[str, Tensor] = {}
        for name, x in expanded._asdict().items():
            sums |= {f"{name}_gram": x.T @ x, f"{name}_cross": x.T @ y}
        # C_m: by it W_f may change although its clips are gone
        for name in ("visual", "audio"):
            sums[f"{name}_fused"] = getattr(expanded, name).T @ expanded.fused
        return sums

    def _solve(self) -> tuple[Tensor, ...]:
        """½ W_visual, ½ W_audio and W_f."""
        fused = ridge_solution(self.state["fused_gram"], self.state["fused_cross"], self.penalty)
        parts = []
        for name in ("visual", "audio"):
            # Q_m − C_m W_f, with the W_f of now: also what it leaves over of old clips
            leftover = self.state[f"{name}_cross"] - self.state[f"{name}_fused"] @ fused
            parts.append(0.5 * ridge_solution(self.state[f"{name}_gram"], leftover, self.penalty))
        # in the order of `Features`, which `logits` goes through beside it
        return (*parts, fused)

    def logits(self, features: Features) -> Tensor:
        visual, audio, fused = (x @ w for x, w in zip(self.expand(features), self.solution, strict=True))
        return (visual + audio + fused).float()


def build(options: Options, state: dict[str, Tensor]) -> Mmal:
    return Mmal(options.expansion, options.penalty, state, options.draw)
