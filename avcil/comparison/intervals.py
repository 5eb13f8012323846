"""The one interval of every mean and of every paired difference, and the sentence that follows from it.

`over_seeds` is Student's t. It covers what other seeds would give **on the same test clips**. Where every clip's
outcome is known, `over_seeds_and_clips` adds the luck of the clips, which seeds that share one test set do not show:
Student's t alone covered 82 to 92 % of simulated accuracies there, this one 96 to 97 %
(tests/comparison/test_intervals.py). A difference is an interval of paired values: one minus the other, seed by seed,
clip by clip.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import stdtrit

ALPHA = 0.05
VERDICTS = ("holds", "not told apart", "does not hold")


class Interval(NamedTuple):
    """A mean with its 95 % interval [low, high], the two-sided p of a mean of zero, and how many seeds it is of.

    low, high and p are NaN where the spread is not known: for one seed, or for seeds that happen to agree to the digit;
    for no seed the mean is, too.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: int


def half_width(spread: float, seeds: int, alpha: float = ALPHA) -> float:
    """t(1 − α/2, n − 1) s / √n, s the standard deviation (n − 1) over n seeds. Source: Student 1908."""
    return float(stdtrit(seeds - 1, 1 - alpha / 2)) * spread / math.sqrt(seeds) if seeds > 1 else math.nan


def _interval(mean: float, half: Callable[[float], float], seeds: int) -> Interval:
    """The interval mean ± half(α); p is the α whose interval ends at zero."""
    # at α = 0 an interval has no ends, so the search for p begins at a least α
    width, smallest = half(ALPHA), 1e-15
    if math.isnan(width):
        p = math.nan
    # a mean of zero comes here only where nothing varies at all, and is no evidence of anything
    elif abs(mean) >= half(smallest):
        p = 0.0 if mean else 1.0
    else:
        # at α = 1 the interval is a point, so the two ends of the search differ in sign
        p = brentq(lambda alpha: half(alpha) - abs(mean), smallest, 1)
    return Interval(mean, mean - width, mean + width, p, seeds)


def over_seeds(values: ArrayLike) -> Interval:
    """Mean of ``values`` [seeds] ± `half_width`.

    It covers 95 % if seeds are independent and all luck is theirs; the luck of a test set that they share is not in it.
    """
    values = np.asarray(values, float)
    spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    if spread < 1e-9:  # few seeds, on the grid of few clips, can agree: that is no proof that there is no luck
        spread = math.nan
    return _interval(float(values.mean()), lambda alpha: half_width(spread, len(values), alpha), len(values))


def over_seeds_and_clips(values: ArrayLike) -> Interval:
    """Mean of ``values`` x_sc [seeds S, clips C], whose clips are the same for all seeds, with both kinds of luck.

        h² = (t(1 − α/2, S − 1)² MS_S + t(1 − α/2, C − 1)² max(0, MS_C − MS_E)) / SC
        MS_S = C Var_s(x̄_s.)   MS_C = S Var_c(x̄_.c)   MS_E = Σ (x_sc − x̄_s. − x̄_.c + x̄)² / ((S − 1)(C − 1))

    MS_S / SC is Student's s² / S; (MS_C − MS_E) / SC estimates σ_C² / C of the crossed random effects
    x_sc = μ + a_s + b_c + e_sc. So h is never less than Student's over seeds. Classes confused within a seed, and tasks
    that come late in its order, are its own luck and in MS_S. Sources: Searle, Casella & McCulloch, Variance Components
    (1992), two-way crossed classification; squares of half-widths added as by Zou & Donner, Stat. Med. 2008.
    """
    values = np.asarray(values, float)
    seeds, clips = values.shape
    mean = float(values.mean())
    # of one seed the clips alone would give an interval, which says nothing of other seeds
    if seeds < 2:
        return _interval(mean, lambda alpha: math.nan, seeds)
    by_seed, by_clip = values.mean(1), values.mean(0)
    # e_sc: what neither the seed nor the clip explains
    left = values - by_seed[:, None] - by_clip + mean
    # mean squares over SC: variances of the mean, each as one kind of luck alone would give it
    of_seeds = by_seed.var(ddof=1) / seeds
    of_error = (left**2).sum() / ((seeds - 1) * (clips - 1))
    # the error is in MS_S already and would count twice, and an estimate that comes out below zero is none
    of_clips = max(0.0, by_clip.var(ddof=1) / clips - of_error / (seeds * clips))

    # squares of half-widths are added, each with its own degrees of freedom: with Satterthwaite's joint ones
    # the interval covered 92 to 95 % (LOG.md)
    def half(alpha: float) -> float:
        first, second = stdtrit([seeds - 1, clips - 1], 1 - alpha / 2)
        return math.sqrt(first**2 * of_seeds + second**2 * of_clips)

    return _interval(mean, half, seeds)


def holm(p: Sequence[float]) -> np.ndarray:
    """p adjusted for their number m: the largest of (m − k) p_(k) so far, in rising order k = 0, 1, …, at most 1.

    Rejecting where it is below α errs at all in at most α of families. Source: Holm, Scand. J. Statist. 1979.
    """
    p = np.asarray(p, float)
    order = np.argsort(p)
    # without the running maximum a larger p could come out smaller than one that was below it
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, stepped)
    return adjusted


def sign(interval: Interval) -> int:
    """1 if the mean is told from zero and positive, −1 if negative, else 0.

    By the ends as they are written, so that no sentence claims a lead of [0.0, …]; one seed tells nothing.
    """
    # of one seed the ends are NaN, of which both comparisons are false
    low, high = (round(100 * float(end), 1) for end in (interval.low, interval.high))
    return int(low > 0) - int(high < 0)


def outcome(interval: Interval, least: float = 0.0) -> str:
    """`holds` if the whole interval is above ``least``, `does not hold` if it is below, else `not told apart`."""
    shifted = interval._replace(low=interval.low - least, high=interval.high - least)
    # a sign of 1, 0 or -1 picks the first, second or third
    return VERDICTS[1 - sign(shifted)]


def negative(interval: Interval) -> Interval:
    return interval._replace(mean=-interval.mean, low=-interval.high, high=-interval.low)


def points(interval: Interval) -> str:
    """`4.2 [1.0, 7.3]`, in percent points."""
    # a number of numpy, as tables have them, rounds another way; adding zero makes −0.0 a plain zero
    mean, low, high = (round(100 * float(value), 1) + 0.0 for value in interval[:3])
    if not interval.seeds:
        return "no seed in common"
    if math.isnan(interval.low):
        return f"{mean:.1f}, " + ("one seed" if interval.seeds < 2 else f"the same in {interval.seeds} seeds")
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def verdict(interval: Interval, words: tuple[str, str] = ("ahead by", "behind by")) -> str:
    """`ahead by 4.2 [1.0, 7.3]`, `behind by …` or `not told apart (0.2 [-2.1, 2.4])`, in percent points.

    words: for a positive and for a negative mean; after the second one the sign is turned.
    """
    side = sign(interval)
    if not side:
        return f"not told apart ({points(interval)})"
    return f"{words[0]} {points(interval)}" if side > 0 else f"{words[1]} {points(negative(interval))}"
