"""The `mini` encoder's released weights, and what they know by themselves: separation, and where a sound comes from.

Weights stand in prior/ with their card; avcil/pretraining.py trained them.

Dimension letters as in avcil/encoders/mini.py; ``O`` = 2 sounding objects.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from avcil.config import Section
from avcil.encoders.mini import Mini, MiniConfig
from avcil.files import read_tensors, write_tensors
from avcil.regions import patch_share
from avcil.scenes import Film, World, pair_scene


class PriorConfig(Section):
    """Pre-training (avcil/pretraining.py)."""

    seeds: list[int] = Field(min_length=1, description="of the released priors: scenes, first weights and batches")
    world: World = Field(description="the world of the pre-training scenes; its seed differs from the benchmark's")
    scenes: int = Field(gt=0, description="pre-training scenes rendered")
    held_out: int = Field(gt=0, description="scenes kept aside to measure separation and localisation")
    steps: int = Field(gt=0, description="optimiser steps")
    batch: int = Field(gt=1, description="scenes a step")
    learning_rate: float = Field(gt=0, description="peak of the one-cycle schedule")
    weight_decay: float = Field(ge=0)
    separation_weight: float = Field(ge=0)
    naming_weight: float = Field(ge=0)
    patch_weight: float = Field(ge=0)


class Scenes(NamedTuple):
    """frames [n,F,H,W,3] uint8, waveforms [n,O,N] float16, regions [n,O,L,S] float32 (share of the patch), classes
    [n,O] of the sounding objects."""

    frames: Tensor
    waveforms: Tensor
    regions: Tensor
    classes: Tensor


def render_scenes(world: World, film: Film, seed: int, count: int, *, first: int = 0, workers: int = 2) -> Scenes:
    """Render ``count`` pair scenes of ``world``, from number ``first`` on; patches are 12 pixels wide."""
    job = partial(pair_scene, world, film, seed)
    with ProcessPoolExecutor(workers) as pool:
        scenes = list(pool.map(job, range(first, first + count), chunksize=16))
    regions = np.stack([s.regions for s in scenes])
    return Scenes(
        torch.from_numpy(np.stack([s.frames for s in scenes])),
        torch.from_numpy(np.stack([s.waveforms for s in scenes]).astype(np.float16)),
        torch.from_numpy(patch_share(regions, film.frames // 2, film.size // 12)).float(),
        torch.tensor([s.classes[:2] for s in scenes]),
    )


class Separator(nn.Module):
    """Predicts the ratio mask of the prompted object from audio tokens of the mixture and the prompt."""

    def __init__(self, channels: int, mel_bands: int):
        super().__init__()
        self.mel_bands = mel_bands
        self.prompt = nn.Linear(channels, channels)
        self.mix = nn.TransformerEncoderLayer(channels, 4, 2 * channels, 0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(channels, 8 * mel_bands)

    def forward(self, audio: Tensor, prompt: Tensor) -> Tensor:
        """audio [B,A,D], prompt [B,L,D] -> mask logits [B,M,8A]."""
        prompt = F.interpolate(self.prompt(prompt).transpose(1, 2), size=audio.shape[1], mode="linear")
        x = self.head(self.mix(audio + prompt.transpose(1, 2)))
        return x.unflatten(2, (self.mel_bands, 8)).permute(0, 2, 1, 3).flatten(2)


def prompt_tokens(visual: Tensor, regions: Tensor) -> Tensor:
    """Mean of the tokens [B,L,S,D] under a region [B,L,S]: [B,L,D]."""
    return torch.einsum("bls,blsd->bld", regions, visual) / (regions.sum(-1, keepdim=True) + 1e-3)


class Localised(NamedTuple):
    """The prior's similarity as attention: spatial [n,L,S], temporal [n,L], and the sounding share [n,L,S]."""

    spatial: np.ndarray
    temporal: np.ndarray
    share: np.ndarray


@torch.no_grad()
def localise(encoder: Mini, scenes: Scenes) -> Localised:
    """Play the first object's sound alone: where does the prior itself look?"""
    similarity = encoder.encode(scenes.frames, scenes.waveforms[:, 0].float()).similarity
    joint = similarity.flatten(1).softmax(1).view_as(similarity)
    temporal = joint.sum(2)
    return Localised((joint / temporal[..., None]).numpy(), temporal.numpy(), scenes.regions[:, 0].numpy())


