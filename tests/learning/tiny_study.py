"""A study small enough to be killed twenty times: a network of five narrow blocks on images of 16 pixels.

It runs in processes forked from one that has imported everything, so that each takes a fraction of a second.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.core.artefacts import read_document, write_document
from pipeline.core.errors import PipelineError
from pipeline.core.records import FoldRole
from pipeline.learning.bank.files import BankManifest
from pipeline.learning.bank.filling import BankOrder, fill_bank
from pipeline.learning.inputs.augmentation import Augmentation
from pipeline.learning.inputs.batches import PixelSource
from pipeline.learning.inputs.devices import choose_placement
from pipeline.learning.loop import checkpoints
from pipeline.learning.loop.checkpoints import write_checkpoint
from pipeline.learning.loop.interruption import interruptible
from pipeline.learning.networks.backbones import BACKBONES
from pipeline.learning.recipes import Recipe
from pipeline.learning.training import Study, train_strategy
from pipeline.learning.volumes.roads import network_for
from pipeline.learning.weights.files import file_digest
from pipeline.learning.weights.loading import RANDOM, VerifiedWeights, WeightsChoice, verify

CLASSES = ("normal", "lesion")
CONTRAST = 25  # of the bars, beside noise of 60: training then improves on the probe that it starts from
CHANGES = Augmentation(
    rotation_degrees=5, translation=0.05, scale=0.1, flip=True, contrast=0.2, brightness=0.1, noise=0.02
)
RECIPE = Recipe(
    epochs=6,
    patience=6,
    batch_size=4,
    learning_rate=5e-3,
    weight_decay=0.01,
    warmup_fraction=0.1,
    label_smoothing=0.05,
    balance_classes=True,
    block_rate_factor=0.8,
    ema_decay=0.9,
)


def build_tiny(classes: int) -> nn.Module:
    """Make a network with the names of a ResNet's modules, in the order of its forward pass."""
    network = nn.Sequential()
    network.add_module("conv1", nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False))
    network.add_module("bn1", nn.BatchNorm2d(6))
    network.add_module("act", nn.ReLU())
    network.add_module("maxpool", nn.MaxPool2d(3, stride=2, padding=1))
    for number in range(1, 5):
        network.add_module(
            f"layer{number}", nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        )
    network.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flat", nn.Flatten())
    network.add_module("fc", nn.Linear(6, classes))
    return network


def make_study(recipe: Recipe = RECIPE, **changes: object) -> Study:
    """Make 32 images of as many patients; those of class 1 hold an upright bar, the others a level one."""
    truth = np.arange(32) % 2
    pixels = np.random.default_rng(0).integers(60, 120, size=(32, 16, 16), dtype=np.uint8)
    pixels[truth == 1, 2:14, 7:9] += CONTRAST
    pixels[truth == 0, 7:9, 2:14] += CONTRAST
    names = ["test"] * 8 + ["validation"] * 8 + ["train"] * 16
    roles = tuple(
        FoldRole(
            fold=0, image_id=f"i{row}", row=row, patient=f"p{row}", group=f"G{row}", label=CLASSES[kind], role=role
        )
        for row, (kind, role) in enumerate(zip(truth, names, strict=True))
    )
    values = {
        "classes": CLASSES,
        "roles": roles,
        "fold": 0,
        "seed": 7,
        "pixels": pixels,
        "pixels_sha256": "x",
        "backbone": "resnet18",
        "recipe": recipe,
        "augmentation": CHANGES,
        "placement": choose_placement("cpu", "float32", 1),
        "code": "c",
        "views": 1,
        "networks": 2,
    }
    return Study(**{**values, **changes})


def write_source(path: Path) -> None:
    """Write weights that look trained: statistics that are not 0 and 1."""
    generator = torch.Generator().manual_seed(5)
    state = build_tiny(1000).state_dict()
    for value in state.values():
        if value.ndim > 1:
            value.normal_(0, 0.3, generator=generator)
        elif value.is_floating_point():  # of normalisation: variances and weights are positive
            value.uniform_(0.5, 1.0, generator=generator)
    torch.save(state, path)


def use_tiny() -> None:
    """Put the network in the place of a backbone, in this process."""
    BACKBONES["resnet18"] = BACKBONES["resnet18"]._replace(build=build_tiny, features=6)


def verify_source(path: Path) -> VerifiedWeights:
    """Give the weights of a file."""
    return verify(WeightsChoice(source="file", backbone="resnet18", file=path, sha256=file_digest(path)))


def fill_tiny(source: Path, manifest: Path) -> None:
    """Fill the bank of the study as the stage does, in shards of 8 images, for `probe` and `last_block`."""
    use_tiny()
    study, weights = make_study(), verify_source(source)
    order = BankOrder(
        network=network_for(None, "resnet18", weights, 2, seed=7, head_seed=7),
        backbone="resnet18",
        source=PixelSource(study.pixels, weights.normalisation, study.placement, CHANGES),
        weights=weights,
        pixels_sha256=study.pixels_sha256,
        boundary="layer4",
        views=3,
        seed=study.seed,
        code="c",
    )
    write_document(manifest, fill_bank(order, manifest.parent / "bank", shard_images=8))


def train_tiny(name: str, source: Path, folder: Path, manifest: Path | None = None) -> None:
    """Train a strategy and write its networks and predictions; a state is saved after every step.

    With the manifest of a bank, the strategies that a bank serves read it, as they do in a study.
    """
    use_tiny()
    checkpoints.SECONDS_BETWEEN_STATES = 0.0
    weights = RANDOM if name == "scratch" else verify_source(source)
    bank = read_document(manifest, BankManifest) if manifest else None
    folder.mkdir(exist_ok=True)
    with (folder / "log.txt").open("a") as log, interruptible():
        sys.stderr = log
        (folder / "begun").touch()
        try:
            outcome = train_strategy(
                name,
                make_study(state_minutes=1e-6, bank=bank, bank_code=bank.code if bank else ""),
                weights,
                folder / "states",
            )
        except PipelineError as error:
            log.write(f"{error}\n")
            sys.exit(2)
    tensors = {"logits": torch.tensor([row.logits for row in outcome.predictions], dtype=torch.float64)}
    for number, network in enumerate(outcome.networks):
        tensors |= {f"{number}/{key}": value for key, value in network.state_dict().items()}
    facts = {
        "losses": [[log.train_loss, log.validation_loss] for log in outcome.history],
        "head_blocks": outcome.summary.head_blocks,
        "best_epoch": outcome.summary.best_epoch,
    }
    write_checkpoint(folder / "result.safetensors", tensors, facts)


def start(work: Callable[..., None], *values: object) -> ForkServerProcess:
    """Fill a bank or train in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.learning.tiny_study", "scipy.optimize", "sklearn.linear_model"])
    process = context.Process(target=work, args=values)
    process.start()
    return process


def kill(process: ForkServerProcess, number: int = signal.SIGKILL) -> None:
    """Send a signal, if the process has not ended by itself, and wait for the end."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
    process.join()
