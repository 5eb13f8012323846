"""Exemplar memory: which clips of past classes are kept.

Dimension letters: ``N`` clips at hand, ``E`` feature channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from avcil.params.learning import Selection


def herding(features: Tensor, count: int) -> list[int]:
    """Greedy choice whose running mean stays closest to the class mean, on unit features [N,E]: positions in order.

    Source: Welling 2009; iCaRL, Rebuffi et al., CVPR 2017, algorithm 4. Truncating the list later keeps its best part.
    Means are not brought to unit length: as in iCaRL's code, while its paper says that averages are.
    """
    # in float64, so that near ties fall alike on every processor
    unit = F.normalize(features.double(), dim=1)
    target, total = unit.mean(0), torch.zeros_like(unit[0])
    left = torch.ones(len(unit), dtype=torch.bool)
    chosen: list[int] = []
    for k in range(1, min(count, len(unit)) + 1):
        # how far off the mean would be with each clip as the next one
        distance = (target - (total + unit) / k).norm(dim=1)
        # no clip twice, as can happen in AV-CIL's code (benchmarks/parity.py)
        best = int(distance.masked_fill(~left, torch.inf).argmin())
        chosen.append(best)
        left[best] = False
        total = total + unit[best]
    return chosen


def quota(budget: int, per_class: bool, classes: int) -> int:
    """Exemplars of each class: ``budget`` if per class, else the total shared by all classes seen."""
    # rounded down, so that all classes have as many and the budget is never passed
    return budget if per_class else budget // classes


def select(
    labels: Tensor,
    features: Tensor,
    new: int,
    *,
    selection: Selection,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """Which of the N clips at hand are exemplars from now on: at most ``count`` of each class, class by class in order
    of merit, past classes first. Those of past classes are cut down, those of new ones chosen.

    Args:
        labels: [N], of the ``new`` first clips and then of the exemplars so far, class by class in order of merit.
        features: [N,E].
        selection: `none` keeps nothing, `all` keeps everything.
    """
    if selection == "none":
        return torch.empty(0, dtype=torch.long)
    past_rows = torch.arange(new, len(labels))
    if selection == "all":
        # past ones first here as well: memory stays in the order of tasks
        return torch.cat([past_rows, torch.arange(new)])
    # in the order of the exemplars, which a set would lose
    memory = [past_rows[labels[new:] == label][:count] for label in dict.fromkeys(labels[new:].tolist())]
    # sorted, so in the order in which classes are learnt
    for label in labels[:new].unique():
        rows = (labels[:new] == label).nonzero()[:, 0]
        if selection == "random":
            # by the task's own generator, so that a task learnt again keeps the same clips
            best = torch.randperm(len(rows), generator=generator)[:count]
        else:
            # with no position the list would become a tensor of floating point, which is no index
            best = torch.tensor(herding(features[rows], count), dtype=torch.long)
        memory.append(rows[best])
    return torch.cat(memory)
