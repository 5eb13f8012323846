"""`mini`: a SAM-Audio-like encoder of about a million parameters, pre-trained here (see avcil/world/pretraining.py).

Dense visual and audio tokens live in one space, so that the cosine of an audio token and a patch token says how
likely that patch is what sounds at that moment.

Dimension letters: ``B`` clips, ``F`` video frames, ``L`` = F/2 temporal slots, ``S`` patches of a frame, ``A`` audio
tokens, ``D`` channels, ``M`` mel bands, ``N`` audio samples.
"""

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from avcil.encoders.base import Reading, absent
from avcil.params.world import MiniConfig
from avcil.tokens.tokens import Layout, Tokens, frame_audio

PATCH = 12  # pixels a side


def _block(inputs: int, outputs: int, kernel: int, stride) -> nn.Sequential:
    # group norm, so that tokens do not depend on what else is in the batch
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.GroupNorm(8, outputs), nn.ReLU())


class VisualEncoder(nn.Module):
    """Patches of 12 x 12 pixels; slot l sees frames 2l-1, 2l and 2l+1, and the neighbouring slots' features."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        # strides of 3, 2 and 2 make patches of 12 pixels; 9 channels: a picture, its change to the next one and
        # from the last
        self.spatial = nn.Sequential(
            _block(9, 32, 5, 3),
            _block(32, half, 3, 2),
            _block(half, half, 3, 1),
            _block(half, channels, 3, 2),
            _block(channels, channels, 3, 1),
        )
        nn.utils.convert_conv2d_weight_memory_format(self.spatial, torch.channels_last)
        self.temporal = nn.Conv1d(channels, channels, 3, padding=1)
        self.out = nn.Linear(channels, channels)

    def forward(self, frames: Tensor) -> Tensor:
        """frames [B,F,H,W,3] uint8 -> tokens [B,L,S,D]."""
        # pixels and their differences are exact in bfloat16; channels stay last, so nothing is copied twice
        x = frames.to(torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32)
        now, after = x[:, 0::2], x[:, 1::2]
        # nothing comes before the first picture, which is taken not to have changed
        before = torch.cat([now[:, :1], after[:, :-1]], 1)
        x = torch.cat([now / 127.5 - 1, (after - now) / 64, (now - before) / 64], -1)
        batch, slots = x.shape[:2]
        x = self.spatial(x.flatten(0, 1).permute(0, 3, 1, 2))
        x = x.flatten(2).unflatten(0, (batch, slots))  # [B,L,D,S]
        along_time = x.permute(0, 3, 2, 1).flatten(0, 1)  # [B*S,D,L]
        x = x + F.relu(self.temporal(along_time)).unflatten(0, (batch, -1)).permute(0, 3, 2, 1)
        return self.out(x.transpose(2, 3))


class AudioEncoder(nn.Module):
    """Log-mel spectrogram at 100 Hz -> tokens at 12.5 Hz."""

    def __init__(self, channels: int, mel_bands: int):
        super().__init__()
        # strides: 16 mel bands become one, and 8 frames of 10 ms a token
        self.body = nn.Sequential(
            _block(1, 32, 3, 2),
            _block(32, channels // 2, 3, 2),
            _block(channels // 2, channels, 3, 2),
            _block(channels, channels, 3, (2, 1)),
        )
        self.out = nn.Conv1d(channels * mel_bands // 16, channels, 3, padding=1)

    def forward(self, mel: Tensor) -> Tensor:
        """mel magnitudes [B,M,frames] -> tokens [B,A,D] with A = frames / 8."""
        # the floor keeps silence finite, and presumably makes another sound of a faint one (LOG.md)
        x = self.body(torch.log(mel + 1e-3)[:, None])
        return self.out(x.flatten(1, 2)).transpose(1, 2)


class Mini(nn.Module):
    """The frozen encoder: ``encode`` gives standardised tokens and the prior's own similarity map.

    Standardisation uses the mean and spread of tokens over the *pre-training* clips, so that no statistics of a
    benchmark's future classes leak into its features.
    """

    revision = "own"
    reading: Reading
    layout: Layout
    visual_mean: Tensor
    visual_std: Tensor
    audio_mean: Tensor
    audio_std: Tensor

    def __init__(self, config: MiniConfig):
        super().__init__()
        self.config = config
        self.visual = VisualEncoder(config.channels)
        self.audio = AudioEncoder(config.channels, config.mel_bands)
        # cosines are multiplied by about 10 at first
        self.log_scale = nn.Parameter(torch.tensor(2.3))
        # magnitudes (power 1), as the masks of separation are shares of magnitudes
        self.mel = torchaudio.transforms.MelSpectrogram(
            config.sample_rate, n_fft=512, hop_length=config.sample_rate // 100, n_mels=config.mel_bands, power=1.0
        )
        # without effect until `standardise`
        for name in ("visual_mean", "visual_std", "audio_mean", "audio_std"):
            self.register_buffer(name, torch.zeros(config.channels) if "mean" in name else torch.ones(config.channels))

    def watching(self, reading: Reading) -> "Mini":
        """Say how clips are read. Raises ValueError for a sample rate that it was not trained at."""
        if reading.sample_rate != self.config.sample_rate:
            raise ValueError(f"sound at {reading.sample_rate} Hz for an encoder of {self.config.sample_rate} Hz")
        self.reading = reading
        # 12.5 tokens of sound a second
        patches, audio_tokens = (reading.size // PATCH) ** 2, round(reading.seconds * 25 / 2)
        channels = self.config.channels
        self.layout = Layout(reading.frames // 2, patches, audio_tokens, channels, channels)
        return self

    def spectrogram(self, waveform: Tensor) -> Tensor:
        """waveform [B,N] -> mel magnitudes [B,M,frames], 100 frames a second."""
        # windows are centred, which gives one frame more than 100 a second
        return self.mel(waveform)[..., : waveform.shape[-1] * 100 // self.config.sample_rate]

    def similarity(self, visual: Tensor, audio: Tensor) -> Tensor:
        """exp(log_scale) cos(u_l, v_ls): raw tokens [B,L,S,D] and [B,A,D] -> [B,L,S]."""
        slots = frame_audio(audio, visual.shape[1])
        cosine = torch.einsum("bld,blsd->bls", F.normalize(slots, dim=-1), F.normalize(visual, dim=-1))
        return self.log_scale.exp() * cosine

    @torch.no_grad()
    def standardise(self, visual: Tensor, audio: Tensor) -> None:
        """Take mean and spread from a sample of raw tokens."""
        for name, tokens in (("visual", visual), ("audio", audio)):
            flat = tokens.flatten(0, -2).float()
            getattr(self, f"{name}_mean").copy_(flat.mean(0))
            # a channel that never varies is not divided by zero
            getattr(self, f"{name}_std").copy_(flat.std(0) + 1e-4)

    @torch.no_grad()
    def encode(self, frames: Tensor | None, waveform: Tensor | None) -> Tokens:
        """frames [B,F,H,W,3] uint8 and waveform [B,N] at ``config.sample_rate`` -> Tokens."""
        if waveform is None:
            visual = self.visual(frames)
            heard = absent(len(visual), self.layout, "audio", visual)
            return Tokens((visual - self.visual_mean) / self.visual_std, heard, visual.new_zeros(visual.shape[:3]))
        audio = self.audio(self.spectrogram(waveform))
        if frames is None:
            seen = absent(len(audio), self.layout, "visual", audio)
            return Tokens(seen, (audio - self.audio_mean) / self.audio_std, seen[..., 0])
        visual = self.visual(frames)
        return Tokens(
            visual=(visual - self.visual_mean) / self.visual_std,
            audio=(audio - self.audio_mean) / self.audio_std,
            # of the raw tokens, whose cosine is what pre-training matched
            similarity=self.similarity(visual, audio),
        )
