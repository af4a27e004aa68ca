import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from pipeline.core.errors import TrainingError
from pipeline.learning.criteria import Criterion, calibrated_loss, criterion_for, validation_auroc
from pipeline.learning.findings import FindingCriterion, check_states, joined_probabilities
from pipeline.learning.inference import mean_probability_logits
from pipeline.learning.loop.finetuning import class_weights, restore_prevalence
from pipeline.learning.probing.probe import fit_head

pytestmark = pytest.mark.slow


def sample(seed, images=40, findings=3, unknown=0.25):
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 2, size=(images, findings))
    truth[0], truth[1] = 0, 1
    hidden = generator.random(truth.shape) < unknown
    hidden[:2] = False
    logits = generator.normal(size=truth.shape) + truth
    return logits, np.where(hidden, -1, truth)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_loss_is_torch_s_own_over_what_is_known(seed):
    logits, states = sample(seed)
    known = states >= 0
    given_logits, targets = torch.tensor(logits), torch.tensor(states)
    plain = FindingCriterion(torch.ones(3, 2, dtype=torch.float64), 0.0).mean(given_logits, targets)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logits[known]), torch.tensor(states[known]).double()
    )
    torch.testing.assert_close(plain, expected)
    weights = np.random.default_rng(seed).uniform(0.5, 3, size=(3, 2))
    of_each = np.where(states == 1, weights[:, 1], weights[:, 0]) * known
    weighted = FindingCriterion(torch.tensor(weights), 0.0).mean(given_logits, targets)
    torch.testing.assert_close(
        weighted,
        torch.nn.functional.binary_cross_entropy_with_logits(
            given_logits, targets.clamp_min(0).double(), weight=torch.tensor(of_each), reduction="sum"
        )
        / of_each.sum(),
    )


@pytest.mark.parametrize("gamma", [None, 2.0, 0.5])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_single_finding_has_the_loss_and_gradient_of_two_classes(gamma, smoothing):
    logits, states = sample(1, findings=1, unknown=0.0)
    weights = class_weights(states, 1, balance=True)
    one = torch.tensor(logits, requires_grad=True)
    FindingCriterion(torch.tensor(weights), smoothing, gamma).mean(one, torch.tensor(states)).backward()
    two = torch.tensor(logits, requires_grad=True)
    pair = torch.cat([-two / 2, two / 2], dim=1)
    loss = Criterion(torch.tensor(weights[0]), smoothing, gamma).mean(pair, torch.tensor(states[:, 0]))
    loss.backward()
    found = FindingCriterion(torch.tensor(weights), smoothing, gamma).mean(one, torch.tensor(states))
    torch.testing.assert_close(found, loss)
    torch.testing.assert_close(one.grad, two.grad)


def test_what_is_unknown_has_no_gradient_and_pieces_add_up():
    logits, states = sample(2)
    criterion = criterion_for(torch.tensor(class_weights(states, 3, balance=True)), 0.05, None)
    assert isinstance(criterion, FindingCriterion)
    values, truth = torch.tensor(logits, requires_grad=True), torch.tensor(states)
    criterion.mean(values, truth).backward()
    assert (values.grad[truth == -1] == 0).all()
    assert (values.grad[truth >= 0] != 0).all()
    parts = [criterion.sum(values[part], truth[part]) for part in (slice(0, 7), slice(7, None))]
    torch.testing.assert_close(sum(parts) / criterion.weight_of(truth), criterion.mean(values, truth))
    nothing = criterion.mean(values, torch.full_like(truth, -1))
    assert nothing.item() == 0


def test_weights_balance_what_is_known_of_each_finding():
    _, states = sample(3)
    weights = class_weights(states, 3, balance=True)
    for place, pair in enumerate(weights):
        known = states[states[:, place] >= 0, place]
        np.testing.assert_allclose(pair, class_weights(known, 2, balance=True))
    assert (class_weights(states, 3, balance=False) == 1).all()


def test_a_finding_that_training_does_not_hold_stops_it():
    _, states = sample(4)
    names, validation = ("Effusion", "Mass", "Hernia"), states.copy()
    check_states(states, validation, names, "fold 1")
    states[states[:, 1] == 1, 1] = -1
    validation[:, 2] = -1
    with pytest.raises(TrainingError) as caught:
        check_states(states, validation, names, "fold 1")
    assert "`Mass` is not both present and absent in the training part" in caught.value.what
    assert "`Hernia` is unknown in the whole validation part" in caught.value.what
    assert "`Effusion`" not in caught.value.what
    assert caught.value.where == "fold 1"
    assert "label.findings" in caught.value.remedy
    with pytest.raises(TrainingError, match="no finding is both present and absent in the validation part"):
        check_states(sample(4)[1], np.zeros((5, 3), np.int64), names, "fold 1")


def test_criteria_are_means_of_the_binary_ones_over_what_is_known():
    logits, states = sample(5)
    weights = class_weights(states, 3, balance=True)
    aurocs, losses = [], []
    for place in range(3):
        known = states[:, place] >= 0
        aurocs.append(roc_auc_score(states[known, place], logits[known, place]))
        half = logits[known, place] / 2
        losses.append(calibrated_loss(np.stack([-half, half], axis=1), states[known, place], weights[place]))
    assert validation_auroc(logits, states) == pytest.approx(np.mean(aurocs))
    assert calibrated_loss(logits, states, weights) == pytest.approx(np.mean(losses))
    assert validation_auroc(logits, np.full_like(states, -1)) is None
    assert np.isnan(calibrated_loss(np.full_like(logits, np.nan), states, weights))


def test_the_probe_is_a_logistic_regression_for_each_finding():
    generator = np.random.default_rng(6)
    _, states = sample(6, images=60)
    features = generator.normal(size=(60, 5)) + np.pad(np.maximum(states, 0), ((0, 0), (0, 2)))
    weights = class_weights(states[:40], 3, balance=True)
    head = fit_head(features[:40], states[:40], features[40:], states[40:], weights)
    assert head.weight.shape == (3, 5)
    for place in range(3):
        known, checked = states[:40, place] >= 0, states[40:, place] >= 0
        binary = fit_head(
            features[:40][known], states[:40][known, place],
            features[40:][checked], states[40:][checked, place], weights[place],
        )  # fmt: skip
        np.testing.assert_allclose(head.weight[place], binary.weight[1] - binary.weight[0])
        np.testing.assert_allclose(head.bias[place], binary.bias[1] - binary.bias[0])
    order = [2, 0, 1]
    permuted = fit_head(features[:40], states[:40][:, order], features[40:], states[40:][:, order], weights[order])
    np.testing.assert_allclose(permuted.weight, head.weight[order])


def test_prevalence_comes_back_with_the_bias():
    network = torch.nn.Sequential()
    network.add_module("fc", torch.nn.Linear(4, 2))
    before = network.fc.bias.detach().clone()
    restore_prevalence(network, np.array([[0.5, 4.0], [1.0, 1.0]]))
    torch.testing.assert_close(before - network.fc.bias.detach(), torch.tensor([np.log(8.0), 0.0], dtype=torch.float32))


def test_an_ensemble_averages_the_probability_of_each_finding():
    looks = [sample(seed)[0] for seed in (7, 8)]
    expected = np.mean([1 / (1 + np.exp(-one)) for one in looks], axis=0)
    for joined in (joined_probabilities(looks), mean_probability_logits(looks, "findings")):
        np.testing.assert_allclose(1 / (1 + np.exp(-joined)), expected)
    assert mean_probability_logits(looks[:1], "findings") is looks[0]
