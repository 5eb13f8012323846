"""Hook: spatial attention stays that of the old model. As `hooks: {attention_distillation: {weight: 1.0}}`.

Source: Pian et al., ICCV 2023, arXiv 2308.11073 (visual attention distillation). Deviation: one map a slot, the mean
over heads, instead of one a channel; of all clips at hand, not of exemplars alone; spatial attention without temporal
attention beside it; a mean over slots, not a sum.

Dimension letters: ``B`` clips of a batch, ``L`` slots, ``S`` patches of a slot.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from avcil.learn.hooks import Batch, Hooks, Learning
from avcil.params.learning import Method, attends
from avcil.params.section import Section


class Options(Section):
    weight: float = Field(gt=0)


def attention_distillation(spatial: Tensor, old_spatial: Tensor) -> Tensor:
    r"""The attention maps of all slots stay those of the old model.

    .. math:: \frac{1}{BL} \sum_{b,l} \sum_s w^{old}_{bls} \log(w^{old}_{bls} / w_{bls})

    spatial, old_spatial [B,L,S], each summing to 1 over S; clamped at 1e-8.
    """
    # of a patch without weight 0 log 0 would be NaN, and so would its gradient
    new, old = spatial.clamp_min(1e-8).log(), old_spatial.clamp_min(1e-8).log()
    # KL(old ‖ new), for kl_div takes its arguments the other way round; `batchmean` would divide by clips alone
    return F.kl_div(new, old, reduction="sum", log_target=True) / (spatial.shape[0] * spatial.shape[1])


class AttentionDistillation(Hooks):
    reads_old = ("spatial",)

    def __init__(self, weight: float):
        self.weight = weight

    def losses(self, learning: Learning, batch: Batch) -> dict[str, Tensor]:
        # with restart there is no old model in later tasks either
        if not learning.past:
            return {}
        distance = attention_distillation(batch.output.spatial, learning.old_output.spatial[batch.rows])
        return {"attention_distillation": learning.growth * self.weight * distance}


def build(options: Options, method: Method) -> AttentionDistillation:
    # of maps a channel it is the hook `av_cil` that has the term; without attention maps never move
    if method.fusion == "channelwise" or not attends(method.fusion):
        raise ValueError(f"attention_distillation: fusion `{method.fusion}` has no map a slot; use fusion: guided")
    return AttentionDistillation(options.weight)
