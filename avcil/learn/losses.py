"""Losses: one function, one equation. Each is the mean over the batch and finite for zero past classes.

None moves a number from the device to the host or has a shape that depends on labels, so that a training step can be
captured in a CUDA graph. Cross-entropy and the two levels of distillation are a kernel (avcil/kernels).

Dimension letters: ``B`` clips, ``C`` classes seen, ``P`` past classes, ``E`` feature channels, ``L`` slots, ``S``
patches of a slot.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid_distillation(logits: Tensor, old_logits: Tensor, *, as_published: bool = False) -> Tensor:
    r"""Each past class's sigmoid stays that of the old model, by binary cross-entropy.

    .. math:: -\frac{1}{BP} \sum_{b,c} \sigma(o_{bc}) \log \sigma(n_{bc})
              + (1 - \sigma(o_{bc})) \log (1 - \sigma(n_{bc}))

    Zero for P = 0. Source: Rebuffi et al., iCaRL, CVPR 2017, arXiv 1611.07725, algorithm 3.
    ``as_published``: AV-CIL's code takes the sigmoid of the new logits twice.
    """
    past = old_logits.shape[1]
    if past == 0:
        return logits.sum() * 0
    new = logits[:, :past]
    return F.binary_cross_entropy_with_logits(new.sigmoid() if as_published else new, old_logits.sigmoid())


def nca(similarities: Tensor, labels: Tensor, scale: Tensor, margin: float = 0.6) -> Tensor:
    r"""NCA loss over class similarities s, the true class y being left out of the denominator.

    .. math:: -\frac{1}{B} \sum_b
              \Big(\eta s_{by} - m_b - \log\big(1 + \sum_{c \ne y} \exp(\eta s_{bc} - m_b)\big)\Big),
              \quad m_b = \max_c \eta s_{bc}

    similarities [B,C], labels [B], scale η. The 1 stands where the true class was, and a margin subtracted from every
    class cancels: both as in the code of PODNet, AFC and AV-CIL, whose published margin of 0.6 for the true class alone
    is therefore never applied. Source: Douillard et al., PODNet, ECCV 2020, arXiv 2004.13513.
    """
    shifted = scale * (similarities - margin)
    shifted = shifted - shifted.amax(1, keepdim=True)
    true = shifted.gather(1, labels[:, None])
    others = shifted.scatter(1, labels[:, None], 0.0)
    return (others.logsumexp(1) - true[:, 0]).mean()


def attention_distillation(spatial: Tensor, old_spatial: Tensor) -> Tensor:
    r"""The attention maps of all slots stay those of the old model.

    .. math:: \frac{1}{BL} \sum_{b,l} \sum_s w^{old}_{bls} \log(w^{old}_{bls} / w_{bls})

    spatial, old_spatial [B,L,S], each summing to 1 over S; clamped at 1e-8.
    Source: Pian et al., ICCV 2023, arXiv 2308.11073 (visual attention distillation).
    Deviation: one map a slot, the mean over heads, instead of one a channel.
    """
    new, old = spatial.clamp_min(1e-8).log(), old_spatial.clamp_min(1e-8).log()
    return F.kl_div(new, old, reduction="sum", log_target=True) / (spatial.shape[0] * spatial.shape[1])


def importance_distillation(features: tuple[Tensor, ...], old: tuple[Tensor, ...], importance: Tensor) -> Tensor:
    r"""Feature discrepancy weighted by how much the old model's own loss depends on each feature.

    .. math:: \frac{1}{B} \sum_b \sum_f \frac{I_{bf}}{\sum_g I_{bg}} \| \hat f_b - \hat f_b^{old} \|

    features and old: F tensors [B,E_f] each, hats meaning unit length; importance [B,F], norms of gradients.
    Source: Kang et al., AFC, CVPR 2022, arXiv 2204.00895, as AV-CIL's code adapts it to three features.
    """
    share = importance / importance.sum(1, keepdim=True).clamp_min(1e-12)
    distance = [
        (F.normalize(new, dim=1) - F.normalize(kept, dim=1)).norm(dim=1)
        for new, kept in zip(features, old, strict=True)
    ]
    return (share * torch.stack(distance, 1)).sum(1).mean()


def instance_contrast(audio: Tensor, visual: Tensor, temperature: float) -> Tensor:
    r"""InfoNCE from audio to visual: each clip's sound finds its own picture among the batch.

    .. math:: -\frac{1}{B} \sum_b \log \mathrm{softmax}_j(\hat a_b \cdot \hat v_j / \tau)_b

    audio, visual [B,E], hats meaning unit length.
    Source: Pian et al., ICCV 2023, arXiv 2308.11073 (instance-aware similarity).
    """
    scores = F.normalize(audio, dim=1) @ F.normalize(visual, dim=1).T / temperature
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def class_contrast(
    audio: Tensor, visual: Tensor, labels: Tensor, temperature: float, *, as_published: bool = False
) -> Tensor:
    r"""Each clip's sound finds the pictures of its class.

    .. math:: -\frac{1}{B} \sum_b \frac{1}{|P_b|} \sum_{j \in P_b}
              \log \mathrm{softmax}_j(\hat a_b \cdot \hat v_j / \tau), \quad P_b = \{j : y_j = y_b\}

    Source: Pian et al., ICCV 2023, arXiv 2308.11073, equation 7.
    ``as_published``: their code divides by B where the equation has :math:`|P_b|`.
    """
    scores = F.normalize(audio, dim=1) @ F.normalize(visual, dim=1).T / temperature
    same = (labels[:, None] == labels).to(scores.dtype)
    found = (F.log_softmax(scores, 1) * same).sum(1)
    return -(found / (len(labels) if as_published else same.sum(1))).mean()


def channel_attention_distillation(divergence: Tensor, exemplar: Tensor) -> Tensor:
    r"""Spatial and temporal attention of every channel stay those of the old model, on exemplars.

    .. math:: \frac{1}{2M} \sum_b \Big( \sum_{l,d} \mathrm{KL}(w^{old}_{bl \cdot d} \| w_{bl \cdot d}) +
              \sum_{d} \mathrm{KL}(\alpha^{old}_{b \cdot d} \| \alpha_{b \cdot d}) \Big)

    divergence [B], the sums in the brackets, 0 for other clips (``avcil.kernels.channelwise_attention``); exemplar [B],
    true for M clips. Zero for M = 0.
    Source: Pian et al., ICCV 2023, arXiv 2308.11073 (visual attention distillation).
    """
    return divergence.sum() / (2 * exemplar.sum().clamp_min(1))


def dark_replay(logits: Tensor, stored: Tensor) -> Tensor:
    """Mean squared distance of logits [B,P] to those stored with an exemplar, NaN for other clips and for classes that
    were not known when it was stored.

    Zero where nothing is stored. Source: Buzzega et al., Dark Experience Replay, NeurIPS 2020, arXiv 2004.07211.
    """
    known = ~stored.isnan()
    distance = torch.where(known, logits - stored.nan_to_num(), 0).square()
    return distance.sum() / known.sum().clamp_min(1)
