"""The one currency between encoders, feature store and model."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Tokens(NamedTuple):
    """Dense tokens of ``B`` clips from a frozen encoder.

    visual [B,L,S,D]: S patches in each of L temporal slots; audio [B,A,D]; similarity [B,L,S]: how well each patch
    matches the sound of its slot in the encoder's own judgement (a logit).
    """

    visual: Tensor
    audio: Tensor
    similarity: Tensor

    def clips(self, index) -> "Tokens":
        """The tokens of the clips at ``index`` (a slice or an index tensor)."""
        return Tokens(*(field[index] for field in self))

    def pooled(self) -> "Tokens":
        """The mean of each stream as its only token: all that fusions without attention look at."""
        return Tokens(
            self.visual.mean((1, 2), keepdim=True),
            self.audio.mean(1, keepdim=True),
            self.similarity.mean((1, 2))[:, None, None],
        )


def frame_audio(audio: Tensor, slots: int) -> Tensor:
    """Mean-pool audio tokens [B,A,D] to the L temporal ``slots`` of the visual tokens: [B,L,D]."""
    return F.adaptive_avg_pool1d(audio.transpose(1, 2), slots).transpose(1, 2)
