"""Fusion: guided attention that asks nothing of its encoders' units, beside what it would be if nothing were learnt. As
`fusion: scaled_guided`.

Dimension letters: ``B`` clips, ``L`` temporal slots, ``S`` patches of a slot, ``A`` audio tokens, ``D`` token channels,
``E`` feature channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from avcil.learn.attention import AttendedVisual, Attention, Features, GuidedAttention, frozen_features, unit_spread
from avcil.tokens.tokens import Tokens

# its own, not those of `training`: a fusion's file is told channels alone
WIDTH, HEADS = 128, 4
# first weights of a similarity of unit spread, and of learnt scores beside it
TAU, GAIN = 1.5, 0.1


def _over_root_mean_square(stream: Tensor) -> Tensor:
    """Of each clip; zeros, which stand for an absent stream, stay."""
    size = stream.square().flatten(1).mean(1).sqrt().clamp_min(torch.finfo(stream.dtype).tiny)
    return stream / size[(...,) + (None,) * (stream.dim() - 1)]


def common_scale(tokens: Tokens, centre: Tensor | None = None) -> Tokens:
    """Each clip's tokens brought to a common scale from the clip alone: visual and audio tokens over the root mean
    square of all their numbers, the similarity by `unit_spread`. So a factor on a stream changes nothing.

    Args:
        centre: [D], what the true visual tokens are more than those given.
    """
    # the root mean square is to be that of true tokens; whoever comes after is given no centre
    visual = tokens.visual.float() + (0.0 if centre is None else centre)
    scaled = _over_root_mean_square(visual), _over_root_mean_square(tokens.audio.float())
    return Tokens(*scaled, unit_spread(tokens.similarity.float()))


class ScaledGuided(Attention):
    """`GuidedAttention` over tokens of a common scale; its classifier reads ReLU(W [visual, ū] + b).

    Features: fused, the learnt one, [B,E]; visual and audio are frozen, what a solved head may read beside it: the mean
    of patches under softmax_s(τ m) with τ = 1.5, and ū, each as wide as its tokens. Distillation of all three features
    therefore holds the fused one alone.
    """

    reads_similarity = True
    reads_audio = False

    def __init__(self, channels: tuple[int, int]):
        super().__init__()
        self.attention = GuidedAttention(channels, WIDTH, HEADS, prior_guidance=TAU, learnt_guidance=GAIN)
        self.channels = WIDTH + channels[1]
        self.untrained: Features | None = None

    def forward(self, tokens: Tokens, centre: Tensor | None, *, maps: bool = False) -> AttendedVisual:
        """Guided visual and mean audio feature side by side [B,channels], and their maps."""
        tokens = common_scale(tokens, centre)
        attended = self.attention(tokens, None)
        # put by for `fuse`, which is given the two projected features and no tokens
        self.untrained = frozen_features(tokens, TAU)
        # audio comes along here: the core's own audio layer, which nothing else reads, is given tokens of any scale
        return attended._replace(feature=torch.cat([attended.feature, tokens.audio.mean(1)], 1))

    def fuse(self, visual: Tensor, audio: Tensor) -> Features:
        """Frozen visual, frozen audio and learnt feature of the clips that were attended last."""
        assert self.untrained is not None, "nothing was attended"
        # given out once: those of one batch can never stand beside another's features
        untrained, self.untrained = self.untrained, None
        # the core's visual layer has mixed picture and sound; what its audio layer gives is dropped
        return untrained._replace(fused=F.relu(visual))


build = ScaledGuided
