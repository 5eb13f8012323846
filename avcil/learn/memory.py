"""Exemplar memory: which clips of past classes are kept."""

import torch
import torch.nn.functional as F
from torch import Tensor

from avcil.params.learning import Selection


def herding(features: Tensor, count: int) -> list[int]:
    """Greedy choice whose running mean stays closest to the class mean, on unit features [N,E]: positions in order.

    Source: Welling 2009; iCaRL, Rebuffi et al., CVPR 2017, algorithm 4. Truncating the list later keeps its best part.
    """
    unit = F.normalize(features.double(), dim=1)
    target, total = unit.mean(0), torch.zeros_like(unit[0])
    left = torch.ones(len(unit), dtype=torch.bool)
    chosen: list[int] = []
    for k in range(1, min(count, len(unit)) + 1):
        distance = (target - (total + unit) / k).norm(dim=1)
        best = int(distance.masked_fill(~left, torch.inf).argmin())
        chosen.append(best)
        left[best] = False
        total = total + unit[best]
    return chosen


def quota(budget: int, per_class: bool, classes: int) -> int:
    """Exemplars of each class: ``budget`` if per class, else the total shared by all classes seen."""
    return budget if per_class else budget // classes


def select(
    memory: list[int],
    candidates: list[int],
    labels: Tensor,
    features: Tensor,
    *,
    selection: Selection,
    count: int,
    generator: torch.Generator,
) -> list[int]:
    """The new memory: at most ``count`` clips of each class, old classes truncated, new ones chosen.

    Args:
        memory: clip indices kept so far, class by class in order of merit.
        candidates: clip indices of the new classes.
        labels: [all clips]; labels[i] is the class of clip i.
        features: [len(candidates), E], in the order of ``candidates``.
        selection: `none` keeps nothing, `all` keeps everything.
    """
    if selection == "none":
        return []
    if selection == "all":
        return memory + candidates
    kept: list[int] = []
    for label in dict.fromkeys(int(labels[i]) for i in memory):
        kept += [i for i in memory if labels[i] == label][:count]
    new = torch.tensor(candidates)
    for label in sorted(set(labels[new].tolist())):
        rows = (labels[new] == label).nonzero()[:, 0]
        if selection == "random":
            order = torch.randperm(len(rows), generator=generator)[:count].tolist()
        else:
            order = herding(features[rows], count)
        kept += new[rows[order]].tolist()
    return kept
