"""An encoder of pictures and one of sound that were not trained together."""

import torch
from torch import Tensor, nn

from avcil.encoders.base import absent
from avcil.params.encoders import Pretrained
from avcil.tokens.tokens import Layout, Tokens


class Pair(nn.Module):
    """Tokens of two networks that share no space: similarity is zero everywhere, and guidance starts from nothing."""

    config: Pretrained
    layout: Layout

    def visual_tokens(self, frames: Tensor) -> Tensor:
        """frames [B,F,H,W,3] uint8 -> [B,L,S,D], all patches."""
        raise NotImplementedError

    def audio_tokens(self, waveform: Tensor) -> Tensor:
        """waveform [B,N] -> [B,A,D]."""
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, frames: Tensor | None, waveform: Tensor | None) -> Tokens:
        """frames [B,F,H,W,3] uint8 and waveform [B,N], either of them None, -> Tokens of zero similarity."""
        batch, like = len(waveform if frames is None else frames), next(self.parameters())
        visual = absent(batch, self.layout, "visual", like) if frames is None else self.visual_tokens(frames)
        audio = absent(batch, self.layout, "audio", like) if waveform is None else self.audio_tokens(waveform)
        tokens = Tokens(visual, audio, visual.new_zeros(visual.shape[:3]))
        return tokens if self.config.patches is None or frames is None else tokens.coarse(self.config.patches)
