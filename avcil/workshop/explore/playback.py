"""A clip to be played: heat where rows look, when they look, and a playhead over the sound, all drawn into the video.

So it plays wherever a browser plays videos, in step with its sound, and stops and winds with it.

Dimension letters: ``F`` pictures of a clip, ``L`` temporal slots, ``S`` patches of a slot, ``M`` mel bands.
"""

import io
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from scipy.io import wavfile

from avcil.extraction.clips import Clip, write_clip
from avcil.results.plots import PALETTE, overlay

SMOOTH = 16  # positions of the playhead a second, at least
DPI = 80
CAPTION, TIMELINE, FOOT = 24, 190, 50  # heights in pixels; browsers lay their controls on the foot
QUICK = {"crf": "20", "preset": "ultrafast"}  # somebody waits, and nobody keeps it
SMALL = {"crf": "36", "preset": "medium"}  # kept in a notebook: a tenth of the bytes, in five times the time


def wav(waveform: np.ndarray, rate: int) -> bytes:
    """A waveform in [-1, 1] as a .wav file of 16 bits; louder ones are made as loud as fits."""
    content = io.BytesIO()
    wavfile.write(content, rate, (waveform / max(1.0, np.abs(waveform).max()) * 32767).astype("<i2"))
    return content.getvalue()


class AttentionMaps(NamedTuple):
    """spatial [L,S] sums to 1 over S, temporal [L] to 1. Without ``learnt`` both are even: a row that does not look."""

    spatial: np.ndarray
    temporal: np.ndarray
    learnt: bool = True


def _border(share: np.ndarray, size: int) -> np.ndarray:
    """Pixels [size,size] at the border of the region that covers half of a patch or more, share [S]."""
    side = round(len(share) ** 0.5)
    grid = Image.fromarray(share.reshape(side, side).astype(np.float32))
    # padded by as much as is rolled, so that the rim of the picture is no border
    inside = np.pad(np.asarray(grid.resize((size, size), Image.Resampling.BILINEAR)) >= 0.5, 2, mode="edge")
    around = [np.roll(inside, shift, axis) for shift in (-2, 2) for axis in (0, 1)]
    # two pixels wide: inside, but not with all neighbours at that distance
    return (inside & ~np.logical_and.reduce(around))[2:-2, 2:-2]


def _tile(picture: np.ndarray, share: np.ndarray, size: int, colour: int) -> np.ndarray:
    """The picture [size,size,3], outlined in it what truly sounds."""
    tile = np.array(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))
    tile[_border(share, size)] = colour
    return tile


def _captions(names: list[str], size: int) -> np.ndarray:
    """Names over tiles of that size [CAPTION,W,3], each in its row's colour, after the clip's own."""
    band = Image.new("RGB", (size * len(names), CAPTION), "white")
    for number, name in enumerate(names):
        colour = tuple(round(255 * part) for part in PALETTE[(number - 1) % len(PALETTE)]) if number else (0, 0, 0)
        ImageDraw.Draw(band).text((size * number + 6, 3), name, fill=colour, font=ImageFont.load_default(14))
    return np.array(band)


def timeline(mel: np.ndarray, moments: list[np.ndarray], seconds: float, width: int) -> np.ndarray:
    """Attention in time [L] of each row, over the spectrogram [M,frames]; from edge to edge: [TIMELINE,W,3]."""
    figure = Figure(figsize=(width / DPI, TIMELINE / DPI), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    when, sound = figure.add_axes((0, 0.6, 1, 0.4)), figure.add_axes((0, 0.12, 1, 0.46))
    for number, moment in enumerate(moments):
        edges = np.linspace(0, seconds, len(moment) + 1)
        # filled where there is one; several would hide one another
        colour = PALETTE[number % len(PALETTE)]
        when.stairs(moment, edges, color=colour, fill=len(moments) == 1, linewidth=2.5, alpha=0.9)
    # room for twice the even weight at least, so that an even look stands about half as high as it could
    highest = max(max(moment.max(), 2 / len(moment)) for moment in moments)
    when.set(xlim=(0, seconds), ylim=(0, 1.1 * highest), xticks=[], yticks=[])
    when.text(0.006, 0.94, "attention in time", transform=when.transAxes, va="top", fontsize=9)
    decibels = 20 * np.log10(mel + 1e-6)
    # sixty decibels, as in the figures (avcil/results/plots.py)
    extent, quietest = (0, seconds, 0, len(mel)), decibels.max() - 60
    sound.imshow(decibels, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=quietest)
    sound.text(0.006, 0.94, "spectrogram", transform=sound.transAxes, va="top", fontsize=9, color="white")
    sound.set(yticks=[], xticks=np.arange(0, seconds + 1e-6, seconds / 4)[1:-1])
    sound.tick_params(labelsize=8, length=2, pad=1)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def film(
    clip: Clip, looks: dict[str, AttentionMaps], share: np.ndarray, mel: np.ndarray, how: dict = QUICK
) -> tuple[bytes, int]:
    """The clip, and beside it once for each name where that one looks; below, when, and the sound.

    looks: attention by name, one or more; share [L,S]: outlined is what truly sounds; mel [M,frames]: magnitudes;
    how: ``QUICK`` or ``SMALL``. Returns an .mp4 file with the clip's sound, and its width in pixels.
    """
    assert clip.frames is not None and clip.waveform is not None  # only a clip read for one stream lacks the other
    size = 320 if len(looks) <= 2 else 240
    head = _captions(["the clip", *(n if look.learnt else f"{n}: looks nowhere" for n, look in looks.items())], size)
    seconds = len(clip.waveform) / clip.sample_rate
    below = timeline(mel, [look.temporal for look in looks.values()], seconds, head.shape[1])
    foot = np.full((FOOT, head.shape[1], 3), 40, np.uint8)
    # pictures are repeated where they are few a second, so that the playhead moves smoothly
    steps, pictures = max(1, round(SMOOTH / clip.fps)), []
    for number, frame in enumerate(clip.frames):
        slot = number * len(share) // len(clip.frames)
        heats = [overlay(frame, look.spatial[slot]) if look.learnt else frame for look in looks.values()]
        # the outline is white on the picture and black on heat, where it is seen
        tiles = [_tile(frame, share[slot], size, 255), *(_tile(heat, share[slot], size, 0) for heat in heats)]
        whole = np.concatenate([head, np.concatenate(tiles, 1), below, foot])
        for step in range(steps):
            # the middle of the step
            at = round((number + (step + 0.5) / steps) / len(clip.frames) * whole.shape[1])
            picture = whole.copy()
            picture[-TIMELINE - FOOT : -FOOT, at - 1 : at + 2] = (0, 220, 255)
            pictures.append(picture)
    content = io.BytesIO()
    write_clip(content, pictures, clip.waveform, round(clip.fps * steps), clip.sample_rate, quality=how, bit_rate=None)
    return content.getvalue(), head.shape[1]
