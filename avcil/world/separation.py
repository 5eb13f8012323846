"""Scenes in which two twins sound, and what a prior makes of them: separation, and where a sound comes from.

Dimension letters as in avcil/encoders/mini.py; ``O`` = 2 sounding objects.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from avcil.base.parent import end_with
from avcil.encoders.mini import Mini
from avcil.encoders.prior import Separator
from avcil.params.world import Film, World
from avcil.tokens.regions import patch_share
from avcil.world.scenes import pair_scene


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
    # its processes end with this one: left alone they would wait for work for ever
    with ProcessPoolExecutor(workers, initializer=end_with, initargs=(os.getpid(),)) as pool:
        scenes = list(pool.map(job, range(first, first + count), chunksize=16))
    regions = np.stack([s.regions for s in scenes])
    return Scenes(
        torch.from_numpy(np.stack([s.frames for s in scenes])),
        # half the memory, for they are thousands
        torch.from_numpy(np.stack([s.waveforms for s in scenes]).astype(np.float16)),
        # a slot of the encoder is two frames
        torch.from_numpy(patch_share(regions, film.frames // 2, film.size // 12)).float(),
        # silent objects have neither waveform nor region
        torch.tensor([s.classes[:2] for s in scenes]),
    )


def prompt_tokens(visual: Tensor, regions: Tensor) -> Tensor:
    """Mean of the tokens [B,L,S,D] under a region [B,L,S]: [B,L,D]."""
    # where the object is hidden the prompt is zero
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
    # one softmax over all moments and patches, taken apart: when, and where at that moment
    joint = similarity.flatten(1).softmax(1).view_as(similarity)
    temporal = joint.sum(2)
    return Localised((joint / temporal[..., None]).numpy(), temporal.numpy(), scenes.regions[:, 0].numpy())


class Separated(NamedTuple):
    """Waveforms [n,N] of target, mixture, estimate and ideal mask, and their mel magnitudes [n,M,frames] by name."""

    waveforms: dict[str, Tensor]
    mels: dict[str, Tensor]


def _filter(encoder: Mini, mixture: Tensor, mask: Tensor) -> Tensor:
    """Apply a mel mask [n,M,frames] to mixtures [n,N] through the short-time Fourier transform."""
    # window, length and hop are those of the encoder's spectrogram, on which the mask was made
    window = torch.hann_window(512)
    hop = encoder.config.sample_rate // 100
    spectrum = torch.stft(mixture, 512, hop, window=window, return_complex=True)
    bands = encoder.mel.mel_scale.fb
    # a bin has the weighted mean of its bands' masks, and is silenced where it is in no band
    linear = torch.einsum("fm,nmt->nft", bands / (bands.sum(1, keepdim=True) + 1e-8), mask)
    # the frame that `Mini.spectrogram` cuts off has no mask of its own, and takes the last one's
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
    # the ratio mask of magnitudes that the separator is taught (avcil/world/pretraining.py)
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
    # silence on either side gives a number, not NaN
    return 10 * torch.log10((scaled.square().sum(-1) + 1e-8) / ((scaled - estimate).square().sum(-1) + 1e-8))
