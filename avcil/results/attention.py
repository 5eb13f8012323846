"""Looking at what the model looks at: maps of a clip, its frames, and a small animation."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from PIL import Image

from avcil.extraction.clips import read_clip
from avcil.learn.checkpoint import load_checkpoint
from avcil.learn.evaluate import Readout, read_out, tokens_of
from avcil.params.learning import Method, Training
from avcil.params.world import Film
from avcil.results.plots import name_rows, outline, overlay
from avcil.tokens.dataset import Dataset


def _read(data: Dataset, clip: int, folder: Path, method: Method, training: Training) -> Readout:
    # a checkpoint of another seed has another class order, and is refused
    checkpoint = load_checkpoint(folder, order=data.order)
    return read_out(checkpoint, method, training, tokens_of(data, method), torch.tensor([clip]))


def spatial_map(data: Dataset, clip: int, folder: Path, method: Method, training: Training) -> np.ndarray:
    """Spatial attention [L,S] of the checkpoint in ``folder`` on clip number ``clip`` of the data."""
    return _read(data, clip, folder, method, training).output.spatial[0].numpy()


def probabilities(data: Dataset, clip: int, folder: Path, method: Method, training: Training) -> pd.Series:
    """What that checkpoint says of the clip, by label: softmax of its classifier's logits, or of its solved head's."""
    logits = _read(data, clip, folder, method, training).logits[0]
    # classes seen so far are the first of the order
    return pd.Series(logits.softmax(0).numpy(), index=data.order[: len(logits)])


def slot_frames(path: Path, film: Film) -> np.ndarray:
    """The frames [L,H,W,3] that stand for the temporal slots: every second one of the clip."""
    frames = read_clip(path, **film.model_dump()).frames
    assert frames is not None  # only a clip read for its sound alone has none
    # a slot of `mini` sees three frames, of which these are in the middle
    return frames[::2]


def write_gif(
    path: Path, clips: list[np.ndarray], shares: list[np.ndarray], maps: dict[str, list[np.ndarray]], fps: float
) -> None:
    """Clips side by side, and each under the maps below it; outlined is what truly sounds.

    clips: the frames [L,H,W,3] of each; shares [L,S]; maps: by name the weights [L,S] of each clip.
    """
    pictures = []
    width, names = 1.5 * len(clips), 1.3  # inches
    for slot in range(len(clips[0])):
        figure, axes = plt.subplots(
            1 + len(maps), len(clips), figsize=(names + width, 1.5 * (1 + len(maps))), dpi=80, squeeze=False
        )
        for number, (frames, share) in enumerate(zip(clips, shares, strict=True)):
            frame = frames[slot]
            panels = [frame, *(overlay(frame, of_clips[number][slot]) for of_clips in maps.values())]
            for row, panel in enumerate(panels):
                axes[row, number].imshow(panel)
                outline(axes[row, number], share[slot], frame.shape[0], colour="black" if row else "white")
        name_rows(axes, ["clip", *maps])
        figure.subplots_adjust(names / (names + width), 0, 1, 1, 0.02, 0.02)
        # before it is drawn there are no pixels
        figure.canvas.draw()
        # without opacity, of which a .gif knows all or nothing
        pictures.append(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3]))
        # pyplot keeps every figure that is not closed, and here is one a slot
        plt.close(figure)
    # in milliseconds a picture, and 0 for over and over
    options = {"save_all": True, "append_images": pictures[1:], "duration": round(1000 / fps), "loop": 0}
    pictures[0].save(path, **options)
