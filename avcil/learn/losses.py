r"""What a row minimises: cross-entropy on the clips at hand, the paper's two levels of distillation, and its hooks'.

With logits n and features f of the new model, o and f^old of the old one, temperature T (avcil/kernels has the code):

.. math:: L = L_{CE} + \lambda_l\, g\, T^2\, \mathrm{KL}(\mathrm{softmax}(o / T) \| \mathrm{softmax}(n_{1..P} / T))
              + \lambda_f\, g \sum_{f \in \{v, a, fused\}} (1 - \cos(f, f^{old}))

Dimension letters: ``N`` clips at hand, ``B`` clips of a batch, ``C`` classes seen, ``P`` past classes.
"""

from torch import Tensor

from avcil.kernels import dual_distillation
from avcil.learn.hooks import Batch, Learning


def objective(learning: Learning, batch: Batch) -> dict[str, Tensor]:
    """The weighted losses of one batch by name; their sum is minimised. In task 0 nothing is distilled."""
    method, past, rows = learning.method, learning.past, batch.rows
    logits, old = batch.output.logits, learning.old_output
    holds_logits, holds_features = past and method.logit_distillation, past and method.feature_distillation
    # where no logit is held, the old ones only say how many classes are past
    old_logits = old.logits[rows] if holds_logits else logits.detach()[:, :past]
    # all three in one pass
    dual = dual_distillation(
        logits,
        batch.labels,
        old_logits,
        # blocks sum to P: in task 0 there is none
        learning.blocks[:-1] if method.logit_blocks == "task" else [past] * (past > 0),
        tuple(batch.output.features) if holds_features else (),
        tuple(old.features.at(rows)) if holds_features else (),
        temperature=learning.training.temperature,
        separated=method.cross_entropy == "separated",
    )
    losses = {"cross_entropy": dual.cross_entropy}
    if holds_logits:
        losses["logit_distillation"] = learning.growth * method.logit_distillation * dual.logit
    if holds_features:
        losses["feature_distillation"] = learning.growth * method.feature_distillation * dual.feature
    for hook in learning.hooks.values():
        # AFC puts NCA in the place of cross-entropy this way
        losses |= hook.losses(learning, batch)
    return losses
