import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pipeline.learning.criteria import Criterion, calibrated_loss, validation_auroc, weighted_loss


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


@pytest.mark.slow
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_loss_without_focus_is_the_weighted_cross_entropy(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits, truth = torch.randn(12, 3, generator=generator), torch.arange(12) % 3
    weights = torch.tensor([0.5, 1.0, 2.0])
    plain, focal = Criterion(weights, smoothing), Criterion(weights, smoothing, 0.0)
    assert float(focal.mean(logits, truth)) == pytest.approx(float(plain.mean(logits, truth)), abs=1e-6)
    assert float(focal.sum(logits, truth)) == pytest.approx(float(plain.sum(logits, truth)), abs=1e-5)


@pytest.mark.slow
def test_focal_loss_is_that_of_the_paper():
    """For two classes FL = -w (1 - p)^gamma log(p) with p the probability of the true class."""
    logits, truth = torch.tensor([[0.3, 1.2], [2.0, -1.0], [0.0, 0.5]]), torch.tensor([1, 0, 0])
    weights = torch.tensor([0.25, 0.75])
    chance = torch.softmax(logits, dim=1)[torch.arange(3), truth]
    expected = -(weights[truth] * (1 - chance) ** 2 * chance.log()).sum() / weights[truth].sum()
    assert float(Criterion(weights, 0.0, 2.0).mean(logits, truth)) == pytest.approx(float(expected), abs=1e-6)
    certain = torch.tensor([[100.0, -100.0]], requires_grad=True)
    Criterion(weights, 0.1, 0.5).mean(certain, torch.tensor([0])).backward()
    assert torch.isfinite(certain.grad).all()
