"""Clips: a video file in, frames and waveform out, with their units; damaged files refused by name.

Decoding and encoding are PyAV's (the FFmpeg libraries). Nothing here knows about classes or models.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import av
import numpy as np

from avcil.base.refusal import Refusal

Stream = Literal["visual", "audio"]
STREAMS: tuple[Stream, ...] = ("visual", "audio")
TRACKS: dict[str, Stream] = {"video": "visual", "audio": "audio"}

_PLAYLISTS = {"concat", "dash", "hls", "imf", "rtsp", "sdp", "webm_dash_manifest"}  # by FFmpeg's names
_LONGEST = 20  # longer by shorter side of a picture that is cropped: it is scaled whole before
_GAP = 0.1  # seconds without sound in a track that are silence, not jitter of the container's clock
_LOUDEST = 1e6  # where 1 is full scale; beyond, encoders make NaN, by which an extraction ends
_RATES = range(100, 1_000_001)  # Hz; beyond, FFmpeg resamples for minutes or into gigabytes


class ClipError(Refusal):
    """A clip that cannot be used; the message names the file and the reason."""


class AbsentTrack(ClipError):
    """A clip that lacks ``stream``, visual or audio, or has too little of it."""

    def __init__(self, message: str, stream: Stream):
        super().__init__(message)
        self.stream = stream


def opened(path: Path) -> av.container.InputContainer:
    """A media file, to be closed as any other. Raises what PyAV raises."""
    # absolute, or FFmpeg takes what stands in front of a colon, as in `12:30.mp4`, for a protocol
    return av.open(str(path.absolute()))


class Clip(NamedTuple):
    """frames [F,H,W,3] uint8 RGB; waveform [N] float32, mono, in [-1, 1]; fps in frames a second; sample_rate in Hz.

    A stream that was not asked for, or is absent, is None.
    """

    frames: np.ndarray | None
    waveform: np.ndarray | None
    fps: float
    sample_rate: int

    @property
    def streams(self) -> tuple[Stream, ...]:
        """Those that there are."""
        there = zip(STREAMS, (self.frames, self.waveform), strict=True)
        return tuple(name for name, stream in there if stream is not None)


# of x264: its rate control in AVX sums by what lies behind its arrays, and gives one clip other bytes each time
SAME_BYTES = {"threads": "1", "x264-params": "cpu-independent=1"}
STORED = {"crf": "25", "preset": "medium"}


def write_clip(
    to: Path | BinaryIO, frames: Sequence[np.ndarray] | np.ndarray, waveform: np.ndarray, fps: int, sample_rate: int, *,
    quality: dict[str, str] = STORED, bit_rate: int | None = 32_000,
) -> None:  # fmt: skip
    """Write frames [F,H,W,3] uint8 and waveform [N] float32 as H.264 (4:2:0) and AAC in an .mp4 file; ``quality``:
    options of x264; ``bit_rate``: of the sound, None for FFmpeg's own."""
    # absolute as in `opened`; a stream in memory has no name that tells the format
    with av.open(to.absolute() if isinstance(to, Path) else to, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=fps)
        # 4:2:0, which every browser plays
        (video.height, video.width), video.pix_fmt = frames[0].shape[:2], "yuv420p"
        # these last, so that no quality can switch them off
        video.options = {**quality, **SAME_BYTES}
        audio = container.add_stream("aac", rate=sample_rate)
        audio.layout = "mono"
        if bit_rate is not None:
            audio.bit_rate = bit_rate
        for pixels in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        # the encoder holds frames back until it is told that no more come
        container.mux(video.encode())
        sound = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
        # without a time stamp no decoder is told of AAC's priming, and the sound comes back 1,024 samples late
        sound.sample_rate, sound.pts = sample_rate, 0
        container.mux(audio.encode(sound))
        container.mux(audio.encode())


def _picture(frame: av.VideoFrame, size: int, fit: str, resize: str) -> np.ndarray:
    """[size,size,3] uint8, upright: a telephone that is held on edge films lying pictures, and says so."""
    return np.ascontiguousarray(np.rot90(_as_stored(frame, size, fit, resize), round(frame.rotation / 90)))


