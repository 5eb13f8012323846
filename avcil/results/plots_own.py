"""Figures of somebody's own clips: what they are taken for, and what is heard as a film plays."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure


def confusions(truth: list[str], predicted: dict[str, list[str]], columns: list[str]) -> Figure:
    """Clips by what they are and what they are taken for, a panel for each entry of ``predicted``, by its title.

    columns: all that is predicted, in order; rows are those of them that are true of a clip.
    """
    figure, axes = plt.subplots(1, len(predicted), figsize=(4.75 * len(predicted), 3.2), sharey=True, squeeze=False)
    # what is only said, as "none of these", is true of no clip and has no row
    rows = [label for label in columns if label in truth]
    for axis, (title, labels) in zip(axes[0], predicted.items(), strict=True):
        # crosstab sorts names, and leaves out those that nothing was taken for
        counts = pd.crosstab(pd.Series(truth), pd.Series(labels)).reindex(index=rows, columns=columns, fill_value=0)
        sns.heatmap(counts, annot=True, fmt="d", cmap="cividis", cbar=False, ax=axis, linewidths=0.5)
        axis.set(title=title, xlabel="taken for", ylabel="test clips of" if axis is axes[0, 0] else "")
    figure.tight_layout()
    return figure


def over_time(probabilities: pd.DataFrame, whole: dict[str, float], every: float) -> Figure:
    """Probability of each class (columns) in each window (rows), which begin ``every`` seconds.

    whole: by class, the second at which a window begins that holds a whole clip of it and nothing else.
    """
    figure, axis = plt.subplots(figsize=(9.5, 2.4))
    ticks = [f"{number * every:g}" for number in range(len(probabilities))]
    sns.heatmap(probabilities.T, cmap="cividis", vmin=0, cbar=False, ax=axis, xticklabels=ticks)
    for label, start in whole.items():
        # cells are 1 wide and high: the middle of a row is at a half, and a window at its number
        row = list(probabilities).index(label) + 0.5
        axis.plot(np.array([0, 1]) + start / every, [row, row], color="white", linewidth=4)
    axis.set(xlabel="window begins, seconds", title="Probability of each class (white: a whole clip of it)")
    figure.tight_layout()
    return figure
