"""Metrics equal scikit-learn's, lie in their range and do not depend on the order of the rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.metrics import METRICS, confusion, predictive_values

TOLERANCE = 1e-12


@st.composite
def studies(draw, classes=None):
    """Labels in which every class occurs, probabilities with ties, decisions."""
    number = classes or draw(st.integers(2, 4))
    size = draw(st.integers(number, 40))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = np.concatenate([np.arange(number), generator.integers(0, number, size - number)])
    # Few distinct values, so that ties are frequent.
    raw = generator.integers(1, 6, size=(size, number)).astype(float)
    return generator.permutation(labels), raw / raw.sum(axis=1, keepdims=True), generator.integers(0, number, size)


def by_scikit_learn(name, labels, probabilities, decisions):
    from sklearn import metrics

    classes = probabilities.shape[1]
    outcomes = np.eye(classes)[labels]
    chosen = [1] if classes == 2 else range(classes)
    return {
        "auroc": lambda: np.mean([metrics.roc_auc_score(outcomes[:, c], probabilities[:, c]) for c in chosen]),
        "auprc": lambda: np.mean(
            [metrics.average_precision_score(outcomes[:, c], probabilities[:, c]) for c in chosen]
        ),
        "brier": lambda: metrics.brier_score_loss(labels, probabilities if classes > 2 else probabilities[:, 1]),
        "log_loss": lambda: metrics.log_loss(labels, probabilities),
        "sensitivity": lambda: metrics.recall_score(labels, decisions),
        "specificity": lambda: metrics.recall_score(labels, decisions, pos_label=0),
        "ppv": lambda: metrics.precision_score(labels, decisions),
        "npv": lambda: metrics.precision_score(labels, decisions, pos_label=0),
        "accuracy": lambda: metrics.accuracy_score(labels, decisions),
        "balanced_accuracy": lambda: metrics.balanced_accuracy_score(labels, decisions),
    }[name]()


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=25)
@given(data=st.data())
def test_equals_scikit_learn(name, data):
    metric = METRICS[name]
    labels, probabilities, decisions = data.draw(studies(2 if metric.classes == "two" else None))
    if name in {"ppv", "npv"} and np.unique(decisions).size < 2:
        return
    value = metric.function(labels, probabilities if metric.needs == "scores" else decisions)
    assert value == pytest.approx(by_scikit_learn(name, labels, probabilities, decisions), abs=TOLERANCE)
    assert metric.low <= value <= metric.high


@pytest.mark.parametrize("name", METRICS)
def test_is_invariant_to_the_order_of_rows(name):
    metric = METRICS[name]
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 2, 50)
    positive = np.round(generator.random(50), 1)
    values = np.stack([1 - positive, positive], axis=1) if metric.needs == "scores" else generator.integers(0, 2, 50)
    order = generator.permutation(50)
    assert metric.function(labels[order], values[order]) == pytest.approx(metric.function(labels, values), abs=1e-14)


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_prediction_is_the_best_value(name):
    metric = METRICS[name]
    labels = np.array([0, 1, 1, 0, 1])
    values = np.eye(2)[labels] if metric.needs == "scores" else labels
    assert metric.function(labels, values) == (metric.high if metric.greater_is_better else metric.low)


def test_what_the_data_do_not_define_is_nan():
    negative = np.zeros(4, dtype=int)
    halves = np.full((4, 2), 0.5)
    assert all(np.isnan(METRICS[name].function(negative, halves)) for name in ("auroc", "auprc"))
    assert all(np.isnan(METRICS[name].function(negative, negative)) for name in ("sensitivity", "ppv"))


def test_auroc_of_several_classes_is_the_mean_over_those_that_occur():
    labels = np.array([0, 0, 2, 2])
    probabilities = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])
    # Class 0 against class 2: three of four pairs in order; class 2 against class 0: three of four as well.
    assert METRICS["auroc"].function(labels, probabilities) == pytest.approx(0.75)


def test_every_metric_names_its_source():
    assert all(metric.reference.startswith("10.") for metric in METRICS.values())


def test_confusion_counts_rows_as_truth():
    assert confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_predictive_values_known():
    # Of 10 000, 100 are ill: 90 found, 990 false alarms.
    positive, negative = predictive_values(0.9, 0.9, 0.01)
    assert positive == pytest.approx(90 / 1080)
    assert negative == pytest.approx(8910 / 8920)
    assert predictive_values(0.0, 1.0, 0.5) == (None, 0.5)


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_predictive_values_at_the_own_prevalence_are_those_of_the_data(sensitivity, specificity, prevalence):
    positive, negative = predictive_values(sensitivity, specificity, prevalence)
    true_positive, true_negative = sensitivity * prevalence, specificity * (1 - prevalence)
    assert positive * (true_positive + (1 - specificity) * (1 - prevalence)) == pytest.approx(true_positive)
    assert negative * (true_negative + (1 - sensitivity) * prevalence) == pytest.approx(true_negative)
