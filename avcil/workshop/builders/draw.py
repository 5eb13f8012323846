"""What annotations leave open is drawn from a seed, of all annotated clips: media that are missing change nothing.

Each class has a generator of its own, so that leaving out another class changes (next to) nothing either.
"""

from collections import Counter

import numpy as np
import pandas as pd

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def _generator(seed: int, label: str) -> np.random.Generator:
    # the label's bytes: `hash` of a text differs from process to process
    return np.random.default_rng([seed, *label.encode()])


def split(clips: pd.DataFrame, redraw: dict[str, dict[str, float]], seed: int) -> pd.Series:
    """Splits, where ``redraw`` names shares instead of a split: drawn class by class, the rarest first, all clips of a
    video together."""
    drawn = clips.split.copy()
    for old, shares in redraw.items():
        whole = clips[clips.split == old]
        given: dict[str, str] = {}
        videos = {label: Counter(of_class.video) for label, of_class in whole.groupby("label")}
        # a video goes with the first of its classes, so those come first that have the fewest to share out
        for label in sorted(videos, key=lambda label: (len(videos[label]), label)):
            sizes = videos[label]
            # how many clips of this class each part still wants
            lacking = {part: share * sizes.total() for part, share in shares.items()}
            # videos that went with another class count here too
            for video in sorted(sizes.keys() & given.keys()):
                lacking[given[video]] -= sizes[video]
            # sets have no order of their own, and the draw shall hang on the seed alone
            for video in _generator(seed, label).permutation(sorted(sizes.keys() - given.keys())).tolist():
                # of parts that lack as much, the first one named
                given[video] = max(lacking, key=lambda part: lacking[part])
                lacking[given[video]] -= sizes[video]
        drawn[whole.index] = whole.video.map(given)
    return drawn


def few(clips: pd.DataFrame, shots: dict[str, int], seed: int) -> pd.DataFrame:
    """The clips without all but so many training clips of each class in ``shots``."""
    left_out = set()
    for label, count in shots.items():
        # sorted, so that the order of the files does not matter
        ids = sorted(clips.clip_id[(clips.label == label) & (clips.split == "train")])
        left_out.update(_generator(seed, label).permutation(ids)[count:].tolist())
    return clips[~clips.clip_id.isin(left_out)]
