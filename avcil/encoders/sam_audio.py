"""`sam_audio`: what Meta's SAM-Audio separates sounds with (latents or states), and the patches that prompt it.

The network is the authors' package, which PyPI does not have (its `sam_audio` is an empty placeholder). Built and
loaded are only the encoding half of the codec, the vision tower and, for states, the first blocks of the separation
transformer; not T5, the rankers, the span predictor, CLIP's text tower and the rest, for which the whole pipeline runs
out of memory (issues 24, 83 and 99 of its repository).

- Patches are the tower's tokens before its attention pooling. They share no space with sound: similarity is zero
  everywhere, and guidance is learnt from nothing, unless the entry takes another encoder's (`similarity: pe_av`).
- The states that are read are our choice: the flow at time 1, where no noise is left, with the whole mixture as target
  and nothing as residual; prompted by the whole frames, without text, with the null anchor of the published processor.
- Checked on small random-weight instances of the same classes; the published weights were not at hand.

Source: SAM Audio, Meta, 2025, https://github.com/facebookresearch/sam-audio.

Dimension letters: ``B`` clips, ``L`` frames, which are the temporal slots, ``T`` tokens of a frame before pooling
(class token and all patches), ``S`` patches that are kept, ``A`` audio tokens, ``D`` channels, ``N`` audio samples.
"""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from torch import Tensor, nn

from avcil.encoders.base import Reading, WeightsError, absent, of_folder
from avcil.encoders.inputs import pixels, side
from avcil.encoders.pth import filled, read_pth
from avcil.params.encoders import SamAudioConfig
from avcil.tokens.tokens import Layout, Tokens

HOME = "https://github.com/facebookresearch/sam-audio"
TERMS = (
    "The weights are gated, under the SAM License: ask for access at huggingface.co/facebook/sam-audio-large, "
    "then `hf auth login`."
)


