"""`clip_clap`: CLIP's patches (Radford et al., ICML 2021) and CLAP's sound (Wu et al., ICASSP 2023).

Each was trained against text, not against the other: they share no space, so the similarity is zero everywhere.

Checked on small random-weight instances of the same classes; the published weights were not at hand.

Dimension letters: ``B`` clips, ``L`` = F pictures of a clip, ``S`` patches of a picture, ``A`` audio tokens, ``D``
channels, ``N`` audio samples.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.transforms import AmplitudeToDB, MelSpectrogram
from transformers import (
    ClapAudioModel,
    ClapAudioModelWithProjection,
    ClapFeatureExtractor,
    CLIPImageProcessor,
    CLIPVisionModel,
)

from avcil.encoders.base import Pair, Reading, WeightsError, pretrained
from avcil.encoders.inputs import pixels, processor, side
from avcil.params.encoders import ClipClapConfig
from avcil.tokens.tokens import Layout

TERMS = "Licence: the model's page on the hub."


def clap_log_mel(waveform: Tensor, extractor: ClapFeatureExtractor) -> Tensor:
    """10 log10 of mel power, [B,N] -> [B,1,1001,64] float32: `ClapFeatureExtractor` for a batch and on any device.

    A shorter clip is repeated as often as it fits into 10 s; silence fills the rest.
    """
    samples = extractor.nb_max_samples
    waveform = waveform.float().repeat(1, samples // waveform.shape[1])
    # made anew for each batch, so that `encoder.to(bfloat16)` leaves its filters alone
    spectrogram = nn.Sequential(
        MelSpectrogram(
            sample_rate=extractor.sampling_rate,
            n_fft=extractor.fft_window_size,
            hop_length=extractor.hop_length,
            f_min=extractor.frequency_min,
            f_max=extractor.frequency_max,
            n_mels=extractor.feature_size,
            # what the extractor has for a CLAP that is not fused; its other filters are those of a fused one
            norm="slaney",
            mel_scale="slaney",
        ),
        AmplitudeToDB("power"),
    ).to(waveform.device)
    return spectrogram(F.pad(waveform, (0, samples - waveform.shape[1]))).transpose(1, 2)[:, None]


class ClipClap(Pair):
    """CLIP's patches after its last layer norm, and CLAP's last feature map averaged over frequency.

    CLIP itself norms its class token only; with the same norm the patches lie where the class token lies. CLAP folds
    10 s of log-mel into a square picture of 4 rows of time; transformers unfolds the feature map again, to [B,D,2,32].
    """

    def __init__(
        self,
        visual: CLIPVisionModel,
        visual_processor: CLIPImageProcessor,
        audio: ClapAudioModel,
        extractor: ClapFeatureExtractor,
        config: ClipClapConfig,
        revision: str = "",
    ):
        """Raises ValueError if CLIP has fewer patches than are asked for."""
        super().__init__()
        self.visual, self.audio, self.extractor = visual, audio, extractor
        self.config, self.revision = config, revision
        self.eval().requires_grad_(False)
        self.mean, self.std = visual_processor.image_mean, visual_processor.image_std
        fps, size = config.frames / config.seconds, visual.config.image_size
        # cut and resized as CLIP's own processor does it
        self.reading = Reading(config.frames, fps, size, extractor.sampling_rate, fit="crop", resize="bicubic")
        # each of the 4 rows of time is as long in tokens as the last feature map is wide
        sound = audio.config
        # the grid is halved between stages
        width = sound.spec_size // sound.patch_stride[1] // 2 ** (len(sound.depths) - 1)
        whole = width * (sound.spec_size // sound.num_mel_bins)
        self.layout = Layout(
            slots=config.frames,
            patches=side(config, size // visual.config.patch_size) ** 2,
            # the last token may be partly what follows the clip
            audio_tokens=math.ceil(whole * config.seconds / extractor.max_length_s),
            visual_channels=visual.config.hidden_size,
            audio_channels=audio.audio_encoder.num_features,
        )

    @classmethod
    def load(cls, config: ClipClapConfig) -> "ClipClap":
        """Raises WeightsError if either model's weights are not there or another model's, or if CLAP is a fused one."""
        # `pretrained` and `processor` look at `weights` and `revision`, whichever model it is
        sound = config.model_copy(update={"weights": config.audio_weights, "revision": config.audio_revision})
        visual, revision = pretrained(CLIPVisionModel, config, terms=TERMS)
        # `ClapAudioModel` itself finds none of its weights in a whole CLAP, which is what is published
        audio, audio_revision = pretrained(ClapAudioModelWithProjection, sound, terms=TERMS)
        extractor = processor(ClapFeatureExtractor, sound)
        # said by the config of the weights or by the extractor's, which are files of their own
        if audio.config.enable_fusion or extractor.truncation == "fusion":
            message = f"{config.audio_weights}: a fused CLAP, which reads 4 spectrograms of a clip"
            raise WeightsError(f"{message}; name an unfused one, such as laion/clap-htsat-unfused. {TERMS}")
        visual_processor = processor(CLIPImageProcessor, config)
        # a change of either makes another store
        revision = f"{revision}+{audio_revision}"
        return cls(visual, visual_processor, audio.audio_model, extractor, config, revision)

    def visual_tokens(self, frames: Tensor) -> Tensor:
        """frames [B,F,H,W,3] uint8 -> [B,L,S,D]."""
        pictures_BFCHW = pixels(frames, self.mean, self.std, next(self.parameters()))
        # without the class token, which stands first
        patches = self.visual(pictures_BFCHW.flatten(0, 1)).last_hidden_state[:, 1:]
        return self.visual.post_layernorm(patches).unflatten(0, frames.shape[:2])

    def audio_tokens(self, waveform: Tensor) -> Tensor:
        """waveform [B,N] -> [B,A,D]."""
        like = next(self.parameters())
        mel = clap_log_mel(waveform.to(like.device), self.extractor).to(like.dtype)
        maps_BDFA = self.audio(input_features=mel).last_hidden_state
        # what is heard after the clip's end is its repetition, or silence
        return maps_BDFA.mean(2).transpose(1, 2)[:, : self.layout.audio_tokens]
