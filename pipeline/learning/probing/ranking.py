"""Estimates of how well a source's features suit a task, without fine-tuning: cheap, and never to be read alone."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_LARGEST_STEP = 1e-6
_MOST_STEPS = 500
_NEIGHBOURS = 15


def logme(features: np.ndarray, classes: np.ndarray) -> float:
    """Logarithm of the maximum evidence, per image, averaged over the classes against the rest.

    Each class's indicator y is taken for a linear function of the features with a Gaussian prior on the weights
    (precision alpha) and Gaussian noise (precision beta); both are set to where the evidence p(y | features) is
    largest, by MacKay's fixed point.

    Parameters
    ----------
    features
        Shape (images, features).
    classes
        Class indices, shape (images,).

    Returns
    -------
    float
        In nats; the higher, the better the features suit.

    References
    ----------
    You et al. (2021), arXiv:2102.11005.
    """
    wide = features.astype(np.float64)
    left, singular, _ = np.linalg.svd(wide, full_matrices=False)
    found = [
        _evidence(left, singular**2, (classes == label).astype(np.float64), wide.shape[1])
        for label in np.unique(classes)
    ]
    return float(np.mean(found))


def _evidence(left: np.ndarray, eigenvalues: np.ndarray, truth: np.ndarray, width: int) -> float:
    """Maximise the logarithm of the evidence of one target over both precisions; per image."""
    images = len(truth)
    inside = (left.T @ truth) ** 2  # squared parts of the target along the directions that the features span
    outside = max(float(truth @ truth - inside.sum()), 0.0)
    alpha = beta = 1.0
    for _ in range(_MOST_STEPS):
        ratio = alpha / beta
        effective = float((eigenvalues / (eigenvalues + ratio)).sum())
        weights = float((eigenvalues * inside / (eigenvalues + ratio) ** 2).sum())
        residual = float(((ratio / (eigenvalues + ratio)) ** 2 * inside).sum()) + outside
        alpha = effective / max(weights, 1e-12)
        beta = (images - effective) / max(residual, 1e-12)
        if abs(alpha / beta - ratio) <= _LARGEST_STEP * ratio:
            break
    ratio = alpha / beta
    weights = float((eigenvalues * inside / (eigenvalues + ratio) ** 2).sum())
    residual = float(((ratio / (eigenvalues + ratio)) ** 2 * inside).sum()) + outside
    determinant = float(np.log(alpha + beta * eigenvalues).sum()) + (width - len(eigenvalues)) * math.log(alpha)
    total = width * math.log(alpha) + images * math.log(beta / (2 * math.pi)) - determinant
    return (total - beta * residual - alpha * weights) / (2 * images)


def nleep(features: np.ndarray, classes: np.ndarray, *, seed: int, energy: float = 0.8) -> float:
    """Mean log probability of the classes, predicted from the clusters that the images fall into.

    Features are reduced to the principal components with a share `energy` of the variance; a mixture of five
    Gaussians for each class gives each image probabilities of clusters z; LEEP is then the mean of
    log sum_z P(y | z) p(z | x), with P(y | z) counted over the same images.

    Parameters
    ----------
    features
        Shape (images, features).
    classes
        Class indices, shape (images,).
    seed
        Of the mixture's start.

    Returns
    -------
    float
        In nats, at most 0; the higher, the better the features suit.

    References
    ----------
    Li et al. (2021), arXiv:2011.11200; LEEP: Nguyen et al. (2020), arXiv:2002.12462.
    """
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    kinds, truth = np.unique(classes, return_inverse=True)
    reduced = PCA(n_components=energy, svd_solver="full").fit_transform(features.astype(np.float64))
    reduced /= max(float(reduced[:, 0].std()), 1e-12)  # so that the mixture's small constant means the same for all
    clusters = min(5 * len(kinds), len(reduced) // 2)
    mixture = GaussianMixture(clusters, covariance_type="full", reg_covar=1e-3, random_state=seed % 2**32)
    return leep(mixture.fit(reduced).predict_proba(reduced), truth)


def leep(clusters: np.ndarray, classes: np.ndarray) -> float:
    """Log expected empirical prediction of class indices (images,) from probabilities of clusters (images, clusters).

    Examples
    --------
    >>> round(leep(np.eye(2)[[0, 0, 1, 1]], np.array([0, 0, 1, 1])), 6) + 0.0
    0.0
    >>> round(leep(np.eye(2)[[0, 1, 0, 1]], np.array([0, 0, 1, 1])), 3)
    -0.693
    """
    joint = np.stack([clusters[classes == label].sum(axis=0) for label in range(int(classes.max()) + 1)])
    given = joint / np.maximum(joint.sum(axis=0), 1e-300)
    expected = np.einsum("ic,ic->i", clusters, given[classes])
    return float(np.log(np.maximum(expected, 1e-300)).mean())


def neighbour_auroc(features: np.ndarray, classes: np.ndarray, groups: np.ndarray, *, seed: int) -> float | None:
    """AUROC of the classes of an image's nearest neighbours among other patients; None as `probe_auroc`.

    Parameters
    ----------
    features
        Shape (images, features); compared by their angle after centring.
    classes, groups
        Class indices, and the patients (or groups of them), shape (images,).
    seed
        Of the division into five parts.
    """
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def make(images: int) -> Any:
        neighbours = min(_NEIGHBOURS, max(1, images // 4))
        model = KNeighborsClassifier(neighbours, metric="cosine", weights="distance")
        return make_pipeline(StandardScaler(), model)

    return _grouped_auroc(make, features, classes, groups, seed)


def probe_auroc(features: np.ndarray, classes: np.ndarray, groups: np.ndarray, *, seed: int) -> float | None:
    """AUROC of a linear probe in five parts with whole patients; its penalty is fixed, for all sources alike.

    Parameters
    ----------
    features
        Shape (images, features).
    classes, groups
        Class indices, and the patients (or groups of them), shape (images,).
    seed
        Of the division.

    Returns
    -------
    float or None
        Mean over the parts; None if a part cannot hold all classes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def make(images: int) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=1e-2, class_weight="balanced", max_iter=5000))

    return _grouped_auroc(make, features, classes, groups, seed)


