"""What a learner says: of a clip, how unlike all that was learnt it is among that, and of what learning took.

Dimension letters: ``N`` clips, ``L`` temporal slots, ``S`` patches of a slot.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

from torch import Tensor

from avcil.learn.evaluate import Readout
from avcil.learn.heads import Head, RecursiveRidge


class Prediction(NamedTuple):
    """Of one clip. ``probabilities`` by label; ``spatial`` [L,S] (sums to 1 over S) and ``temporal`` [L]: where and
    when was looked; ``unknown``: higher where the clip is less like what was learnt; ``is_unknown``: whether it is
    above the calibrated threshold, None without one."""

    label: str
    probabilities: dict[str, float]
    spatial: Tensor
    temporal: Tensor
    unknown: float
    is_unknown: bool | None


class Cost(NamedTuple):
    """What learning took: ``seconds`` in all, ``encoding_seconds`` of them for tokens; ``bytes`` that are kept.

    Accuracies are on the validation clips of classes known before, and of those that are new; None without such clips.
    """

    clips: int
    new_classes: list[str]
    seconds: float
    encoding_seconds: float
    bytes: int
    old_accuracy: float | None
    new_accuracy: float | None


def auroc(known: Sequence[Prediction], unknown: Sequence[Prediction]) -> float:
    """How well `Prediction.unknown` tells clips of unknown classes from those of known ones; 0.5 is chance."""
    # not at the head: predicting does without, and it takes seconds to import
    from sklearn.metrics import roc_auc_score

    truth = [False] * len(known) + [True] * len(unknown)
    return float(roc_auc_score(truth, [one.unknown for one in (*known, *unknown)]))


def by_leverage(head: Head | None) -> TypeGuard[RecursiveRidge]:
    """Whether `unknown` scores by the head's leverage: a ridge knows all that it has learnt from as G = Σ xxᵀ."""
    # so are `acil`, `ranpac` and others of avcil/learn/methods; not `mmal` and `conditional_ridge`, each several ridges
    return isinstance(head, RecursiveRidge)


def unknown(readout: Readout) -> Tensor:
    """Scores [N] for "none of these", higher where a clip is less like what was learnt.

    That of a ridge is the leverage; of all other heads, and of a trained classifier, minus the largest logit (Vaze et
    al., ICLR 2022, arXiv 2110.06207).
    """
    if by_leverage(readout.head):
        # of what the head reads, which is not always the model's own features
        return readout.head.leverage(readout.features)
    return -readout.logits.max(1).values
