"""Read-out of RanPAC: ridge regression on random features. As `readout: ranpac`.

Dimension letters: ``N`` clips, ``E`` feature channels, ``M`` random features, ``C`` classes seen so far.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from avcil.learn.attention import Features
from avcil.learn.heads import Head, RecursiveRidge, ridge_solution
from avcil.params.section import Section


class RandomOptions(Section):
    """What every read-out with random features may be given."""

    draw: int | None = Field(None, ge=0, description="seed of the random features; left out, that of the run")


class Options(RandomOptions):
    expansion: int = Field(2000, gt=0, description="M")


def random_relu(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """ReLU(x P), features [N,E] to [N,M]; P [E,M] is standard normal."""
    # float64 throughout: in float32 sums lose digits that the solution hangs on
    projection = torch.randn(features.shape[1], size, generator=generator, dtype=torch.float64)
    return F.relu(features.double() @ projection)


class RandomHead(Head):
    """A head with random features. They are redrawn, not stored: of them the state has ``draw``, their seed."""

    draw: int | None = None
    """Of all runs the same features, whatever their seed."""

    def begin(self, seed: int) -> None:
        if self.draw is None:
            self.state = {"draw": torch.tensor(seed)}

    def generator(self) -> torch.Generator:
        """Of the random features; a new one that begins at the beginning."""
        # 0, of a head that no run began: the learner's (avcil/learner), and those of older checkpoints
        seed = int(self.state.get("draw", 0)) if self.draw is None else self.draw
        return torch.Generator().manual_seed(seed)


class RanPac(RandomHead, RecursiveRidge):
    """Ridge regression on random features: `RecursiveRidge` with x = ReLU(Pᵀz), P [E,M] standard normal.

    Without a ``penalty``, each task chooses λ for all clips so far: of 10⁻⁸, 10⁻⁷, …, 10⁸ the one with which ridge on
    four fifths of the task's own clips errs least, in mean square, on the last fifth. So λ, unlike G and Q, depends on
    how clips are cut into tasks; that is the published method. State: G, Q, the seed
    of P, and λ where it was chosen.
    Source: McDonnell et al., RanPAC, NeurIPS 2023, arXiv 2307.02251, and its authors' code. Deviation: features come
    from a frozen encoder without the first task's fine-tuning ("Phase 1"); rows have M = 2,000, the paper
    10,000; a task of one clip, which cannot be split, keeps the λ before it, at first 1.
    """

    def __init__(
        self,
        size: int,
        penalty: float | None = None,
        state: dict[str, Tensor] | None = None,
        draw: int | None = None,
    ):
        # 1: what a first task of one clip is solved with
        super().__init__(1.0 if penalty is None else penalty, state)
        self.chooses = penalty is None
        self.size = size
        self.draw = draw

    def expand(self, features: Features) -> Tensor:
        """x, the regressors [N,M]."""
        return random_relu(features.fused, self.size, self.generator())

    def update(self, features: Features, labels: Tensor, classes: int) -> None:
        super().update(features, labels, classes)
        if self.chooses:
            # a λ is no sum: the update has left the last one as it was, in a dictionary that is new
            before = self.state.get("penalty", torch.tensor(self.penalty, dtype=torch.float64))
            y = F.one_hot(labels, classes).double()
            self.state["penalty"] = self._choose_penalty(self.expand(features), y) if len(y) > 1 else before

    def _choose_penalty(self, x: Tensor, y: Tensor) -> Tensor:
        # clips come sorted by class: without a shuffle the last fifth would hold classes unknown to the rest
        order = torch.randperm(len(x), generator=self.generator())
        fit, held = order[: len(x) * 4 // 5], order[len(x) * 4 // 5 :]
        # one decomposition serves all penalties, and no rounding error of a Gram matrix drowns the small ones
        u, s, v = torch.linalg.svd(x[fit], full_matrices=False)
        target, turned = u.T @ y[fit], x[held] @ v.T
        penalties = 10.0 ** torch.arange(-8, 9, dtype=torch.float64)
        predictions = [turned @ ((s / (s**2 + penalty))[:, None] * target) for penalty in penalties]
        return penalties[torch.stack([F.mse_loss(p, y[held]) for p in predictions]).argmin()]

    def _solve(self) -> tuple[Tensor, ...]:
        penalty = self.state["penalty"] if self.chooses else self.penalty
        return (ridge_solution(self.state["gram"], self.state["cross"], penalty),)


def build(options: Options, state: dict[str, Tensor]) -> RanPac:
    return RanPac(options.expansion, None, state, options.draw)
