"""Everything derived from the accuracy matrix, each formula once.

R[t, j] is the accuracy on task j's clips after learning task t, with all classes seen so far as candidates and no task
id; NaN for j > t. n_j is the number of clips of task j. T tasks, counted from 0.
"""

import numpy as np


def accuracy_after(matrix: np.ndarray, clips: np.ndarray) -> np.ndarray:
    """A_t = Σ_{j<=t} n_j R[t,j] / Σ_{j<=t} n_j: accuracy on all clips of the classes seen after task t, [T]."""
    seen = np.tril(np.ones_like(matrix)) * clips
    # a weight of 0 does not silence NaN
    return (np.nan_to_num(matrix) * seen).sum(1) / seen.sum(1)


def average_accuracy(matrix: np.ndarray, clips: np.ndarray) -> float:
    """Average incremental accuracy (1/T) Σ_t A_t, task 0 included."""
    return float(accuracy_after(matrix, clips).mean())


def last_accuracy(matrix: np.ndarray, clips: np.ndarray) -> float:
    """A_{T-1}."""
    return float(accuracy_after(matrix, clips)[-1])


def forgetting(matrix: np.ndarray) -> np.ndarray:
    """F_t = (1/t) Σ_{j<t} (max_{j<=l<t} R[l,j] − R[t,j]) for t = 1 … T−1; may be negative. Shape [T-1]."""
    # from row j on, since R[l,j] is NaN before
    return np.array([np.mean([matrix[j:t, j].max() - matrix[t, j] for j in range(t)]) for t in range(1, len(matrix))])


def forgetting_mean(matrix: np.ndarray) -> float:
    """Mean over tasks, (1/(T−1)) Σ_{t>=1} F_t. Source: the code of Pian et al., ICCV 2023, arXiv 2308.11073."""
    return float(forgetting(matrix).mean()) if len(matrix) > 1 else 0.0


def forgetting_last(matrix: np.ndarray) -> float:
    """F_{T−1}, at the last task only. Source: Chaudhry et al., ECCV 2018, arXiv 1801.10112."""
    return float(forgetting(matrix)[-1]) if len(matrix) > 1 else 0.0


def backward_transfer(matrix: np.ndarray) -> float:
    """(1/(T−1)) Σ_{j<T−1} (R[T−1,j] − R[j,j]). Source: Lopez-Paz and Ranzato, NeurIPS 2017, arXiv 1706.08840."""
    past = np.arange(len(matrix) - 1)
    return float((matrix[-1, past] - matrix[past, past]).mean()) if len(past) else 0.0


def plasticity(matrix: np.ndarray) -> float:
    """New-class accuracy (1/T) Σ_t R[t,t]."""
    return float(np.diag(matrix).mean())


def retention(matrix: np.ndarray) -> float:
    """(1/(T−1)) Σ_{j<T−1} R[T−1,j] / R[j,j]: the share of each task's first accuracy that is left at the end.

    A task never learnt (R[j,j] = 0) has nothing to retain and is left out; NaN if that holds for all.
    """
    past = np.arange(len(matrix) - 1)
    first, last = matrix[past, past], matrix[-1, past]
    learnt = first > 0
    return float((last[learnt] / first[learnt]).mean()) if learnt.any() else float("nan")


def attention_hit(spatial: np.ndarray, temporal: np.ndarray, share: np.ndarray, covered: float) -> np.ndarray:
    """Whether the peak of spatial x temporal attention lies on the sounding object, for each clip.

    spatial [B,L,S], temporal [B,L], share [B,L,S]: the part of each patch that the object visibly covers. A peak hits
    if its patch is covered to at least ``covered``. Returns bool [B].
    """
    # of both together: in a moment that is not looked at, the sharpest peak counts for nothing
    joint = (spatial * temporal[..., None]).reshape(len(spatial), -1)
    return share.reshape(len(share), -1)[np.arange(len(joint)), joint.argmax(1)] >= covered


def attention_auc(spatial: np.ndarray, share: np.ndarray, covered: float) -> np.ndarray:
    """Area under the ROC curve of the spatial map against the sounding object, mean over slots in which it shows.

    The probability that a patch on the object (covered to at least ``covered``) outweighs one beside it, ties half.
    Returns [B], NaN for a clip in which the object never shows.
    """
    inside = (share >= covered).astype(np.float32)
    outside = 1 - inside
    # 1 where the first patch has more, 1/2 where both have the same, 0 where it has less
    above = np.sign(spatial[..., :, None] - spatial[..., None, :]) / 2 + 0.5  # [B,L,S,S]
    wins = np.einsum("bls,blsr,blr->bl", inside, above, outside, optimize=True)
    pairs = inside.sum(-1) * outside.sum(-1)
    with np.errstate(invalid="ignore"):
        # no pair: the object is not in the slot, or fills it, and nothing can be told
        auc = np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan)
        counted = (~np.isnan(auc)).sum(1)
        return np.where(counted > 0, np.nansum(auc, 1) / np.maximum(counted, 1), np.nan)
