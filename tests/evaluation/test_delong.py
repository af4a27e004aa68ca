"""DeLong's covariance equals the definition by placement values, written out, and its own known values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.delong import delong, midranks


def by_definition(is_positive, scores):
    """Placement values pair by pair (DeLong et al., 1988, equations 3 to 6), in O(n^2)."""

    def kernel(one, other):
        return 1.0 if one > other else 0.5 if one == other else 0.0

    tests = range(len(scores))
    positive = [row[is_positive] for row in scores]
    negative = [row[~is_positive] for row in scores]
    v10 = [[np.mean([kernel(x, y) for y in negative[t]]) for x in positive[t]] for t in tests]
    v01 = [[np.mean([kernel(x, y) for x in positive[t]]) for y in negative[t]] for t in tests]
    areas = [np.mean(v10[t]) for t in tests]

    def spread(values, a, b):
        return sum((x - areas[a]) * (y - areas[b]) for x, y in zip(values[a], values[b], strict=True)) / (
            len(values[a]) - 1
        )

    covariance = [[spread(v10, a, b) / len(v10[0]) + spread(v01, a, b) / len(v01[0]) for b in tests] for a in tests]
    return np.array(areas), np.array(covariance)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([3, 10, 10**6]), positives=st.integers(2, 15))
def test_equals_the_definition(seed, levels, positives):
    generator = np.random.default_rng(seed)
    is_positive = np.arange(25) < positives
    scores = generator.integers(0, levels, size=(3, 25)) / levels
    areas, covariance = delong(is_positive, scores)
    expected_areas, expected_covariance = by_definition(is_positive, scores)
    assert areas == pytest.approx(expected_areas, abs=1e-12)
    assert covariance == pytest.approx(expected_covariance, abs=1e-12)


def test_known_value():
    # Positives 3, 5; negatives 1, 4: placements (1/2, 1) and (1, 1/2), each of variance 1/8.
    areas, covariance = delong(np.array([True, True, False, False]), np.array([[3.0, 5.0, 1.0, 4.0]]))
    assert areas.tolist() == [0.75]
    assert covariance[0, 0] == pytest.approx(1 / 8)


def test_needs_two_units_on_either_side():
    with pytest.raises(ValueError, match="two units"):
        delong(np.array([True, False, False]), np.ones((1, 3)))


def test_midranks_share_ties():
    assert midranks(np.array([[3.0, 1.0, 3.0, 2.0]])).tolist() == [[3.5, 1.0, 3.5, 2.0]]
