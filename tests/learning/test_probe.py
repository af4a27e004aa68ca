import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.core.errors import TrainingError
from pipeline.learning.loop import interruption
from pipeline.learning.loop.interruption import TrainingInterruptedError
from pipeline.learning.probing import probe
from pipeline.learning.probing.probe import PENALTIES, check_classes, fit_head, install_head


def features(classes: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = np.arange(count) % classes
    values = generator.normal(size=(count, 12)) * np.linspace(0.1, 30, 12) + 5
    values[:, 0] += truth * 0.1
    values[:, 11] = 7.0  # constant
    return values, truth


@pytest.mark.parametrize("classes", [2, 3])
def test_the_folded_head_equals_scaling_followed_by_regression(classes):
    train, truth = features(classes, 90, 0)
    validation, validation_truth = features(classes, 60, 1)
    head = fit_head(train, truth, validation, validation_truth, np.ones(classes))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=head.penalty, max_iter=5000)).fit(train, truth)
    logits = validation @ head.weight.T + head.bias
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(shares, model.predict_proba(validation), atol=1e-6)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.55, 6.0)])
def test_the_penalty_with_the_lowest_loss_under_the_class_weights_is_taken(weights):
    train, truth = features(2, 90, 0)
    validation, validation_truth = features(2, 60, 1)
    losses = {}
    for penalty in PENALTIES:
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=penalty, class_weight=dict(enumerate(weights)), max_iter=5000)
        ).fit(train, truth)
        chances = model.predict_proba(validation)[np.arange(60), validation_truth]
        losses[penalty] = np.average(-np.log(chances), weights=np.array(weights)[validation_truth])
    head = fit_head(train, truth, validation, validation_truth, np.array(weights))
    assert head.penalty == min(losses, key=losses.get)
    assert head.validation_loss == pytest.approx(losses[head.penalty], abs=1e-8)


def test_the_installed_head_gives_the_same_logits():
    train, truth = features(3, 90, 0)
    head = fit_head(train, truth, train, truth, np.ones(3))
    network = torch.nn.Module()
    network.fc = torch.nn.Linear(12, 3)
    install_head(network, head)
    found = network.fc(torch.from_numpy(train).float()).detach().numpy()
    assert np.allclose(found, train @ head.weight.T + head.bias, atol=1e-3)


def test_a_validation_part_of_one_class_is_an_error():
    check_classes(np.array([0, 1]), 2, np.array([1, 0]))
    with pytest.raises(TrainingError, match="the validation part holds one class"):
        check_classes(np.array([0, 1]), 2, np.array([1, 1]))


def test_a_wish_to_end_is_granted_between_penalties(monkeypatch):
    values, truth = np.random.default_rng(0).normal(size=(40, 5)), np.arange(40) % 2
    asked = []
    monkeypatch.setattr(interruption, "_asked", asked)
    real = probe._regression
    monkeypatch.setattr(probe, "_regression", lambda *given: asked.append("SIGTERM") or real(*given))
    with pytest.raises(TrainingInterruptedError):
        fit_head(values, truth, values, truth, np.ones(2))
    assert len(asked) == 1


def test_an_absent_class_is_an_error():
    train, truth = features(2, 40, 0)
    with pytest.raises(TrainingError, match="2 of 3 classes"):
        fit_head(train, truth, train, truth, np.ones(3))


@pytest.mark.parametrize("spread", [0.0, 1e-9])
def test_a_feature_that_sleeps_in_the_training_part_does_not_outvote_all_others_when_it_wakes(spread):
    train, truth = features(2, 90, 0)
    train[:, 11] = spread * (truth + np.random.default_rng(2).normal(size=90))
    head = fit_head(train, truth, train, truth, np.ones(2))
    awake = train.copy()
    awake[:, 11] += 0.5
    before, after = (values @ head.weight.T + head.bias for values in (train, awake))
    assert np.abs(after - before).max() < 3 * max(1.0, np.abs(before).max())
