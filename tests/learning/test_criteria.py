import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pipeline.learning.criteria import calibrated_loss, validation_auroc, weighted_loss


def test_weighted_loss_equals_pytorchs():
    logits = np.random.default_rng(0).normal(size=(20, 3))
    classes = np.arange(20) % 3
    weights = np.array([0.5, 1.0, 2.0])
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(classes), weight=torch.from_numpy(weights)
    )
    assert weighted_loss(logits, classes, weights) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize(("scale", "offset"), [(0.1, 0.0), (1.0, 4.0), (30.0, -2.0)])
def test_calibrated_loss_does_not_depend_on_scale_or_offset_of_the_logits(scale, offset):
    """It equals the loss of an unpenalised logistic regression on the difference of the logits."""
    generator = np.random.default_rng(0)
    classes = np.arange(60) % 2
    logits = generator.normal(size=(60, 2)) + np.eye(2)[classes]
    logits[:, 0] = 0.0
    weights = np.array([1.0, 2.0])
    found = calibrated_loss(scale * logits + np.array([0.0, offset]), classes, weights)
    model = LogisticRegression(C=np.inf, tol=1e-9, class_weight={0: 1.0, 1: 2.0}).fit(logits[:, 1:], classes)
    chances = model.predict_proba(logits[:, 1:])[np.arange(60), classes]
    assert found == pytest.approx(float(np.average(-np.log(chances), weights=weights[classes])), abs=1e-5)


def test_validation_auroc_of_one_class_is_unknown():
    assert validation_auroc(np.zeros((3, 2)), np.zeros(3, dtype=int)) is None
    assert validation_auroc(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([1, 0])) == 1.0
