"""Calibration: a temperature and class offsets for each fold, fitted on its validation part, and their check.

A network trained with class weights, label smoothing and early stopping gives probabilities that are too bold
or too shy, and shifted towards rare classes. Both are mended with few parameters: logits are divided by a
temperature (Guo et al., 2017, arXiv:1706.04599), and one offset for each class is added (Alexandari et al.,
2020, arXiv:1901.06852). Inner validation parts are small, therefore weak priors hold both near "no change":
without them a separable validation part would have no finite solution.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.core.results import CalibrationBin
from pipeline.evaluation.intervals import wilson
from pipeline.evaluation.scores import BoolArray, FloatArray, IntArray

# Standard deviations of the normal priors. Simulated with training that balances the classes, test log loss:
# at prevalence 0.1 and 22 to 120 validation patients 0.21 to 0.26 (uncorrected 0.40 to 0.55, a temperature alone 0.41
# to 0.48); at 0.35, 0.38 to 0.43 (0.40 to 0.55, 0.41 to 0.50). It has a price where logits are right already: at 0.5,
# 0.439, 0.420 and 0.409 with 22, 45 and 120 patients against 0.403.
LOG_TEMPERATURE_SD = 1.0
OFFSET_SD = 1.0
# Beyond these a fit would make probabilities 0, 1 or equal.
TEMPERATURE_RANGE = (0.05, 20.0)
LARGEST_OFFSET = 10.0
MOST_BINS = 10
FEWEST_IN_BIN = 15


@dataclass(frozen=True)
class Calibrator:
    """Turn logits into probabilities: softmax(logits / temperature + offsets)."""

    temperature: float
    offsets: tuple[float, ...]
    note: str = ""

    def probabilities(self, logits: FloatArray) -> FloatArray:
        """Calibrated probabilities, shape (units, classes); rows sum to 1."""
        return _softmax(logits / self.temperature + np.array(self.offsets))


def fit_calibrator(logits: FloatArray, labels: IntArray, patients: Sequence[str]) -> Calibrator:
    """Fit temperature and offsets on a fold's validation images; every patient counts once.

    Parameters
    ----------
    logits
        Shape (images, classes).
    labels
        Class indices, shape (images,).
    patients
        Patient of each image: an image weighs one over the number of the patient's images.

    Returns
    -------
    Calibrator
        Without effect, and with a note, if the validation part holds fewer than two classes.
    """
    from scipy.optimize import minimize

    classes = logits.shape[1]
    missing = classes - np.unique(labels).size
    if missing > classes - 2:
        return Calibrator(1.0, (0.0,) * classes, "not calibrated: the validation part holds fewer than two classes")
    _, member, counts = np.unique(np.array(patients), return_inverse=True, return_counts=True)
    weights = 1 / counts[member]
    outcomes = np.eye(classes)[labels]

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        log_temperature, offsets = parameters[0], parameters[1:]
        scaled = logits * math.exp(-log_temperature)
        shifted = scaled + offsets
        log_likelihood = (shifted * outcomes).sum(axis=1) - _log_sum_exp(shifted)
        prior = (log_temperature / LOG_TEMPERATURE_SD) ** 2 / 2 + (offsets @ offsets) / (2 * OFFSET_SD**2)
        excess = (_softmax(shifted) - outcomes) * weights[:, None]
        gradient = np.empty_like(parameters)
        gradient[0] = -(excess * scaled).sum() + log_temperature / LOG_TEMPERATURE_SD**2
        gradient[1:] = excess.sum(axis=0) + offsets / OFFSET_SD**2
        return float(prior - weights @ log_likelihood), gradient

    low, high = (math.log(end) for end in TEMPERATURE_RANGE)
    bounds = [(low, high)] + [(-LARGEST_OFFSET, LARGEST_OFFSET)] * classes
    start = np.zeros(classes + 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-9})
    note = f"{missing} of {classes} classes do not occur in the validation part" if missing else ""
    offsets = tuple(float(value) for value in found.x[1:])
    return Calibrator(math.exp(float(found.x[0])), offsets, note)


def reliability(is_positive: BoolArray, probabilities: FloatArray, confidence: float) -> tuple[CalibrationBin, ...]:
    """Bins of equal mass with the Wilson interval of the observed fraction; equal probabilities share a bin.

    Parameters
    ----------
    is_positive, probabilities
        Of one class against the rest, shape (patients,).
    """
    order = np.argsort(probabilities, kind="stable")
    ordered, outcomes = probabilities[order], is_positive[order]
    number = min(MOST_BINS, max(1, ordered.size // FEWEST_IN_BIN))
    cuts = [round(ordered.size * cut / number) for cut in range(1, number)]
    ends = np.searchsorted(ordered, ordered[[cut - 1 for cut in cuts]], side="right")
    edges = sorted({0, ordered.size, *ends.tolist()})
    bins = []
    for start, stop in pairwise(edges):
        observed = float(outcomes[start:stop].mean())
        low, high = wilson(int(outcomes[start:stop].sum()), stop - start, confidence)
        bins.append(
            CalibrationBin(
                predicted_mean=float(ordered[start:stop].mean()),
                observed_fraction=observed,
                low=low,
                high=high,
                patients=stop - start,
            )
        )
    return tuple(bins)


def expected_error(bins: Sequence[CalibrationBin]) -> float:
    """Compute the expected calibration error: mean distance of prediction and observation over the patients."""
    total = sum(part.patients for part in bins)
    return sum(part.patients * abs(part.predicted_mean - part.observed_fraction) for part in bins) / total


@dataclass(frozen=True)
class CalibrationLine:
    """Slope (1 is perfect) and intercept (0 is perfect) of calibration, and their standard errors."""

    slope: float
    intercept: float
    slope_error: float
    intercept_error: float


def fit_line(is_positive: BoolArray, probabilities: FloatArray, clusters: IntArray) -> CalibrationLine | None:
    """Regress the outcome on the logit of the probability (Cox, 1958), by Newton's method.

    Parameters
    ----------
    clusters
        Units of one cluster are not independent; standard errors are made from the clusters' scores (Liang
        and Zeger, 1986, doi:10.1093/biomet/73.1.13).

    Returns
    -------
    CalibrationLine or None
        None where the fit has no finite solution: one class only, classes separated completely, or all
        probabilities equal.
    """
    clipped = np.clip(probabilities, 1e-12, 1 - 1e-12)
    logits = np.log(clipped / (1 - clipped))
    positive, negative = logits[is_positive], logits[~is_positive]
    if not (positive.size and negative.size) or np.ptp(logits) < 1e-9:
        return None
    if positive.min() >= negative.max() or negative.min() >= positive.max():
        return None
    design = np.stack([logits, np.ones_like(logits)], axis=1)
    outcome = is_positive.astype(np.float64)
    parameters = np.zeros(2)
    for _ in range(100):
        fitted = 1 / (1 + np.exp(-np.clip(design @ parameters, -500, 500)))
        gradients = design * (outcome - fitted)[:, None]
        information = design.T @ (design * (fitted * (1 - fitted))[:, None]) + 1e-12 * np.eye(2)
        step = np.linalg.solve(information, gradients.sum(axis=0))
        parameters = parameters + np.clip(step, -2, 2)
        if float(np.abs(step).max()) < 1e-10:
            errors = _cluster_errors(information, gradients, clusters)
            return CalibrationLine(float(parameters[0]), float(parameters[1]), errors[0], errors[1])
    return None


def _cluster_errors(information: FloatArray, gradients: FloatArray, clusters: IntArray) -> tuple[float, float]:
    """Give the standard errors of two parameters from gradients summed in clusters."""
    _, member = np.unique(clusters, return_inverse=True)
    number = int(member.max()) + 1
    sums = np.stack([np.bincount(member, weights=column) for column in gradients.T], axis=1)
    inverse = np.linalg.inv(information)
    covariance = inverse @ (sums.T @ sums) @ inverse * (number / max(1, number - 1))
    return math.sqrt(covariance[0, 0]), math.sqrt(covariance[1, 1])


def _log_sum_exp(logits: FloatArray) -> FloatArray:
    highest = logits.max(axis=1, keepdims=True)
    sums: FloatArray = np.log(np.exp(logits - highest).sum(axis=1)) + highest[:, 0]
    return sums


def _softmax(logits: FloatArray) -> FloatArray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: FloatArray = powers / powers.sum(axis=1, keepdims=True)
    return probabilities
