"""Clips: a video file in, frames and waveform out, with their units; damaged files refused by name.

Decoding and encoding are PyAV's (the FFmpeg libraries). Nothing here knows about classes or models.
"""

from pathlib import Path
from typing import NamedTuple

import av
import numpy as np


class ClipError(ValueError):
    """A clip that cannot be used; the message names the file and the reason."""


class Clip(NamedTuple):
    """frames [F,H,W,3] uint8 RGB; waveform [N] float32, mono, in [-1, 1]; fps in frames a second; sample_rate in Hz."""

    frames: np.ndarray
    waveform: np.ndarray
    fps: float
    sample_rate: int


def write_clip(path: Path, frames: np.ndarray, waveform: np.ndarray, fps: int, sample_rate: int) -> None:
    """Write frames [F,H,W,3] uint8 and waveform [N] float32 as H.264 (4:2:0) and AAC in an .mp4 file."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps)
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        # one thread and no look-ahead over clip ends: the same bytes on every machine with this FFmpeg
        video.options = {"crf": "25", "preset": "medium", "threads": "1"}
        audio = container.add_stream("aac", rate=sample_rate)
        audio.layout, audio.bit_rate = "mono", 32_000
        for pixels in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
        sound = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts = sample_rate, 0
        container.mux(audio.encode(sound))
        container.mux(audio.encode())


def _decode(path: Path, sample_rate: int, size: int):
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ClipError(f"{path}: no video track; drop its row from the manifest")
        if not container.streams.audio:
            raise ClipError(f"{path}: no audio track; drop its row from the manifest")
        resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
        times, pictures, sounds = [], [], []
        for frame in container.decode(video=0, audio=0):
            if isinstance(frame, av.VideoFrame):
                times.append(frame.time)
                pictures.append(frame.reformat(width=size, height=size, format="rgb24").to_ndarray())
            else:
                sounds += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        sounds += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.array(times), pictures, sounds


def read_clip(path: Path, *, frames: int, fps: float, size: int, sample_rate: int) -> Clip:
    """Decode a clip to exactly ``frames`` pictures at ``fps`` and ``frames / fps`` seconds of sound.

    Pictures are those nearest in time to (l + 1/2) / fps, scaled to ``size`` x ``size``; sound is mixed to mono and
    resampled by FFmpeg, and padded with silence where the track ends early.

    Raises ClipError if the file is missing, damaged, lacks a track, or holds less than half of the duration.
    """
    path = Path(path)
    if not path.is_file():
        raise ClipError(f"{path}: no such file; restore it or drop its row from the manifest")
    try:
        times, pictures, sounds = _decode(path, sample_rate, size)
    except (av.error.FFmpegError, IndexError) as error:
        raise ClipError(f"{path}: damaged ({error.__class__.__name__}); restore it or drop its row") from error
    wanted = frames / fps
    waveform = np.concatenate(sounds) if sounds else np.zeros(0, np.float32)
    for track, seconds in (("video", len(pictures) and times[-1] + 1 / fps), ("audio", len(waveform) / sample_rate)):
        if seconds < wanted / 2:
            message = f"{path}: {track} track of {seconds:.2f} s where {wanted:.2f} s are wanted; drop its row"
            raise ClipError(message)
    samples = round(wanted * sample_rate)
    waveform = np.pad(waveform[:samples], (0, max(0, samples - len(waveform))))
    nearest = np.abs(times[None] + 0.5 / fps - (np.arange(frames)[:, None] + 0.5) / fps).argmin(1)
    return Clip(np.stack([pictures[i] for i in nearest]), waveform.astype(np.float32), fps, sample_rate)