def save_prior(path: Path, encoder: Mini, separator: Separator | None = None) -> None:
    """One file, ``encoder.*`` and ``separator.*``; weights in float16 (half the bytes, no change in what they do)."""
    tensors = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    if separator is not None:
        tensors |= {f"separator.{name}": value for name, value in separator.state_dict().items()}
    learnt = {f"encoder.{name}" for name, _ in encoder.named_parameters()}
    half = {n: v.half() if n in learnt or n.startswith("separator.") else v for n, v in tensors.items()}
    write_tensors(path, half)


def released(name: str, folder: Path) -> Path:
    """The weights of an own encoder: `mini` is the prior of seed 0, `mini-1` that of seed 1, `random` is untrained."""
    return folder / f"{'mini-0' if name == 'mini' else name}.safetensors"


def load_prior(path: Path, config: MiniConfig) -> tuple[Mini, Separator]:
    """The frozen encoder and, where the file has one, its separator. Raises ValueError for a file of another layout."""
    tensors = {name: value.float() for name, value in read_tensors(path).items()}
    encoder, separator = Mini(config), Separator(config.channels, config.mel_bands)
    for name, module in (("encoder", encoder), ("separator", separator)):
        state = {n.removeprefix(f"{name}."): v for n, v in tensors.items() if n.startswith(f"{name}.")}
        try:
            if state:
                module.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:120]
            raise ValueError(f"{path}: not a prior of the `encoder` section ({reason}); take it from git, or train it: make prior") from None
        module.eval().requires_grad_(False)
    return encoder, separator


class Separated(NamedTuple):
    """Waveforms [n,N] of target, mixture, estimate and ideal mask, and their mel magnitudes [n,M,frames] by name."""

    waveforms: dict[str, Tensor]
    mels: dict[str, Tensor]


def _filter(encoder: Mini, mixture: Tensor, mask: Tensor) -> Tensor:
    """Apply a mel mask [n,M,frames] to mixtures [n,N] through the short-time Fourier transform."""
    window = torch.hann_window(512)
    hop = encoder.config.sample_rate // 100
    spectrum = torch.stft(mixture, 512, hop, window=window, return_complex=True)
    bands = encoder.mel.mel_scale.fb
    linear = torch.einsum("fm,nmt->nft", bands / (bands.sum(1, keepdim=True) + 1e-8), mask)
    linear = F.pad(linear, (0, spectrum.shape[-1] - linear.shape[-1]), mode="replicate")
    return torch.istft(spectrum * linear, 512, hop, window=window, length=mixture.shape[-1])


@torch.no_grad()
def separate(encoder: Mini, separator: Separator, scenes: Scenes) -> Separated:
    """Separate the first object's sound from the sum of both, prompted by its tokens."""
    target, other = scenes.waveforms.float().unbind(1)
    mixture = target + other
    mels = {name: encoder.spectrogram(wave) for name, wave in (("target", target), ("mixture", mixture))}
    prompt = prompt_tokens(encoder.visual(scenes.frames), scenes.regions[:, 0])
    mask = separator(encoder.audio(mels["mixture"]), prompt).sigmoid()
    ideal = mels["target"] / (mels["target"] + encoder.spectrogram(other) + 1e-3)
    waveforms = {
        "target": target,
        "mixture": mixture,
        "estimate": _filter(encoder, mixture, mask),
        "ideal mask": _filter(encoder, mixture, ideal),
    }
    mels |= {"estimate": mels["mixture"] * mask, "ideal mask": mels["mixture"] * ideal}
    return Separated(waveforms, mels)


def si_sdr(estimate: Tensor, target: Tensor) -> Tensor:
    r"""Scale-invariant signal-to-distortion ratio in dB of waveforms [n,N].

    10 log10(|αs|² / |αs − ŝ|²) with α = ŝ·s / |s|².

    Source: Le Roux et al., ICASSP 2019, arXiv 1811.02508.
    """
    scaled = (estimate * target).sum(-1, keepdim=True) / (target.square().sum(-1, keepdim=True) + 1e-8) * target
    return 10 * torch.log10((scaled.square().sum(-1) + 1e-8) / ((scaled - estimate).square().sum(-1) + 1e-8))
