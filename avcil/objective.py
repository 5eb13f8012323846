"""What a method minimises: cross-entropy on the clips at hand, and what holds the new model to the old one.

Dimension letters: ``N`` clips at hand, ``C`` classes seen, ``P`` past classes, ``F`` features of a clip.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from avcil import losses
from avcil.methods import Method, Training
from avcil.model import Features, IncrementalClassifier, Output
from avcil.tokens import Tokens


class Old(NamedTuple):
    """What is known of the N clips at hand before a task is learnt; computed once, for tokens are frozen.

    said: the old model's output, its logits [N,P]; maps: gives the old model's channel-wise maps of the exemplars at
    the rows given, which may be too large to keep; importance [N,F] of the old features (AFC) and stored [N,P], the
    exemplars' logits as they were when stored, NaN where there is none: each None where the method does not use it.
    """

    said: Output
    maps: Callable[[Tensor], tuple[Tensor, Tensor]] | None
    importance: Tensor | None
    stored: Tensor | None


def held_features(output: Output) -> tuple[Tensor, ...]:
    """The features that AFC holds on to: audio, visual, and the visual one before its projection."""
    return output.features.audio, output.features.visual, output.attended


def importance(model: IncrementalClassifier, tokens: Tokens, labels: Tensor, batch: int = 64) -> Tensor:
    """Norm of the gradient of the model's own NCA loss with respect to each held feature, [N,F]."""
    parts = []
    for rows in torch.arange(len(labels), device=labels.device).split(batch):
        output = model(tokens.clips(rows))
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
    """
    past, task = sum(blocks[:-1]), len(blocks) - 1
    growth = {"ratio": (past / blocks[-1]) ** 0.5, "task": (task + 1) ** 0.5, "none": 1.0}
    growth = growth[method.growth]
    said = old.said
    if method.cross_entropy == "separated":
        found = {"cross_entropy": losses.separated_cross_entropy(output.logits, labels, past)}
    elif method.cross_entropy == "nca":
        found = {"cross_entropy": losses.nca(output.logits, labels, scale)}
    else:
        found = {"cross_entropy": F.cross_entropy(output.logits, labels)}
    if method.logit_distillation and task:
        if method.logit_blocks == "sigmoid":
            kept = losses.sigmoid_distillation(output.logits, said.logits[rows], as_published=method.as_published)
        else:
            groups = blocks[:-1] if method.logit_blocks == "task" else None
            kept = losses.logit_distillation(output.logits, said.logits[rows], training.temperature, groups)
        found["logit_distillation"] = growth * method.logit_distillation * kept
    if method.feature_distillation and task:
        if method.feature_distance == "importance":
            before = tuple(feature[rows] for feature in held_features(said))
            kept = losses.importance_distillation(held_features(output), before, old.importance[rows])
        else:
            kept = losses.feature_distillation(output.features, Features(*(f[rows] for f in said.features)))
        found["feature_distillation"] = growth * method.feature_distillation * kept
    if method.attention_distillation and task:
        if method.fusion == "channelwise":
            exemplar = labels < past
            maps = output.spatial[exemplar], output.temporal[exemplar]
            kept = losses.channel_attention_distillation(*maps, *old.maps(rows[exemplar]))
        else:
            kept = losses.attention_distillation(output.spatial, said.spatial[rows])
        found["attention_distillation"] = growth * method.attention_distillation * kept
    streams = output.features.audio, output.features.visual
    if method.instance_contrast and task:
        found["instance_contrast"] = method.instance_contrast * losses.instance_contrast(
            *streams, method.contrast_temperature
        )
    if method.class_contrast and task:
        found["class_contrast"] = method.class_contrast * losses.class_contrast(
            *streams, labels, method.contrast_temperature, as_published=method.as_published
        )
    if method.dark_replay and task:
        exemplar = labels < past
        kept = losses.dark_replay(output.logits[exemplar][:, :past], old.stored[rows[exemplar]])
        found["dark_replay"] = method.dark_replay * kept
    return found
