"""How unlike all that was learnt a clip is.

Dimension letter: ``N`` clips.
"""

from typing import TypeGuard

from torch import Tensor

from avcil.learn.evaluate import Readout
from avcil.learn.heads import Head, RecursiveRidge


def by_leverage(head: Head | None) -> TypeGuard[RecursiveRidge]:
    """Whether `unknown` scores by the head's leverage: a ridge knows all that it has learnt from as G = Σ xxᵀ."""
    return isinstance(head, RecursiveRidge)


def unknown(readout: Readout) -> Tensor:
    """Scores [N] for "none of these", higher where a clip is less like what was learnt.

    That of a ridge is the leverage; of all other heads, and of a trained classifier, minus the largest logit (Vaze et
    al., ICLR 2022, arXiv 2110.06207).
    """
    if by_leverage(readout.head):
        return readout.head.leverage(readout.features)
    return -readout.logits.max(1).values
