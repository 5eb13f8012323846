"""Fusion: nothing is learnt; the picture as each source of guidance shows it, beside one another. As `fusion:
frozen_sources`.

Dimension letters: ``B`` clips, ``L`` temporal slots, ``S`` patches of a slot, ``K`` sources, ``V`` and ``A`` channels
of a visual and of an audio token.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from avcil.learn.attention import AttendedVisual, Attention, Features, FrozenAttention
from avcil.learn.methods.scaled_guided import TAU
from avcil.tokens.guidance import synchrony
from avcil.tokens.tokens import Tokens, frame_audio

Source = Literal["similarity", "synchrony", "none"]
# the order of pictures side by side, and of the positions that checkpoints keep
SOURCES: tuple[Source, ...] = get_args(Source)
"""The store's similarity: the encoder's own, or the change that loudness explains; what the hook `synchrony` estimates;
and all patches alike."""


class FrozenSources(Attention):
    """`FrozenAttention` as `frozen_scaled` with τ = 1.5, for each source of guidance.

    Features: audio, the mean audio token; visual, the sources' pictures beside one another, [B,K·V]; fused, audio and
    the picture of the source believed.

    Buffers: ``form`` [V,A] of `synchrony`, zero until it is estimated; ``believed``, the position in ``SOURCES`` of the
    source whose map is shown. Under a source of equal numbers all patches count alike.
    """

    frozen = True
    reads_similarity = True
    form: Tensor
    believed: Tensor

    def __init__(self, channels: tuple[int, int]):
        super().__init__()
        # at unit spread one τ serves both an encoder's own similarity and one of changes (LOG.md)
        self.attention = FrozenAttention(channels[0], "frozen_scaled", TAU)
        self.channels = channels[0]
        # buffers, which a checkpoint keeps and no optimiser sees; the hook `synchrony` fills them
        self.register_buffer("form", torch.zeros(channels))
        self.register_buffer("believed", torch.zeros((), dtype=torch.long))

    def forward(self, tokens: Tokens, centre: Tensor | None, *, maps: bool = False) -> AttendedVisual:
        # centre is not read: what is frozen is fed true tokens, as float32 (avcil/learn/train.py)
        slots = frame_audio(tokens.audio, tokens.visual.shape[1])
        sources = (tokens.similarity, synchrony(tokens.visual, slots, self.form), torch.zeros_like(tokens.similarity))
        attended = [self.attention(tokens._replace(similarity=similarity), None) for similarity in sources]
        pictures = torch.stack([one.feature for one in attended], 1)
        spatial = torch.stack([one.spatial for one in attended], 1)
        # moments count alike under every source, so that the first one's temporal map is all of theirs
        return attended[0]._replace(feature=pictures, spatial=self._of_believed(spatial))

    def fuse(self, visual: Tensor, audio: Tensor) -> Features:
        # side by side for `chosen_ridge`, which takes them apart again; fused has the sound first, as FrozenAttention's
        return Features(visual.flatten(1), audio, torch.cat([audio, self._of_believed(visual)], 1))

    def _of_believed(self, sources: Tensor) -> Tensor:
        """Of [B,K,...], indexed in a way that torch.export traces, too."""
        return sources.index_select(1, self.believed[None]).squeeze(1)


build = FrozenSources
