import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import TrainingError
from pipeline.learning.criteria import calibrated_loss, validation_auroc
from pipeline.learning.inputs.augmentation import NO_CHANGE, Augmentation
from pipeline.learning.inputs.batches import PixelSource
from pipeline.learning.inputs.devices import choose_placement
from pipeline.learning.loop import finetuning
from pipeline.learning.loop.checkpoints import StateFolder
from pipeline.learning.loop.finetuning import (
    RANDOM_START_FACTOR,
    FoldData,
    Task,
    class_weights,
    fine_tune,
    restore_prevalence,
    set_mode,
)
from pipeline.learning.networks.backbones import BACKBONES, block_of, replace_head
from pipeline.learning.recipes import Recipe, learning_rate_at
from pipeline.learning.strategies import STRATEGIES, BlockPlan
from pipeline.learning.weights.loading import RANDOM, build_network
from pipeline.learning.weights.sources import IMAGENET_NORMALISATION

CHANGES = Augmentation(
    rotation_degrees=5, translation=0.05, scale=0.1, flip=False, contrast=0.2, brightness=0.1, noise=0.02
)


def recipe(**changes: object) -> Recipe:
    values = {
        "epochs": 4,
        "patience": 4,
        "batch_size": 8,
        "learning_rate": 1e-4,
        "weight_decay": 0.01,
        "warmup_fraction": 0.1,
        "label_smoothing": 0.05,
        "balance_classes": True,
    }
    return Recipe(**{**values, **changes})


ALL = BACKBONES["resnet18"].blocks


def task(blocks: tuple[str, ...] = ALL, *, is_pretrained: bool = False, plan: tuple[BlockPlan, ...] = ()) -> Task:
    return Task(
        strategy="full",
        fold=0,
        seed=7,
        backbone="resnet18",
        plan=plan or tuple(BlockPlan(name) for name in blocks),
        is_pretrained=is_pretrained,
    )


def fold_data() -> FoldData:
    """Make 24 tiny images; those of class 1 hold a bright square."""
    generator = np.random.default_rng(0)
    truth = np.arange(32) % 2
    pixels = generator.integers(60, 120, size=(32, 32, 32), dtype=np.uint8)
    pixels[truth == 1, 10:22, 10:22] += 100
    placement = choose_placement("cpu", "float32", 2)
    return FoldData(
        inputs=PixelSource(pixels, IMAGENET_NORMALISATION, placement, CHANGES),
        train_rows=np.arange(20),
        train_classes=truth[:20],
        validation_rows=np.arange(20, 32),
        validation_classes=truth[20:],
        class_weights=np.ones(2),
    )


def network() -> torch.nn.Module:
    made = build_network("resnet18", RANDOM, seed=3)
    replace_head(made, 2, seed=4)
    return made


def test_learning_rate_rises_and_falls():
    numbers = recipe(warmup_fraction=0.25, learning_rate=0.1)
    rates = [learning_rate_at(step, 100, numbers) for step in range(100)]
    assert rates[:25] == sorted(rates[:25])
    assert rates[25] == pytest.approx(0.1)
    assert rates[25:] == sorted(rates[25:], reverse=True)
    assert rates[62] == pytest.approx(0.05 * (1 + math.cos(math.pi * 37 / 75)))
    assert 0 < rates[99] < 0.001


@given(counts=st.lists(st.integers(1, 50), min_size=2, max_size=5))
def test_balanced_weights_give_every_class_the_same_total(counts):
    classes = np.repeat(np.arange(len(counts)), counts)
    weights = class_weights(classes, len(counts), balance=True)
    totals = weights * np.array(counts)
    assert np.allclose(totals, totals[0])
    assert weights[classes].mean() == pytest.approx(1)
    assert class_weights(classes, len(counts), balance=False).tolist() == [1] * len(counts)


@pytest.mark.slow
def test_restoring_the_prevalence_undoes_the_class_weights():
    holder = torch.nn.Module()
    holder.fc = torch.nn.Linear(4, 3)
    features = torch.randn(10, 4)
    weighted = torch.softmax(holder.fc(features).detach(), dim=1)
    weights = np.array([0.5, 1.0, 4.0])
    restore_prevalence(holder, weights)
    plain = torch.softmax(holder.fc(features).detach(), dim=1)
    again = plain * torch.tensor(weights)
    assert torch.allclose(again / again.sum(dim=1, keepdim=True), weighted.double(), atol=1e-5)


