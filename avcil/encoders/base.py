"""What every encoder is: frozen, deterministic, and able to turn decoded clips into tokens.

Dimension letters: ``B`` clips, ``F`` pictures of a clip, ``L`` temporal slots, ``S`` patches of a slot, ``A`` audio
tokens, ``N`` audio samples.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from avcil.base.files import digest
from avcil.base.refusal import Refusal
from avcil.params.encoders import Pretrained
from avcil.tokens.tokens import Layout, Tokens


class Reading(NamedTuple):
    """How a clip is decoded for an encoder; the keyword arguments of `avcil.extraction.clips.read_clip`.

    ``frames`` pictures, evenly spread over ``frames / fps`` seconds, of ``size`` x ``size`` pixels: the whole picture
    stretched, or the middle of one whose shorter side is ``size``. ``resize``: FFmpeg's own (fast), or torchvision's
    with antialiasing, which is what the processors of transformers do. Mono sound at ``sample_rate`` Hz.
    """

    frames: int
    fps: float
    size: int
    sample_rate: int
    fit: Literal["stretch", "crop"] = "stretch"
    resize: Literal["ffmpeg", "bilinear", "bicubic"] = "ffmpeg"

    @property
    def seconds(self) -> float:
        return self.frames / self.fps


class Encoder(Protocol):
    """A frozen encoder; implementations are `torch.nn.Module`s.

    ``encode`` takes frames [B,F,H,W,3] uint8 and waveform [B,N] float32, both as `reading` says and on any device, and
    gives Tokens as `layout` says on the encoder's own device. Either may be None: its stream is absent, and one zero
    token stands for it. The same clips give the same tokens, however they are batched (up to rounding).
    Extraction takes the similarity of another encoder, ``guide``, where `avcil.encoders.load` made that a part of it.
    """

    revision: str
    reading: Reading
    layout: Layout

    def encode(self, frames: Tensor | None, waveform: Tensor | None) -> Tokens: ...

    def state_dict(self) -> dict[str, Any]: ...


class WeightsError(Refusal):
    """Weights that cannot be loaded; the message names them and the way out."""


def absent(batch: int, layout: Layout, stream: Literal["visual", "audio"], like: Tensor) -> Tensor:
    """The zero tokens [B,1,1,D] or [B,1,D] that stand for an absent stream."""
    shape = (batch, 1, 1, layout.visual_channels) if stream == "visual" else (batch, 1, layout.audio_channels)
    return torch.zeros(shape, dtype=like.dtype, device=like.device)


class Pair(nn.Module):
    """Two networks that each know one stream. Unless `similarity` says otherwise they share no space: it is zero
    everywhere, and guidance starts from nothing."""

    config: Pretrained
    layout: Layout

    def visual_tokens(self, frames: Tensor) -> Tensor:
        """frames [B,F,H,W,3] uint8 -> [B,L,S,D], all patches."""
        raise NotImplementedError

    def audio_tokens(self, waveform: Tensor) -> Tensor:
        """waveform [B,N] -> [B,A,D]."""
        raise NotImplementedError

    def similarity(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Tokens [B,L,S,D] and [B,A,D] -> [B,L,S]."""
        return visual.new_zeros(visual.shape[:3])

    @torch.no_grad()
    def encode(self, frames: Tensor | None, waveform: Tensor | None) -> Tokens:
        """frames [B,F,H,W,3] uint8 and waveform [B,N], either of them None (then the similarity is zero), -> Tokens."""
        # what is absent has no tensor of its own to take a batch, dtype and device from
        batch, like = max(len(s) for s in (frames, waveform) if s is not None), next(self.parameters())
        visual = absent(batch, self.layout, "visual", like) if frames is None else self.visual_tokens(frames)
        audio = absent(batch, self.layout, "audio", like) if waveform is None else self.audio_tokens(waveform)
        both = frames is not None and waveform is not None
        similarity = self.similarity(visual, audio) if both else visual.new_zeros(visual.shape[:3])
        tokens = Tokens(visual, audio, similarity)
        # after the similarity, which is averaged with its patches; an absent picture is one patch already
        return tokens if self.config.patches is None or frames is None else tokens.coarse(self.config.patches)


def of_folder(weights: str) -> str:
    """The revision of a local folder, which has no commit: of its configs, that those which are mended make another
    store. Of the weights themselves a store has the checksum."""
    return f"local+{digest(b''.join(file.read_bytes() for file in sorted(Path(weights).glob('*.json'))))}"


def pretrained(model_class, config: Pretrained, *, terms: str, **options):
    """`model_class.from_pretrained` of transformers, in evaluation mode, and the revision that was loaded.

    ``terms``: one sentence on licence and access, for the error message. HF_HUB_OFFLINE is respected, since
    transformers respects it.

    Raises WeightsError with the way out if the weights are not there, or are another model's.
    """
    # transformers would look for a repository of that name, and blame the hub
    if config.weights.startswith(("/", ".", "~")) and not Path(config.weights).is_dir():
        raise WeightsError(f"{config.weights}: no such folder. {terms}")
    try:
        # the report is asked for because what a file lacks is drawn at random, with no more than a warning
        model, report = model_class.from_pretrained(
            config.weights, revision=config.revision or "main", output_loading_info=True, **options
        )
    except Exception as error:  # of weights that are missing, damaged, gated or another model's it raises anything
        # transformers explains itself over many lines, and a refusal is one
        reason = " ".join(str(error).split())[:200]
        local = Path(config.weights).is_dir()
        download = f"`hf download {config.weights}` where there is a network, or name a local folder"
        way_out = "name the folder of such a model, downloaded whole" if local else download
        message = f"{config.weights}: no weights of {model_class.__name__} ({reason}); {way_out}. {terms}"
        raise WeightsError(message) from None
    if report["missing_keys"]:
        first = sorted(report["missing_keys"])[0]
        raise WeightsError(f"{config.weights}: not a whole {model_class.__name__}: no `{first}` in it. {terms}")
    revision = getattr(model.config, "_commit_hash", None) or of_folder(config.weights)
    return model.eval().requires_grad_(False), revision
