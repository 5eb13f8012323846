"""The `mini` encoder's released weights: prior/ has them with their card, avcil/world/pretraining.py trained them.

Dimension letters as in avcil/encoders/mini.py.
"""

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from avcil.base.files import check_seal, read_tensors, tensor_bytes, write_with_seal
from avcil.encoders.mini import Mini
from avcil.params.world import MiniConfig


class Separator(nn.Module):
    """Predicts the ratio mask of the prompted object from audio tokens of the mixture and the prompt."""

    def __init__(self, channels: int, mel_bands: int):
        super().__init__()
        self.mel_bands = mel_bands
        self.prompt = nn.Linear(channels, channels)
        self.mix = nn.TransformerEncoderLayer(channels, 4, 2 * channels, 0.0, batch_first=True, norm_first=True)
        # a token of sound spans 8 frames of the spectrogram, and each frame has its own mask
        self.head = nn.Linear(channels, 8 * mel_bands)

    def forward(self, audio: Tensor, prompt: Tensor) -> Tensor:
        """audio [B,A,D], prompt [B,L,D] -> mask logits [B,M,8A]."""
        # from slots to tokens of sound: [B,L,D] -> [B,D,A]
        prompt = F.interpolate(self.prompt(prompt).transpose(1, 2), size=audio.shape[1], mode="linear")
        x = self.head(self.mix(audio + prompt.transpose(1, 2)))
        # [B,A,8M] -> [B,A,M,8] -> [B,M,A,8] -> [B,M,8A]
        return x.unflatten(2, (self.mel_bands, 8)).permute(0, 2, 1, 3).flatten(2)


def save_prior(path: Path, encoder: Mini, separator: Separator | None = None) -> None:
    """One file, ``encoder.*`` and ``separator.*``; weights in float16 (half the bytes, no change in what they do)."""
    tensors = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    if separator is not None:
        tensors |= {f"separator.{name}": value for name, value in separator.state_dict().items()}
    # buffers (mean, spread, mel filters) are not rounded
    learnt = {f"encoder.{name}" for name, _ in encoder.named_parameters()}
    half = {n: v.half() if n in learnt or n.startswith("separator.") else v for n, v in tensors.items()}
    write_with_seal(path, tensor_bytes(half))


def released(name: str, folder: Path) -> Path:
    """The weights of an own encoder: `mini` is the prior of seed 0, `mini-1` that of seed 1, `random` is untrained."""
    return folder / f"{'mini-0' if name == 'mini' else name}.safetensors"


def load_prior(path: Path, config: MiniConfig) -> tuple[Mini, Separator]:
    """The frozen encoder and its separator, whose weights are random where the file has none. Raises ValueError for a
    damaged file, or one of another layout."""
    # a flipped bit would pass for a weight
    check_seal(path)
    tensors = {name: value.float() for name, value in read_tensors(path).items()}
    encoder, separator = Mini(config), Separator(config.channels, config.mel_bands)
    for name, module in (("encoder", encoder), ("separator", separator)):
        state = {n.removeprefix(f"{name}."): v for n, v in tensors.items() if n.startswith(f"{name}.")}
        try:
            # a file may lack one, as that of `random` does
            if state:
                module.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:120]
            raise ValueError(
                f"{path}: not a prior of the `encoder` section ({reason}); take it from git, or train it: make prior"
            ) from None
        module.eval().requires_grad_(False)
    return encoder, separator
