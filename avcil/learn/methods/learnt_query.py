"""Fusion: attention that asks the same of every clip, whatever is heard. As `fusion: learnt_query`.

Dimension letters: ``B`` clips, ``L`` temporal slots, ``S`` patches of a slot, ``E`` feature channels.
"""

import torch
from torch import Tensor

from avcil.learn.attention import AttendedVisual, Attention, GuidedAttention
from avcil.learn.methods.scaled_guided import GAIN, HEADS, WIDTH
from avcil.tokens.tokens import Tokens


class LearntQuery(Attention):
    """`GuidedAttention` with the biases of its queries alone: q_l = b for all slots and clips, and no similarity.

    Where to look is learnt and sound is classified by, as in the row `lll`, but sound does not say where to look. The
    difference is what audio queries are worth.
    """

    def __init__(self, channels: tuple[int, int]):
        super().__init__()
        self.attention = GuidedAttention(channels, WIDTH, HEADS, prior_guidance=0.0, learnt_guidance=GAIN)
        self.channels = WIDTH
        # of silence only the biases are left
        for query in (self.attention.query, self.attention.moment_query):
            query.weight.requires_grad_(False)

    def forward(self, tokens: Tokens, centre: Tensor | None, *, maps: bool = False) -> AttendedVisual:
        """The visual feature [B,E], and spatial and temporal maps."""
        silent = tokens._replace(audio=torch.zeros_like(tokens.audio), similarity=torch.zeros_like(tokens.similarity))
        return self.attention(silent, centre, maps=maps)


build = LearntQuery
