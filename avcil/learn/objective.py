"""What a method minimises: cross-entropy on the clips at hand, and what holds the new model to the old one.

Dimension letters: ``N`` clips at hand, ``C`` classes seen, ``P`` past classes, ``F`` features of a clip.
"""

import torch
from torch import Tensor

from avcil.kernels import dual_distillation
from avcil.learn import losses
from avcil.learn.feed import Feed
from avcil.learn.model import IncrementalClassifier, Output
from avcil.learn.old_model import Old
from avcil.params.learning import Method, Training


def held_features(output: Output) -> tuple[Tensor, ...]:
    """The features that AFC holds on to: audio, visual, and the visual one before its projection."""
    return output.features.audio, output.features.visual, output.attended


def distils(method: Method) -> bool:
    """Whether a loss of this row reads what the old model says."""
    return bool(method.logit_distillation or method.feature_distillation or method.attention_distillation)


def importance(model: IncrementalClassifier, feed: Feed, labels: Tensor, batch: int = 64) -> Tensor:
    """Norm of the gradient of the model's own NCA loss with respect to each held feature, [N,F]."""
    parts = []
    for rows in torch.arange(len(labels), device=labels.device).split(batch):
        output = model(feed.clips(rows), centre=feed.centre)
        loss = losses.nca(output.logits, labels[rows], model.classifier.scale)
        gradients = torch.autograd.grad(loss, held_features(output))
        parts.append(torch.stack([gradient.norm(dim=1) for gradient in gradients], 1))
    return torch.cat(parts)


def objective(
    output: Output,
    rows: Tensor,
    labels: Tensor,
    old: Old,
    method: Method,
    training: Training,
    blocks: list[int],
    scale: Tensor,
) -> dict[str, Tensor]:
    """The weighted losses of one batch by name; their sum is minimised.

    Args:
        output: of the model on the clips at ``rows`` of the clips at hand.
        labels: [len(rows)].
        blocks: classes of each task so far, the new one last.
        scale: of the similarities in the NCA loss, learnt by the classifier.

    Distillation weights grow with √(P / (C − P)), past over new classes, as in LUCIR (Hou et al., CVPR 2019), with
    √(task + 1), as in AFC, or not at all. In task 0 there is cross-entropy alone.

    Raises ValueError where the row distils and ``old`` has nothing to hold on to.
    """
    past, task = sum(blocks[:-1]), len(blocks) - 1
    growth = {"ratio": (past / blocks[-1]) ** 0.5, "task": (task + 1) ** 0.5, "none": 1.0}
    growth = growth[method.growth]
    said, logits = old.said if task else None, output.logits
    if task and said is None and distils(method):
        raise ValueError(f"task {task} distils, but the old model was not asked; ask it (avcil/learn/old_model.py)")
    # where nobody was asked, the logit level, which then nothing reads, holds the new model to itself
    old_logits = (logits.detach() if said is None else said.logits[rows])[:, :past]
    held, held_to = (), ()
    if said is not None and method.feature_distillation and method.feature_distance == "cosine":
        held, held_to = tuple(output.features), tuple(feature[rows] for feature in said.features)
    dual = dual_distillation(
        logits,
        labels,
        old_logits,
        blocks[:-1] if method.logit_blocks == "task" else [past] * (past > 0),
        held,
        held_to,
        temperature=training.temperature,
        separated=method.cross_entropy == "separated",
    )
    nca = method.cross_entropy == "nca"
    found = {"cross_entropy": losses.nca(logits, labels, scale) if nca else dual.cross_entropy}
    if method.logit_distillation and said is not None:
        kept = dual.logit
        if method.logit_blocks == "sigmoid":
            kept = losses.sigmoid_distillation(logits, old_logits, as_published=method.as_published)
        found["logit_distillation"] = growth * method.logit_distillation * kept
    if method.feature_distillation and said is not None:
        kept = dual.feature
        if old.importance is not None:
            before = tuple(feature[rows] for feature in held_features(said))
            kept = losses.importance_distillation(held_features(output), before, old.importance[rows])
        found["feature_distillation"] = growth * method.feature_distillation * kept
    if method.attention_distillation and said is not None:
        if method.fusion == "channelwise":
            kept = losses.channel_attention_distillation(output.divergence, labels < past)
        else:
            kept = losses.attention_distillation(output.spatial, said.spatial[rows])
        found["attention_distillation"] = growth * method.attention_distillation * kept
    streams = output.features.audio, output.features.visual
    if method.instance_contrast and task:
        kept = losses.instance_contrast(*streams, method.contrast_temperature)
        found["instance_contrast"] = method.instance_contrast * kept
    if method.class_contrast and task:
        kept = losses.class_contrast(*streams, labels, method.contrast_temperature, as_published=method.as_published)
        found["class_contrast"] = method.class_contrast * kept
    if old.stored is not None and task:
        found["dark_replay"] = method.dark_replay * losses.dark_replay(logits[:, :past], old.stored[rows])
    return found
