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

BOUND = 1 << 32  # bytes of covariances; while they are added to there are four of them


class Options(Section):
    power: float = Field(0.5, gt=0)
    shrinkage: float = Field(10.0, gt=0, description="γ")
    shared: bool = Field(False, description="one covariance for all classes")


class FeCam(Head):
    """Nearest class in the Mahalanobis distance of each class's own correlation matrix.

    score_c = −dᵀ K_c⁻¹ d,   d = t(z)/‖t(z)‖ − t(μ_c)/‖t(μ_c)‖,   t(z) = z^power by channel (Tukey's ladder)
    S_c = Σ_c + γ V₁ I + γ V₂ (11ᵀ − I),   K_c = S_c scaled to a unit diagonal

    with μ_c the mean of z, Σ_c the covariance of t(z), V₁ the mean of its diagonal, V₂ of the rest. S_c is positive
    definite except in corner cases, also with fewer clips than channels.
    With ``shared``, S is made of the covariance within classes, Σ = Σ_c n_c Σ_c / Σ_c n_c, and K is one for all.
    State: n [C], Σ z [C,E], Σ t [C,E], Σ ttᵀ [C,E,E]: 8 C E² bytes, 10 GB for 309 classes of 2,048 channels; shared,
    [E,E]: 8 E² bytes. ValueError where it would be more than ``BOUND``.
    Source: Goswami et al., FeCAM, NeurIPS 2023, arXiv 2309.14062, and its authors' code. Deviation: signed features
    have sign(z)|z|^power, the original's are non-negative; it shrinks twice, which is once with (1 + γ)² − 1 for γ; its
    V₂ leaves out exact zeros; it falls back on Euclidean distance in the first task; a class of one clip, which has no
    covariance there, has K_c = I. For pre-trained transformers its scripts take z of unit length and no power, and
    shrink once. ``shared`` is pooled as in linear discriminant analysis, where that code averages the tasks'
    covariances, each of all clips of its task, whatever their class, and scales none to a unit diagonal.
    """

    def __init__(self, power: float, shrinkage: float, state: dict[str, Tensor] | None = None, *, shared: bool = False):
        super().__init__(state)
        self.power = power
        self.shrinkage = shrinkage
        self.shared = shared

    def _tukey(self, z: Tensor) -> Tensor:
        # a root of a negative number would be NaN
        return z.sign() * z.abs() ** self.power

    def check(self, channels: int, classes: int) -> None:
        size = 8 * channels**2 * (1 if self.shared else classes)
        if size > BOUND:
            way_out = "fewer channels" if self.shared else "readout_options: {shared: true}, one for all classes,"
            raise ValueError(
                f"fecam: covariances of {classes} classes in {channels} channels are {size / 1e9:.1f} GB, more than "
                f"{BOUND / 1e9:.1f}; use {way_out} or another read-out"
            )

    def update(self, features: Features, labels: Tensor, classes: int) -> None:
        # before the sums are made: they are what would not fit
        self.check(features.fused.shape[1], classes)
        super().update(features, labels, classes)

    def _sums(self, features: Features, labels: Tensor, classes: int) -> dict[str, Tensor]:
        z, y = features.fused.double(), F.one_hot(labels, classes).double()
        t = self._tukey(z)
        grams = t.T @ t if self.shared else torch.stack([t[labels == c].T @ t[labels == c] for c in range(classes)])
        return {"counts": y.sum(0), "sums": y.T @ z, "tukey_sums": y.T @ t, "tukey_grams": grams}

    def _solve(self) -> tuple[Tensor, ...]:
        # a class that is known without a clip so far has zeros, not NaN
        counts = self.state["counts"].clamp(min=1)
        # of the mean of z, not the mean of t: a prototype climbs the ladder as a clip does
        prototypes = F.normalize(self._tukey(self.state["sums"] / counts[:, None]), dim=1)
        totals, grams = self.state["tukey_sums"], self.state["tukey_grams"]
        # n Σ_c, for K_c does not change when Σ_c is scaled
        if self.shared:
            scatter = grams - totals.T @ (totals / counts[:, None])
            # the one inverse stands there once a class, so that `logits` need not tell the two apart
            return prototypes, *[self._inverse(scatter, grams)] * len(counts)
        moments = zip(counts, totals, grams, strict=True)
        return prototypes, *(self._inverse(gram - total.outer(total) / n, gram) for n, total, gram in moments)

    def _inverse(self, scatter: Tensor, gram: Tensor) -> Tensor:
        """K_c⁻¹ [E,E]."""
        channels, eye = len(gram), torch.eye(len(gram), dtype=gram.dtype)
        diagonal = scatter.diagonal().mean()
        # a single channel has no rest: 0 / 1, not 0 / 0
        rest = (scatter.sum() - scatter.diagonal().sum()) / max(channels * (channels - 1), 1)
        # above rounding errors and far below any variance: only clips that do not vary at all notice
        floor = 1e-10 * (1 + gram.diagonal().mean())
        shrunk = scatter + (self.shrinkage * diagonal + floor) * eye + self.shrinkage * rest * (1 - eye)
        # to a unit diagonal: distances of classes are compared, and one that varies more would have smaller ones
        scale = shrunk.diagonal().rsqrt()
        return torch.cholesky_inverse(torch.linalg.cholesky(scale[:, None] * shrunk * scale)).contiguous()

    def logits(self, features: Features) -> Tensor:
        unit = F.normalize(self._tukey(features.fused.double()), dim=1)
        prototypes, *inverses = self.solution
        differences = ((unit - prototype, inverse) for prototype, inverse in zip(prototypes, inverses, strict=True))
        # class by class: all differences at once would be [C,N,E]
        return torch.stack([-((d @ inverse) * d).sum(1) for d, inverse in differences], 1).float()


def build(options: Options, state: dict[str, Tensor]) -> FeCam:
    return FeCam(options.power, options.shrinkage, state, shared=options.shared)
