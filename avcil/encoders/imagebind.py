"""`imagebind`: ImageBind (Girdhar et al., CVPR 2023), which has pictures and sound in one space.

The network is the authors' package, which PyPI does not have (its `imagebind` is an empty placeholder): install it from
https://github.com/facebookresearch/ImageBind. Its code and weights are under CC-BY-NC-SA 4.0.

Checked on small random-weight instances of the same classes; the published weights were not at hand.

Dimension letters: ``B`` clips, ``L`` = F pictures of a clip, ``S`` patches of a picture, ``K`` pieces of 2 s of a clip,
``A`` audio tokens, ``D`` channels, ``N`` audio samples.
"""

import importlib
import importlib.util
import sys
import types
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from avcil.encoders.base import Pair, Reading
from avcil.encoders.inputs import log_mel, pixels, side
from avcil.encoders.pth import filled, read_pth
from avcil.params.encoders import ImageBindConfig
from avcil.tokens.tokens import Layout, frame_audio

HOME = "https://github.com/facebookresearch/ImageBind"
TERMS = f"ImageBind's weights (imagebind_huge.pth, linked from {HOME}) are under CC-BY-NC-SA 4.0."
INSTALL = f"`pip install --no-deps git+{HOME}` and `pip install einops ftfy iopath regex timm`"

# `imagebind_huge`; its sound tower has the package's own default size
HUGE = {"vision_embed_dim": 1280, "vision_num_blocks": 32, "vision_num_heads": 16, "out_embed_dim": 1024}

# ImageBind hears pieces of 2 s, as 204 frames of 10 ms, normalised with AudioSet's mean and twice its spread
SAMPLE_RATE, PIECE_SECONDS, PIECE_FRAMES = 16_000, 2, 204
AUDIO_MEAN, AUDIO_SPREAD = -4.268, 9.138


def network(**sizes: int) -> nn.Module:
    """The package's `ImageBindModel` of these sizes, less what is not for pictures or sound.

    Raises ImportError with the way out if the package is not installed, or is PyPI's placeholder.
    """
    # the package builds all of its streams: those to be deleted are made as small as can be
    others = ("text", "depth", "thermal", "imu")
    least = {f"{other}_num_blocks": 0 for other in others} | {f"{other}_embed_dim": 8 for other in others}
    spec = importlib.util.find_spec("imagebind")
    # the package's own __init__ would import its readers of files, with all that they need; we have our own
    bare = types.ModuleType("imagebind")
    bare.__path__ = list((spec and spec.submodule_search_locations) or [])
    before = sys.modules.get("imagebind")
    sys.modules["imagebind"] = bare
    try:
        package = importlib.import_module("imagebind.models.imagebind_model")
    except ModuleNotFoundError as error:
        message = f"no module `{error.name}`, so there is no ImageBind (PyPI's `imagebind` is an empty placeholder)"
        raise ImportError(f"{message}; {INSTALL}. Its code and weights are under CC-BY-NC-SA 4.0.") from None
    finally:
        # the bare one stood in while the model was imported; whoever imports the package next gets its own
        del sys.modules["imagebind"]
        if before:
            sys.modules["imagebind"] = before
    model = package.ImageBindModel(**sizes, **least)
    # preprocessors, trunks, heads and postprocessors, each with a part for every stream
    for part in model.children():
        for other in others:
            del part[other]
    return model


class ImageBind(Pair):
    """The tokens of both trunks after the norm of their heads; sound averaged over frequency.

    ``similarity`` = exp(s) cos(a_l, v_ls) in the joint space, to which the heads project: each token as if it were the
    class token, sound averaged over its slot. s is the scale of the package's sound embeddings, log 20.

    Deviation: the package embeds a video as pairs of pictures; here each picture is a slot by itself.
    """

    def __init__(self, model: nn.Module, config: ImageBindConfig, revision: str = ""):
        """Raises ValueError if the network has fewer patches than are asked for."""
        super().__init__()
        self.model, self.config, self.revision = model, config, revision
        self.eval().requires_grad_(False)
        fps = config.frames / config.seconds
        self.reading = Reading(config.frames, fps, 224, SAMPLE_RATE, fit="crop", resize="bicubic")
        picture, sound = model.modality_preprocessors["vision"], model.modality_preprocessors["audio"]
        # [mel bands, time]
        self.sound_grid = sound.patches_layout
        self.layout = Layout(
            slots=config.frames,
            patches=side(config, picture.patches_layout[-1]) ** 2,
            # `seconds` is a multiple of 2, so that no piece is cut
            audio_tokens=self.sound_grid[1] * round(config.seconds / PIECE_SECONDS),
            visual_channels=picture.embed_dim,
            audio_channels=sound.embed_dim,
        )

    @classmethod
    def load(cls, config: ImageBindConfig) -> "ImageBind":
        """Raises ImportError without the package, and WeightsError if the weights are not there or another model's."""
        model = network(**HUGE)
        tensors = read_pth(config.weights, terms=TERMS)
        return cls(filled(model, tensors, config.weights, terms=TERMS), config, "local")

    def trunk(self, stream: Literal["vision", "audio"], inputs: Tensor) -> Tensor:
        """All tokens of a stream's trunk but the class token, after the norm of its head: [..., S, D]."""
        tokens = self.model.modality_preprocessors[stream](**{stream: inputs})["trunk"]["tokens"]
        # a head norms, picks the class token and projects; of these only the norm is for any token
        norm, _, _ = self.model.modality_heads[stream]
        return norm(self.model.modality_trunks[stream](tokens)[:, 1:])

    def visual_tokens(self, frames: Tensor) -> Tensor:
        """frames [B,F,H,W,3] uint8 -> [B,L,S,D]."""
        pictures_BFCHW = pixels(frames, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, next(self.parameters()))
        return self.trunk("vision", pictures_BFCHW.flatten(0, 1)).unflatten(0, frames.shape[:2])

    def audio_tokens(self, waveform: Tensor) -> Tensor:
        """waveform [B,N] -> [B,A,D], where A runs through the pieces of 2 s one after another."""
        like = next(self.parameters())
        pieces_KN = waveform.to(like.device).unflatten(1, (-1, PIECE_SECONDS * SAMPLE_RATE)).flatten(0, 1)
        # in float32 until the network, whatever that computes in
        mel = (log_mel(pieces_KN, SAMPLE_RATE, PIECE_FRAMES) - AUDIO_MEAN) / AUDIO_SPREAD
        tokens = self.trunk("audio", mel.transpose(1, 2)[:, None].to(like.dtype))
        # the grid is [mel bands, time]: its mean over bands runs along time
        along_time = tokens.unflatten(1, self.sound_grid).mean(1)
        return along_time.unflatten(0, (len(waveform), -1)).flatten(1, 2)

    def similarity(self, visual: Tensor, audio: Tensor) -> Tensor:
        """exp(s) cos(a_l, v_ls): tokens [B,L,S,D] and [B,A,D] -> [B,L,S]."""
        (_, _, to_joint_visual), (_, _, to_joint_audio) = (self.model.modality_heads[m] for m in ("vision", "audio"))
        slots = frame_audio(to_joint_audio(audio), visual.shape[1])
        # the package's postprocessors: both give unit length, and the audio's also multiplies by exp(s)
        a = self.model.modality_postprocessors["audio"](slots)
        v = self.model.modality_postprocessors["vision"](to_joint_visual(visual))
        return torch.einsum("bld,blsd->bls", a, v)
