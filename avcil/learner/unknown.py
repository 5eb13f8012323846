"""A score for "none of these": how unlike all that was learnt a clip is.

Dimension letters: ``N`` clips, ``M`` regressors, ``C`` classes.
"""

import torch
from torch import Tensor

from avcil.learn.heads import Head, RecursiveRidge
from avcil.learn.model import Features


def unknown(head: Head | None, features: Features, logits: Tensor) -> Tensor:
    """Scores [N], higher where a clip is less like what was learnt, of its logits [N,C].

    A ridge of a given penalty λ > 0 knows all that it has learnt from as G = Σ xxᵀ: its score is the leverage
    xᵀ(G + λI)⁻¹x, how far a clip's regressors are from those, measured by their spread (close to Mahalanobis', Lee et
    al., NeurIPS 2018, arXiv 1807.03888). That of all other heads, and of a trained classifier (None), is minus the
    largest logit (Vaze et al., ICLR 2022, arXiv 2110.06207).
    """
    penalty = penalty_of(head)
    if penalty is None:
        return -logits.max(1).values
    assert isinstance(head, RecursiveRidge)
    x, gram = head.expand(features), head.state["gram"]
    solved = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype), x.T)
    return (x * solved.T).sum(1)


def penalty_of(head: Head | None) -> float | None:
    """λ of a head whose score is the leverage, else None: `scaled_ridge` has one for standardised regressors alone."""
    if not isinstance(head, RecursiveRidge):
        return None
    return float(head.state.get("penalty", torch.tensor(head.penalty))) or None
