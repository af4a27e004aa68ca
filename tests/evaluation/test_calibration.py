"""Calibration: recovers what was done to the logits, stays finite, and its checks equal independent code."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.calibration import TEMPERATURE_RANGE, expected_error, fit_calibrator, fit_line, reliability


def binary_study(size, temperature, offset, seed=1):
    """Logits that are right once divided by `temperature` and given `offset`."""
    generator = np.random.default_rng(seed)
    right = generator.normal(scale=2, size=size)
    labels = (generator.random(size) < 1 / (1 + np.exp(-right))).astype(int)
    logits = np.stack([np.zeros(size), (right - offset) * temperature], axis=1)
    return logits, labels, [f"P{i}" for i in range(size)]


@pytest.mark.parametrize(("temperature", "offset"), [(0.5, 0.0), (1.0, 1.5), (3.0, -1.0)])
def test_recovers_temperature_and_offset(temperature, offset):
    calibrator = fit_calibrator(*binary_study(10_000, temperature, offset))
    assert calibrator.temperature == pytest.approx(temperature, rel=0.07)
    assert calibrator.offsets[1] - calibrator.offsets[0] == pytest.approx(offset, abs=0.12)
    assert calibrator.note == ""


def test_recovers_offsets_of_several_classes():
    generator = np.random.default_rng(2)
    right = generator.normal(scale=1.5, size=(9_000, 3))
    probabilities = np.exp(right) / np.exp(right).sum(axis=1, keepdims=True)
    labels = (probabilities.cumsum(axis=1) < generator.random((9_000, 1))).sum(axis=1)
    logits = 2 * (right - np.array([0.0, 1.0, -1.0]))
    calibrator = fit_calibrator(logits, labels, [str(i) for i in range(9_000)])
    offsets = np.array(calibrator.offsets)
    assert calibrator.temperature == pytest.approx(2, rel=0.07)
    assert offsets - offsets.mean() == pytest.approx([0, 1, -1], abs=0.15)


def test_minimum_is_that_of_a_search_without_gradients():
    from scipy.optimize import minimize

    logits, labels, patients = binary_study(60, 2, 0.5, seed=5)

    def loss(parameters):
        shifted = logits / np.exp(parameters[0]) + parameters[1:]
        log_likelihood = shifted[np.arange(60), labels] - np.log(np.exp(shifted).sum(axis=1))
        return -log_likelihood.sum() + (parameters**2).sum() / 2  # both priors have standard deviation 1

    expected = minimize(
        loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9, "maxiter": 5000}
    )
    calibrator = fit_calibrator(logits, labels, patients)
    assert np.log(calibrator.temperature) == pytest.approx(expected.x[0], abs=1e-4)
    assert calibrator.offsets == pytest.approx(expected.x[1:], abs=1e-4)


def test_a_patient_counts_once():
    logits, labels, patients = binary_study(80, 2, 0, seed=3)
    once = fit_calibrator(logits, labels, patients)
    copies = np.repeat(np.arange(80), 3)
    thrice = fit_calibrator(logits[copies], labels[copies], [patients[i] for i in copies])
    assert thrice.temperature == pytest.approx(once.temperature, rel=1e-5)
    assert thrice.offsets == pytest.approx(once.offsets, abs=1e-5)


def test_separated_classes_have_a_finite_fit():
    logits = np.array([[0.0, value] for value in (-3.0, -2.0, 2.0, 3.0)])
    calibrator = fit_calibrator(logits, np.array([0, 0, 1, 1]), list("abcd"))
    assert TEMPERATURE_RANGE[0] < calibrator.temperature < 1
    assert (calibrator.probabilities(logits) < 1).all()


def test_one_class_is_left_alone_and_noted():
    calibrator = fit_calibrator(np.array([[0.0, 1.0], [0.0, 2.0]]), np.array([1, 1]), ["a", "b"])
    assert (calibrator.temperature, calibrator.offsets) == (1.0, (0.0, 0.0))
    assert "fewer than two classes" in calibrator.note


def test_an_empty_validation_part_is_left_alone_and_noted():
    calibrator = fit_calibrator(np.empty((0, 2)), np.empty(0, dtype=int), [])
    assert calibrator.temperature == 1
    assert "fewer than two classes" in calibrator.note


def test_a_missing_class_of_three_is_noted():
    logits = np.random.default_rng(0).normal(size=(20, 3))
    calibrator = fit_calibrator(logits, np.arange(20) % 2, [str(i) for i in range(20)])
    assert calibrator.note.startswith("1 of 3 classes")


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), size=st.integers(2, 40), scale=st.sampled_from([1e-3, 1, 50, 1e4]))
def test_probabilities_are_probabilities_and_keep_the_ranking(seed, size, scale):
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=scale, size=(size, 2))
    calibrator = fit_calibrator(logits, np.arange(size) % 2, [str(i % 7) for i in range(size)])
    probabilities = calibrator.probabilities(logits)
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    order = np.argsort(logits[:, 1] - logits[:, 0])
    assert (np.diff(probabilities[order, 1]) >= 0).all()


def test_line_equals_an_unpenalised_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    logits, labels, _ = binary_study(300, 2, 0.7)
    difference = logits[:, 1] / 2
    probabilities = 1 / (1 + np.exp(-difference))
    expected = LogisticRegression(C=np.inf, tol=1e-10).fit(difference[:, None], labels)
    line = fit_line(labels == 1, probabilities, np.arange(300))
    assert line.slope == pytest.approx(expected.coef_[0, 0], abs=1e-6)
    assert line.intercept == pytest.approx(expected.intercept_[0], abs=1e-6)


def test_errors_of_the_line_cover_the_truth():
    held = []
    for seed in range(150):
        logits, labels, _ = binary_study(200, 1, 0, seed=seed)
        copies = np.repeat(np.arange(200), 2)  # in clusters of two equal units
        probabilities = 1 / (1 + np.exp(-logits[copies, 1]))
        line = fit_line(labels[copies] == 1, probabilities, copies)
        held.append((abs(line.slope - 1) < 1.96 * line.slope_error, abs(line.intercept) < 1.96 * line.intercept_error))
    slopes, intercepts = np.mean(held, axis=0)
    assert 0.89 < slopes < 0.99
    assert 0.89 < intercepts < 0.99


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4]), ([1, 1], [0.2, 0.9]), ([0, 1, 0, 1], [0.5] * 4), ([0, 1], [0.6, 0.4])],
)
def test_no_finite_line_is_none(labels, probabilities):
    assert fit_line(np.array(labels) == 1, np.array(probabilities), np.arange(len(labels))) is None


def test_bins_hold_all_patients_equally():
    generator = np.random.default_rng(1)
    probabilities = generator.random(153)
    bins = reliability(generator.random(153) < probabilities, probabilities, 0.95)
    sizes = [part.patients for part in bins]
    assert (len(sizes), sum(sizes)) == (10, 153)
    assert max(sizes) - min(sizes) <= 1
    assert all(part.low <= part.observed_fraction <= part.high for part in bins)
    assert [part.predicted_mean for part in bins] == sorted(part.predicted_mean for part in bins)


def test_equal_probabilities_share_a_bin():
    bins = reliability(np.arange(100) < 30, np.full(100, 0.3), 0.95)
    assert len(bins) == 1
    assert expected_error(bins) == pytest.approx(0)


def test_expected_error_known():
    # 20 patients at 0.2 of whom 8 are positive, 20 at 0.7 of whom 14 are: errors 0.2 and 0.
    outcomes = np.concatenate([np.arange(20) < 8, np.arange(20) < 14])
    bins = reliability(outcomes, np.repeat([0.2, 0.7], 20), 0.95)
    assert [part.patients for part in bins] == [20, 20]
    assert expected_error(bins) == pytest.approx(0.1)