class SamAudio(nn.Module):
    """The frozen parts of SAM-Audio, with random weights until `load` fills them."""

    def __init__(self, published: dict, config: SamAudioConfig, revision: str = ""):
        """``published``: what the checkpoint's config.json says.

        Raises ImportError if the package is not installed, WeightsError if that is not a SAM-Audio's config, and
        ValueError if the model has no such layer, or fewer patches than are asked for.
        """
        super().__init__()
        source, encoder_class, tower_class = _package()
        self.config, self.revision = config, revision
        try:
            sizes = source.SAMAudioConfig(**published)
            codec, seen, body = sizes.audio_codec, sizes.vision_encoder, sizes.transformer
            # submodules are named as in the checkpoint
            self.audio_codec = encoder_class(codec)
            self.visual = tower_class.from_config(seen.name)
        except Exception as error:  # KeyError of a ranker without kind, RuntimeError of an unknown tower, and others
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(f"{config.weights}: not the config.json of a SAM-Audio ({reason}). {TERMS}") from None
        self.normalised = seen.normalize_feature
        # latents are the codec's, and need none of these
        if config.audio == "hidden":
            # the slice below would take the last block for any that is not there
            if config.layer >= body.n_layers:
                raise ValueError(f"layer: {config.layer} where {config.weights} has 0 to {body.n_layers - 1}")
            self.proj = nn.Linear(sizes.in_channels, body.dim)
            self.align_masked_video = source.AlignModalities(seen.dim, body.dim)
            self.embed_anchors = source.EmbedAnchors(sizes.num_anchors, sizes.anchor_embedding_dim, body.dim)
            self.timestep_emb = source.SinusoidalEmbedding(body.dim)
            self.transformer = source.DiT(body)
            # blocks after the one that is read are neither loaded nor run
            self.transformer.layers = self.transformer.layers[: config.layer + 1]
        self.eval().requires_grad_(False)

        fps = config.frames / config.seconds
        # the filter that the checkpoint's config names
        resize = seen.interpolation_mode.lower()
        self.reading = Reading(config.frames, fps, seen.image_size, codec.sample_rate, fit="stretch", resize=resize)
        self.layout = Layout(
            slots=config.frames,
            patches=side(config, seen.image_size // self.visual.patch_size) ** 2,
            audio_tokens=math.ceil(round(self.reading.seconds * codec.sample_rate) / codec.hop_length),
            visual_channels=self.visual.width,
            audio_channels=codec.codebook_dim if config.audio == "latents" else body.dim,
        )

    @classmethod
    def load(cls, config: SamAudioConfig) -> "SamAudio":
        """Raises ImportError if the package is not installed, WeightsError if the weights are not there, or others'."""
        # before any file is asked for: without the package a download would be for nothing
        _package()
        path = _file(config, "config.json")
        # the hub's cache names a snapshot's folder after its commit
        revision = of_folder(config.weights) if Path(config.weights).is_dir() else path.parent.name
        try:
            published = json.loads(path.read_text())
        except ValueError as error:
            raise WeightsError(f"{path}: damaged ({error}); download it again. {TERMS}") from None
        encoder = cls(published, config, revision)
        path = _file(config, "checkpoint.pt")
        # mapped: the file holds the whole pipeline
        tensors = read_pth(str(path), terms=TERMS, mmap=True)
        tower = "vision_encoder.model.visual."
        return filled(encoder, {n.replace(tower, "visual."): t for n, t in tensors.items()}, str(path), terms=TERMS)

    def prompt(self, tokens_BLTD: Tensor, audio_tokens: int) -> Tensor:
        """The tower's tokens, pooled as SAM-Audio reads them: [B,D,A], at each audio token the frame of that time."""
        pooled = self.visual.attn_pool(tokens_BLTD.flatten(0, 1))[:, 0] @ self.visual.proj
        pooled = F.normalize(pooled, dim=-1) if self.normalised else pooled
        frames_BDL = pooled.unflatten(0, tokens_BLTD.shape[:2]).transpose(1, 2)
        return F.interpolate(frames_BDL, size=audio_tokens, mode="nearest")

    def states(self, latents_BAD: Tensor, prompt_BDA: Tensor) -> Tensor:
        """States [B,A,D] of the last block that is kept: `SAMAudio.forward` at time 1 with text_features None."""
        nothing = torch.zeros_like(latents_BAD)
        # target beside residual, as the flow holds them; at time 1 they are without noise
        noisy, mixture = torch.cat([latents_BAD, nothing], 2), torch.cat([latents_BAD, latents_BAD], 2)
        x = self.proj(torch.cat([noisy, torch.zeros_like(mixture), mixture], 2))
        x = self.align_masked_video(x, prompt_BDA)
        # one null anchor a clip, at which all moments point
        null = torch.zeros(x.shape[:2], dtype=torch.long, device=x.device)
        x = self.embed_anchors(x, null[:, :1], null)
        time = x.new_ones(len(x))
        states = []
        # by a hook: the transformer itself returns its prediction of the flow, not a block's states
        with self.transformer.layers[-1].register_forward_hook(lambda *call: states.append(call[-1])):
            self.transformer(x, time, memory=self.timestep_emb(time, pos=time)[:, None])
        return states[0]

    def audio_tokens(self, waveform: Tensor, tokens_BLTD: Tensor | None) -> Tensor:
        """waveform [B,N] and the tower's tokens -> latents or states [B,A,D]. The codec itself pads by reflection."""
        latents = self.audio_codec(waveform.to(self.visual.proj)[:, None]).transpose(1, 2)
        if self.config.audio == "latents":
            return latents
        if tokens_BLTD is not None:
            return self.states(latents, self.prompt(tokens_BLTD, latents.shape[1]))
        # without frames, SAM-Audio itself is prompted by zeros
        channels = self.align_masked_video.conv.in_channels
        return self.states(latents, latents.new_zeros(len(latents), channels, latents.shape[1]))

    @torch.no_grad()
    def encode(self, frames: Tensor | None, waveform: Tensor | None) -> Tokens:
        """frames [B,L,H,W,3] uint8, waveform [B,N] from -1 to 1, both as `reading` says -> Tokens as `layout` says."""
        batch, like = len(waveform if frames is None else frames), self.visual.proj
        tokens_BLTD, visual = None, absent(batch, self.layout, "visual", like)
        if frames is not None:
            pictures = pixels(frames, [0.5] * 3, [0.5] * 3, like).flatten(0, 1)
            # all tokens, since pooling them for the prompt wants the class token as well
            tokens_BLTD = self.visual.forward_features(pictures, norm=True).unflatten(0, frames.shape[:2])
            visual = tokens_BLTD[:, :, int(self.visual.use_cls_token) :].contiguous()
        audio = absent(batch, self.layout, "audio", like)
        if waveform is not None:
            audio = self.audio_tokens(waveform, tokens_BLTD)
        # whether a guide's similarity takes its place is extraction's business (avcil/extraction/features.py)
        tokens = Tokens(visual, audio, visual.new_zeros(visual.shape[:3]))
        return tokens if self.config.patches is None or frames is None else tokens.coarse(self.config.patches)


def _package():
    """The package's main module, its encoding half of the codec, and the vision tower it takes from perception_models.

    Raises ImportError with the way out if it is not installed, is PyPI's placeholder, or lacks a package of its own.
    """
    try:
        from core.vision_encoder.pe import VisionTransformer
        from sam_audio.model import model
        from sam_audio.model.codec import DACVAEEncoder
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchcodec, where there are no libraries of FFmpeg
        reason = str(error).split("\n")[0]
        message = f"no sam_audio ({reason}); PyPI's package of that name is an empty placeholder"
        raise ImportError(f"{message}: `pip install git+{HOME}`. {TERMS}") from None
    return model, DACVAEEncoder, VisionTransformer


def _file(config: SamAudioConfig, name: str) -> Path:
    """A file of the checkpoint, from the folder or the hub. Raises WeightsError if it cannot be had."""
    try:
        if not Path(config.weights).is_dir():
            return Path(hf_hub_download(config.weights, name, revision=config.revision))
        path = Path(config.weights) / name
        # raises what is wrong with it: missing, unreadable, a folder
        path.open("rb").close()
        return path
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        way_out = f"`hf download {config.weights}` where there is a network, or name a local folder"
        raise WeightsError(f"{config.weights}: no {name} ({reason}); {way_out}. {TERMS}") from None
