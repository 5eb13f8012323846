"""Hook of DER++: exemplars keep the logits that they had when they were stored. As `hooks: {der: {weight: 0.1}}`.

Source: Buzzega et al., Dark experience for general continual learning, NeurIPS 2020, arXiv 2004.07211. Deviation:
exemplars come from herding at the end of a task, not from a reservoir while it is learnt; one batch of them serves both
terms, and that of labels counts as its clips do, without a weight β; logits of classes then unknown are left out.

Dimension letters: ``N`` clips at hand, ``B`` clips of a batch, ``M`` exemplars, ``C`` classes seen, ``P`` past classes.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from avcil.learn.hooks import Batch, Hooks, Learning
from avcil.learn.model import Output
from avcil.params.learning import Method
from avcil.params.section import Section


class Options(Section):
    weight: float = Field(gt=0)


def dark_replay(logits: Tensor, stored: Tensor) -> Tensor:
    """Mean squared distance of logits [B,P] to those stored with an exemplar, NaN for other clips and for classes that
    were not known when it was stored. Zero where nothing is stored."""
    known = ~stored.isnan()
    # a mask, not a choice of rows, which would make each step wait for the device (LOG.md)
    distance = torch.where(known, logits - stored.nan_to_num(), 0).square()
    # the mean is over what was stored; of a batch without exemplars 0 / 1
    return distance.sum() / known.sum().clamp_min(1)


class Der(Hooks):
    def __init__(self, weight: float):
        self.weight = weight
        self.stored = torch.empty(0)

    def before_task(self, learning: Learning) -> None:
        """stored [N,P]: nothing for new clips, which come first."""
        # of no rows, but as wide as past classes, so that it can be padded like any other
        stored = learning.state.get("der", {}).get("logits", torch.empty(0, learning.past))
        self.stored = F.pad(stored, (0, 0, learning.new, 0), value=torch.nan).to(learning.labels.device)

    def losses(self, learning: Learning, batch: Batch) -> dict[str, Tensor]:
        if not learning.past:
            return {}
        # the other half of DER++, the exemplars' labels, is the core's cross-entropy, for they are in the batch
        logits = batch.output.logits[:, : learning.past]
        return {"dark_replay": self.weight * dark_replay(logits, self.stored[batch.rows])}

    def state(self, learning: Learning, learnt: Output, exemplars: Tensor) -> dict[str, Tensor]:
        """logits [M,C]: of new exemplars as they are now; those of earlier ones stay, NaN for classes unknown then."""
        new = learning.new
        # not asked anew: what a model of today says of them is not what is to be kept
        earlier = self.stored[new:].cpu()
        earlier = F.pad(earlier, (0, learnt.logits.shape[1] - earlier.shape[1]), value=torch.nan)
        # in the order of the memory, in which the next task has exemplars at hand
        return {"logits": torch.cat([learnt.logits[:new], earlier])[exemplars]}


def build(options: Options, method: Method) -> Der:
    if method.restart:
        raise ValueError("der: with restart: true no logits are stored")
    return Der(options.weight)
