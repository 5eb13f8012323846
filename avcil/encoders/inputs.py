"""What published networks read: normalised pixels and Kaldi's log-mel spectrogram, of decoded clips.

Dimension letters: ``B`` clips, ``F`` pictures of a clip, ``N`` audio samples.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.compliance import kaldi

from avcil.encoders.base import WeightsError
from avcil.params.encoders import Pretrained


def processor(processor_class, config: Pretrained):
    """The processor of transformers that was published beside the weights: its mean, spread and filters go with them.

    Raises WeightsError if it is not there.
    """
    try:
        return processor_class.from_pretrained(config.weights, revision=config.revision or "main")
    except Exception as error:  # of a file that is missing or damaged transformers raises anything
        reason = " ".join(str(error).split())[:200]
        message = f"{config.weights}: no preprocessor_config.json of {processor_class.__name__} ({reason})"
        raise WeightsError(f"{message}; it is published beside the weights: download it with them") from None


def side(config: Pretrained, grid: int) -> int:
    """Patches a side of a slot that are kept. Raises ValueError if that is more than the network's ``grid``."""
    if config.patches is not None and config.patches > grid:
        raise ValueError(f"patches: {config.patches} a side where {config.weights} has {grid}; take at most {grid}")
    return config.patches or grid


def pixels(frames: Tensor, mean, std, like: Tensor) -> Tensor:
    """(frames / 255 - mean) / std: [B,F,H,W,3] uint8 -> [B,F,3,H,W], where ``like`` is and in its dtype."""
    # bytes travel to the device, not floats
    channels_BFCHW = frames.to(like.device).movedim(-1, 2) / 255
    mean, std = (torch.tensor(value, device=like.device)[:, None, None] for value in (mean, std))
    # normalised in float32, and rounded once
    return ((channels_BFCHW - mean) / std).to(like.dtype)


def log_mel(waveform: Tensor, sample_rate: int, frames: int) -> Tensor:
    """Kaldi's log-mel energies, 128 bands every 10 ms: [B,N] -> [B,frames,128] float32, cut or padded with zeros.

    As AST (Gong et al. 2021) takes them from a clip without its mean, and AudioMAE and ImageBind after it. Half
    precision would lose the quiet bands, so this is float32 whatever the network computes in.
    """
    waveform = waveform.float() - waveform.float().mean(1, keepdim=True)
    # dither is noise: the same clip would have other tokens each time
    options = {"htk_compat": True, "window_type": "hanning", "num_mel_bins": 128, "dither": 0.0, "use_energy": False}
    # one by one, since `fbank` takes the rows of its input for channels, and reads one of them
    mel = torch.stack([kaldi.fbank(clip[None], sample_frequency=sample_rate, **options) for clip in waveform])
    # to pad by a negative number is to cut
    return F.pad(mel, (0, 0, 0, frames - mel.shape[1]))
