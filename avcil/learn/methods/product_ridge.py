"""Read-out: `ScaledRidge` on sound, picture, and random products of both. As `readout: product_ridge`.

Dimension letters: ``N`` clips, ``A`` and ``V`` audio and visual channels, ``M`` products, ``E`` = A + V + M + 1, ``C``
classes seen so far.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from avcil.learn.attention import Features
from avcil.learn.methods.ranpac import RandomHead, RandomOptions
from avcil.learn.methods.scaled_ridge import ScaledRidge


class Options(RandomOptions):
    # both chosen on validation clips of three sets (LOG.md)
    products: int = Field(1000, gt=0, description="M")
    variance: float = Field(0.1, gt=0, description="of all products together, where each stream has 1")


class Solution(NamedTuple):
    """weight [E,C] for streams as they come; the head of centred products; ``linear`` [M,A+V], what p̃ is less than p,
    but for a constant, by sound and picture."""

    weight: Tensor
    centred: ScaledRidge
    linear: Tensor


class ProductRidge(RandomHead, ScaledRidge):
    """Ridge regression onto one-hot labels over what is heard, what is seen, and which goes with which; exact after
    every task without any old clip, in any order of clips and tasks.

        x = [â, v̂, p̃],   p̃_m = (P_mᵀ(â − ā)) (Q_mᵀ(v̂ − v̄))

    hats meaning unit length, P [A,M] and Q [V,M] standard normal; scales and λ as in `ScaledRidge`, but the products of
    a smaller ``variance``: with one λ for all, they add where the streams leave something to explain and cost nothing
    where they do not (LOG.md). No factor on a stream changes a prediction. Products of streams far from zero would be
    little more than these streams again; the means ā and v̄ are those of all clips so far, and sums of the centred
    products follow from those of p_m = (P_mᵀâ)(Q_mᵀv̂), since

        p̃_m = p_m − (Q_mᵀv̄) P_mᵀâ − (P_mᵀā) Q_mᵀv̂ + const.

    State: Σ xxᵀ and Σ xyᵀ of [â, v̂, p, 1], the streams' widths, and the seed of P and Q. Solving takes O(E³).
    Source: ours; products of random projections of two streams estimate the product of their kernels (Kar & Karnick,
    Random feature maps for dot product kernels, AISTATS 2012).
    """

    def __init__(self, products: int, variance: float, state: dict[str, Tensor] | None = None, draw: int | None = None):
        super().__init__(state)
        self.products, self.variances = products, (1.0, 1.0, variance)
        self.draw = draw
        self._drawn: tuple[Tensor, ...] = ()

    def _projections(self, audio: int, visual: int) -> tuple[Tensor, ...]:
        """P and Q, for streams of so many channels; at each call the same ones."""
        # kept, though never stored: numbers drawn at each call could not be traced by torch.export
        if not self._drawn:
            generator = self.generator()
            shapes = ((audio, self.products), (visual, self.products))
            self._drawn = tuple(torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
        return self._drawn

    def streams(self, features: Features) -> tuple[Tensor, ...]:
        """â, v̂ and p."""
        # else a clip's products would grow with the length of either stream, whatever goes with what
        audio, visual = (F.normalize(stream.double(), dim=1) for stream in (features.audio, features.visual))
        first, second = self._projections(audio.shape[1], visual.shape[1])
        return audio, visual, (audio @ first) * (visual @ second)

    def without_products(self) -> ScaledRidge:
        """Of the same sums, those of sound and picture alone."""
        # and the 1, which comes last
        streams = [*range(int(self.state["channels"][:2].sum())), -1]
        gram, cross = self.state["gram"][streams][:, streams], self.state["cross"][streams]
        return ScaledRidge({"gram": gram, "cross": cross, "channels": self.state["channels"][:2]})

    def _solve(self) -> Any:
        sizes = self.state["channels"].tolist()
        streams, products = slice(0, sizes[0] + sizes[1]), slice(sizes[0] + sizes[1], sum(sizes))
        # copies, for products are centred in place, and the state is of products as they came
        gram, cross = self.state["gram"].clone(), self.state["cross"].clone()
        # ā and v̄ of all clips so far: the row of the 1 holds sums, its last number their count
        audio, visual = (gram[-1, streams] / gram[-1, -1]).split(sizes[:2])
        first, second = self._projections(*sizes[:2])
        # p̃ = p − linear [â, v̂], and so are the sums; constants go when `ScaledRidge` centres
        linear = torch.cat([(visual @ second) * first, (audio @ first) * second]).T
        # T G Tᵀ: first its rows, and then columns of what rows have become, of which all but the products' are known
        gram[products] -= linear @ gram[streams]
        gram[products, products] -= gram[products, streams] @ linear.T
        gram[streams, products], gram[-1, products] = gram[products, streams].T, gram[products, -1]
        cross[products] -= linear @ cross[streams]
        centred = ScaledRidge({"gram": gram, "cross": cross, "channels": self.state["channels"]})
        centred.variances = self.variances
        # a copy: the solution of `centred` stays its own
        weight = centred.solution.weight.clone()
        # back to the regressors as they come
        weight[streams] -= linear.T @ weight[products]
        return Solution(weight, centred, linear)

    def leverage(self, features: Features) -> Tensor:
        _, centred, linear = self.solution
        x = self.expand(features)
        # `expand` has just made x, so that it may be written over
        x[:, linear.shape[1] : -1] -= x[:, : linear.shape[1]] @ linear.T
        return centred._leverage(x)


def build(options: Options, state: dict[str, Tensor]) -> ProductRidge:
    return ProductRidge(options.products, options.variance, state, options.draw)
