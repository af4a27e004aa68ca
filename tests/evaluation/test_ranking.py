"""Ranking: weighted areas and curves equal scikit-learn's with sample weights, replicate by replicate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.ranking import equal_weights, rank


def random_units(seed, size=60, levels=12):
    generator = np.random.default_rng(seed)
    is_positive = generator.random(size) < 0.4
    is_positive[:2] = True, False
    scores = generator.integers(0, levels, size) / levels
    return is_positive, scores, generator


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([2, 5, 1000]))
def test_weighted_areas_equal_scikit_learn(seed, levels):
    from sklearn.metrics import average_precision_score, roc_auc_score

    is_positive, scores, generator = random_units(seed, levels=levels)
    clusters = generator.integers(0, 20, scores.size)
    weights = generator.integers(0, 3, size=(20, 6)).astype(float)
    weights[clusters[0]] = weights[clusters[1]] = 1
    areas, precisions = rank(is_positive, scores, clusters).areas(weights)
    for column in range(6):
        own = weights[clusters, column]
        assert areas[column] == pytest.approx(roc_auc_score(is_positive, scores, sample_weight=own), abs=1e-12)
        expected = average_precision_score(is_positive, scores, sample_weight=own)
        assert precisions[column] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([3, 1000]))
def test_roc_curve_equals_scikit_learn(seed, levels):
    from sklearn.metrics import roc_curve

    is_positive, scores, generator = random_units(seed, levels=levels)
    grid = generator.random(30)
    false, true, _ = roc_curve(is_positive, scores, drop_intermediate=False)
    rates = rank(is_positive, scores).true_positive_rates(grid, equal_weights(scores.size))
    assert rates[:, 0] == pytest.approx(np.interp(grid, false, true), abs=1e-6)


def test_roc_curve_takes_the_upper_end_of_a_step():
    is_positive, scores = np.array([True, False, True]), np.array([0.9, 0.5, 0.1])
    rates = rank(is_positive, scores).true_positive_rates(np.array([0.0, 0.5, 1.0]), equal_weights(3))
    assert rates[:, 0].tolist() == [0.5, 0.5, 1.0]


def test_the_area_below_both_curves_is_the_area():
    is_positive, scores, _ = random_units(5, size=200, levels=1000)
    ranking = rank(is_positive, scores)
    fine = (np.arange(20_000) + 0.5) / 20_000
    area, precision = ranking.areas(equal_weights(200))
    assert ranking.true_positive_rates(fine, equal_weights(200)).mean() == pytest.approx(area[0], abs=1e-3)
    assert ranking.precisions(fine).mean() == pytest.approx(precision[0], abs=1e-3)


def test_a_resample_without_a_class_is_nan():
    ranking = rank(np.array([True, False]), np.array([0.7, 0.2]))
    weights = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    areas, precisions = ranking.areas(weights)
    assert areas[0] == precisions[0] == 1
    assert np.isnan(areas[1:]).all()
    assert np.isnan(precisions[1:]).all()


def test_a_side_without_units_is_not_defined():
    assert not rank(np.array([True, True]), np.array([0.7, 0.2])).is_defined
