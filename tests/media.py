"""Media files as corpora have them, written with PyAV: pictures that tell their time, sound that tells its own."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch


def picture(number: int, width: int, height: int) -> np.ndarray:
    """Grey level 8 x number, the left half darker by 4, so that number and orientation can be read off."""
    pixels = np.full((height, width, 3), 8 * number, np.uint8)
    pixels[:, : width // 2] = max(0, 8 * number - 4)
    return pixels


def write(
    path: Path,
    times: list[float] | None = None,
    *,
    width: int = 64,
    height: int = 48,
    sound: np.ndarray | None = None,
    rate: int = 16000,
    layout: str = "mono",
    keyframes: int = 12,
) -> Path:
    """A file with picture k from ``times[k]`` on, and sound [channels, samples]; either track may be left out."""
    with av.open(str(path), "w") as container:
        video = audio = None
        if times is not None:
            video = container.add_stream("libx264", rate=1000)
            video.width, video.height, video.pix_fmt = width, height, "yuv420p"
            video.codec_context.time_base = Fraction(1, 1000)
            video.options = {"crf": "4", "g": str(keyframes), "threads": "1"}
        if sound is not None:
            audio = container.add_stream("aac" if path.suffix == ".mp4" else "pcm_s16le", rate=rate)
            audio.layout = layout
        for number, time in enumerate(times or []):
            frame = av.VideoFrame.from_ndarray(picture(number, width, height), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(video.encode(frame))
        if video:
            container.mux(video.encode())
        if audio:
            samples = np.ascontiguousarray(sound, dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, 0
            resampler = av.AudioResampler(audio.codec_context.format, layout, rate)
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(audio.encode(part))
            container.mux(audio.encode())
    return path


def without(clip: Path, kind: str, to: Path) -> Path:
    """The clip without its tracks of a kind, `audio` or `video`."""
    with av.open(str(clip)) as whole, av.open(str(to), "w") as part:
        [left] = [stream for stream in whole.streams if stream.type != kind]
        track = part.add_stream_from_template(left)
        for packet in whole.demux(left):
            if packet.dts is not None:
                packet.stream = track
                part.mux(packet)
    return to


def write_with_pause(path: Path, sound: np.ndarray, rate: int, pause: tuple[float, float]) -> Path:
    """Sound [samples] as 16-bit PCM in frames of 1/20 s, without those of which the first sample is in the pause."""
    with av.open(str(path), "w") as container:
        audio = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        for first in range(0, len(sound), rate // 20):
            if not pause[0] <= first / rate < pause[1]:
                part = (2**15 * sound[None, first : first + rate // 20]).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
                frame.sample_rate, frame.pts = rate, first
                container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return path


def tone(frequency: float, seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    wave = 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[None], channels, 0)


def noise(clips: int, frames: int, size: int, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Decoded clips that show and sound nothing: frames [B,F,H,W,3] uint8, waveform [B,N] from -0.5 to 0.5."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (clips, frames, size, size, 3), dtype=torch.uint8, generator=generator)
    return pixels, torch.rand(clips, samples, generator=generator) - 0.5
