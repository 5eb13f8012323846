"""What a frozen encoder sees and hears in one clip, before anything is learnt."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax
from sklearn.decomposition import PCA

from avcil.results.plots import overlay


def _as_colours(patches: np.ndarray) -> np.ndarray:
    """Patch tokens [L,S,D] as colours [L,G,G,3]: their first three principal components, each from 0 to 1."""
    slots, count, channels = patches.shape
    side = round(count**0.5)
    # of all slots together, so that a colour means the same in each, and seeded, for the solver may draw
    parts = PCA(3, random_state=0).fit_transform(patches.reshape(-1, channels))
    # a few patches far off would leave all others of one colour
    low, high = np.percentile(parts, [2, 98], axis=0)
    return np.clip((parts - low) / (high - low + 1e-9), 0, 1).reshape(slots, side, side, 3)


def clip_tokens(
    frames: np.ndarray,
    log_mel: np.ndarray,
    visual: np.ndarray,
    audio: np.ndarray,
    similarity: np.ndarray,
    *,
    seconds: float,
    title: str,
) -> Figure:
    """Frames, patch tokens, and where the encoder itself hears the sound; below, the sound and its tokens.

    Args:
        frames: [L,H,W,3] uint8, one a slot. log_mel: [M,T]. visual: [L,S,D]. audio: [A,D']. similarity: [L,S] logits.
        seconds: duration of the clip.
    """
    slots = len(frames)
    figure = plt.figure(figsize=(1.25 * slots, 6.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(3.9, 2.3))
    rows: dict[str, Iterable[np.ndarray]] = {
        "frames": frames,
        "patch tokens\n(three main\ncomponents)": _as_colours(visual),
        # over the patches of each slot, as attention weighs them
        "similarity\nto the sound": [overlay(f, w) for f, w in zip(frames, softmax(similarity, axis=-1), strict=True)],
    }
    axes = above.subplots(len(rows), slots)
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture)
            # not `axis("off")`, which would take the name of the line as well
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    left, right = below.subplots(1, 2, width_ratios=(2.2, 1))
    left.imshow(log_mel, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, len(log_mel)))
    left.set(xlabel="seconds", ylabel="mel band", title="sound (log-mel)")
    # cosines, whatever the length of a token (1e-9: some may be all zero)
    direction = audio / (np.linalg.norm(audio, axis=1, keepdims=True) + 1e-9)
    picture = right.imshow(
        direction @ direction.T, origin="lower", vmin=-1, vmax=1, cmap="RdBu_r", extent=(0, seconds, 0, seconds)
    )
    right.set(xlabel="seconds", ylabel="seconds", title="audio tokens against one another")
    below.colorbar(picture, ax=right, label="cosine")
    figure.suptitle(title)
    return figure
