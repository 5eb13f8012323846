"""`similarity: loudness`: for an encoder that has no similarity of sound and patches, the change of each patch that the
loudness of its clip explains, in closed form.

Dimension letters: ``B`` clips, ``F`` pictures of a clip, ``L`` slots, ``N`` audio samples.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcil.base.code import code_of
from avcil.base.files import digest
from avcil.tokens.guidance import explained_change
from avcil.tokens.tokens import Tokens


def loudness(waveform: Tensor, slots: int) -> Tensor:
    """Mean power of the sound [B,N] in each of the ``slots``, which divide the clip evenly: [B,L,1], float32."""
    # power, not its root or logarithm: of these it finds what sounds most often (LOG.md)
    return F.adaptive_avg_pool1d(waveform.float().square()[:, None], slots).transpose(1, 2)


class Loudness(nn.Module):
    """The tokens of ``encoder``, and for their similarity `explained_change` of the `loudness` of each slot.

    Where objects stand still it tells which one sounds; one that moves from patch to patch it loses.
    """

    def __init__(self, encoder: Any):
        """encoder: an `Encoder`, which is a module."""
        super().__init__()
        self.encoder, self.reading, self.layout = encoder, encoder.reading, encoder.layout
        # a store names the code of the encoder that extraction is given, which is this file, and what that one calls
        file = type(encoder).__module__.rpartition(".")[2]
        self.revision = f"{encoder.revision}+{digest(code_of((f'encoders/{file}.py', 'tokens/guidance.py')))}"

    @torch.no_grad()
    def encode(self, frames: Tensor | None, waveform: Tensor | None) -> Tokens:
        """frames [B,F,H,W,3] uint8 and waveform [B,N], either of them None (then the similarity is zero), -> Tokens."""
        tokens = self.encoder.encode(frames, waveform)
        if frames is None or waveform is None:
            return tokens
        # on the CPU: it computes in float64, which not every device has
        similarity = explained_change(tokens.visual.cpu(), loudness(waveform.cpu(), self.layout.slots))
        return tokens._replace(similarity=similarity.to(tokens.similarity))
