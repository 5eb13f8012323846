"""Where and when to look: guided attention, and what stands for it where nothing guides or nothing is learnt.

Dimension letters: ``B`` clips, ``L`` temporal slots, ``S`` patches of a slot, ``A`` audio tokens, ``D`` token channels,
``E`` feature channels. ``channels`` are those of a visual and of an audio token.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcil.kernels import guided_attention
from avcil.tokens.tokens import Tokens, frame_audio


class Features(NamedTuple):
    """The three features that distillation holds on to, each [B,E]."""

    visual: Tensor
    audio: Tensor
    fused: Tensor

    def at(self, rows: Tensor | slice) -> "Features":
        """Those of some of the clips."""
        return Features(*(feature[rows] for feature in self))


class AttendedVisual(NamedTuple):
    """What looking at a clip gives: visual feature [B,channels] before its projection, spatial attention [B,L,S] (sums
    to 1 over S) and temporal attention [B,L] (sums to 1 over L).

    An attention with a map a channel has [B,L,S,D] and [B,L,D], empty unless they are asked for, and ``divergence``
    [B], how far they went from the old model's; all others have zeros there.
    """

    feature: Tensor
    spatial: Tensor
    temporal: Tensor
    divergence: Tensor


class Attention(nn.Module):
    """Where and when to look, and how what is seen and what is heard become one feature.

    Besides ``forward``, an attention says in ``channels`` how wide its visual feature is, in ``frozen`` whether nothing
    is learnt: then its features are as wide as the tokens, and no epoch is run; in ``reads_similarity`` whether an
    exemplar's similarity has to be kept as well; and in ``reads_audio`` whether `fuse` reads the projected sound.
    """

    channels: int
    frozen = False
    reads_similarity = False
    reads_audio = True

    def forward(self, tokens: Tokens, centre: Tensor | None, *, maps: bool = False) -> AttendedVisual:
        """centre [D] or None: what the true visual tokens are more than those given; maps: build them where a map a
        channel would else be left out."""
        raise NotImplementedError

    def fuse(self, visual: Tensor, audio: Tensor) -> Features:
        """Visual, audio and fused feature, ReLU(visual + audio), each [B,E]."""
        return Features(visual, audio, F.relu(visual + audio))


class GuidedAttention(Attention):
    """Audio features ask where (patches of a slot) and when (slots) to look.

    With audio slots u_l, their mean ū, patches v_ls and the frozen encoder's similarity m_ls:

        q_l   = W_q (u_l + ū)
        w_ls  = softmax_s(g q_l · K v_ls / √d + τ m_ls)                 where, per head
        o_l   = V Σ_s w_ls v_ls
        α_l   = softmax_l(P ū · K' o_l / √d),   visual = V' Σ_l α_l o_l   when, per head

    g and τ are learnt scalars; g starts small, so that attention starts from what the frozen prior already hears, and
    P starts at zero, so that all moments count alike at first.

    Deviation from arXiv 2606.10887: the paper's text does not give the score; the term τ m is ours, and τ = 0 turns it
    off (row `lll`).
    """

    # of τ = 0 too, which is a row's choice, and may be another in the next task
    reads_similarity = True

    def __init__(
        self, channels: tuple[int, int], width: int, heads: int, *, prior_guidance: float, learnt_guidance: float
    ):
        super().__init__()
        visual, audio = channels
        self.channels = width
        self.heads = heads
        self.query = nn.Linear(audio, width)
        # a bias of keys would add the same to all scores of a query, and the softmax takes that out again
        self.key = nn.Linear(visual, width, bias=False)
        self.value = nn.Linear(visual, width)
        self.moment_query = nn.Linear(audio, width)
        self.moment_key = nn.Linear(width, width, bias=False)
        self.moment_value = nn.Linear(width, width)
        # of a zero query all scores are 0. Keys are not zero as well, or neither would have a gradient
        nn.init.zeros_(self.moment_query.weight)
        nn.init.zeros_(self.moment_query.bias)
        self.gain = nn.Parameter(torch.tensor(float(learnt_guidance)))
        # a τ of 0 stays 0: the row `lll` is to have nothing of the prior's similarity
        self.tau = nn.Parameter(torch.tensor(float(prior_guidance)), requires_grad=prior_guidance != 0)

    def forward(self, tokens: Tokens, centre: Tensor | None, *, maps: bool = False) -> AttendedVisual:
        """The guided visual feature [B,E] and one map of all heads."""
        mean = tokens.audio.mean(1)
        slots = frame_audio(tokens.audio, tokens.visual.shape[1])
        # one query a slot, over its patches; a factor of the query is a factor of the scores
        where = guided_attention(
            self.gain * self.query(slots + mean[:, None])[:, :, None],
            tokens.visual,
            self.key.weight,
            self.value.weight,
            self.value.bias,
            heads=self.heads,
            bias=self.tau * tokens.similarity,
            centre=centre,
        )
        # one query a clip, over its slots
        when = guided_attention(
            self.moment_query(mean)[:, None, None],
            # [B,L,1,E] to [B,1,L,E]: what was seen in each slot stands where patches stood, and has no centre to add
            where.output.transpose(1, 2),
            self.moment_key.weight,
            self.moment_value.weight,
            self.moment_value.bias,
            heads=self.heads,
        )
        # not len(mean), which torch.export would take for a number
        divergence = mean.new_zeros(mean.shape[0])
        return AttendedVisual(when.output[:, 0, 0], where.weights[:, :, 0], when.weights[:, 0, 0], divergence)


def _evenly(tokens: Tokens, feature: Tensor) -> AttendedVisual:
    """A feature of these tokens in which all patches and moments count alike."""
    batch, slots, patches = tokens.visual.shape[:3]
    spatial = tokens.audio.new_full((batch, slots, patches), 1 / patches)
    temporal = tokens.audio.new_full((batch, slots), 1 / slots)
    return AttendedVisual(feature, spatial, temporal, tokens.audio.new_zeros(batch))


class MeanPooling(Attention):
    """Looks everywhere alike: the mean of all visual tokens."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, tokens: Tokens, centre: Tensor | None, *, maps: bool = False) -> AttendedVisual:
        # no centre to add: without learnt attention tokens come in float32, as they are (avcil/learn/train.py)
        return _evenly(tokens, tokens.visual.mean((1, 2)))


class FrozenAttention(MeanPooling):
    """Nothing is learnt: the mean of visual tokens under the prior's own attention softmax_s(τ m), for `frozen_scaled`
    with m of `unit_spread`, for `frozen` without guidance; and the mean audio token beside it."""

    frozen = True

    def __init__(self, channels: int, fusion: str, prior_guidance: float):
        super().__init__(channels)
        self.fusion = fusion
        self.prior_guidance = prior_guidance
        self.reads_similarity = fusion != "frozen"

    def forward(self, tokens: Tokens, centre: Tensor | None, *, maps: bool = False) -> AttendedVisual:
        if self.fusion == "frozen":
            return super().forward(tokens, centre)
        similarity = unit_spread(tokens.similarity) if self.fusion == "frozen_scaled" else tokens.similarity
        spatial = (self.prior_guidance * similarity).softmax(-1)
        # over all slots alike: the prior does not say when to look
        visual = torch.einsum("bls,blsd->bd", spatial, tokens.visual) / tokens.visual.shape[1]
        return _evenly(tokens, visual)._replace(spatial=spatial)

    def fuse(self, visual: Tensor, audio: Tensor) -> Features:
        """Fused is both side by side, the sound first: solved heads of older runs have their sums in that order."""
        return Features(visual, audio, torch.cat([audio, visual], 1))


def frozen_features(tokens: Tokens, prior_guidance: float) -> Features:
    """Those of `frozen_guided`, for what reads them beside learnt ones."""
    # it has no weights, so that one can be made on the spot
    attention = FrozenAttention(tokens.channels[0], "frozen_guided", prior_guidance)
    return attention.fuse(attention(tokens, None).feature, tokens.audio.mean(1))


def unit_spread(similarity: Tensor) -> Tensor:
    """m [B,L,S] less its mean over S, over the root mean square of that by clip: neither a factor nor a number added to
    a slot changes anything. Zeros where patches are not told apart."""
    spread = similarity - similarity.mean(-1, keepdim=True)
    size = spread.square().mean((1, 2), keepdim=True).sqrt()
    # what rounding leaves of equal numbers is no spread
    differs = size > 1e-5 * similarity.abs().amax((1, 2), keepdim=True)
    # tokens are not learnt, so that no gradient meets the 0 / 0 that `where` leaves out
    return torch.where(differs, spread / size, 0.0)
