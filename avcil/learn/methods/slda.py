"""Read-out of Deep SLDA: streaming linear discriminant analysis. As `readout: slda`.

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
    shrinkage: float = Field(1e-3, gt=0, le=1, description="ε")


class Slda(Head):
    """Linear discriminant analysis with running class means μ_c and one shared covariance.

    score_c = zᵀΛμ_c − ½ μ_cᵀΛμ_c,   Λ = ((1 − ε)Σ + εI)⁻¹,   Σ = (Σ_i z_i z_iᵀ − Σ_c n_c μ_c μ_cᵀ) / N

    State: n [C], Σ_c z [C,E], Σ zzᵀ [E,E].
    Source: Hayes & Kanan, Deep SLDA, CVPR Workshops 2020, arXiv 1909.01520. Deviation: Σ is the pooled covariance
    within classes, exact in any order; published, each clip counts by its distance from its class's mean of that
    moment, Σ starts from an OAS estimate on the first clips, and ε = 10⁻⁴.
    """

    def __init__(self, shrinkage: float, state: dict[str, Tensor] | None = None):
        super().__init__(state)
        self.shrinkage = shrinkage

    def _sums(self, features: Features, labels: Tensor, classes: int) -> dict[str, Tensor]:
        x, y = features.fused.double(), F.one_hot(labels, classes).double()
        # sums, not the published running updates, which depend on the order of clips
        return {"counts": y.sum(0), "sums": y.T @ x, "gram": x.T @ x}

    def _solve(self) -> tuple[Tensor, ...]:
        counts, sums, gram = (self.state[name] for name in ("counts", "sums", "gram"))
        # a class that is known without a clip so far has a mean of zero, not NaN
        means = sums / counts.clamp(min=1)[:, None]
        # Σ_c n_c μ_c μ_cᵀ, since n_c μ_c is the sum
        covariance = (gram - sums.T @ means) / counts.sum()
        shrunk = (1 - self.shrinkage) * covariance + self.shrinkage * torch.eye(len(gram), dtype=gram.dtype)
        weight = torch.linalg.solve(shrunk, means.T)
        # without the log-prior that scikit-learn's has: frequent classes are not preferred
        return weight, -0.5 * (means.T * weight).sum(0)

    def logits(self, features: Features) -> Tensor:
        weight, bias = self.solution
        return (features.fused.double() @ weight + bias).float()


def build(options: Options, state: dict[str, Tensor]) -> Slda:
    return Slda(options.shrinkage, state)