@pytest.mark.slow
def test_the_lesion_is_learned_and_the_best_epoch_kept(tmp_path):
    data, trained = fold_data(), network()
    history, best_epoch, *_ = fine_tune(trained, data, recipe(epochs=8, patience=8), task(), StateFolder(tmp_path, "k"))
    from pipeline.learning.inference import predict_logits

    logits = predict_logits(trained, data.inputs, data.validation_rows)
    best = min(log.validation_loss for log in history)
    kept = history[best_epoch - 1].validation_loss
    assert best <= kept <= best + finetuning.LEAST_IMPROVEMENT
    assert calibrated_loss(logits, data.validation_classes, data.class_weights) == pytest.approx(kept, abs=1e-9)
    assert validation_auroc(logits, data.validation_classes) > 0.9
    assert [log.epoch for log in history] == list(range(1, 9))


@pytest.mark.slow
def test_training_stops_when_patience_ends(tmp_path):
    data = fold_data()
    hopeless = FoldData(**{**vars(data), "validation_classes": 1 - data.validation_classes})
    history, *_ = fine_tune(network(), hopeless, recipe(epochs=30, patience=2), task(), StateFolder(tmp_path, "k"))
    best = min(range(len(history)), key=lambda index: history[index].validation_loss)
    assert len(history) == best + 1 + 2


@pytest.mark.slow
def test_frozen_blocks_keep_their_weights_and_statistics(tmp_path):
    trained, before = network(), network().state_dict()
    fine_tune(trained, fold_data(), recipe(epochs=2), task(("layer4", "head")), StateFolder(tmp_path, "k"))
    for name, value in trained.state_dict().items():
        is_same = torch.equal(value, before[name])
        assert is_same == (block_of(name, "resnet18") not in {"layer4", "head"}), name


@pytest.mark.slow
def test_modes_follow_the_trained_blocks():
    made = network()
    set_mode(made, "resnet18", {"layer3"}, keep_statistics=False)
    modes = {name: module.training for name, module in made.named_modules() if name and not any(module.children())}
    assert {name for name, training in modes.items() if training} == {
        n for n in modes if block_of(n, "resnet18") == "layer3"
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "gamma"), [({}, 0.0), ({"loss": "focal", "focal_gamma": 1.5}, 1.5)], ids=["cross_entropy", "focal"]
)
def test_the_loss_of_the_first_step_is_the_weighted_and_smoothed_one_computed_by_hand(tmp_path, changes, gamma):
    """One step over all images, before which the network is still what it was: its loss is that of the epoch."""
    smoothing, weights = 0.2, np.array([0.3, 2.5])
    data = fold_data()
    # Rarer in training than elsewhere, so that an unweighted mean and one over all classes are other numbers.
    chosen = np.flatnonzero((data.train_classes == 0) | (np.arange(20) < 8))
    data = FoldData(
        **{
            **vars(data),
            "inputs": PixelSource(data.inputs.pixels, IMAGENET_NORMALISATION, data.inputs.placement, NO_CHANGE),
            "train_rows": chosen,
            "train_classes": data.train_classes[chosen],
            "class_weights": weights,
        }
    )
    trained = network()
    with torch.no_grad():
        trained.fc.weight.mul_(20)  # predictions that differ from image to image
        logits = trained.eval()(data.inputs.plain(chosen)).double().numpy()
    numbers = recipe(epochs=1, batch_size=len(chosen), label_smoothing=smoothing, **changes)
    history, *_ = fine_tune(trained, data, numbers, task(is_pretrained=True), StateFolder(tmp_path, "k"))
    total, share = 0.0, 0.0
    for row, truth in zip(logits, data.train_classes, strict=True):
        chances = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        for kind in (0, 1):
            target = (1 - smoothing) * (kind == truth) + smoothing / 2
            total -= weights[kind] * target * (1 - chances[kind]) ** gamma * math.log(chances[kind])
        share += weights[truth]
    assert history[0].train_loss == pytest.approx(total / share, rel=1e-5)


class _KilledError(Exception):
    pass


class _KillingStates(StateFolder):
    """Save the state and die, as if the machine had failed after the second epoch."""

    def is_due(self):
        return True

    def save(self, epoch, tensors, facts, step=0):
        super().save(epoch, tensors, facts, step)
        if epoch == 2:
            raise _KilledError


