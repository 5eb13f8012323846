"""What a stored row says of one clip, by its own head, and where and when it looks meanwhile."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch.nn.functional as F
from torch import Tensor

from avcil.learn.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from avcil.learn.evaluate import read_out, tokens_of
from avcil.params.learning import Method, Training, attends
from avcil.tokens.dataset import Dataset
from avcil.workshop.explore.playback import AttentionMaps


class Answer(NamedTuple):
    """scores: by class, in the order learnt: probabilities of a trained classifier, a solved head's own scores."""

    scores: pd.Series
    attention: AttentionMaps


def prior_attention(similarity: Tensor) -> AttentionMaps:
    """Where and when the prior itself hears the sound come from; similarity [L,S]."""
    # over all patches of all moments at once, so that a moment's weight is the sum of its patches'
    joint = similarity.flatten().softmax(0).view_as(similarity)
    temporal = joint.sum(1)
    return AttentionMaps((joint / temporal[:, None]).numpy(), temporal.numpy())


def _spread(spatial: Tensor, patches: int) -> np.ndarray:
    """Maps over coarser patches [L,S'] as maps [L,S] over all of them."""
    coarse, side = round(spatial.shape[1] ** 0.5), round(patches**0.5)
    # the nearest, so that each fine patch has the weight of the coarse one in which it lies
    fine = F.interpolate(spatial.unflatten(1, (coarse, coarse))[:, None], size=(side, side)).flatten(1)
    # shared out among the fine ones, so that a slot still sums to 1
    return (fine / fine.sum(1, keepdim=True)).numpy()


def answer(folder: Path, method: Method, training: Training, data: Dataset, *, device: str = "cpu") -> Answer:
    """What the checkpoint in ``folder`` says of the first clip of ``data``, on ``device``.

    Raises CheckpointError where it is of other parameters, or of another class order.
    """
    checkpoint = load_checkpoint(folder)
    made_from = {"method": method.model_dump(), "training": training.model_dump()}
    of_these = all(checkpoint.origin[part] == value for part, value in made_from.items())
    if not of_these or checkpoint.classes != data.order[: len(checkpoint.classes)]:
        raise CheckpointError(f"{folder}: made with other parameters; `dvc repro` makes it anew")
    return answer_of(checkpoint, method, training, data, device=device)


def answer_of(
    checkpoint: Checkpoint, method: Method, training: Training, data: Dataset, *, device: str = "cpu"
) -> Answer:
    """What it says of the first clip of ``data``, with the read-out that `evaluate` uses."""
    read = read_out(checkpoint, method, training, tokens_of(data, method), device=device)
    # a solved head's scores are no logits of a softmax, and are left as they are
    scores = read.logits.softmax(1) if read.head is None else read.logits
    slots, patches = data.tokens.shape[1:3]
    if attends(method.fusion):
        attention = AttentionMaps(_spread(read.output.spatial[0], patches), read.output.temporal[0].numpy())
    else:
        attention = AttentionMaps(np.full((slots, patches), 1 / patches), np.full(slots, 1 / slots), learnt=False)
    return Answer(pd.Series(scores[0].numpy(), index=checkpoint.classes), attention)
