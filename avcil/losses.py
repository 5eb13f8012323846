"""Losses: one function, one equation. Each is the mean over the batch and finite for zero past classes.

Dimension letters: ``B`` clips, ``C`` classes seen, ``P`` past classes, ``E`` feature channels, ``L`` slots, ``S``
patches of a slot.
"""

import torch.nn.functional as F
from torch import Tensor

from avcil.model import Features


def logit_distillation(logits: Tensor, old_logits: Tensor, temperature: float) -> Tensor:
    r"""Logit level: the new model's past-class probabilities stay those of the old model.

    .. math:: \frac{\tau^2}{B} \sum_b \mathrm{KL}(\mathrm{softmax}(o_b / \tau) \,\|\, \mathrm{softmax}(n_{b,:P} / \tau))

    logits [B,C], old_logits [B,P] with P <= C; temperature :math:`\tau` > 0. Zero for P = 0.
    Source: Hinton et al. 2015, arXiv 1503.02531; Li and Hoiem 2016, arXiv 1606.09282.
    """
    past = old_logits.shape[1]
    if past == 0:
        return logits.sum() * 0
    new = F.log_softmax(logits[:, :past] / temperature, 1)
    old = F.log_softmax(old_logits / temperature, 1)
    return temperature**2 * F.kl_div(new, old, reduction="batchmean", log_target=True)


def feature_distillation(features: Features, old: Features) -> Tensor:
    r"""Feature level: audio, guided visual and fused features keep their direction.

    .. math:: \frac{1}{B} \sum_b \sum_{f \in \{a, v, z\}} (1 - \cos(f_b, f_b^{old}))

    Each feature [B,E]. A stream that is absent (all zeros) adds nothing.
    Source: arXiv 2606.10887 names the level, not the distance; cosine as in LUCIR, Hou et al., CVPR 2019.
    """
    total = features.fused.sum() * 0
    for new, reference in zip(features, old, strict=True):
        present = (reference.abs().sum(1) > 0).to(new.dtype)
        total = total + (present * (1 - F.cosine_similarity(new, reference, dim=1, eps=1e-6))).mean()
    return total


def attention_distillation(spatial: Tensor, old_spatial: Tensor) -> Tensor:
    r"""The attention maps of all slots stay those of the old model.

    .. math:: \frac{1}{BL} \sum_{b,l} \sum_s w^{old}_{bls} \log(w^{old}_{bls} / w_{bls})

    spatial, old_spatial [B,L,S], each summing to 1 over S; clamped at 1e-8.
    Source: Pian et al., ICCV 2023, arXiv 2308.11073 (visual attention distillation).
    Deviation: one map a slot, the mean over heads, instead of one a channel.
    """
    new, old = spatial.clamp_min(1e-8).log(), old_spatial.clamp_min(1e-8).log()
    return F.kl_div(new, old, reduction="sum", log_target=True) / (spatial.shape[0] * spatial.shape[1])
