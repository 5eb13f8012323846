"""Hooks of AV-CIL: contrast of sound and picture, and attention that stays on exemplars. As `hooks: {av_cil: {...}}`.

Source: Pian et al., ICCV 2023, arXiv 2308.11073, and its authors' code.

Dimension letters: ``B`` clips of a batch, ``E`` feature channels, ``L`` slots, ``S`` patches of a slot.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from avcil.kernels import OldAttention, remember_attention
from avcil.learn.hooks import Batch, Hooks, Learning
from avcil.params.learning import Method
from avcil.params.section import Section

MAP_BYTES = 1 << 31  # of old maps that are kept; more are computed anew for each batch


class Options(Section):
    instance_contrast: float = Field(0.0, ge=0, description="weight; visual against audio features, clip by clip")
    class_contrast: float = Field(0.0, ge=0, description="weight; visual against audio features, class by class")
    temperature: float = Field(0.05, gt=0, description="of both")
    attention_distillation: float = Field(0.0, ge=0, description="weight")
    as_published: bool = Field(False, description="with the deviation of the authors' code from their paper")


def instance_contrast(visual: Tensor, audio: Tensor, temperature: float) -> Tensor:
    r"""InfoNCE from audio to visual: each clip's sound finds its own picture among the batch.

    .. math:: -\frac{1}{B} \sum_b \log \mathrm{softmax}_j(\hat a_b \cdot \hat v_j / \tau)_b

    visual, audio [B,E], hats meaning unit length (instance-aware similarity).
    """
    # row b is sound b: from sound to picture alone, so that the loss is not symmetric
    scores = F.normalize(audio, dim=1) @ F.normalize(visual, dim=1).T / temperature
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def class_contrast(
    visual: Tensor, audio: Tensor, labels: Tensor, temperature: float, *, as_published: bool = False
) -> Tensor:
    r"""Each clip's sound finds the pictures of its class.

    .. math:: -\frac{1}{B} \sum_b \frac{1}{|P_b|} \sum_{j \in P_b}
              \log \mathrm{softmax}_j(\hat a_b \cdot \hat v_j / \tau), \quad P_b = \{j : y_j = y_b\}

    Equation 7. ``as_published``: their code divides by B where the equation has :math:`|P_b|`.
    """
    scores = F.normalize(audio, dim=1) @ F.normalize(visual, dim=1).T / temperature
    # a clip is of its own class, so no |P_b| is 0
    same = (labels[:, None] == labels).to(scores.dtype)
    agreement = (F.log_softmax(scores, 1) * same).sum(1)
    # as published, clips with few of their class in the batch count less
    return -(agreement / (len(labels) if as_published else same.sum(1))).mean()


def channel_attention_distillation(divergence: Tensor, exemplar: Tensor) -> Tensor:
    r"""Spatial and temporal attention of every channel stay those of the old model, on exemplars.

    .. math:: \frac{1}{2M} \sum_b \Big( \sum_{l,d} \mathrm{KL}(w^{old}_{bl \cdot d} \| w_{bl \cdot d}) +
              \sum_{d} \mathrm{KL}(\alpha^{old}_{b \cdot d} \| \alpha_{b \cdot d}) \Big)

    divergence [B], the sums in the brackets, 0 for other clips (``avcil.kernels.channelwise_attention``); exemplar [B],
    true for M clips. Zero for M = 0 (visual attention distillation).
    """
    # the half that AV-CIL gives to either of where and when; a batch without exemplars is 0 / 2
    return divergence.sum() / (2 * exemplar.sum().clamp_min(1))


class AvCil(Hooks):
    def __init__(self, options: Options):
        self.options = options
        # what `attention_options` asks, which is given rows alone; None while no map is held to an old one
        self.learning: Any = None
        self.old_maps: OldAttention | None = None

    def before_task(self, learning: Learning) -> None:
        """Asks the old model once for its maps of exemplars, in the tokens' type, if they are not too many to keep."""
        feed = learning.feed
        # at hand, new clips come first
        exemplars = torch.arange(learning.new, len(feed), device=feed.device)
        self.learning = learning if self.options.attention_distillation and learning.past else None
        self.old_maps = None
        # a map a channel has as many numbers as the clip's visual tokens, whose bytes the feed knows
        if self.learning and 0 < feed.map_bytes * len(exemplars) <= MAP_BYTES:
            # in parts, for maps are float32 at first and become the tokens' type when they are kept
            parts = [self._old_attention(rows) for rows in exemplars.split(200)]
            self.old_maps = OldAttention(*(torch.cat(part) for part in zip(*parts, strict=True)))

    # for `inputs`, which has a linear layer: the kernel itself records no gradients
    @torch.no_grad()
    def _old_attention(self, rows: Tensor) -> OldAttention:
        feed, attention = self.learning.feed, self.learning.old_model.attention
        return remember_attention(*attention.inputs(feed.clips(rows)), centre=feed.centre, dtype=feed.dtype)

    def attention_options(self, rows: Tensor) -> dict[str, object]:
        """The old model's maps of some clips, and for each row which of them is its, or -1 for a new clip."""
        if self.learning is None:
            return {}
        exemplar = rows >= self.learning.new
        # with too many to keep, the old model is asked about this batch's, numbered as they come
        if self.old_maps is None:
            old, place = self._old_attention(rows[exemplar]), exemplar.cumsum(0) - 1
        else:
            old, place = self.old_maps, rows - self.learning.new
        # nothing is remembered of a new clip: the kernel's divergence is then 0
        return {"old": old, "old_rows": torch.where(exemplar, place, -1)}

    def after_task(self, learning: Learning) -> None:
        """Lets go of the old model's maps: what is learnt holds this, and this holds what is learnt, so that nothing
        else would free them before the next task has its own."""
        self.learning = self.old_maps = None

    def losses(self, learning: Learning, batch: Batch) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        options, (visual, audio, _) = self.options, batch.output.features
        # contrasts too begin with the second task: the first is learnt by cross-entropy alone, as in their code
        if not learning.past:
            return losses
        if options.attention_distillation:
            # the divergence came with the output, for `attention_options` had given the old maps to the attention
            distance = channel_attention_distillation(batch.output.divergence, batch.labels < learning.past)
            losses["attention_distillation"] = learning.growth * options.attention_distillation * distance
        if options.instance_contrast:
            # no `growth`, which is of distillation: contrasts hold on to nothing old
            contrast = instance_contrast(visual, audio, options.temperature)
            losses["instance_contrast"] = options.instance_contrast * contrast
        if options.class_contrast:
            contrast = class_contrast(
                visual, audio, batch.labels, options.temperature, as_published=options.as_published
            )
            losses["class_contrast"] = options.class_contrast * contrast
        return losses


def build(options: Options, method: Method) -> AvCil:
    if options.attention_distillation and method.fusion != "channelwise":
        raise ValueError("av_cil: attention_distillation is of maps a channel; it needs fusion: channelwise")
    return AvCil(options)
