from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

from pipeline.core.records import FoldRole
from pipeline.learning import training
from pipeline.learning.inputs.devices import choose_placement
from pipeline.learning.strategies import STRATEGIES
from pipeline.learning.training import Outcome, Study, train_strategy
from pipeline.learning.weights.files import file_digest
from pipeline.learning.weights.loading import RANDOM, WeightsChoice, build_network, verify
from pipeline.learning.weights.sources import Normalisation
from tests.learning.plain_resnet import random_state
from tests.learning.test_finetuning import CHANGES, recipe

pytestmark = pytest.mark.slow


def study(classes: tuple[str, ...] = ("normal", "lesion"), **changes: object) -> Study:
    generator = np.random.default_rng(0)
    truth = np.arange(36) % len(classes)
    pixels = generator.integers(60, 120, size=(36, 32, 32), dtype=np.uint8)
    for index, kind in enumerate(truth):
        pixels[index, 8:24, 8:24] += (100 * kind // (len(classes) - 1)).astype(np.uint8)
    names = ["test"] * 9 + ["validation"] * 9 + ["train"] * 18
    roles = tuple(
        FoldRole(
            fold=0, image_id=f"i{row}", row=row, patient=f"p{row}", group=f"G{row}", label=classes[kind], role=role
        )
        for row, (kind, role) in enumerate(zip(truth, names, strict=True))
    )
    values = {
        "classes": classes,
        "roles": roles,
        "fold": 0,
        "seed": 7,
        "pixels": pixels,
        "pixels_sha256": "x",
        "backbone": "resnet18",
        "recipe": recipe(epochs=3),
        "augmentation": CHANGES,
        "placement": choose_placement("cpu", "float32", 2),
        "code": "c",
    }
    return Study(**{**values, **changes})


def logits(outcome: Outcome) -> np.ndarray:
    return np.array([row.logits for row in outcome.predictions])


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_predicts_validation_and_test_images_once(tmp_path, name):
    outcome = train_strategy(name, study(), RANDOM, tmp_path)
    assert sorted(row.image_id for row in outcome.predictions) == sorted(f"i{row}" for row in range(18))
    assert {row.role for row in outcome.predictions} == {"validation", "test"}
    assert np.isfinite(logits(outcome)).all()
    again = train_strategy(name, study(), RANDOM, tmp_path / "again")
    assert np.array_equal(logits(outcome), logits(again))


def test_three_classes(tmp_path):
    outcome = train_strategy("probe", study(("none", "small", "large")), RANDOM, tmp_path)
    assert logits(outcome).shape == (18, 3)
    truth = [("none", "small", "large").index(row.label) for row in outcome.predictions]
    assert np.mean(logits(outcome).argmax(axis=1) == truth) > 0.6


def test_predictions_do_not_depend_on_test_labels_or_test_images_of_others(tmp_path):
    """Change the labels of the test part: nothing that was learned may change."""
    base = study()
    swapped = tuple(
        role.model_copy(update={"label": "lesion" if role.label == "normal" else "normal"})
        if role.role == "test"
        else role
        for role in base.roles
    )
    for name in ("full", "probe"):
        first = train_strategy(name, base, RANDOM, tmp_path / "a")
        second = train_strategy(name, study(roles=swapped), RANDOM, tmp_path / "b")
        assert np.array_equal(logits(first), logits(second)), name


def test_scratch_ignores_the_source_and_full_uses_it(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(random_state(1), path)
    source = verify(WeightsChoice(source="file", backbone="resnet18", file=path, sha256=file_digest(path)))
    short = study(recipe=recipe(epochs=1))
    runs = {
        (name, kind): train_strategy(name, short, weights, tmp_path / name / kind)
        for name in ("scratch", "full")
        for kind, weights in (("source", source), ("random", RANDOM))
    }
    assert np.array_equal(logits(runs["scratch", "source"]), logits(runs["scratch", "random"]))
    assert not np.array_equal(logits(runs["full", "source"]), logits(runs["full", "random"]))
    assert np.array_equal(logits(runs["full", "random"]), logits(runs["scratch", "random"]))
    assert runs["scratch", "source"].summary.weights_source == "random"
    assert runs["full", "source"].summary.weights_sha256 == file_digest(path)


def test_inputs_are_normalised_as_the_file_says_and_it_is_recorded(tmp_path):
    """Beside the same network on images that were brought to ImageNet's scale beforehand: equal predictions."""
    path = tmp_path / "w.pth"
    torch.save(random_state(1), path)
    base = WeightsChoice(source="file", backbone="resnet18", file=path, sha256=file_digest(path))
    said = replace(base, normalisation=Normalisation((0.2, 0.2, 0.2), (0.5, 0.5, 0.5)))
    assert verify(said).normalisation != verify(base).normalisation
    found = train_strategy("probe", study(), verify(said), tmp_path / "said")
    assert found.summary.inputs_normalised_by == "mean 0.2, 0.2, 0.2 and deviation 0.5, 0.5, 0.5 of values from 0 to 1"
    assert found.normalisation.mean == (0.2, 0.2, 0.2)
    same = replace(verify(said), normalisation=Normalisation((0.1, 0.1, 0.1), (0.25, 0.25, 0.25)))
    halved = study(pixels=(study().pixels / 510).astype(np.float16))  # half of the values, half of mean and deviation
    again = train_strategy("probe", halved, same, tmp_path / "halved")
    assert np.allclose(logits(found), logits(again), atol=0.02 * logits(found).std())
    other = train_strategy("probe", study(), verify(base), tmp_path / "base")
    assert np.abs(logits(found) - logits(other)).max() > 0.1 * logits(found).std()


def test_states_of_another_normalisation_are_not_used(tmp_path, capsys):
    path = tmp_path / "w.pth"
    torch.save(random_state(1), path)
    weights = verify(WeightsChoice(source="file", backbone="resnet18", file=path, sha256=file_digest(path)))
    short = study(recipe=recipe(epochs=1))
    train_strategy("last_block", short, weights, tmp_path / "s")
    capsys.readouterr()
    other = replace(weights, normalisation=Normalisation((0.2, 0.2, 0.2), (0.5, 0.5, 0.5)))
    train_strategy("last_block", short, other, tmp_path / "s")
    assert "resumed" not in capsys.readouterr().err


def test_the_probe_leaves_the_network_as_it_was(tmp_path):
    outcome = train_strategy("probe", study(), RANDOM, tmp_path)
    from pipeline.core.seeding import derive_seed

    before = build_network("resnet18", RANDOM, seed=derive_seed(7, "initialisation", 0)).state_dict()
    after = outcome.networks[0].state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items() if not name.startswith("fc."))
    assert outcome.summary.trained_parameters == 512 * 2 + 2
    assert outcome.summary.frozen_parameters == 11_689_512 - 513_000


def test_probabilities_have_the_prevalence_of_the_training_part(tmp_path):
    """Class weights are taken out of the logits again, so that probabilities are not inflated."""
    base = study()
    rare = tuple(role for role in base.roles if role.role != "train" or role.label == "normal" or role.row % 3 == 0)
    outcome = train_strategy("probe", study(roles=rare), RANDOM, Path(tmp_path))
    train = [role for role in rare if role.role == "train"]
    prevalence = np.mean([role.label == "lesion" for role in train])
    assert prevalence < 0.4
    chance = softmax(logits(outcome), axis=1)[:, 1]
    assert 0 < chance.mean() < 0.75


@pytest.mark.parametrize("name", ["probe", "full"])
def test_the_logarithms_of_the_class_weights_are_taken_out_of_the_heads_bias(tmp_path, monkeypatch, name):
    """Beside a training whose head is left as it was trained, with the weights of 9 and 3 images of two classes."""
    roles = tuple(role for role in study().roles if role.role != "train" or role.label == "normal" or role.row % 3 == 0)
    counts = [sum(role.role == "train" and role.label == kind for role in roles) for kind in ("normal", "lesion")]
    assert counts == [9, 3]
    uneven = study(roles=roles, recipe=recipe(epochs=1))
    restored = train_strategy(name, uneven, RANDOM, tmp_path / "restored")
    monkeypatch.setattr(training, "restore_prevalence", lambda *_: None)
    as_trained = train_strategy(name, uneven, RANDOM, tmp_path / "as_trained")
    heads = [outcome.networks[0].state_dict() for outcome in (restored, as_trained)]
    assert torch.equal(heads[0]["fc.weight"], heads[1]["fc.weight"])
    taken = (heads[1]["fc.bias"] - heads[0]["fc.bias"]).tolist()
    assert taken == pytest.approx(np.log([12 / (2 * 9), 12 / (2 * 3)]).tolist(), abs=1e-5)
    assert np.allclose(logits(as_trained) - logits(restored), taken, atol=1e-4)  # and predictions are made after that


def test_a_finished_training_is_not_repeated(tmp_path, capsys):
    train_strategy("full", study(), RANDOM, tmp_path)
    capsys.readouterr()
    train_strategy("full", study(), RANDOM, tmp_path)
    shown = capsys.readouterr().err
    assert "resumed after epoch 3" in shown
    assert "epoch 1/" not in shown


def test_time_spent_before_a_resumption_counts(tmp_path):
    first = train_strategy("full", study(), RANDOM, tmp_path)
    again = train_strategy("full", study(), RANDOM, tmp_path)
    assert again.history == first.history  # no epoch was run again
    assert again.summary.seconds > sum(log.seconds for log in first.history)
    assert again.summary.processor_seconds > 0


def test_states_of_other_settings_are_not_used(tmp_path, capsys):
    train_strategy("full", study(), RANDOM, tmp_path)
    capsys.readouterr()
    train_strategy("full", study(recipe=recipe(epochs=3, learning_rate=2e-4)), RANDOM, tmp_path)
    shown = capsys.readouterr().err
    assert "resumed" not in shown
    assert "made from other data, settings, code or versions" in shown


@pytest.mark.parametrize("fact", ["device_name", "versions"])
def test_states_of_another_machine_are_not_used(tmp_path, capsys, monkeypatch, fact):
    """Half of a training from one kind of processor or release and half from another would repeat nowhere."""
    train_strategy("full", study(), RANDOM, tmp_path)
    capsys.readouterr()
    other = {"device_name": lambda placement: "another", "versions": lambda: (("torch", "0"),)}
    monkeypatch.setattr(training, fact, other[fact])
    train_strategy("full", study(), RANDOM, tmp_path)
    assert "resumed" not in capsys.readouterr().err
