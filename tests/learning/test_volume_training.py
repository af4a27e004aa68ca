"""Training on volumes: every road learns, a killed run goes on with the same bits, a bank changes nothing.

The volumes are those of the built-in study, drawn without their files, with nodules of all its sizes and densities; the
network is MONAI's ResNet with one narrow block in each layer, and its source was trained on slices.
"""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.networks import nets
from sklearn.metrics import roc_auc_score

from pipeline.core.records import FoldRole
from pipeline.core.volume import Volume
from pipeline.imaging.grid import Grid, put_on_grid
from pipeline.imaging.steps import ScaleWindow
from pipeline.learning.bank.filling import BankInputs, BankOrder, LowerInputs, fill_bank
from pipeline.learning.inputs.augmentation import Augmentation
from pipeline.learning.inputs.batches import PixelSource
from pipeline.learning.inputs.devices import choose_placement
from pipeline.learning.loop import checkpoints, finetuning
from pipeline.learning.networks.backbones import BACKBONES
from pipeline.learning.networks.blocks import upper
from pipeline.learning.recipes import Recipe
from pipeline.learning.training import Outcome, Study, train_strategy
from pipeline.learning.volumes.roads import choose_road, network_for, normalisation_for
from pipeline.learning.weights.loading import RANDOM
from pipeline.learning.weights.sources import IMAGENET_NORMALISATION
from pipeline.phantom.volumes import TOMOGRAPHS, Nodule, Stack, chest, scan

pytestmark = pytest.mark.slow
CLASSES = ("normal", "lesion")
VOLUMES, TRAINED, SLICES = 140, 60, 500
GRID = Grid(slices=24, size=48, slice_spacing_mm=8.5, pixel_spacing_mm=5.4)
LUNG = ScaleWindow(centre=-600, width=700)
MOVED = Augmentation(rotation_degrees=0, translation=0.06, scale=0, flip=True, contrast=0, brightness=0, noise=0)
RECIPE = Recipe(
    epochs=8,
    patience=8,
    batch_size=8,
    learning_rate=1e-4,
    weight_decay=0.01,
    warmup_fraction=0.1,
    label_smoothing=0,
    balance_classes=True,
)


def on_grid(values: np.ndarray, stack: Stack, window: ScaleWindow) -> np.ndarray:
    volume = Volume(values.transpose(2, 1, 0).astype(np.int16), stack.affine())
    return put_on_grid(volume, GRID, window, "uint8").pixels


