"""`pe_av`: Meta's Perception Encoder for audio and video, as transformers has it, with tokens for patches.

The published model gives one embedding a frame. Here its vision tower is cut before its attention pooling, and each
patch alone goes the way that a whole frame goes: pooled by itself (with one token, attention pooling is its value and
output path), normalised, along time at its own position through the video encoder, and through the video head into
the space that audio has too. So the model itself says which patch sounds, without training.

- That space was learnt for whole clips; here its heads project each token, as those of PeAudioFrameLevelModel do.
- The similarity of all 576 patches costs 0.35 TFLOP a frame, the tower 0.38; that of 8 x 8, a tenth.
- Checked on small random-weight instances of the same classes; the published weights were not at hand.

Sources: PE-AV, facebookresearch/perception_models (2025); dense tokens from attention pooling: MaskCLIP, Zhou et al.,
ECCV 2022, arXiv 2112.01071.

Dimension letters: ``B`` clips, ``L`` frames, which are the temporal slots, ``T`` tokens of a frame before pooling
(class token and all patches), ``S`` patches that are kept, ``A`` audio tokens, ``D`` channels, ``N`` audio samples.
"""

import contextlib
import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PeAudioVideoModel
from transformers.modeling_outputs import ImageClassifierOutput

from avcil.encoders.base import Reading, absent, pretrained
from avcil.encoders.inputs import pixels, side
from avcil.params.encoders import PeAvConfig
from avcil.tokens.tokens import Layout, Tokens, coarse_grid, frame_audio

# what PeAudioFeatureExtractor takes; the checkpoint's DAC section may hold DacConfig's default of 16 kHz instead
SAMPLE_RATE = 48_000  # Hz
TERMS = "Licence and access: the model's page, for instance huggingface.co/facebook/pe-av-large."


