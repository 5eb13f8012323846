"""Read-out heads that are solved, not trained: nearest class mean and recursive ridge regression.

A head has ``update`` (new features of a task), ``logits`` and plain tensors as state, so that a checkpoint can hold it.

Dimension letters: ``N`` clips, ``E`` feature channels, ``C`` classes seen so far.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


class NearestMean:
    """Class c scores cos(z, μ_c), μ_c the normalised mean of its normalised features.

    A class for which there is data now (new clips or exemplars) has its mean taken anew; a class without keeps the mean
    it had, which is exact where features are frozen.
    Source: Rebuffi et al., iCaRL, CVPR 2017 (nearest mean of exemplars), with cosine in place of Euclidean distance,
    the same ranking for unit vectors.
    """

    def __init__(self, state: dict[str, Tensor] | None = None):
        self.state = state or {}

    def update(self, features: Tensor, labels: Tensor, classes: int) -> None:
        """features [N,E] and labels [N] of all clips at hand; afterwards ``classes`` are known."""
        means = torch.zeros(classes, features.shape[1])
        if self.state:
            means[: len(self.state["means"])] = self.state["means"]
        unit = F.normalize(features, dim=1)
        for label in labels.unique():
            means[label] = F.normalize(unit[labels == label].mean(0), dim=0)
        self.state = {"means": means}

    def logits(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=1) @ self.state["means"].T


class RecursiveRidge:
    """Ridge regression onto one-hot labels, exact after every task without any old clip.

    W = (G + λI)⁻¹ Q with G = Σ xxᵀ and Q = Σ xyᵀ over all clips ever seen, x the features with a 1 appended.
    Source: Zhuang et al., ACIL, NeurIPS 2022, arXiv 2205.14922, in the accumulated rather than the Woodbury form;
    RanPAC, McDonnell et al., NeurIPS 2023, arXiv 2307.02251, without the random projection.
    """

    def __init__(self, penalty: float, state: dict[str, Tensor] | None = None):
        self.penalty = penalty
        self.state = state or {}

    def update(self, features: Tensor, labels: Tensor, classes: int) -> None:
        """features [N,E] and labels [N] of clips never given before."""
        x = F.pad(features.double(), (0, 1), value=1.0)
        y = F.one_hot(labels, classes).double()
        if not self.state:
            self.state = {"gram": x.new_zeros(x.shape[1], x.shape[1]), "cross": x.new_zeros(x.shape[1], 0)}
        cross = F.pad(self.state["cross"], (0, classes - self.state["cross"].shape[1]))
        self.state = {"gram": self.state["gram"] + x.T @ x, "cross": cross + x.T @ y}

    def logits(self, features: Tensor) -> Tensor:
        gram = self.state["gram"] + self.penalty * torch.eye(len(self.state["gram"]), dtype=torch.float64)
        weight = torch.linalg.solve(gram, self.state["cross"])
        return (F.pad(features.double(), (0, 1), value=1.0) @ weight).float()