def _as_stored(frame: av.VideoFrame, size: int, fit: str, resize: str) -> np.ndarray:
    """[size,size,3] uint8: by FFmpeg, or by torchvision, antialiased, as the processors of transformers do it."""
    width = height = size
    if fit == "crop":
        short = min(frame.width, frame.height)
        # rounded down, as torchvision and transformers do it
        width, height = size * frame.width // short, size * frame.height // short
    if resize == "ffmpeg":
        # the middle, or all of a picture that was stretched
        left, top = (width - size) // 2, (height - size) // 2
        whole = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
        return whole[top : top + size, left : left + size]
    import torch  # only where it is needed: together they take seconds to import
    from torchvision.transforms.v2 import functional

    pixels = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
    pixels = functional.resize(pixels, [height, width], functional.InterpolationMode(resize), antialias=True)
    return functional.center_crop(pixels, [size, size]).permute(1, 2, 0).numpy()


class _Eye:
    """Of the frames of a video track as they go by, the pictures on screen at the wanted instants."""

    def __init__(self, instants: np.ndarray, size: int, fit: str, resize: str):
        self.instants, self.size, self.fit, self.resize = instants, size, fit, resize
        self.pictures: list[np.ndarray] = []
        self.on_screen: av.VideoFrame | None = None
        self.end = -np.inf

    def see(self, frame: av.VideoFrame) -> bool:
        """Whether all pictures are taken."""
        # without a time stamp it is not known when it is on screen
        if frame.time is None:
            return False
        # only now is it known until when the frame before it was on screen
        self._take(frame.time, frame)
        self.on_screen = frame
        # no later frame tells when the last one goes, so it counts for its own duration
        self.end = frame.time + float(frame.duration * frame.time_base if frame.duration and frame.time_base else 0)
        return len(self.pictures) == len(self.instants)

    def close(self) -> None:
        """The last frame stays on screen."""
        if self.on_screen is not None:
            self._take(np.inf, self.on_screen)

    def _take(self, until: float, first: av.VideoFrame) -> None:
        fresh = None
        while len(self.pictures) < len(self.instants) and self.instants[len(self.pictures)] < until:
            if fresh is None:  # converted once, however often it is wanted
                # before the track begins, its first picture stands in
                fresh = _picture(self.on_screen or first, self.size, self.fit, self.resize)
            self.pictures.append(fresh)


class _Ear:
    """Of the sound as it goes by, mono and resampled, the samples from ``start`` on, silence where there is none."""

    def __init__(self, start: float, samples: int, sample_rate: int):
        self.start, self.rate = start, sample_rate
        self.waveform = np.zeros(samples, np.float32)
        self.resampler = self._resampler()
        # where in the waveform the next sample goes: below 0 from the key frame up to the start
        self.next: int | None = None
        # the time at which the next frame is due
        self.due = 0.0

    def _resampler(self) -> av.AudioResampler:
        # no layout is asked for: channels stay apart, for `_place` to take their mean
        return av.AudioResampler(format="fltp", rate=self.rate)

    def hear(self, frame: av.AudioFrame | None) -> bool:
        """Whether all samples are there. None ends the track."""
        if frame is None and self.next is None:
            return False
        # frames are counted, for clocks of containers jitter and the resampler holds samples back; the first one, and
        # one behind a gap, is placed by its time
        time = self.due if frame is None or frame.time is None else frame.time
        if self.next is None or time - self.due > _GAP:
            self._place(None)
            self.resampler = self._resampler()
            self.next = round((time - self.start) * self.rate)
        if frame is not None:
            self.due = time + frame.samples / frame.sample_rate
        self._place(frame)
        return self.next is not None and self.next >= len(self.waveform)

    def _place(self, frame: av.AudioFrame | None) -> None:
        """What comes out of the resampler for a frame; None: what it has held back."""
        if self.next is None:
            return
        for part in self.resampler.resample(frame):
            sound = part.to_ndarray().mean(0)  # not FFmpeg's down-mix, which exceeds 1 in float
            # what lies before the start or after the end falls away
            first, last = max(self.next, 0), min(self.next + len(sound), len(self.waveform))
            if first < last:
                self.waveform[first:last] = sound[first - self.next : last - self.next]
            self.next += len(sound)

    @property
    def end(self) -> float:
        """Seconds of the wanted sound that the track has."""
        return max(self.next or 0, 0) / self.rate


