"""DeLong: variances and covariances of areas under the ROC curve for independent patients."""

import numpy as np

from pipeline.evaluation.scores import BoolArray, FloatArray


def delong(is_positive: BoolArray, scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Areas under the ROC curve of several scores on the same units, and their covariance.

    DeLong, DeLong and Clarke-Pearson, 1988, doi:10.2307/2531595, by midranks (Sun and Xu, 2014,
    doi:10.1109/LSP.2014.2337313). Valid for independent units only: one row for each patient.

    Parameters
    ----------
    is_positive
        Shape (units,); at least two units on either side.
    scores
        Shape (tests, units).

    Returns
    -------
    tuple
        Areas, shape (tests,), and their covariance matrix, shape (tests, tests).

    Raises
    ------
    ValueError
        If a side has fewer than two units.
    """
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    if min(positives, negatives) < 2:
        message = "DeLong's variance needs two units on either side"
        raise ValueError(message)
    among_all = midranks(scores)
    beaten = (among_all[:, is_positive] - midranks(scores[:, is_positive])) / negatives
    lost = 1 - (among_all[:, ~is_positive] - midranks(scores[:, ~is_positive])) / positives
    covariance = np.atleast_2d(np.cov(beaten)) / positives + np.atleast_2d(np.cov(lost)) / negatives
    return beaten.mean(axis=1), covariance


def midranks(values: FloatArray) -> FloatArray:
    """Ranks from 1 along the last axis of a (rows, units) array; tied values share their mean rank."""
    ranks = np.empty_like(values, dtype=np.float64)
    for row, target in zip(values, ranks, strict=True):
        ordered = np.sort(row)
        below = np.searchsorted(ordered, row, side="left")
        reached = np.searchsorted(ordered, row, side="right")
        target[:] = (below + 1 + reached) / 2
    return ranks
