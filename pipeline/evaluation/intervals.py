"""Intervals: from bootstrap replicates, for proportions in clusters, for complete separation, across folds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from pipeline.evaluation.scores import BoolArray, FloatArray, IntArray

Scale = Literal["logit", "log", "identity"]
LARGEST_JACKKNIFE = 200


@dataclass(frozen=True)
class Interval:
    """Ends of an interval, how it was made, and what a reader should know about it."""

    low: float | None
    high: float | None
    method: str
    note: str = ""


def normal_quantile(confidence: float) -> float:
    """Half-width of a two-sided interval of the standard normal distribution.

    Examples
    --------
    >>> round(normal_quantile(0.95), 6)
    1.959964
    """
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def t_quantile(confidence: float, freedom: int) -> float:
    """Half-width of a two-sided interval of Student's distribution with `freedom` degrees of freedom.

    Examples
    --------
    >>> round(t_quantile(0.95, 4), 6)
    2.776445
    """
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + confidence / 2))


def around(value: float, half_width: float, scale: Scale) -> tuple[float, float]:
    """Interval that is symmetric on a scale, mapped back; it always holds `value`.

    Parameters
    ----------
    value
        The estimate: inside (0, 1) for ``"logit"``, above 0 for ``"log"``.
    half_width
        On the scale of `value` itself; carried over by the delta method.
    """
    if scale == "logit":
        centre, half = math.log(value / (1 - value)), half_width / (value * (1 - value))
        return _expit(centre - half), _expit(centre + half)
    if scale == "log":
        factor = math.exp(half_width / value)
        return value / factor, value * factor
    return value - half_width, value + half_width


def wilson(successes: float, trials: float, confidence: float) -> tuple[float, float]:
    """Score interval of a proportion (Wilson, 1927, doi:10.1080/01621459.1927.10502953).

    `trials` need not be whole: an effective sample size is one.

    Examples
    --------
    >>> low, high = wilson(81, 263, 0.95)  # Newcombe, 1998, table I
    >>> round(low, 4), round(high, 4)
    (0.2553, 0.3662)
    """
    z2 = normal_quantile(confidence) ** 2
    fraction = successes / trials
    centre = (successes + z2 / 2) / (trials + z2)
    half = math.sqrt(z2) / (trials + z2) * math.sqrt(trials * fraction * (1 - fraction) + z2 / 4)
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == trials else centre + half)


def effective_trials(hits: BoolArray, clusters: IntArray) -> float:
    """Count the independent units that would tell as much as these units in clusters.

    The variance of a proportion is estimated between clusters (a ratio estimator); its ratio to the variance
    of independent units divides the number of units (Rao and Scott, 1992, doi:10.2307/2532311). Never more
    than the number of units; where the proportion is 0 or 1, or there is one cluster, the number of clusters.
    """
    units = hits.size
    _, member = np.unique(clusters, return_inverse=True)
    number = int(member.max()) + 1
    fraction = float(hits.mean())
    if number == 1 or fraction in {0.0, 1.0}:
        return float(number)
    residuals = np.bincount(member, weights=hits - fraction)
    variance = number / (number - 1) * float(residuals @ residuals) / units**2
    independent = fraction * (1 - fraction) / (units - 1)
    return float(min(units, max(1.0, units * independent / variance))) if variance > 0 else float(units)


def proportion(hits: BoolArray, clusters: IntArray, confidence: float) -> Interval:
    """Wilson interval of a fraction of units that come in clusters."""
    trials = effective_trials(hits, clusters)
    low, high = wilson(float(hits.mean()) * trials, trials, confidence)
    whole = np.unique(clusters).size == hits.size
    return Interval(low, high, "Wilson" if whole else "Wilson, effective sample size of the patient clusters")


def mean_of_proportions(values: Sequence[float], parts: Sequence[Interval]) -> Interval:
    """Interval of the mean of independent proportions from their own intervals.

    Method of variance estimates recovery (Zou and Donner, 2008, doi:10.1002/sim.3095).
    """
    mean = sum(values) / len(values)
    below = sum((value - part.low) ** 2 for value, part in zip(values, parts, strict=True) if part.low is not None)
    above = sum((part.high - value) ** 2 for value, part in zip(values, parts, strict=True) if part.high is not None)
    low, high = mean - math.sqrt(below) / len(values), mean + math.sqrt(above) / len(values)
    return Interval(max(0.0, low), min(1.0, high), "Wilson intervals of the classes, combined (MOVER)")


def mean_of_losses(losses: FloatArray, clusters: IntArray, confidence: float) -> Interval:
    """Interval of a mean of non-negative losses, from the variance between clusters, on the log scale."""
    method = "variance between patient clusters, log scale"
    _, member = np.unique(clusters, return_inverse=True)
    number = int(member.max()) + 1
    mean = float(losses.mean())
    if number == 1 or mean <= 0:
        return Interval(None, None, method, "too few clusters, or no loss at all")
    residuals = np.bincount(member, weights=losses - mean)
    error = math.sqrt(number / (number - 1) * float(residuals @ residuals)) / losses.size
    low, high = around(mean, normal_quantile(confidence) * error, "log")
    return Interval(low, high, method)


def jackknife(
    statistic: Callable[[BoolArray], float],
    clusters: IntArray,
    confidence: float,
    *,
    scale: Scale,
    limits: tuple[float, float],
) -> Interval:
    """Interval of any statistic from leaving out groups of clusters in turn.

    Quenouille and Tukey's jackknife (Miller, 1974, doi:10.1093/biomet/61.1.1), with at most
    `LARGEST_JACKKNIFE` groups.

    Parameters
    ----------
    statistic
        Takes the units that are kept, shape (units,), and gives a value.
    limits
        Range of the statistic, to which the interval is cut.
    """
    method = f"jackknife of patient clusters, {scale} scale"
    _, member = np.unique(clusters, return_inverse=True)
    group = member % LARGEST_JACKKNIFE
    number = int(group.max()) + 1
    value = statistic(np.ones(clusters.size, dtype=np.bool_))
    left = np.array([statistic(group != one) for one in range(number)]) if number > 1 else np.array([np.nan])
    error = math.sqrt((number - 1) / number * float(((left - left.mean()) ** 2).sum()))
    if not error > 0 or value in limits:  # NaN where a class stands in one group only
        return Interval(None, None, method, "the jackknife gives no interval here")
    low, high = around(value, normal_quantile(confidence) * error, scale)
    return Interval(max(limits[0], low), min(limits[1], high), method)


def complete_separation(pairs: int, confidence: float) -> tuple[float, float]:
    """Interval for an AUROC whose estimate is 1, where a bootstrap has no width.

    Match each positive unit with a negative one: if the area is A, all of the `pairs` independent pairs are
    in order with probability A**pairs, and complete separation is rarer still. The lower end is the area at
    which this probability falls to half of one minus the confidence.

    Examples
    --------
    >>> low, high = complete_separation(10, 0.95)
    >>> round(low, 3), high
    (0.692, 1.0)
    """
    return float(((1 - confidence) / 2) ** (1 / pairs)), 1.0


def corrected_t(values: Sequence[float], confidence: float) -> Interval:
    """Interval of the mean over cross-validation folds with a corrected variance.

    Folds share training data, so their values are not independent; the variance of the mean is taken as
    ``s**2 * (1 / k + n_test / n_train)`` with ``n_test / n_train = 1 / (k - 1)`` for k folds (Nadeau and
    Bengio, 2003, doi:10.1023/A:1024068626366). Unlike a bootstrap of the test patients it holds the
    variation between trainings.
    """
    method = "corrected t over the folds (Nadeau and Bengio)"
    folds = len(values)
    if folds < 2:
        return Interval(None, None, method, "needs at least two folds")
    mean = sum(values) / folds
    variance = sum((value - mean) ** 2 for value in values) / (folds - 1)
    half = t_quantile(confidence, folds - 1) * math.sqrt(variance * (1 / folds + 1 / (folds - 1)))
    return Interval(mean - half, mean + half, method)


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
