"""Intervals: known values, equality to independent code, and what an interval must never do."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.intervals import (
    around,
    complete_separation,
    corrected_t,
    effective_trials,
    jackknife,
    mean_of_losses,
    mean_of_proportions,
    normal_quantile,
    proportion,
    wilson,
)


@given(successes=st.integers(0, 60), failures=st.integers(0, 60), confidence=st.floats(0.5, 0.99))
def test_wilson_ends_solve_its_equation(successes, failures, confidence):
    trials = successes + failures
    if trials == 0:
        return
    low, high = wilson(successes, trials, confidence)
    fraction = successes / trials
    assert 0 <= low <= fraction <= high <= 1
    for end in (low, high):
        if 0 < end < 1:  # the score statistic at the end is the quantile
            score = abs(fraction - end) / math.sqrt(end * (1 - end) / trials)
            assert score == pytest.approx(normal_quantile(confidence), rel=1e-6)


def test_wilson_equals_scipy():
    from scipy.stats import binomtest

    for successes, trials in [(0, 10), (3, 10), (10, 10), (81, 263)]:
        expected = binomtest(successes, trials).proportion_ci(0.95, "wilson")
        assert wilson(successes, trials, 0.95) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(hits=st.lists(st.booleans(), min_size=2, max_size=40))
def test_units_alone_in_their_clusters_are_all_effective(hits):
    found = effective_trials(np.array(hits), np.arange(len(hits)))
    assert found == pytest.approx(len(hits))


def test_copies_of_a_unit_tell_nothing_new():
    hits = np.array([True, False, True, True, False, True])
    alone = effective_trials(hits, np.arange(6))
    copied = effective_trials(np.repeat(hits, 5), np.repeat(np.arange(6), 5))
    # The factor n - 1 in the variance of independent units makes the difference from exactly 6.
    assert copied == pytest.approx(alone, rel=0.25)
    assert copied < 8


def test_clusters_count_where_all_units_agree():
    assert effective_trials(np.ones(30, dtype=bool), np.repeat(np.arange(5), 6)) == 5


def test_proportion_of_all_hits_has_width():
    interval = proportion(np.ones(20, dtype=bool), np.arange(20), 0.95)
    assert interval.high == 1
    assert interval.low == pytest.approx(1 / (1 + 1.959964**2 / 20), abs=1e-6)


@given(value=st.floats(0.001, 0.999), half=st.floats(1e-6, 1))
def test_logit_interval_stays_inside_and_holds_the_value(value, half):
    low, high = around(value, half, "logit")
    assert 0 <= low < value < high <= 1


def test_logit_interval_known():
    # 0.8 with standard error 0.05: logit 1.386294, error 0.3125, ends expit(1.386294 -/+ 0.612489).
    assert around(0.8, normal_quantile(0.95) * 0.05, "logit") == pytest.approx((0.684344, 0.880669), abs=1e-5)


def test_complete_separation_is_the_area_that_makes_it_unlikely():
    low, high = complete_separation(10, 0.95)
    assert (high, low**10) == (1.0, pytest.approx(0.025))
    assert complete_separation(100, 0.95)[0] > low


def test_mean_of_proportions_holds_the_mean_and_has_width_at_the_edge():
    parts = [proportion(np.ones(10, dtype=bool), np.arange(10), 0.95) for _ in range(2)]
    interval = mean_of_proportions([1.0, 1.0], parts)
    assert interval.high == 1
    assert parts[0].low < interval.low < 1  # two classes tell more than one


def test_corrected_t_known():
    # Folds 0.7, 0.8, 0.9: variance 0.01, corrected (1/3 + 1/2) * 0.01, t with 2 degrees of freedom 4.302653.
    interval = corrected_t([0.7, 0.8, 0.9], 0.95)
    half = 4.302653 * math.sqrt(0.01 * (1 / 3 + 1 / 2))
    assert (interval.low, interval.high) == pytest.approx((0.8 - half, 0.8 + half), abs=1e-6)


def test_corrected_t_is_wider_than_the_naive_one():
    from scipy.stats import t

    values = [0.7, 0.75, 0.8, 0.85, 0.9]
    naive = t.interval(0.95, 4, np.mean(values), np.std(values, ddof=1) / math.sqrt(5))
    interval = corrected_t(values, 0.95)
    assert interval.low < naive[0] < naive[1] < interval.high


def test_corrected_t_of_one_fold_has_no_ends():
    assert corrected_t([0.7], 0.95).low is None


def test_mean_of_losses_equals_the_normal_interval_of_independent_units():
    losses = np.random.default_rng(1).random(200)
    interval = mean_of_losses(losses, np.arange(200), 0.95)
    error = losses.std(ddof=1) / math.sqrt(200)
    factor = math.exp(1.959964 * error / losses.mean())
    assert interval.low == pytest.approx(losses.mean() / factor, rel=1e-6)
    assert interval.high == pytest.approx(losses.mean() * factor, rel=1e-6)


def test_clustered_losses_are_less_certain():
    losses = np.repeat(np.random.default_rng(1).random(50), 4)
    wide = mean_of_losses(losses, np.repeat(np.arange(50), 4), 0.95)
    narrow = mean_of_losses(losses, np.arange(200), 0.95)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_jackknife_of_a_mean_is_the_normal_interval():
    values = np.random.default_rng(1).normal(5, 2, 150)
    interval = jackknife(
        lambda kept: float(values[kept].mean()), np.arange(150), 0.95, scale="identity", limits=(0, 10)
    )
    half = 1.959964 * values.std(ddof=1) / math.sqrt(150)
    assert (interval.low, interval.high) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-6)


def test_jackknife_leaves_out_whole_clusters():
    values = np.repeat(np.random.default_rng(1).random(30), 5)

    def of(clusters):
        return jackknife(lambda kept: float(values[kept].mean()), clusters, 0.95, scale="logit", limits=(0, 1))

    whole, single = of(np.repeat(np.arange(30), 5)), of(np.arange(150))
    assert whole.low < single.low < single.high < whole.high


@pytest.mark.parametrize("statistic", [lambda kept: 1.0, lambda kept: 0.5, lambda kept: 0.4 if kept.all() else np.nan])
def test_jackknife_without_width_is_no_interval(statistic):
    interval = jackknife(statistic, np.arange(20), 0.95, scale="logit", limits=(0, 1))
    assert (interval.low, interval.high) == (None, None)
    assert interval.note
