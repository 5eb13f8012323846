"""Read-out of FeCAM: nearest class in its own correlation's metric. As `readout: fecam`.

Dimension letters: ``N`` clips, ``E`` feature channels, ``C`` classes seen so far.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from avcil.learn.attention import Features
from avcil.learn.heads import Head
from avcil.params.section import Section


class Options(Section):
    power: float = Field(0.5, gt=0)
    shrinkage: float = Field(10.0, gt=0, description="γ")


class FeCam(Head):
    """Nearest class in the Mahalanobis distance of each class's own correlation matrix.

    score_c = −dᵀ K_c⁻¹ d,   d = t(z)/‖t(z)‖ − t(μ_c)/‖t(μ_c)‖,   t(z) = z^power by channel (Tukey's ladder)
    S_c = Σ_c + γ V₁ I + γ V₂ (11ᵀ − I),   K_c = S_c scaled to a unit diagonal

    with μ_c the mean of z, Σ_c the covariance of t(z), V₁ the mean of its diagonal, V₂ of the rest. S_c is positive
    definite except in corner cases, also with fewer clips than channels.
    State: n [C], Σ z [C,E], Σ t [C,E], Σ ttᵀ [C,E,E]: 8 C E² bytes.
    Source: Goswami et al., FeCAM, NeurIPS 2023, arXiv 2309.14062, and its authors' code. Deviation: signed features
    have sign(z)|z|^power, the original's are non-negative; it shrinks twice, which is once with (1 + γ)² − 1 for γ; its
    V₂ leaves out exact zeros; it falls back on Euclidean distance in the first task; a class of one clip, which has no
    covariance there, has K_c = I.
    """

    def __init__(self, power: float, shrinkage: float, state: dict[str, Tensor] | None = None):
        super().__init__(state)
        self.power = power
        self.shrinkage = shrinkage

    def _tukey(self, z: Tensor) -> Tensor:
        return z.sign() * z.abs() ** self.power

    def _sums(self, features: Features, labels: Tensor, classes: int) -> dict[str, Tensor]:
        z, y = features.fused.double(), F.one_hot(labels, classes).double()
        t = self._tukey(z)
        grams = torch.stack([t[labels == c].T @ t[labels == c] for c in range(classes)])
        return {"counts": y.sum(0), "sums": y.T @ z, "tukey_sums": y.T @ t, "tukey_grams": grams}

    def _solve(self) -> tuple[Tensor, ...]:
        counts = self.state["counts"].clamp(min=1)
        prototypes = F.normalize(self._tukey(self.state["sums"] / counts[:, None]), dim=1)
        moments = zip(counts, self.state["tukey_sums"], self.state["tukey_grams"], strict=True)
        return prototypes, torch.stack([torch.cholesky_inverse(self._factor(*moment)) for moment in moments])

    def _factor(self, count: Tensor, total: Tensor, gram: Tensor) -> Tensor:
        """Cholesky factor of K_c [E,E]."""
        # n Σ_c, for K_c does not change when Σ_c is scaled
        scatter = gram - total.outer(total) / count
        channels, eye = len(gram), torch.eye(len(gram), dtype=gram.dtype)
        diagonal = scatter.diagonal().mean()
        rest = (scatter.sum() - scatter.diagonal().sum()) / max(channels * (channels - 1), 1)
        # above rounding errors and far below any variance: only clips that do not vary at all notice
        floor = 1e-10 * (1 + gram.diagonal().mean())
        shrunk = scatter + (self.shrinkage * diagonal + floor) * eye + self.shrinkage * rest * (1 - eye)
        scale = shrunk.diagonal().rsqrt()
        return torch.linalg.cholesky(scale[:, None] * shrunk * scale)

    def logits(self, features: Features) -> Tensor:
        unit = F.normalize(self._tukey(features.fused.double()), dim=1)
        differences = ((unit - prototype, inverse) for prototype, inverse in zip(*self.solution, strict=True))
        return torch.stack([-((d @ inverse) * d).sum(1) for d, inverse in differences], 1).float()


def build(options: Options, state: dict[str, Tensor]) -> FeCam:
    return FeCam(options.power, options.shrinkage, state)
