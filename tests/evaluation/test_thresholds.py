"""Thresholds: the best that the rule allows, found by brute force; ties and missing classes as documented."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.thresholds import Rule, choose_threshold

RULES = [Rule("sensitivity", 0.9), Rule("sensitivity", 0.5), Rule("specificity", 0.8), Rule("youden")]


def rates(is_positive, probabilities, threshold):
    decided = probabilities >= threshold
    return decided[is_positive].mean(), (~decided)[~is_positive].mean()


def merit(rule, sensitivity, specificity):
    """What the rule asks for, then the tie-break."""
    if rule.kind == "sensitivity":
        return (sensitivity >= rule.at_least - 1e-12, specificity, sensitivity)
    if rule.kind == "specificity":
        return (specificity >= rule.at_least - 1e-12, sensitivity, specificity)
    return (True, round(sensitivity + specificity, 12), sensitivity)


@pytest.mark.parametrize("rule", RULES, ids=Rule.in_words)
@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), size=st.integers(2, 25), levels=st.sampled_from([2, 4, 10, 1000]))
def test_no_other_threshold_is_better(rule, seed, size, levels):
    generator = np.random.default_rng(seed)
    is_positive = np.arange(size) < generator.integers(1, size)
    probabilities = generator.integers(0, levels + 1, size) / levels
    threshold = choose_threshold(is_positive, probabilities, rule)
    own = merit(rule, *rates(is_positive, probabilities, threshold.value))
    for other in [0.0, *np.unique(probabilities), *(np.unique(probabilities) + 1e-9), 2.0]:
        assert own >= merit(rule, *rates(is_positive, probabilities, other))
    assert threshold.note == ""


def test_lies_half_way_between_neighbours():
    probabilities = np.array([0.1, 0.2, 0.6, 0.9])
    assert choose_threshold(probabilities > 0.5, probabilities, Rule("youden")).value == pytest.approx(0.4)


def test_of_equal_merit_the_more_sensitive_is_taken():
    # 0.15 gives sensitivity 1, specificity 1/2; 0.75 gives 1/2 and 1.
    is_positive, probabilities = np.array([False, True, False, True]), np.array([0.1, 0.2, 0.6, 0.9])
    assert choose_threshold(is_positive, probabilities, Rule("youden")).value == pytest.approx(0.15)


def test_reached_exactly_is_reached():
    # Nine of ten positives lie above 0.5: a sensitivity of 0.9 must not fail by rounding.
    probabilities = np.concatenate([[0.1], np.linspace(0.6, 0.9, 9), [0.4] * 5])
    threshold = choose_threshold(np.arange(15) < 10, probabilities, Rule("sensitivity", 0.9))
    assert threshold.value == pytest.approx(0.5)


def test_all_can_be_decided_negative_even_at_probability_one():
    is_positive, probabilities = np.array([True, False]), np.array([0.2, 1.0])
    threshold = choose_threshold(is_positive, probabilities, Rule("specificity", 0.9))
    assert not (probabilities >= threshold.value).any()


@pytest.mark.parametrize("is_positive", [[True, True], [False, False], []])
def test_one_class_gives_one_half_and_a_note(is_positive):
    threshold = choose_threshold(np.array(is_positive, dtype=bool), np.full(len(is_positive), 0.3), RULES[0])
    assert threshold.value == 0.5
    assert "one class" in threshold.note
