"""A class is shown by a picture and a sound of a clip: names such as `object_002` mean nothing to a reader."""

import base64
import html
import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from avcil.extraction.clips import read_clip
from avcil.params.world import Film
from avcil.workshop.explore.playback import wav


class Regions:
    """Where the sounding object is, by clip; zeros where nobody knows."""

    def __init__(self, path: Path):
        self.grids: dict[str | None, np.ndarray] = {}
        if path.exists():
            with np.load(path) as arrays:
                self.grids = dict(zip(arrays["clip_id"].tolist(), arrays["region"], strict=True))

    def of_clip(self, clip: str | None) -> np.ndarray:
        """Shares [F,G,G] of cells, from 0 to 1."""
        # where there are no regions, no cell is covered
        return self.grids.get(clip, np.zeros((1, 24, 24))).astype(np.float32) / 255


def cut_out(picture: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The square about the cells [G,G] that are mostly covered; the whole picture [H,H,3] where none is."""
    rows, columns = np.nonzero(grid >= 0.5)
    if not len(rows):
        return picture
    cell = len(picture) / len(grid)
    # a half cell to the rim of the outermost ones, and one to spare
    half = (max(np.ptp(rows), np.ptp(columns)) / 2 + 1.5) * cell
    # moved into the picture where it would reach beyond
    top, left = (
        round(np.clip((np.mean([at.min(), at.max()]) + 0.5) * cell - half, 0, max(0, len(picture) - 2 * half)))
        for at in (rows, columns)
    )
    return picture[top : top + round(2 * half), left : left + round(2 * half)]


class Faces(dict):
    """By class, a JPEG of 64 pixels as a data URI: what sounds in that of its training clips where it shows most.

    ``sounds``: that clip's sound, as a .wav file, likewise.
    """

    def __init__(self, folder: Path, table: pd.DataFrame, film: Film, regions: Regions):
        super().__init__()
        self.sounds: dict[str, str] = {}
        self.folder, self.table, self.film, self.regions = folder, table, film, regions

    def __missing__(self, label: str) -> str:
        clips = self.table[(self.table.label == label) & (self.table.split == "train")].set_index("clip_id")
        grids = {clip: self.regions.of_clip(clip) for clip in clips.index}
        # by the middle frame, which is the one cut out below
        middle = {clip: grid[len(grid) // 2] for clip, grid in grids.items()}
        best = max(middle, key=lambda clip: middle[clip].sum())
        frames, waveform, _, rate = read_clip(self.folder / clips.path[best], **self.film.model_dump())
        assert frames is not None and waveform is not None  # only a clip read for one stream lacks the other
        self.sounds[label] = "data:audio/wav;base64," + base64.b64encode(wav(waveform, rate)).decode()
        face = Image.fromarray(cut_out(frames[len(frames) // 2], middle[best])).resize((64, 64))
        content = io.BytesIO()
        face.save(content, "jpeg", quality=80)
        # kept, so that each class's clip is decoded once
        self[label] = "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
        return self[label]

    def html(self, label: str, *, size: int = 40, right: bool = False) -> str:
        """The picture, to be pressed for its sound; its name shows under the pointer. right: with a green frame."""
        frame = "3px solid #1b9e3e" if right else "3px solid transparent"
        name = html.escape(label)
        style = f"width: {size}px; height: {size}px; border: {frame}; padding: 0; background: none; cursor: pointer"
        # the sound stands elsewhere on the page (`voices`), once for all pictures of its class
        press = "[...document.querySelectorAll('audio')].find((one) => one.title === this.title).play()"
        inside = f'<img src="{self[label]}" alt="hear {name}" style="width: 100%; height: 100%; display: block">'
        return f'<button title="{name}" onclick="{press}" style="{style}; vertical-align: middle">{inside}</button>'

    def voices(self) -> str:
        """The sounds of all pictures that were shown so far, unseen, for these to play."""
        return "".join(
            f'<audio title="{html.escape(label)}" src="{uri}"></audio>' for label, uri in self.sounds.items()
        )

    def buttons(self, name: str, labels: list[str]) -> str:
        """The style that shows the labels of ToggleButtons of CSS class ``name`` as pictures."""
        every = f".{name} .widget-toggle-button"
        rules = [
            # names stay there for screen readers, unseen
            f"{every} {{width: 60px; height: 60px; background-size: cover; color: transparent; font-size: 1px}}",
            f"{every}.mod-active {{outline: 3px solid #1976d2; outline-offset: -3px}}",
            *(f"{every}:nth-child({n}) {{background-image: url({self[label]})}}" for n, label in enumerate(labels, 1)),
        ]
        return f"<style>{' '.join(rules)}</style>"
