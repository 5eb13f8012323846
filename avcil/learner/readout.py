"""What a checkpoint says of clips by its method's own read-out, and how unlike all that was learnt a clip is.

Dimension letters: ``N`` clips, ``M`` regressors, ``C`` classes.
"""

from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from avcil.base.device import named
from avcil.learn import evaluate
from avcil.learn.checkpoint import Checkpoint
from avcil.learn.heads import Head, RecursiveRidge
from avcil.learn.model import Features, Output
from avcil.params.learning import Method, Training
from avcil.tokens.tokens import TokenSource


class Readout(NamedTuple):
    """output: the model's, with maps; head: the solved one, None where the trained classifier is the read-out;
    features: what the head reads; logits [N,C] of the read-out."""

    output: Output
    head: Head | None
    features: Features
    logits: Tensor


@torch.no_grad()
def read_out(
    checkpoint: Checkpoint,
    method: Method,
    training: Training,
    tokens: TokenSource,
    rows: Tensor | None = None,
    *,
    device: torch.device | str = "cpu",
) -> Readout:
    """Of the clips at ``rows``, all if left out. ``tokens``: those that the method looks at (`evaluate.tokens_of`);
    ``device``: where the model is; a solved head is on the CPU.

    Raises ValueError for a device that is not there, and RuntimeError for tokens of other channels than the checkpoint
    has learnt from.
    """
    rows = torch.arange(tokens.shape[0]) if rows is None else rows
    model = evaluate.restore(checkpoint, method, training, tokens.channels).to(named(device))
    output = evaluate.predict(model, tokens, rows, maps=True)
    head = evaluate.solved_head(method, training, checkpoint.readout)
    if head is None:
        return Readout(output, None, output.features, output.logits)
    features = evaluate.solved_features(method, tokens, rows, output.features)
    return Readout(output, head, features, head.logits(features))


def by_leverage(head: Head | None) -> TypeGuard[RecursiveRidge]:
    """Whether `unknown` scores by the head's leverage: a ridge knows all that it has learnt from as G = Σ xxᵀ."""
    return isinstance(head, RecursiveRidge)


def unknown(readout: Readout) -> Tensor:
    """Scores [N] for "none of these", higher where a clip is less like what was learnt.

    That of a ridge is the leverage; of all other heads, and of a trained classifier, minus the largest logit (Vaze et
    al., ICLR 2022, arXiv 2110.06207).
    """
    if by_leverage(readout.head):
        return readout.head.leverage(readout.features)
    return -readout.logits.max(1).values
