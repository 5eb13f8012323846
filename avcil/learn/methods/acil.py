"""Read-out of ACIL: ridge regression on a random buffer, as a sum over clips. As `readout: acil`.

Dimension letters: ``N`` clips, ``E`` feature channels, ``M`` random features, ``C`` classes seen so far.
"""

from pydantic import Field
from torch import Tensor

from avcil.learn.attention import Features
from avcil.learn.methods.ranpac import RandomOptions, RanPac


class Options(RandomOptions):
    expansion: int = Field(2000, gt=0, description="M")
    penalty: float = Field(10.0, gt=0, description="γ")


class Acil(RanPac):
    """Analytic class-incremental learning: ridge of fixed γ on a random buffer, x = ReLU(Bᵀz), B [E,M].

    Published as a recursion over tasks with features X [N,M] and labels Y [N,C]:

        R ← R − R Xᵀ (I + X R Xᵀ)⁻¹ X R,   W ← W + R Xᵀ (Y − X W),   R = I/γ at first

    By Woodbury R = (G + γI)⁻¹ and W = R Q, so the sums of `RanPac` say the same without accumulating rounding errors:
    `Acil` is `RanPac` with B = P/√(3E), that is with λ = 3Eγ. B has the variance, 1/(3E), of its authors' code.
    Source: Zhuang et al., ACIL, NeurIPS 2022, arXiv 2205.14922; the recursion is Eqs. 9 and 10 in the form of its
    authors' code. Deviation: B is Gaussian where that code draws uniformly; the backbone is not trained on task 0.
    """

    def expand(self, features: Features) -> Tensor:
        # after the ReLU is as good as in front of it: ReLU(cx) = c ReLU(x) for c > 0
        return super().expand(features) / (3 * features.fused.shape[1]) ** 0.5


def build(options: Options, state: dict[str, Tensor]) -> Acil:
    # with a penalty that is given, `RanPac` chooses none
    return Acil(options.expansion, options.penalty, state, options.draw)