class PeAv(nn.Module):
    """The frozen encoder. It takes ``model`` apart, and keeps neither the text tower nor the text heads.

    Raises ValueError if the tower has fewer patches than are asked for.
    """

    def __init__(self, model: PeAudioVideoModel, config: PeAvConfig, revision: str = ""):
        super().__init__()
        self.config, self.revision = config, revision
        self.both = model.audio_video_encoder if config.joint else None
        # these two have the weights of model.audio_model and model.video_model, which are tied to them
        self.audio = model.audio_video_encoder.embedder.audio_encoder
        self.video = model.audio_video_encoder.embedder.video_encoder
        self.audio_head, self.video_head = model.audio_model.audio_head, model.video_model.video_head
        self.both_head = model.audio_video_head if config.joint else None
        self.scale, self.bias = model.audio_video_logit_scale, model.audio_video_logit_bias
        self.tower = self.video.embedder.vision_model.timm_model
        # the tower runs once, in `encode`; what follows it pools whole frames or single patches
        self.video.embedder.vision_model = _Pooling(self.tower)
        self.eval().requires_grad_(False)

        fps, size = config.frames / config.seconds, self.tower.patch_embed.img_size[0]
        # resized as transformers' own processor of this model does it
        self.reading = Reading(config.frames, fps, size, SAMPLE_RATE, fit="stretch", resize="bilinear")
        self.hop = self.audio.config.dac_config.hop_length
        self.layout = Layout(
            slots=config.frames,
            patches=side(config, self.tower.patch_embed.grid_size[0]) ** 2,
            audio_tokens=math.ceil(round(self.reading.seconds * SAMPLE_RATE) / self.hop),
            visual_channels=self.tower.embed_dim,
            audio_channels=self.audio_head.proj.out_features,
        )

    @classmethod
    def load(cls, config: PeAvConfig) -> "PeAv":
        """Raises WeightsError if the weights are not there, or are another model's."""
        model, revision = pretrained(PeAudioVideo, config, terms=TERMS)
        return cls(model, config, revision)

    def _apply(self, fn, recurse: bool = True) -> "PeAv":
        """Rotary frequencies stay float32: in bfloat16, a turn over 10 s would be wrong by up to 0.3 radian."""
        rotaries = [module for module in self.modules() if hasattr(module, "inv_freq")]
        # kept aside, for rounding cannot be taken back
        exact = [rotary.inv_freq for rotary in rotaries]
        super()._apply(fn, recurse)
        for rotary, frequencies in zip(rotaries, exact, strict=True):
            rotary.inv_freq = frequencies.to(rotary.inv_freq.device)
        return self

    def samples(self, waveform: Tensor) -> Tensor:
        """waveform [B,N] -> [B,1,N'], by reflection as long as whole tokens are."""
        missing = -waveform.shape[-1] % self.hop
        return F.pad(waveform.to(self.scale)[:, None], (0, missing), mode="reflect")

    def embedded(self, patches_BLSD: Tensor) -> Tensor:
        """Each patch [B,L,S,D] in the space of audio, as if its position were a film of frames of one patch."""
        # to [B*S,L,1,D], contiguous, for the video encoder takes a `view` of it
        films = patches_BLSD.transpose(1, 2).flatten(0, 1).unsqueeze(2).contiguous()
        embedded = self.video_head(self.video(films).last_hidden_state)
        return embedded.unflatten(0, (len(patches_BLSD), -1)).transpose(1, 2)

    def similarity(self, patches_BLSD: Tensor, audio_BAD: Tensor) -> Tensor:
        """scale <a_l, v_ls> + bias [B,L,S], with embedded patches v and the slot's mean audio token a.

        That is PeAudioVideoModel's own logit of a clip, for a slot and a patch. A checkpoint without a scale of its own
        (zero, with which the class begins) has no logit; then it is the cosine of a_l and v_ls.
        """
        audio, patches = frame_audio(audio_BAD, patches_BLSD.shape[1]), self.embedded(patches_BLSD)
        dot = torch.einsum("bld,blsd->bls", audio, patches)
        cosine = torch.einsum("bld,blsd->bls", F.normalize(audio, dim=-1), F.normalize(patches, dim=-1))
        # not an `if`, which would fetch the scale from the device
        return torch.where(self.scale == 0, cosine, self.scale * dot + self.bias)

    @torch.no_grad()
    def encode(self, frames: Tensor | None, waveform: Tensor | None) -> Tokens:
        """frames [B,L,H,W,3] uint8, waveform [B,N] from -1 to 1, both as `reading` says -> Tokens as `layout` says.

        Joint tokens need both streams: without frames, audio tokens are the audio encoder's own, in the same space.
        """
        if frames is None:
            audio = self.audio_head(self.audio(self.samples(waveform)).last_hidden_state)
            visual = absent(len(audio), self.layout, "visual", audio)
            return Tokens(visual, audio, torch.zeros_like(visual[..., 0]))
        pictures = pixels(frames, [0.5] * 3, [0.5] * 3, self.scale).flatten(0, 1)
        tokens = self.tower.forward_features(pictures).unflatten(0, frames.shape[:2])
        # `tokens` themselves stay whole: joint tokens need the class token too
        patches = tokens[:, :, self.tower.num_prefix_tokens :]
        # averaged first: to embed all patches would cost about as much as the tower
        visual = (patches if self.config.patches is None else coarse_grid(patches, self.config.patches)).contiguous()
        if waveform is None:
            audio = absent(len(visual), self.layout, "audio", visual)
            return Tokens(visual, audio, torch.zeros_like(visual[..., 0]))
        if self.both is None:
            audio = self.audio_head(self.audio(self.samples(waveform)).last_hidden_state)
            return Tokens(visual, audio, self.similarity(visual, audio))
        # runs the audio and the video encoder once each
        joint = self.both(self.samples(waveform), tokens)
        # the similarity is of the sound alone: joint tokens have seen the frames
        audio = self.audio_head(joint.audio_model_output.last_hidden_state)
        return Tokens(visual, self.both_head(joint.last_hidden_state), self.similarity(visual, audio))


class _Pooling(nn.Module):
    """Stands where the video encoder had its vision tower: takes that tower's tokens [n,T,D], and pools them."""

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.timm_model = tower

    def forward(self, tokens: Tensor) -> ImageClassifierOutput:
        return ImageClassifierOutput(logits=self.timm_model.forward_head(tokens))


class PeAudioVideo(PeAudioVideoModel):
    """PeAudioVideoModel that can read a checkpoint back, which transformers 5.23 with timm 1.0.31 cannot.

    Its config forgets how many outputs the tower has, and it would tie timm's rotary bands as if they were weights,
    which 5.24 does no more.
    """

    _tied_weights_keys: ClassVar = {
        copy.replace(r"rope\.pos_embed", r"rope\."): source.replace(r"rope\.pos_embed", r"rope\.")
        for copy, source in PeAudioVideoModel._tied_weights_keys.items()
    }

    def __init__(self, config):
        vision = config.audio_video_config.video_config.vision_config
        # the count that a saved config has lost
        vision.num_labels = getattr(vision, "num_classes", vision.num_labels)
        # transformers prints a note on a docstring of its own, with a path of this machine in it
        with contextlib.redirect_stdout(None):
            super().__init__(config)