def _decode(path: Path, start: float, eye: _Eye | None, ear: _Ear | None) -> float:
    """Feed the tracks to eye and ear from the key frame before ``start``; returns the time at which the file begins."""
    with opened(path) as container:
        if (playlist := container.format.name) in _PLAYLISTS:
            raise ClipError(f"{path}: a playlist ({playlist}), which names other files; give the film itself")
        wanted = []
        for name in [name for name, sense in (("video", eye), ("audio", ear)) if sense is not None]:
            streams = getattr(container.streams, name)
            if not streams:
                raise AbsentTrack(f"{path}: no {name} track; drop its row from the manifest", TRACKS[name])
            if streams[0].codec_context is None:  # PyAV would follow this null pointer
                raise ClipError(f"{path}: {name} track of a codec unknown to FFmpeg; restore it or drop its row")
            wanted.append(streams[0])
        # a file's clock may begin anywhere, a manifest counts from where the file begins
        origin = (container.start_time or 0) / av.time_base
        if start > 0:
            container.seek(round((origin + start) * av.time_base))
        if eye is not None:
            eye.instants = eye.instants + origin
        if ear is not None:
            ear.start += origin
        # a stream that is not wanted counts as done
        seen, heard = eye is None, ear is None
        for frame in container.decode(*wanted):
            if isinstance(frame, av.VideoFrame) and eye is not None and not seen:
                # before `see`, which may scale the whole of it
                width, height = frame.width, frame.height
                if eye.fit == "crop" and max(width, height) > _LONGEST * min(width, height):
                    raise ClipError(f"{path}: pictures of {width} x {height} cannot be cropped; drop its row")
                seen = eye.see(frame)
            elif isinstance(frame, av.AudioFrame) and ear is not None and not heard:
                if frame.sample_rate not in _RATES:
                    raise ClipError(
                        f"{path}: sound of {frame.sample_rate} samples a second; restore it or drop its row"
                    )
                heard = ear.hear(frame)
            if seen and heard:
                break
        if eye is not None:
            eye.close()
        # the track ended early: the resampler still holds its last samples
        if ear is not None and not heard:
            ear.hear(None)
    return origin


def read_clip(
    path: Path,
    *,
    frames: int,
    fps: float,
    size: int,
    sample_rate: int,
    fit: Literal["stretch", "crop"] = "stretch",
    resize: Literal["ffmpeg", "bilinear", "bicubic"] = "ffmpeg",
    start: float = 0.0,
    streams: Sequence[str] = STREAMS,
) -> Clip:
    """Decode ``frames`` pictures and ``frames / fps`` seconds of sound of a media file, from ``start`` seconds on.

    Picture l is the one on screen at start + (l + 1/2) / fps. Sound is the mean of its channels, resampled by FFmpeg;
    where the track begins late, pauses or ends early there is silence. Decoding starts at the key frame before
    ``start`` and stops at the last picture and sample; of the frames between, only wanted ones are converted.

    Args:
        size, fit, resize: see `avcil.encoders.base.Reading`.
        streams: `visual`, `audio` or both; the other part of the clip is None.

    Raises ClipError if the file is missing, damaged, or holds sound that is not finite; AbsentTrack, which is one, if a
    wanted track is not there, or over before half of the duration.
    """
    path = Path(path)
    # asked here, for FFmpeg's refusal would be called damage
    if not path.is_file():
        raise ClipError(f"{path}: no such file; restore it or drop its row from the manifest")
    seconds = frames / fps
    instants = start + (np.arange(frames) + 0.5) / fps
    eye = _Eye(instants, size, fit, resize) if "visual" in streams else None
    ear = _Ear(start, round(seconds * sample_rate), sample_rate) if "audio" in streams else None
    try:
        origin = _decode(path, start, eye, ear)
    # a ClipError is a ValueError as well, and says more than `damaged`
    except ClipError:
        raise
    except (av.error.FFmpegError, IndexError, ValueError) as error:  # ValueError: sound that changes its format
        raise ClipError(f"{path}: damaged ({error.__class__.__name__}); restore it or drop its row") from error
    # the eye's end is on the file's clock, the ear's counts from the start
    video = ("video", eye.end - origin - start) if eye else None
    audio = ("audio", ear.end) if ear else None
    for track, length in filter(None, (video, audio)):
        if length < seconds / 2:
            what = f"{track} track of {max(length, 0):.2f} s where {seconds:.2f} s are wanted"
            raise AbsentTrack(f"{path}: {what}; drop its row", TRACKS[track])
    # floating-point sound may hold anything; so written, NaN is refused too
    if ear and not np.abs(ear.waveform).max(initial=0) <= _LOUDEST:
        raise ClipError(f"{path}: sound of NaN, or far beyond full scale; restore it or drop its row")
    return Clip(np.stack(eye.pictures) if eye else None, ear.waveform if ear else None, fps, sample_rate)
