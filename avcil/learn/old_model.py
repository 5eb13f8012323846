"""What a frozen old model says of frozen clips: asked once a task, not once a step.

Dimension letters: ``N`` clips at hand, ``B`` clips of a batch, ``P`` past classes, ``F`` features of a clip.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from avcil.base.files import digest
from avcil.kernels import OldAttention, remember_attention
from avcil.learn.evaluate import predict
from avcil.learn.feed import Feed
from avcil.learn.model import ChannelwiseAttention, IncrementalClassifier, Output

KEPT = 1 << 31  # bytes of channel-wise maps; more are computed anew for each batch

Recall = Callable[[Tensor], tuple[OldAttention, Tensor]]


class Old(NamedTuple):
    """What is known of the N clips at hand before a task is learnt.

    said: the old model's output, its logits [N,P], None where nothing reads it; recall: gives, for rows [B] of the
    clips at hand, the old model's channel-wise attention of some clips, and for each row which of them it is, or -1 for
    a new clip; importance [N,F] of the old features (AFC) and stored [N,P], the exemplars' logits as they were when
    stored, NaN where there is none: each None where the method does not use it.
    """

    said: Output | None
    recall: Recall | None
    importance: Tensor | None
    stored: Tensor | None


class _Answer(NamedTuple):
    content: str
    said: Output
    maps: OldAttention | None


_last: _Answer | None = None


def ask(
    model: IncrementalClassifier, feed: Feed, new: int, content: str, *, maps: bool
) -> tuple[Output, Recall | None]:
    """The old model's output for all clips of ``feed``, on the CPU, and, if ``maps``, its attention on exemplars, the
    clips from ``new`` on, whose maps are kept in the tokens' type while they fit into ``KEPT`` bytes.

    The last answer is kept and given again for the same weights, the same ``content`` (a name of the clips and how they
    are fed) and the same question, as when a task is learnt once more with other losses.
    """
    global _last

    @torch.no_grad()
    def attention(rows: Tensor) -> OldAttention:
        if not isinstance(model.attention, ChannelwiseAttention):
            raise ValueError(f"fusion `{model.fusion}` has no map for each channel; ask without maps")
        return remember_attention(*model.attention.inputs(feed.clips(rows)), centre=feed.centre, dtype=feed.dtype)

    def afresh(rows: Tensor) -> tuple[OldAttention, Tensor]:
        exemplar = rows >= new
        return attention(rows[exemplar]), torch.where(exemplar, exemplar.cumsum(0) - 1, -1)

    state = b"".join(value.detach().cpu().numpy().tobytes() for value in model.state_dict().values())
    content = f"{content} {digest(state)} {model.fusion} {new} {maps} {feed.dtype} {feed.device}"
    if _last is None or _last.content != content:
        said, kept = predict(model, feed, torch.arange(len(feed))), None
        exemplars = torch.arange(new, len(feed), device=feed.device)
        if maps and 0 < feed.map_bytes * len(exemplars) <= KEPT:
            parts = [attention(rows) for rows in exemplars.split(200)]
            kept = OldAttention(*(torch.cat(field) for field in zip(*parts, strict=True)))
        _last = _Answer(content, said, kept)
    said, kept = _last.said, _last.maps
    if kept is not None:
        return said, lambda rows: (kept, torch.where(rows >= new, rows - new, -1))
    return said, afresh if maps else None
