"""Results: rounding keeps ten digits of every number and nothing else changes."""

from pipeline.core.results import CalibrationBin, PredictiveValue, RocCurve
from pipeline.evaluation.results import round_numbers


def test_numbers_are_rounded_at_every_depth():
    curve = RocCurve(
        class_name="yes", false_positive_rate=(0.0, 1 / 3), true_positive_rate=(0.1234567890123, 1.0),
        low=(1e-17, 2 / 3), high=(1.0, 1.0),
    )  # fmt: skip
    found = round_numbers(curve)
    assert found.false_positive_rate == (0.0, 0.3333333333)
    assert found.true_positive_rate == (0.123456789, 1.0)
    assert found.low == (1e-17, 0.6666666667)
    assert found.class_name == "yes"


def test_integers_and_missing_values_stay():
    part = CalibrationBin(predicted_mean=0.5, observed_fraction=0.5, low=0.1, high=0.9, patients=12345678901)
    assert round_numbers(part) == part
    value = PredictiveValue(prevalence=0.1, positive=None, negative=0.9)
    assert round_numbers(value) == value


def test_rounding_twice_is_rounding_once():
    value = PredictiveValue(prevalence=2 / 7, positive=1 / 9, negative=None)
    assert round_numbers(round_numbers(value)) == round_numbers(value)
