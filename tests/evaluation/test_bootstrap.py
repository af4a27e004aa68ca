"""Cluster bootstrap: fixed totals, unbiased variance, the same resamples for all, no dependence on names or order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.bootstrap import CHUNK, bootstrap_interval, multiplicities, replicate
from pipeline.evaluation.delong import delong
from pipeline.evaluation.ranking import rank
from pipeline.evaluation.scores import Clusters


def make_clusters(folds, classes):
    return Clusters({f"P{i}": i for i in range(len(folds))}, np.array(folds), np.array(classes))


@settings(max_examples=30)
@given(
    places=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=30), seed=st.integers(0, 99)
)
def test_every_fold_and_class_keeps_its_weight(places, seed):
    folds, classes = np.array(places).T
    weights = multiplicities(make_clusters(folds, classes), seed=seed, chunk=0)
    assert weights.shape == (len(places), CHUNK)
    for fold, label in set(places):
        members = (folds == fold) & (classes == label)
        assert weights[members].sum(axis=0) == pytest.approx(members.sum())
    assert (weights >= 0).all()


def test_the_variance_of_a_mean_is_unbiased():
    # The plain bootstrap would give (n - 1) / n of it: 0.8 for 5 clusters.
    values = np.array([1.0, 2.0, 4.0, 8.0, 9.0])
    clusters = make_clusters([0] * 5, [1] * 5)
    drawn = replicate(clusters, lambda w: {"mean": (w * values[:, None]).mean(axis=0)}, seed=1, replicates=20_000)
    assert drawn["mean"].var() == pytest.approx(values.var(ddof=1) / 5, rel=0.05)


def test_more_replicates_continue_the_same_stream():
    clusters = make_clusters([0] * 6 + [1] * 6, [0, 1] * 6)

    def first_weight(weights):
        return {"first": weights[0]}

    few, many = (replicate(clusters, first_weight, seed=3, replicates=n)["first"] for n in (150, 420))
    assert (few.size, many.size) == (150, 420)
    assert (many[:150] == few).all()
    assert not (replicate(clusters, first_weight, seed=4, replicates=150)["first"] == few).all()


def test_a_fold_is_drawn_without_regard_to_the_others():
    own = multiplicities(make_clusters([0] * 5, [0] * 5), seed=1, chunk=0)
    with_others = multiplicities(make_clusters([0] * 5 + [1] * 7, [0] * 12), seed=1, chunk=0)
    assert (with_others[:5] == own).all()


def test_a_lone_cluster_stays():
    assert (multiplicities(make_clusters([0, 1, 1], [1, 1, 1]), seed=1, chunk=0)[0] == 1).all()


def test_standard_error_equals_delong_for_independent_patients():
    generator = np.random.default_rng(2)
    labels = np.repeat([0, 1], [90, 60])
    scores = generator.normal(size=150) + labels
    ranking = rank(labels == 1, scores)
    clusters = make_clusters([0] * 150, labels)
    drawn = replicate(clusters, lambda w: {"auroc": ranking.areas(w)[0]}, seed=1, replicates=4000)["auroc"]
    _, covariance = delong(labels == 1, scores[None, :])
    assert drawn.std(ddof=1) == pytest.approx(np.sqrt(covariance[0, 0]), rel=0.05)


def clustered_delong(labels, scores, clusters):
    """Standard error of an AUROC in clusters by placement values (Obuchowski, 1997, doi:10.2307/2533958)."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = (positive[:, None] > negative[None, :]) + 0.5 * (positive[:, None] == negative[None, :])
    area, m, n = wins.mean(), positive.size, negative.size
    names = np.unique(clusters)
    v10 = np.array([(wins.mean(axis=1) - area)[clusters[labels == 1] == name].sum() for name in names])
    v01 = np.array([(wins.mean(axis=0) - area)[clusters[labels == 0] == name].sum() for name in names])
    has_positive = sum(bool((labels[clusters == name] == 1).any()) for name in names)
    has_negative = sum(bool((labels[clusters == name] == 0).any()) for name in names)
    variance = has_positive / ((has_positive - 1) * m**2) * (v10**2).sum()
    variance += has_negative / ((has_negative - 1) * n**2) * (v01**2).sum()
    return np.sqrt(variance)


def test_standard_error_equals_clustered_delong_for_several_images():
    generator = np.random.default_rng(4)
    of_clusters = np.repeat([0, 1], [50, 40])
    clusters = np.repeat(np.arange(90), 5)
    labels = of_clusters[clusters]
    scores = generator.normal(size=90)[clusters] + generator.normal(size=450) + labels
    ranking = rank(labels == 1, scores, clusters)
    drawn = replicate(
        make_clusters([0] * 90, of_clusters), lambda w: {"auroc": ranking.areas(w)[0]}, seed=1, replicates=4000
    )["auroc"]
    assert drawn.std(ddof=1) == pytest.approx(clustered_delong(labels, scores, clusters), rel=0.06)


def test_interval_tells_of_lost_resamples():
    replicates = np.random.default_rng(1).normal(0.7, 0.05, 200)
    whole = bootstrap_interval(0.7, replicates, 0.95, "logit")
    assert whole.low < 0.7 < whole.high
    assert whole.note == ""
    lossy = bootstrap_interval(0.7, np.where(np.arange(200) < 9, np.nan, replicates), 0.95, "logit")
    assert lossy.note.startswith("9 of 200 resamples lost a class")


@pytest.mark.parametrize(
    ("value", "replicates"), [(1.0, np.ones(50)), (0.5, np.full(50, 0.5)), (0.5, np.full(50, np.nan))]
)
def test_no_width_is_no_interval(value, replicates):
    interval = bootstrap_interval(value, replicates, 0.95, "logit")
    assert (interval.low, interval.high) == (None, None)
    assert "no interval" in interval.note
