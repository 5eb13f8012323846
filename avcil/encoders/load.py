"""From an entry of `encoders` in params.yaml to the encoder."""

import importlib
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import torch

from avcil.base.device import named
from avcil.encoders.base import Encoder, WeightsError
from avcil.encoders.loudness import Loudness
from avcil.params.encoders import EncoderConfig

# kind, which is also the name of the file, and class
FAMILIES = {
    "pe_av": "PeAv",
    "sam_audio": "SamAudio",
    "videomae_audiomae": "VideoMAEAudioMAE",
    "clip_clap": "ClipClap",
    "imagebind": "ImageBind",
}
PATIENCE = 5.0  # seconds that the hub has to answer


def check_weights(config: EncoderConfig) -> None:
    """Whether weights that are not here can be had, in one request: loading itself tries again for a minute.

    Raises WeightsError where a repository is not in the hub's cache and the hub does not answer.
    """
    for field in ("weights", "audio_weights"):
        name = getattr(config, field, None)
        if name is None or name.startswith(("/", ".", "~")) or name.endswith(".pth") or Path(name).is_dir():
            continue  # what is missing here is said at once where it is read
        try:
            from huggingface_hub import constants, try_to_load_from_cache
        except ModuleNotFoundError:
            continue  # `load_published` says which packages are missing
        revision = getattr(config, "revision" if field == "weights" else "audio_revision", None)
        # a path; else it is None, or an object for a file that the hub is known not to have
        if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            continue
        try:
            if constants.HF_HUB_OFFLINE:
                raise OSError("HF_HUB_OFFLINE is set")
            urlopen(constants.ENDPOINT, timeout=PATIENCE).close()
        except HTTPError:
            continue  # it answers; what it refuses is said when weights are asked for
        except OSError as error:
            way_out = f"`hf download {name}` where there is a network, or name a local folder in params.yaml"
            message = f"{name}: weights of {config.kind} are not here, and {constants.ENDPOINT} cannot be reached"
            raise WeightsError(f"{message} ({error}); {way_out}") from None


def load_published(config: EncoderConfig, device: str, guide: EncoderConfig | None = None) -> Encoder:
    """The encoder with its weights, on ``device``, in the precision that its entry asks for; with ``guide``, another
    one as a part of it, for whose patches and moments the similarity is (`avcil.extraction.features.make_shards`).
    `similarity: loudness` needs no other one (`avcil.encoders.loudness`).

    Raises WeightsError or ImportError with the way out where weights or packages are missing, and WeightsError where a
    patch of the encoder is not the patch of its guide.
    """
    encoder = _load(config, device)
    if config.similarity == "loudness":
        return Loudness(encoder)
    if guide is not None:
        other = _load(guide, device)
        # size and sample rate may differ, for a clip is decoded for each of them
        grids = [(e.layout.slots, e.layout.patches, e.reading.seconds, e.reading.fit) for e in (encoder, other)]
        if grids[0] != grids[1]:
            ours, theirs = (f"{frames} x {patches} patches in {s:g} s ({fit})" for frames, patches, s, fit in grids)
            message = f"{config.kind} has {ours}, {config.similarity}, whose similarity it is to take, {theirs}"
            raise WeightsError(f"{message}; set frames, seconds and patches alike")
        # as a module, so that its weights count in the checksum of a store
        encoder.add_module("guide", other)
    return encoder


def _load(config: EncoderConfig, device: str):
    check_weights(config)
    try:
        # one family at a time: each imports packages that take seconds
        module = importlib.import_module(f"avcil.encoders.{config.kind}")
    except ModuleNotFoundError as error:
        message = f"no module {error.name}, which an encoder of kind {config.kind} needs"
        raise ImportError(f"{message}: pip install 'avcil[encoders]'") from None
    family = getattr(module, FAMILIES[config.kind])
    return family.load(config).to(named(device), getattr(torch, config.precision))
