r"""Hook: the feature level of distillation, held only in the directions that past classes are told apart by. As `hooks:
{subspace_distillation: {weight: 3.0}}`.

A row with it has `feature_distillation: 0.0`; the logit level may stand beside it.

Dimension letters: ``B`` clips of a batch, ``E`` feature channels, ``P`` past classes.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from avcil.learn.hooks import Batch, Hooks, Learning
from avcil.params.learning import CLASSIFIERS, FROZEN, Method
from avcil.params.section import Section


class Options(Section):
    weight: float = Field(gt=0, description="at as many past as new classes")


def subspace_distillation(features: Tensor, old: Tensor, past: Tensor) -> Tensor:
    r"""Squared distance of two features of the same clips, as far as the past classes' weights see it.

    .. math:: \frac{1}{B} \sum_b \sum_{c < P} \big( \hat w_c \cdot (\hat f_b - \hat f_b^{old}) \big)^2

    features and old [B,E], past: the old classifier's weights [P,E]; hats mean unit length. A direction counts by how
    many past classes use it; orthogonal to all of them features are free, for new classes to use.
    Zero, with a finite gradient, where P = 0.
    Source: ours. Deviation from arXiv 2606.10887, whose feature level holds whole features: of new clips these are what
    an old model, which knows few classes, has collapsed onto the few directions that it needed (LOG.md).
    """
    moved = F.normalize(features, dim=1) - F.normalize(old, dim=1)
    # of weights directions alone: a class of larger weights is held no more than others
    return (moved @ F.normalize(past, dim=1).T).square().sum(1).mean()


class SubspaceDistillation(Hooks):
    reads_old = ("features",)

    def __init__(self, weight: float):
        self.weight = weight

    def losses(self, learning: Learning, batch: Batch) -> dict[str, Tensor]:
        if not learning.past:
            return {}
        # weights of the old model, which stay: the new one's turn while they are learnt, and would take the hold along
        old, past = learning.old_output.features.fused[batch.rows], learning.old_model.classifier.weight.detach()
        distance = subspace_distillation(batch.output.features.fused, old, past)
        # under the name of the core's feature level, in whose place it stands
        return {"feature_distillation": learning.growth * self.weight * distance}


def build(options: Options, method: Method) -> SubspaceDistillation:
    # the `weight` of other classifiers need not be a row a past class: of proxies it is the last task's alone
    if method.classifier not in CLASSIFIERS or method.fusion in FROZEN or method.feature_distillation:
        raise ValueError(
            "subspace_distillation: needs feature_distillation: 0.0, in whose place it stands, a fusion that learns, "
            f"and classifier: {' or '.join(CLASSIFIERS)}"
        )
    return SubspaceDistillation(options.weight)
