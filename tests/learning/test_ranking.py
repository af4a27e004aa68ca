"""Estimates of a source, against a brute-force search, textbook cases and known signals."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from pipeline.learning.probing.ranking import leep, logme, neighbour_auroc, nleep, probe_auroc, rank_agreement

pytestmark = pytest.mark.slow


def task(images: int = 80, width: int = 12, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    classes = np.arange(images) % 2
    features = generator.normal(size=(images, width))
    features[:, 0] += signal * classes
    return features, classes, np.arange(images) // 2


def evidence(parameters: np.ndarray, features: np.ndarray, truth: np.ndarray) -> float:
    """Log density of the targets: Gaussian with covariance F F' / alpha + I / beta."""
    alpha, beta = np.exp(np.clip(parameters, -12, 12))
    covariance = features @ features.T / alpha + np.eye(len(truth)) / beta
    _, determinant = np.linalg.slogdet(covariance)
    quadratic = truth @ np.linalg.solve(covariance, truth)
    return -0.5 * (len(truth) * math.log(2 * math.pi) + determinant + quadratic) / len(truth)


@pytest.mark.parametrize(("images", "width"), [(60, 8), (40, 90)])
@pytest.mark.parametrize("kinds", [2, 3])
def test_logme_is_the_largest_evidence(images, width, kinds):
    generator = np.random.default_rng(1)
    classes = np.arange(images) % kinds
    features = generator.normal(size=(images, width)) + 0.5 * classes[:, None]
    wanted = []
    for label in range(kinds):
        truth = (classes == label).astype(float)
        starts = [(a, b) for a in (-2, 1, 4) for b in (0, 2, 4)]
        found = [
            minimize(
                lambda p, y=truth: -evidence(p, features, y), start, method="Nelder-Mead", options={"fatol": 1e-10}
            )
            for start in starts
        ]
        wanted.append(max(-one.fun for one in found))
    assert logme(features, classes) == pytest.approx(np.mean(wanted), abs=2e-4)


def test_leep_is_what_its_definition_says():
    generator = np.random.default_rng(2)
    clusters = generator.dirichlet(np.ones(4), size=30)
    classes = np.arange(30) % 3
    total = 0.0
    for image in range(30):
        inner = 0.0
        for cluster in range(4):
            of_cluster = clusters[:, cluster]
            given = of_cluster[classes == classes[image]].sum() / of_cluster.sum()
            inner += given * clusters[image, cluster]
        total += math.log(inner)
    assert leep(clusters, classes) == pytest.approx(total / 30)


@pytest.mark.parametrize("estimate", [logme, lambda f, y: nleep(f, y, seed=1)])
def test_more_signal_ranks_higher(estimate):
    scores = [estimate(*task(signal=signal)[:2]) for signal in (0.0, 3.0, 9.0)]
    assert scores == sorted(scores)
    assert scores[0] < scores[2]


@pytest.mark.parametrize("estimate", [neighbour_auroc, probe_auroc])
def test_probes_find_a_signal_and_no_signal(estimate):
    strong, none = (estimate(*task(signal=signal), seed=1) for signal in (6.0, 0.0))
    assert strong > 0.9
    assert 0.2 < none < 0.8


@pytest.mark.parametrize("estimate", [neighbour_auroc, probe_auroc])
def test_patients_stand_on_one_side(estimate):
    """Two equal pictures of each patient, labels at random: whoever sees a patient's twin knows the answer."""
    generator = np.random.default_rng(4)
    features = np.repeat(generator.normal(size=(60, 200)), 2, axis=0)
    classes = np.repeat(generator.integers(0, 2, 60), 2)
    assert estimate(features, classes, np.arange(120), seed=1) > 0.9  # as if each picture were a patient
    assert estimate(features, classes, np.arange(120) // 2, seed=1) < 0.75


def test_too_few_patients_give_no_number():
    features, classes, _ = task()
    assert probe_auroc(features, classes, classes, seed=1) is None


def test_agreement():
    assert rank_agreement([3, 2, 1], [0.7, 0.8, 0.9]) == -1.0
    assert rank_agreement([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(2 / 3)