def rank_agreement(estimates: Sequence[float], measured: Sequence[float]) -> float | None:
    """Kendall's tau-b of two rankings; None if one of them ranks nothing.

    Examples
    --------
    >>> rank_agreement([1, 2, 3], [0.7, 0.8, 0.9]), rank_agreement([1, 1, 1], [0.7, 0.8, 0.9])
    (1.0, None)
    """
    from scipy.stats import kendalltau

    tau = float(kendalltau(estimates, measured).statistic)
    return None if math.isnan(tau) else round(tau, 12)


def _grouped_auroc(
    make: Callable[[int], Any], features: np.ndarray, classes: np.ndarray, groups: np.ndarray, seed: int
) -> float | None:
    """Mean AUROC over parts with whole groups (one class against the others for more than two)."""
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold

    kinds, truth = np.unique(classes, return_inverse=True)
    fewest = min(len(np.unique(groups[truth == label])) for label in range(len(kinds)))
    if len(kinds) < 2 or fewest < 2:
        return None
    parts = StratifiedGroupKFold(min(5, fewest), shuffle=True, random_state=seed % 2**32)
    areas = []
    for train, test in parts.split(features, truth, groups):
        if min(len(np.unique(truth[train])), len(np.unique(truth[test]))) < len(kinds):
            return None
        model = make(len(train))
        chances = model.fit(features[train], truth[train]).predict_proba(features[test])
        scores = chances[:, 1] if len(kinds) == 2 else chances
        areas.append(roc_auc_score(truth[test], scores, multi_class="ovr"))
    return float(np.mean(areas))
