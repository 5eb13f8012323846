"""Fusion: nothing is learnt; the picture as each source of guidance shows it, beside one another. As `fusion:
frozen_sources`.

Dimension letters: ``B`` clips, ``L`` temporal slots, ``S`` patches of a slot, ``K`` sources, ``V`` and ``A`` channels
of a visual and of an audio token.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from avcil.learn.attention import AttendedVisual, Attention, Features, unit_spread
from avcil.learn.methods.scaled_guided import TAU
from avcil.tokens.guidance import synchrony
from avcil.tokens.tokens import Tokens, frame_audio

Source = Literal["similarity", "synchrony", "none"]
SOURCES: tuple[Source, ...] = get_args(Source)
"""The store's similarity: the encoder's own, or the change that loudness explains; what the hook `synchrony` estimates;
and all patches alike."""


class FrozenSources(Attention):
    """Features: audio, the mean audio token; visual, for each source's m of `unit_spread` the mean of patches under
    softmax_s(τ m) with τ = 1.5, beside one another, [B,K·V]; fused, audio and the picture of the source believed.

    Buffers: ``form`` [V,A] of `synchrony`, zero until it is estimated; ``believed``, the position in ``SOURCES`` of the
    source whose map is shown. Under a source of equal numbers all patches count alike.
    """

    frozen = True
    form: Tensor
    believed: Tensor

    def __init__(self, channels: tuple[int, int]):
        super().__init__()
        self.channels = channels[0]
        self.register_buffer("form", torch.zeros(channels))
        self.register_buffer("believed", torch.zeros((), dtype=torch.long))

    def forward(self, tokens: Tokens, centre: Tensor | None, *, maps: bool = False) -> AttendedVisual:
        slots = frame_audio(tokens.audio, tokens.visual.shape[1])
        sources = (tokens.similarity, synchrony(tokens.visual, slots, self.form), torch.zeros_like(tokens.similarity))
        spatial = torch.stack([(TAU * unit_spread(similarity)).softmax(-1) for similarity in sources])
        pictures = torch.einsum("kbls,blsv->bkv", spatial, tokens.visual) / tokens.visual.shape[1]
        temporal = slots.new_full(slots.shape[:2], 1 / slots.shape[1])
        return AttendedVisual(pictures, self._of_believed(spatial, 0), temporal, slots.new_zeros(slots.shape[0]))

    def fuse(self, visual: Tensor, audio: Tensor) -> Features:
        return Features(visual.flatten(1), audio, torch.cat([audio, self._of_believed(visual, 1)], 1))

    def _of_believed(self, sources: Tensor, dim: int) -> Tensor:
        """Indexed in a way that torch.export traces, too."""
        return sources.index_select(dim, self.believed[None]).squeeze(dim)


build = FrozenSources
