"""Hooks of AFC: features are held the more, the more the old model's own loss depends on them, beside the NCA loss.

As `hooks: {afc: {weight: 0.5}}` with `classifier: proxies`. Source: Kang et al., Class-incremental learning by
knowledge distillation with adaptive feature consolidation, CVPR 2022, arXiv 2204.00895, as AV-CIL's code adapts it to
three features.

Dimension letters: ``N`` clips at hand, ``B`` clips of a batch, ``C`` classes seen, ``F`` features of a clip.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from avcil.learn.evaluate import predict
from avcil.learn.feed import Feed
from avcil.learn.hooks import Batch, Hooks, Learning
from avcil.learn.methods.proxies import PROXIES
from avcil.learn.model import IncrementalClassifier, Output
from avcil.params.learning import Method
from avcil.params.section import Section


class Options(Section):
    weight: float = Field(gt=0, description="of the feature level")


def nca(similarities: Tensor, labels: Tensor, scale: Tensor, margin: float = 0.6) -> Tensor:
    r"""NCA loss over class similarities s, the true class y being left out of the denominator.

    .. math:: -\frac{1}{B} \sum_b
              \Big(\eta s_{by} - m_b - \log\big(1 + \sum_{c \ne y} \exp(\eta s_{bc} - m_b)\big)\Big),
              \quad m_b = \max_c \eta s_{bc}

    similarities [B,C], labels [B], scale η. The 1 stands where the true class was, and a margin subtracted from every
    class cancels: both as in the code of PODNet, AFC and AV-CIL, whose published margin of 0.6 for the true class alone
    is therefore never applied; nor is the hinge of PODNet's equation, which none of them switches on. Source: Douillard
    et al., PODNet, ECCV 2020, arXiv 2004.13513.
    """
    shifted = scale * (similarities - margin)
    # so that no exponential overflows; beside the constant 1 below this maximum does not cancel, so that it has to be
    # theirs, over the true class as well
    shifted = shifted - shifted.amax(1, keepdim=True)
    true = shifted.gather(1, labels[:, None])
    # the true class is not left out but becomes exp(0): the 1 of the equation
    others = shifted.scatter(1, labels[:, None], 0.0)
    return (others.logsumexp(1) - true[:, 0]).mean()


def held_features(output: Output) -> tuple[Tensor, ...]:
    """The F features: visual, audio, and the visual one before its projection."""
    # without the fused one, as in AV-CIL's code; columns of importance are in this order
    return output.features.visual, output.features.audio, output.attended


def importance(model: IncrementalClassifier, feed: Feed, labels: Tensor, batch: int = 64) -> Tensor:
    """Norm of the gradient of the model's own NCA loss with respect to each held feature, [N,F]."""
    parts = []
    for rows in torch.arange(len(labels), device=labels.device).split(batch):
        output = model(feed.clips(rows), centre=feed.centre)
        # a mean over the batch: a smaller last batch has larger gradients, of which only a clip's own shares are read
        loss = nca(output.logits, labels[rows], model.classifier.scale)
        gradients = torch.autograd.grad(loss, held_features(output))
        parts.append(torch.stack([gradient.norm(dim=1) for gradient in gradients], 1))
    return torch.cat(parts)


def importance_distillation(features: tuple[Tensor, ...], old: tuple[Tensor, ...], weights: Tensor) -> Tensor:
    r"""Feature discrepancy weighted by how much the old model's own loss depends on each feature.

    .. math:: \frac{1}{B} \sum_b \sum_f \frac{I_{bf}}{\sum_g I_{bg}} \| \hat f_b - \hat f_b^{old} \|

    features and old: F tensors [B,E_f] each, hats meaning unit length; weights I [B,F], norms of gradients.
    """
    # of a model of one class no loss depends on any feature: 0 / 0 would be NaN, as in AV-CIL's code
    share = weights / weights.sum(1, keepdim=True).clamp_min(1e-12)
    # a norm, not its square: its slope is 0 at no distance and 1 right beside it, so that old and new features have to
    # come by the same route, or rounding alone gives the first step a direction (LOG.md)
    distance = [
        (F.normalize(new, dim=1) - F.normalize(before, dim=1)).norm(dim=1)
        for new, before in zip(features, old, strict=True)
    ]
    return (share * torch.stack(distance, 1)).sum(1).mean()


def imprint(model: IncrementalClassifier, feed: Feed, labels: Tensor) -> None:
    """New classes' proxies start at the k-means centres of their clips' features, as long as past proxies are.

    Source: PODNet, after Qi et al., CVPR 2018. A class of fewer clips than proxies keeps random ones for the rest.
    """
    # of all that learns only this needs it, and it takes seconds to import
    from sklearn.cluster import KMeans

    classifier: Any = model.classifier
    labels = labels.cpu()
    # logits compare directions alone, so centres are sought among directions
    features = F.normalize(predict(model, feed, torch.arange(len(labels))).features.fused, dim=1)
    # logits do not see a proxy's length, but the same step turns a longer one less
    length = classifier.kept.norm(dim=1).mean()
    # `weight` holds new classes alone, `kept` those before
    first = classifier.classes - len(classifier.weight) // PROXIES
    with torch.no_grad():
        for c in range(first, classifier.classes):
            mine = features[labels == c].numpy()
            # k-means refuses to find more centres than clips
            count = min(PROXIES, len(mine))
            # a seed of its own: NumPy's global one is no argument of `run_task`, whose bits may depend on nothing else
            centres = KMeans(count, n_init=1, random_state=0).fit(mine).cluster_centers_
            start = (c - first) * PROXIES
            classifier.weight[start : start + count] = torch.from_numpy(centres).to(length.device) * length


class Afc(Hooks):
    reads_old = ("features", "attended")

    def __init__(self, weight: float):
        self.weight = weight
        self.importance = torch.empty(0)

    def before_task(self, learning: Learning) -> None:
        if learning.past:
            # before `imprint`: by the old model, with random proxies of new classes as in AV-CIL's code
            self.importance = importance(learning.model, learning.feed, learning.labels)
            imprint(learning.model, learning.feed, learning.labels)

    def losses(self, learning: Learning, batch: Batch) -> dict[str, Tensor]:
        # under the core's name, whose place it takes; by the scale of the batch, for under torchrun the gradient of the
        # classifier's own would be counted once a process
        losses = {"cross_entropy": nca(batch.output.logits, batch.labels, batch.scale)}
        if learning.past:
            before = tuple(feature[batch.rows] for feature in held_features(learning.old_output))
            distance = importance_distillation(held_features(batch.output), before, self.importance[batch.rows])
            losses["feature_distillation"] = learning.growth * self.weight * distance
        return losses


def build(options: Options, method: Method) -> Afc:
    # where nothing is attended a held feature is a mean of frozen tokens, of which there is no gradient
    if method.classifier != "proxies" or method.fusion not in ("guided", "channelwise"):
        raise ValueError("afc: needs classifier: proxies and fusion: guided or channelwise")
    # options without effect would pass for options that act
    if method.feature_distillation or method.cross_entropy != "joint":
        raise ValueError("afc: stands for both; set feature_distillation: 0.0 and cross_entropy: joint")
    return Afc(options.weight)
