"""From an entry of `encoders` in params.yaml to the encoder."""

from typing import Any

import torch

from avcil.encoders.base import Encoder
from avcil.params.encoders import EncoderConfig


def load_published(config: EncoderConfig, device: str) -> Encoder:
    """The encoder with its weights, on ``device``, in the precision that its entry asks for.

    Raises WeightsError or ImportError with the way out where weights or packages are missing.
    """
    try:
        family = _family(config.kind)
    except ModuleNotFoundError as error:
        message = f"no module {error.name}, which an encoder of kind {config.kind} needs"
        raise ImportError(f"{message}: pip install 'avcil[encoders]'") from None
    return family.load(config).to(device, getattr(torch, config.precision))


def _family(kind: str) -> Any:
    """Its class. One family at a time: each imports packages that take seconds."""
    if kind == "pe_av":
        from avcil.encoders.pe_av import PeAv

        return PeAv
    if kind == "sam_audio":
        from avcil.encoders.sam_audio import SamAudio

        return SamAudio
    if kind == "videomae_audiomae":
        from avcil.encoders.videomae_audiomae import VideoMAEAudioMAE

        return VideoMAEAudioMAE
    if kind == "clip_clap":
        from avcil.encoders.clip_clap import ClipClap

        return ClipClap
    from avcil.encoders.imagebind import ImageBind

    return ImageBind
