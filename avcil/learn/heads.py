"""Read-out heads that are solved, not trained, from sums over clips; no head but the nearest mean wants exemplars.

A head has ``update`` (the features of a task), ``logits`` and plain tensors as state, so that a checkpoint can hold it.
Because the state of all but `NearestMean` is a sum over clips, it does not matter how clips are cut into tasks; the one
exception is the penalty that RanPAC (avcil/learn/methods/ranpac.py) chooses.

Dimension letters: ``N`` clips, ``E`` feature channels, ``M`` regressors, ``C`` classes seen so far.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from avcil.learn.attention import Features


def _add(old: Tensor | None, new: Tensor) -> Tensor:
    """Sum of a sum and a newer, possibly larger one: classes unknown to the old one count as zero in it."""
    if old is None:
        return new
    # F.pad counts dimensions from the last
    grown = [size for pair in zip(old.shape, new.shape, strict=True) for size in (pair[1] - pair[0], 0)]
    # reversed, the 0 of each pair is in front: rows and columns are added at the end, as new classes are
    return F.pad(old, grown[::-1]) + new


def ridge_solution(gram: Tensor, cross: Tensor, penalty: float | Tensor) -> Tensor:
    """W = (G + λI)⁻¹ Q, with G [M,M], Q [M,C] and W [M,C]."""
    # with λ > 0 there is a solution from the first clip on
    return torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype), cross)


class Head:
    """What all heads share: float64 sums as state, and what is solved from them, kept until the next update.

    A head gives `_sums`, the statistics of some clips, `_solve`, and `logits`, which reads `solution`.
    """

    def __init__(self, state: dict[str, Tensor] | None = None):
        self.state = state or {}
        self._solution: Any = None

    def check(self, channels: int, classes: int) -> None:
        """Raises ValueError if it cannot keep what it needs of so many channels E and classes C; asked before the first
        task, with the classes of the last."""

    def begin(self, seed: int) -> None:
        """In front of the first update, with the seed of the run: what is drawn at random is drawn by it."""

    def update(self, features: Features, labels: Tensor, classes: int) -> None:
        """features and labels [N] of clips never given before; afterwards ``classes`` are known."""
        sums = self._sums(features, labels, classes)
        # a new dictionary: the checkpoint of the task before holds the old one
        self.state = self.state | {name: _add(self.state.get(name), value) for name, value in sums.items()}
        self._solution = None

    @property
    def solution(self) -> Any:
        """What `_solve` gives: weights first, where a head has any."""
        if self._solution is None:
            self._solution = self._solve()
        return self._solution

    def logits(self, features: Features) -> Tensor:
        """[N,C], float32."""
        raise NotImplementedError

    def _sums(self, features: Features, labels: Tensor, classes: int) -> dict[str, Tensor]:
        raise NotImplementedError

    def _solve(self) -> Any:
        raise NotImplementedError


class NearestMean(Head):
    """Class c scores cos(z, μ_c), μ_c the normalised mean of its normalised features.

    A class for which there is data now (new clips or exemplars) has its mean taken anew; a class without keeps the mean
    it had, which is exact where features are frozen. So, unlike the other heads, it wants all clips at hand, and the
    clips of a class not in two parts.
    Source: Rebuffi et al., iCaRL, CVPR 2017 (nearest mean of exemplars), with cosine in place of Euclidean distance,
    the same ranking for unit vectors.
    """

    def update(self, features: Features, labels: Tensor, classes: int) -> None:
        """features and labels [N] of all clips at hand; afterwards ``classes`` are known."""
        # taken anew and not added to, for features that go on learning have moved since
        means = torch.zeros(classes, features.fused.shape[1])
        if self.state:
            means[: len(self.state["means"])] = self.state["means"]
        unit = F.normalize(features.fused.float(), dim=1)
        for label in labels.unique():
            means[label] = F.normalize(unit[labels == label].mean(0), dim=0)
        self.state = {"means": means}

    def logits(self, features: Features) -> Tensor:
        return F.normalize(features.fused.float(), dim=1) @ self.state["means"].T


class RecursiveRidge(Head):
    """Ridge regression onto one-hot labels, exact after every task without any old clip.

    W = (G + λI)⁻¹ Q with G = Σ xxᵀ and Q = Σ xyᵀ over all clips ever seen, x the features with a 1 appended.
    Source: Zhuang et al., ACIL, NeurIPS 2022, arXiv 2205.14922, in the accumulated rather than the Woodbury form;
    RanPAC, McDonnell et al., NeurIPS 2023, arXiv 2307.02251. Deviation: no random features, which `acil` and `ranpac`
    have (avcil/learn/methods).
    """

    def __init__(self, penalty: float, state: dict[str, Tensor] | None = None):
        super().__init__(state)
        self.penalty = penalty

    def expand(self, features: Features) -> Tensor:
        """x, the regressors [N,E+1]."""
        # in float32 the sums would lose digits that the solution hangs on
        return F.pad(features.fused.double(), (0, 1), value=1.0)

    def _sums(self, features: Features, labels: Tensor, classes: int) -> dict[str, Tensor]:
        x = self.expand(features)
        return {"gram": x.T @ x, "cross": x.T @ F.one_hot(labels, classes).double()}

    def _solve(self) -> Any:
        return (ridge_solution(self.state["gram"], self.state["cross"], self.penalty),)

    def logits(self, features: Features) -> Tensor:
        return (self.expand(features) @ self.solution[0]).float()

    def leverage(self, features: Features) -> Tensor:
        """xᵀ(G + λI)⁻¹x, [N]: how far clips are from those learnt, measured by the spread of these (close to
        Mahalanobis', Lee et al., NeurIPS 2018, arXiv 1807.03888)."""
        x = self.expand(features)
        # where λ is chosen from the clips, it is kept with the sums (methods/ranpac.py)
        penalty = self.state.get("penalty", torch.tensor(self.penalty))
        # x.T: for all clips at once
        return (x * ridge_solution(self.state["gram"], x.T, float(penalty)).T).sum(1)


class CarriedRidge(RecursiveRidge):
    """`RecursiveRidge` on features that go on learning: its sums are carried along as the features drift.

    With old and new features X_o, X_n [N,E+1] of the clips at hand and drift A = I + (X_oᵀX_o + μI)⁻¹ X_oᵀ(X_n − X_o),
    the linear map that best takes one to the other, G ← AᵀGA and Q ← AᵀQ: exact where the drift is linear.
    Source: ours, after the drift compensation of class means by Yu et al., SDC, CVPR 2020, arXiv 2004.00440.
    """

    def __init__(self, penalty: float, damping: float, state: dict[str, Tensor] | None = None):
        super().__init__(penalty, state)
        self.damping = damping

    def carry(self, old: Features, new: Features) -> None:
        """old and new features of the same clips, in front of the update of the task that moved them."""
        # the 1 that `expand` appends makes an offset a part of the linear map
        before, after = self.expand(old), self.expand(new)
        # the change is fitted, so that damping pulls towards no drift and not towards features of zero
        drift = ridge_solution(before.T @ before, before.T @ (after - before), self.damping)
        drift += torch.eye(len(drift), dtype=drift.dtype)
        # a new dictionary, as in `update`
        self.state = {"gram": drift.T @ self.state["gram"] @ drift, "cross": drift.T @ self.state["cross"]}
        self._solution = None
