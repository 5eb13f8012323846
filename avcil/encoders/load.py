"""From an entry of `encoders` in params.yaml to the encoder."""

from typing import Any

import torch

from avcil.encoders.base import Encoder
from avcil.params.encoders import EncoderConfig


def load_published(config: EncoderConfig, device: str) -> Encoder:
    """The encoder with its weights, on ``device``, in the precision that its entry asks for.

    Raises WeightsError or ImportError with the way out where weights or packages are missing.
    """
    family: Any
    # one family at a time: each imports packages that take seconds
    if config.kind == "pe_av":
        from avcil.encoders.pe_av import PeAv

        family = PeAv
    elif config.kind == "sam_audio":
        from avcil.encoders.sam_audio import SamAudio

        family = SamAudio
    elif config.kind == "videomae_audiomae":
        from avcil.encoders.videomae_audiomae import VideoMAEAudioMAE

        family = VideoMAEAudioMAE
    elif config.kind == "clip_clap":
        from avcil.encoders.clip_clap import ClipClap

        family = ClipClap
    else:
        from avcil.encoders.imagebind import ImageBind

        family = ImageBind
    return family.load(config).to(device, getattr(torch, config.precision))
