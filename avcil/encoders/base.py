"""What every encoder is: frozen, deterministic, and able to turn decoded clips into tokens."""

from typing import Protocol

from torch import Tensor

from avcil.tokens import Tokens


class Encoder(Protocol):
    """``encode``: frames [B,F,H,W,3] uint8 and waveform [B,N] float32 to Tokens."""

    def encode(self, frames: Tensor, waveform: Tensor) -> Tokens: ...
