"""Looking at what the model looks at: maps of one clip, its frames, and a small animation."""

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
from avcil.results.plots import outline, overlay
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


def write_gif(path: Path, frames: np.ndarray, maps: list[np.ndarray], share: np.ndarray, fps: float) -> None:
    """Clip, then the clip under each map, side by side; outlined is what truly sounds."""
    pictures = []
    for slot, frame in enumerate(frames):
        figure, axes = plt.subplots(1, 1 + len(maps), figsize=(2 * (1 + len(maps)), 2), dpi=80)
        panels = [frame, *(overlay(frame, weights[slot]) for weights in maps)]
        for number, (axis, panel) in enumerate(zip(axes, panels, strict=True)):
            axis.imshow(panel)
            axis.axis("off")
            outline(axis, share[slot], frame.shape[0], colour="black" if number else "white")
        figure.subplots_adjust(0, 0, 1, 1, 0.02, 0)
        # before it is drawn there are no pixels
        figure.canvas.draw()
        # without opacity, of which a .gif knows all or nothing
        pictures.append(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3]))
        # pyplot keeps every figure that is not closed, and here is one a slot
        plt.close(figure)
    # in milliseconds a picture, and 0 for over and over
    options = {"save_all": True, "append_images": pictures[1:], "duration": round(1000 / fps), "loop": 0}
    pictures[0].save(path, **options)