def draw(number: int) -> tuple[np.ndarray, int]:
    """Draw one patient on the grid, odd ones with a nodule, and tell the slice in which it is, or would be."""
    rng = np.random.default_rng(1000 + number)
    stack = Stack.draw(rng, 128)
    density = chest(stack, rng)
    nodule = Nodule.draw(np.random.default_rng(50_000 + number))
    added = nodule.density(stack.chest_coordinates())
    if number % 2:
        density = density + added
    stored = scan(TOMOGRAPHS[number // 2 % 2], density, rng) - 1024
    place = on_grid(added, stack, ScaleWindow(centre=400, width=800)).sum(axis=(1, 2)).argmax()
    return on_grid(stored, stack, LUNG), int(place)


@pytest.fixture(scope="module")
def volumes():
    return np.stack([draw(number)[0] for number in range(VOLUMES)])


def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nets, "resnet18", functools.partial(nets.ResNet, "basic", [1, 1, 1, 1], [16, 32, 64, 64]))
    monkeypatch.setitem(BACKBONES, "resnet18", BACKBONES["resnet18"]._replace(features=64))


@pytest.fixture(autouse=True)
def _narrow_network(monkeypatch):
    narrow(monkeypatch)


def make_study(pixels: np.ndarray, road: str, **changes: object) -> Study:
    order = np.random.default_rng(3).permutation(len(pixels))
    trained = round(len(pixels) * TRAINED / VOLUMES)
    parts = ["train"] * trained + ["validation"] * (trained // 3)
    parts += ["test"] * (len(pixels) - len(parts))
    roles = tuple(
        FoldRole(
            fold=0,
            image_id=f"i{row}",
            row=row,
            patient=f"p{row}",
            group=f"G{row}",
            label=CLASSES[row % 2],
            role=part,
        )
        for row, part in zip(order.tolist(), parts, strict=True)
    )
    values = {
        "classes": CLASSES,
        "roles": roles,
        "fold": 0,
        "seed": 7,
        "pixels": pixels,
        "pixels_sha256": "x",
        "backbone": "resnet18",
        "recipe": RECIPE,
        "augmentation": MOVED,
        "placement": choose_placement("cpu", "float32", 1),
        "code": "c",
        "road": choose_road(pixels, road=road, slices=None, inflation="mean"),
    }
    return Study(**{**values, **changes})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Train a network on single slices of other patients: the source of weights for images."""
    drawn = [draw(number) for number in range(10_000, 10_000 + SLICES)]
    slices = np.stack([volume[place] for volume, place in drawn])
    with pytest.MonkeyPatch.context() as patch:
        narrow(patch)
        longer = replace(RECIPE, epochs=20, patience=20, batch_size=16, learning_rate=3e-4)
        flat = make_study(slices, "attention", recipe=longer)
        folder = tmp_path_factory.mktemp("source")
        outcome = train_strategy("scratch", flat, RANDOM, folder)
    torch.save(outcome.networks[0].state_dict(), folder / "w.pth")
    return replace(RANDOM, source="file", path=folder / "w.pth", sha256="0" * 64, output_classes=2)


def auroc(outcome: Outcome) -> float:
    tested = [row for row in outcome.predictions if row.role == "test"]
    return roc_auc_score([row.label == "lesion" for row in tested], [row.logits[1] - row.logits[0] for row in tested])


@pytest.mark.parametrize("road", ["slices_as_channels", "attention", "inflation"])
def test_every_road_learns_to_find_nodules_in_volumes_from_a_network_for_images(volumes, source, road, tmp_path):
    outcome = train_strategy("full", make_study(volumes, road), source, tmp_path)
    assert auroc(outcome) > 0.7  # measured 0.90, 0.91, 0.83 on 60


@pytest.mark.parametrize("road", ["attention", "inflation"])
def test_killed_in_the_middle_of_an_epoch_the_bits_are_those_of_a_run_that_was_not(
    volumes, road, tmp_path, monkeypatch
):
    """What is left of a killed run is what it wrote; the exception stands for the kill."""
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN_STATES", 0.0)
    short = make_study(
        volumes[:28], road, recipe=replace(RECIPE, epochs=2, batch_size=4, ema_decay=0.9), state_minutes=1e-9, views=1
    )
    whole = train_strategy("scratch", short, RANDOM, tmp_path / "whole")
    real, calls = finetuning.differentiate, []

    def killed(*given, **named):
        calls.append(given)
        if len(calls) == 5:  # of three steps in an epoch
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(finetuning, "differentiate", killed)
    with pytest.raises(KeyboardInterrupt):
        train_strategy("scratch", short, RANDOM, tmp_path / "killed")
    resumed = train_strategy("scratch", short, RANDOM, tmp_path / "killed")
    assert len(calls) == 5 + 2  # four were done, and none of them twice
    assert [row.logits for row in resumed.predictions] == [row.logits for row in whole.predictions]
    pairs = zip(resumed.networks[0].state_dict().values(), whole.networks[0].state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("road", ["slices_as_channels", "attention", "inflation"])
def test_with_and_without_a_bank_the_same_views_of_volumes_give_the_same_predictions(volumes, road, tmp_path):
    chosen = choose_road(volumes, road=road, slices=None, inflation="centre")
    network = network_for(chosen, "resnet18", RANDOM, 2, seed=1, head_seed=2)
    placement = choose_placement("cpu", "float32", 1)
    normalisation = normalisation_for(chosen, IMAGENET_NORMALISATION)
    order = BankOrder(
        network=network,
        backbone="resnet18",
        source=PixelSource(volumes[:7], normalisation, placement, MOVED, road=chosen),
        weights=replace(RANDOM, sha256="w"),
        pixels_sha256="p",
        boundary="layer4",
        views=2,
        seed=3,
        code="c",
    )
    manifest = fill_bank(order, tmp_path, shard_images=3)
    banked = BankInputs(manifest, placement)
    fresh = LowerInputs(network, "resnet18", order.source, boundary="layer4", views=2, seed=3)
    top = upper(network, "resnet18", "layer4").eval()
    rows = np.array([4, 0, 6])
    with torch.no_grad():
        for one, other in ((banked.plain(rows), fresh.plain(rows)), (banked.train(rows, 5), fresh.train(rows, 5))):
            logits, wanted = top(one), top(other)
            assert (logits - wanted).abs().max() < BankInputs.TOLERANCE * max(float(wanted.std()), 1e-3)
        whole = network.eval()(order.source.plain(rows))
        assert torch.allclose(top(fresh.plain(rows)), whole, atol=1e-5)
