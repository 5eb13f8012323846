"""Fusion of AV-CIL: audio-guided attention with a map of its own for every channel. As `fusion: channelwise`.

Source: Pian et al., ICCV 2023, arXiv 2308.11073, as their code has it.

Dimension letters: ``B`` clips, ``L`` slots, ``S`` patches of a slot, ``D`` token channels, ``E`` feature channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcil.kernels import OldAttention, channelwise_attention, channelwise_maps
from avcil.learn.attention import AttendedVisual, Attention, Features
from avcil.tokens.tokens import Tokens


class ChannelwiseAttention(Attention):
    """With the mean audio token u and patches v_ls, products taken channel by channel:

        a = tanh(W_a u + b_a),  k_ls = tanh(W_v v_ls + b_v)
        w_ls = softmax_s(a k_ls),   α_l = softmax_l(a Σ_s w_ls k_ls),   visual = Σ_l α_l Σ_s w_ls v_ls

    The model's features are ReLU(audio), ReLU(visual) and their sum.
    """

    def __init__(self, channels: tuple[int, int]):
        super().__init__()
        visual, audio = channels
        if visual != audio:
            raise ValueError(
                f"channel-wise attention needs visual and audio tokens of equal width, not {visual} and {audio}; "
                "use another fusion or another encoder"
            )
        self.channels = visual
        self.audio = nn.Linear(audio, audio)
        self.visual = nn.Linear(visual, visual)

    def inputs(self, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the kernel takes: audio [B,D], visual tokens, weight and bias."""
        # in [-1,1]: the kernels' closed form leans on bounded scores, and the CPU's refuses others
        return torch.tanh(self.audio(tokens.audio.mean(1))), tokens.visual, self.visual.weight, self.visual.bias

    def forward(
        self,
        tokens: Tokens,
        centre: Tensor | None,
        *,
        old: OldAttention | None = None,
        old_rows: Tensor | None = None,
        maps: bool = False,
    ) -> AttendedVisual:
        """The visual feature [B,D], spatial maps [B,L,S,D] and temporal maps [B,L,D], and how far they went from the
        ``old`` ones, of which ``old_rows`` [B] says each clip's, or -1."""
        inputs, batch = self.inputs(tokens), len(tokens.audio)
        attended = channelwise_attention(*inputs, centre=centre, old=old, of=old_rows)
        # of fewer dimensions than maps a channel, which `predict` tells by that and averages
        spatial, temporal = inputs[0].new_empty(batch, 0, 0), inputs[0].new_empty(batch, 0)
        # a second time, for closed forms build none; learning asks for no maps, figures and evaluation do
        if maps:
            _, spatial, temporal = channelwise_maps(*inputs, centre)
        divergence = attended.spatial_divergence + attended.temporal_divergence
        return AttendedVisual(attended.output, spatial, temporal, divergence)

    def fuse(self, visual: Tensor, audio: Tensor) -> Features:
        """Visual, audio and fused feature, each [B,E]."""
        # each stream by itself and then the sum, where the core takes ReLU of the sum
        visual, audio = F.relu(visual), F.relu(audio)
        return Features(visual, audio, visual + audio)


build = ChannelwiseAttention
