"""Hook of iCaRL: each past class's sigmoid stays that of the old model. As `hooks: {icarl: {weight: 1.0}}`.

Source: Rebuffi et al., CVPR 2017, arXiv 1611.07725, algorithm 3. Its herding and nearest means of exemplars are the
core's (`memory: herding`, `readout: nearest_exemplars`).

Dimension letters: ``B`` clips of a batch, ``C`` classes seen, ``P`` past classes.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from avcil.learn.hooks import Batch, Hooks, Learning
from avcil.params.learning import Method
from avcil.params.section import Section


class Options(Section):
    weight: float = Field(gt=0)
    as_published: bool = Field(False, description="with the deviation of AV-CIL's code from iCaRL's paper")


def sigmoid_distillation(logits: Tensor, old_logits: Tensor, *, as_published: bool = False) -> Tensor:
    r"""Each past class's sigmoid stays that of the old model, by binary cross-entropy.

    .. math:: -\frac{1}{BP} \sum_{b,c} \sigma(o_{bc}) \log \sigma(n_{bc})
              + (1 - \sigma(o_{bc})) \log (1 - \sigma(n_{bc}))

    logits n [B,C], old_logits o [B,P], P > 0. ``as_published``: AV-CIL's code takes the sigmoid of the new logits
    twice.
    """
    # past classes alone: labels are learnt by the core's softmax, as in AV-CIL's code, not by the paper's sigmoids
    new = logits[:, : old_logits.shape[1]]
    # it takes a sigmoid itself, so that the one given here is the second
    return F.binary_cross_entropy_with_logits(new.sigmoid() if as_published else new, old_logits.sigmoid())


class ICarl(Hooks):
    # said here, for the core asks for old logits only where it distils them itself
    reads_old = ("logits",)

    def __init__(self, options: Options):
        self.options = options

    def losses(self, learning: Learning, batch: Batch) -> dict[str, Tensor]:
        # with restart there is no old model in later tasks either
        if not learning.past:
            return {}
        old_logits = learning.old_output.logits[batch.rows]
        distance = sigmoid_distillation(batch.output.logits, old_logits, as_published=self.options.as_published)
        return {"logit_distillation": learning.growth * self.options.weight * distance}


def build(options: Options, method: Method) -> ICarl:
    if method.logit_distillation:
        raise ValueError("icarl: its sigmoids stand for the logit level; set logit_distillation: 0.0")
    return ICarl(options)
