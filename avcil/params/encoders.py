"""What each encoder with published weights can be told (`encoders` in params.yaml), without importing any of them."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from avcil.params.section import Section

# a `~` is the home folder; a repository's name has none
Weights = Annotated[str, AfterValidator(lambda name: str(Path(name).expanduser()) if name.startswith("~") else name)]


class Pretrained(Section):
    """What all encoders with published weights can be told."""

    weights: Weights = Field(description="a local folder (or file), or the name of a repository on Hugging Face's hub")
    revision: str | None = Field(None, description="commit, branch or tag on the hub")
    frames: int = Field(gt=0, description="pictures of a clip, evenly spread over its seconds")
    seconds: float = Field(gt=0, description="of each clip that are read")
    patches: int | None = Field(None, gt=0, description="average each slot's patches to this many a side; null: all")
    # of weights and arithmetic; a store holds float16 in any case
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    # that of another entry of `encoders`, of the same grid: then both read each clip
    similarity: str | None = Field(None, description="another entry, whose is taken; or `loudness`, which explains it")


class PeAvConfig(Pretrained):
    """`weights` may be facebook/pe-av-{small,base,large}, or with -16-frame, which were trained on 16 a clip."""

    kind: Literal["pe_av"]
    joint: bool = Field(description="audio tokens that have seen the frames, instead of the audio encoder's own")


class SamAudioConfig(Pretrained):
    """`weights` may be facebook/sam-audio-{small,base,large}, or a folder with its config.json and checkpoint.pt."""

    kind: Literal["sam_audio"]
    audio: Literal["latents", "hidden"] = Field(description="audio tokens: the codec's, or the transformer's states")
    layer: int = Field(ge=0, description="block of the transformer whose states are read; latents need none")


class VideoMAEAudioMAEConfig(Pretrained):
    """``weights`` and ``revision`` are VideoMAE's, as a rule `MCG-NJU/videomae-base`."""

    kind: Literal["videomae_audiomae"]
    audio_weights: Weights = Field(description="AudioMAE's .pth file, pre-trained or fine-tuned")
    as_published: bool = Field(description="sound as in the AV-CIL authors' code rather than as AudioMAE was trained")
    # 1,024 frames of 10 ms, for which it has positions
    seconds: float = Field(gt=0, le=10.24, description="of each clip that are read; AudioMAE hears 10.24 at most")


class ClipClapConfig(Pretrained):
    """``weights`` and ``revision`` are CLIP's, for example `openai/clip-vit-base-patch16`."""

    kind: Literal["clip_clap"]
    audio_weights: Weights = Field(description="folder or repository of an unfused CLAP: laion/clap-htsat-unfused")
    audio_revision: str | None = Field(None, description="commit, branch or tag of CLAP on the hub")
    seconds: float = Field(gt=0, le=10, description="of each clip that are read; CLAP hears 10 at most")


class ImageBindConfig(Pretrained):
    """``weights`` is a local `imagebind_huge.pth`."""

    kind: Literal["imagebind"]
    # the waveform is cut into pieces without a rest (avcil/encoders/imagebind.py)
    seconds: float = Field(gt=0, multiple_of=2, description="of each clip that are read, in pieces of 2")


# told apart by `kind`, so that an error is of one family, not of all five
EncoderConfig = Annotated[
    PeAvConfig | SamAudioConfig | VideoMAEAudioMAEConfig | ClipClapConfig | ImageBindConfig, Field(discriminator="kind")
]