@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_same_weights_bit_for_bit(tmp_path):
    whole, resumed = network(), network()
    history, *_ = fine_tune(whole, fold_data(), recipe(), task(), StateFolder(tmp_path / "a", "k"))
    with pytest.raises(_KilledError):
        fine_tune(network(), fold_data(), recipe(), task(), _KillingStates(tmp_path / "b", "k"))
    torch.manual_seed(12345)  # global generators do not matter
    again, *_ = fine_tune(resumed, fold_data(), recipe(), task(), StateFolder(tmp_path / "b", "k"))
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    losses = [[(log.train_loss, log.validation_loss) for log in logs] for logs in (history, again)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_a_diverging_loss_stops_with_advice(tmp_path):
    broken = network()
    with torch.no_grad():
        broken.fc.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"not a finite number[\s\S]*learning_rate"):
        fine_tune(broken, fold_data(), recipe(), task(), StateFolder(tmp_path, "k"))


@pytest.mark.slow
def test_a_pretrained_network_keeps_the_statistics_of_its_source(tmp_path):
    trained, before = network(), network().state_dict()
    states = StateFolder(tmp_path, "k")
    fine_tune(trained, fold_data(), recipe(epochs=1), task(is_pretrained=True), states)
    last = states.latest()
    for name, value in before.items():
        is_statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert torch.equal(last.tensors[f"network/{name}"], value) == is_statistic, name


@pytest.mark.slow
def test_training_that_does_not_improve_on_its_source_is_not_used(tmp_path, monkeypatch):
    trained, before = network(), network().state_dict()
    losses = iter([0.5, 0.6, 0.7])  # of the start and of two epochs
    monkeypatch.setattr(finetuning, "calibrated_loss", lambda *_: next(losses))
    short = recipe(epochs=2, patience=2)
    history, best_epoch, *_ = fine_tune(
        trained, fold_data(), short, task(is_pretrained=True), StateFolder(tmp_path, "k")
    )
    assert best_epoch == 0
    assert len(history) == 2
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("losses", [(4.30e-7, 5.03e-7, 5.34e-7), (5.34e-7, 4.30e-7, 5.03e-7), (2e-5, 1e-5, 0.0)])
def test_rounding_does_not_choose_among_epochs_without_error(tmp_path, monkeypatch, losses):
    """Losses of epochs that tell all images apart, in an order that rounding gives: the first of them is kept."""
    found = iter((0.3, *losses))
    monkeypatch.setattr(finetuning, "calibrated_loss", lambda *_: next(found))
    short = recipe(epochs=3, patience=3)
    tuned = fine_tune(network(), fold_data(), short, task(is_pretrained=True), StateFolder(tmp_path, "k"))
    assert tuned.best_epoch == 1


def test_logits_without_error_have_losses_that_rounding_orders():
    """Why an improvement has a least size: beside it, all that is left of these losses is noise of the search."""
    truth = np.arange(24) % 2
    margins = (2 * truth - 1) * np.random.default_rng(0).uniform(2, 3, size=24)
    epochs = [np.stack([-scale * margins, scale * margins], axis=1) for scale in np.linspace(1, 2, 8)]
    losses = [calibrated_loss(logits, truth, np.ones(2)) for logits in epochs]
    assert max(losses) < finetuning.LEAST_IMPROVEMENT / 10


@pytest.mark.slow
def test_steps_from_random_weights_are_larger(tmp_path):
    rates = {}
    for is_pretrained in (True, False):
        states = StateFolder(tmp_path / str(is_pretrained), "k")
        start = task(is_pretrained=is_pretrained)
        rates[is_pretrained] = (
            fine_tune(network(), fold_data(), recipe(epochs=1), start, states).history[0].learning_rate
        )
    assert rates[False] == pytest.approx(RANDOM_START_FACTOR * rates[True])


@pytest.mark.slow
def test_a_resumed_optimiser_has_the_layout_of_its_parameters(tmp_path):
    """Files hold tensors in plain order; fused optimisers refuse moments whose strides differ from the parameter's."""
    states = StateFolder(tmp_path, "k")
    fine_tune(network(), fold_data(), recipe(epochs=1), task(), states)
    resumed = network().to(memory_format=torch.channels_last)
    run = finetuning._begin(resumed, fold_data(), recipe(), task())
    run.restore(states.latest())
    checked = 0
    for parameter, state in run.optimiser.state.items():
        for value in state.values():
            if value.shape == parameter.shape and value.ndim == 4:
                assert value.stride() == parameter.stride()
                checked += 1
    assert checked == 2 * 20


