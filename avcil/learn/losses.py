r"""What a row minimises: cross-entropy on the clips at hand, the paper's two levels of distillation, and its hooks'.

With logits n and features f of the new model, o and f^old of the old one, temperature T (avcil/kernels has the code):

.. math:: L = L_{CE} + \lambda_l\, g\, T^2\, \mathrm{KL}(\mathrm{softmax}(o / T) \| \mathrm{softmax}(n_{1..P} / T))
              + \lambda_f\, g \sum_{f \in \{a, v, fused\}} (1 - \cos(f, f^{old}))

Dimension letters: ``N`` clips at hand, ``B`` clips of a batch, ``C`` classes seen, ``P`` past classes.
"""

from torch import Tensor

from avcil.kernels import dual_distillation
from avcil.learn.hooks import Batch, Hooks, Learning
from avcil.params.learning import Method


def reads_old(method: Method, hooks: dict[str, Hooks]) -> bool:
    """Whether a loss of this row reads what the old model gives."""
    return bool(
        method.logit_distillation or method.feature_distillation or any(hook.reads_old for hook in hooks.values())
    )


def growth(method: Method, blocks: list[int]) -> float:
    """g, the factor of distillation weights: √(P / (C − P)), past over new classes, as in LUCIR (Hou et al., CVPR
    2019), √(task + 1), as in AFC, or 1."""
    past, task = sum(blocks[:-1]), len(blocks) - 1
    return {"ratio": (past / blocks[-1]) ** 0.5, "task": (task + 1) ** 0.5, "none": 1.0}[method.growth]


def objective(learning: Learning, batch: Batch) -> dict[str, Tensor]:
    """The weighted losses of one batch by name; their sum is minimised. In task 0 nothing is distilled.

    Raises ValueError where the row distils and there is no old model's output to hold on to.
    """
    method, blocks, rows = learning.method, learning.blocks, batch.rows
    past, old = learning.past, learning.old_output if learning.past else None
    if past and old is None and reads_old(method, learning.hooks):
        raise ValueError(f"task {len(blocks) - 1} distils, but there is no output of the old model to hold on to")
    logits = batch.output.logits
    # without an old model the logit level, which then nothing reads, holds the new one to itself
    old_logits = (logits.detach() if old is None else old.logits[rows])[:, :past]
    features, old_features = (), ()
    if old is not None and method.feature_distillation:
        features, old_features = tuple(batch.output.features), tuple(feature[rows] for feature in old.features)
    dual = dual_distillation(
        logits,
        batch.labels,
        old_logits,
        blocks[:-1] if method.logit_blocks == "task" else [past] * (past > 0),
        features,
        old_features,
        temperature=learning.training.temperature,
        separated=method.cross_entropy == "separated",
    )
    losses = {"cross_entropy": dual.cross_entropy}
    if method.logit_distillation and old is not None:
        losses["logit_distillation"] = growth(method, blocks) * method.logit_distillation * dual.logit
    if method.feature_distillation and old is not None:
        losses["feature_distillation"] = growth(method, blocks) * method.feature_distillation * dual.feature
    for hook in learning.hooks.values():
        losses |= hook.losses(learning, batch)
    return losses
