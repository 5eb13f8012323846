"""An encoder of pictures and one of sound."""

import torch
from torch import Tensor, nn

from avcil.encoders.base import absent
from avcil.params.encoders import Pretrained
from avcil.tokens.tokens import Layout, Tokens


class Pair(nn.Module):
    """Two networks that each know one stream. Unless `similarity` says otherwise they share no space: it is zero
    everywhere, and guidance starts from nothing."""

    config: Pretrained
    layout: Layout

    def visual_tokens(self, frames: Tensor) -> Tensor:
        """frames [B,F,H,W,3] uint8 -> [B,L,S,D], all patches."""
        raise NotImplementedError

    def audio_tokens(self, waveform: Tensor) -> Tensor:
        """waveform [B,N] -> [B,A,D]."""
        raise NotImplementedError

    def similarity(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Tokens [B,L,S,D] and [B,A,D] -> [B,L,S]."""
        return visual.new_zeros(visual.shape[:3])

    @torch.no_grad()
    def encode(self, frames: Tensor | None, waveform: Tensor | None) -> Tokens:
        """frames [B,F,H,W,3] uint8 and waveform [B,N], either of them None (then the similarity is zero), -> Tokens."""
        batch, like = len(waveform if frames is None else frames), next(self.parameters())
        visual = absent(batch, self.layout, "visual", like) if frames is None else self.visual_tokens(frames)
        audio = absent(batch, self.layout, "audio", like) if waveform is None else self.audio_tokens(waveform)
        both = frames is not None and waveform is not None
        similarity = self.similarity(visual, audio) if both else visual.new_zeros(visual.shape[:3])
        tokens = Tokens(visual, audio, similarity)
        return tokens if self.config.patches is None or frames is None else tokens.coarse(self.config.patches)