GRADUAL = STRATEGIES["gradual"].plan(ALL, epochs=4, unfreeze_every=2)  # the head, and layer4 from epoch 3


class _Watching(StateFolder):
    """Keep what each epoch ended with."""

    def __init__(self, folder, key):
        super().__init__(folder, key)
        self.seen = []

    def is_due(self):
        return True

    def save(self, epoch, tensors, facts, step=0):
        self.seen.append({name: value.detach().clone() for name, value in tensors.items()})
        super().save(epoch, tensors, facts, step)


@pytest.mark.slow
def test_gradual_blocks_join_when_planned_and_the_others_keep_their_moments(tmp_path):
    states, before = _Watching(tmp_path, "k"), network().state_dict()
    fine_tune(network(), fold_data(), recipe(), task(plan=GRADUAL, is_pretrained=True), states)
    for epoch, seen in enumerate(states.seen, start=1):
        changed = {
            block_of(name, "resnet18") for name, value in before.items() if not value.equal(seen[f"network/{name}"])
        }
        assert changed == ({"head"} if epoch < 3 else {"layer4", "head"})
        steps = {name.split("/")[1]: int(value) for name, value in seen.items() if name.endswith("/step")}
        assert steps["fc.weight"] == 2 * epoch  # two steps an epoch, counted on when layer4 joins
        assert steps.get("layer4.0.conv1.weight", 0) == 2 * max(0, epoch - 2)


@pytest.mark.slow
def test_patience_does_not_end_before_the_last_block_is_open(tmp_path, monkeypatch):
    losses = iter([0.5, 0.6, 0.6, 0.6, 0.6])
    monkeypatch.setattr(finetuning, "calibrated_loss", lambda *_: next(losses))
    start = task(plan=GRADUAL, is_pretrained=True)
    history, *_ = fine_tune(network(), fold_data(), recipe(patience=1), start, StateFolder(tmp_path, "k"))
    assert len(history) == 3


@pytest.mark.slow
def test_a_rate_of_its_own_for_each_block_and_a_rise_for_one_that_joins():
    numbers = recipe(warmup_fraction=0.25)
    plan = (BlockPlan("layer4", 3, 0.5), BlockPlan("head"))
    run = finetuning._begin(network(), fold_data(), numbers, task(plan=plan, is_pretrained=True))
    rates = {}
    for step in range(8):  # four epochs of two steps
        finetuning._set_rates(run, numbers, task(plan=plan, is_pretrained=True), step, 8)
        rates[step] = [group["lr"] for group in run.optimiser.param_groups]
    for step in (4, 5, 6, 7):
        deep, _, head, _ = rates[step]
        assert head == learning_rate_at(step, 8, numbers)
        assert deep == pytest.approx(0.5 * head * min(1, (step - 4 + 1) / 3))


@pytest.mark.slow
def test_the_averaged_network_is_what_is_kept(tmp_path):
    numbers, states = recipe(ema_decay=0.9, learning_rate=1e-3), _Watching(tmp_path, "k")
    trained = network()
    _, best, *_ = fine_tune(trained, fold_data(), numbers, task(), states)
    seen, kept = states.seen[best - 1], trained.state_dict()
    for name, _ in trained.named_parameters():
        assert torch.equal(kept[name], seen[f"average/{name}"]), name
        assert not torch.equal(kept[name], seen[f"network/{name}"]) or kept[name].abs().sum() == 0, name
    for name, _ in trained.named_buffers():  # statistics are used as they are
        assert torch.equal(kept[name], seen[f"network/{name}"]), name


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_no_step_waits_for_the_gpu(tmp_path):
    data = fold_data()
    source = PixelSource(data.inputs.pixels, IMAGENET_NORMALISATION, choose_placement("cuda", "bfloat16", 2), CHANGES)
    made = network().to("cuda", memory_format=torch.channels_last)
    data = FoldData(**{**vars(data), "inputs": source})
    run = finetuning._begin(made, data, recipe(), task())
    states = StateFolder(tmp_path, "k")
    finetuning._steps(run, data, recipe(), task(), states)  # once for what is made once
    run.epoch, run.step = 1, 0
    torch.cuda.set_sync_debug_mode("error")
    try:
        finetuning._steps(run, data, recipe(), task(), states)
    finally:
        torch.cuda.set_sync_debug_mode("default")
