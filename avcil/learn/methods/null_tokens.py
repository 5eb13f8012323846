"""Fusion: as `mean`, but a learnt token stands for a stream that a clip lacks. As `fusion: null_tokens`, beside the
hook `modality_dropout`, without which no clip would lack any.

Dimension letters: ``B`` clips, ``D`` token channels, ``E`` feature channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcil.learn.attention import AttendedVisual, Features, MeanPooling
from avcil.tokens.tokens import Tokens


class NullTokens(MeanPooling):
    """The mean patch and the mean sound side by side; of a stream that is zero, which stands for absence, the learnt
    token n_v or n_a [D] in its place. Both begin at zero, and so where `mean` is.

    The classifier reads ReLU(W [visual, audio] + b), which is what `mean` computes from two projections. Source: the
    mask token of Devlin et al., BERT, NAACL 2019, for a whole stream.
    """

    reads_audio = False

    def __init__(self, channels: tuple[int, int]):
        super().__init__(sum(channels))
        self.picture, self.sound = (nn.Parameter(torch.zeros(width)) for width in channels)

    def forward(self, tokens: Tokens, centre: Tensor | None, *, maps: bool = False) -> AttendedVisual:
        pooled = super().forward(tokens, centre)
        streams = ((pooled.feature, self.picture), (tokens.audio.mean(1), self.sound))
        filled = [torch.where(mean.ne(0).any(1, keepdim=True), mean, null) for mean, null in streams]
        return pooled._replace(feature=torch.cat(filled, 1))

    def fuse(self, visual: Tensor, audio: Tensor) -> Features:
        """The fused feature alone; zeros are left out by distillation of features."""
        # the core's visual layer has mixed both streams; what its audio layer gives is dropped
        nothing = torch.zeros_like(visual)
        return Features(nothing, nothing, F.relu(visual))


KNOWS_ABSENCE = True
build = NullTokens
