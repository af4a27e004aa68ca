"""The training on formulas: pictures drawn on the device, fed to the loop that fine-tunes; commands go on in turn."""

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from fractal_numbers import mixed
from fractal_renderers import Renderer
from torch import Tensor

from pipeline.core.provenance import fingerprint, numerical, versions
from pipeline.core.records import EpochLog
from pipeline.core.seeding import derive_seed
from pipeline.learning.inference import predict_logits
from pipeline.learning.inputs.batches import PixelSource
from pipeline.learning.inputs.devices import Placement
from pipeline.learning.inputs.transfer import network_on_device
from pipeline.learning.loop import finetuning
from pipeline.learning.loop.checkpoints import StateFolder
from pipeline.learning.loop.finetuning import FoldData, Task, fine_tune
from pipeline.learning.loop.interruption import TimeIsOverError, ended_after
from pipeline.learning.networks.backbones import BACKBONES, replace_head
from pipeline.learning.recipes import Recipe
from pipeline.learning.strategies import STRATEGIES
from pipeline.learning.weights.files import file_digest
from pipeline.learning.weights.sources import PHANTOM_NORMALISATION, Normalisation

BACKBONE, STRATEGY = "resnet18", "scratch"
_PLAIN = -1  # stands for a batch's seed where a row has to give the same picture always
_MINUTES_BETWEEN_STATES = 3.0
_SHARE = 0.92  # of the time, for validation and states beside the steps that were measured
_TRIED_STEPS = 24
_NO_PIXELS = np.empty((0, 0, 0), np.uint8)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is trained.

    Attributes
    ----------
    classes, rows, held_out
        How many; row r is of class r mod `classes`, those from `rows` on are for validation.
    learning_rate
        A tenth of AdamW's highest, as everywhere for random weights.
    """

    seed: int
    classes: int
    rows: int
    held_out: int
    size: int
    epochs: int
    batch_size: int
    learning_rate: float

    def recipe(self) -> Recipe:
        """Give the numbers of the training: no patience, averaged weights, so that it may end at any epoch."""
        return Recipe(
            epochs=self.epochs,
            patience=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=0.05,
            warmup_fraction=0.05,
            label_smoothing=0.1,
            balance_classes=False,
            ema_decay=0.998,
        )


@dataclass(frozen=True)
class DrawnSource:
    """Pictures drawn on the device when a batch asks for them: `pipeline.learning.inputs.batches.Inputs`."""

    renderer: Renderer
    placement: Placement
    normalisation: Normalisation = PHANTOM_NORMALISATION
    _plain: dict[bytes, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def looks(self) -> int:
        """A row is one image."""
        return 1

    def train(self, rows: np.ndarray, seed: int) -> Tensor:
        """Draw a new variant of each row."""
        return self._prepared(self._drawn(rows, seed))

    def plain(self, rows: np.ndarray) -> Tensor:
        """Give the rows' own variants, which are drawn once and kept, a byte for a pixel."""
        key = np.ascontiguousarray(rows, np.int64).tobytes()
        if key not in self._plain:
            self._plain[key] = (self._drawn(rows, _PLAIN) * 255).round().to(torch.uint8)
        return self._prepared(self._plain[key].float() / 255)

    def _drawn(self, rows: np.ndarray, seed: int) -> Tensor:
        number = torch.from_numpy(np.asarray(rows, np.int64))
        return self.renderer.draw(number % self.renderer.classes, mixed(mixed(number) + seed))

    def _prepared(self, grey: Tensor) -> Tensor:
        return PixelSource(_NO_PIXELS, self.normalisation, self.placement).prepare(grey.unsqueeze(1))


class Trained(NamedTuple):
    """A network as far as it has come.

    Attributes
    ----------
    state
        The tensors of the epoch kept.
    seconds
        Spent by all commands that took part.
    is_over
        All epochs are run, or all of the time.
    """

    state: dict[str, Tensor]
    history: list[EpochLog]
    best_epoch: int
    seconds: float
    is_over: bool


def source_of(trial: Trial, placement: Placement) -> DrawnSource:
    """Make the classes."""
    return DrawnSource(Renderer(trial.seed, trial.classes, trial.size, placement.device), placement)


def fold_data(trial: Trial, source: DrawnSource) -> FoldData:
    """Give rows and their classes."""
    rows, held_out = np.arange(trial.rows), np.arange(trial.rows, trial.rows + trial.held_out)
    return FoldData(
        inputs=source,
        train_rows=rows,
        train_classes=rows % trial.classes,
        validation_rows=held_out,
        validation_classes=held_out % trial.classes,
        class_weights=np.ones(trial.classes),
    )


def fresh_network(trial: Trial) -> torch.nn.Module:
    """Build the network with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(trial.seed, "initialisation", 0))
        network = BACKBONES[BACKBONE].build(trial.classes)
    replace_head(network, trial.classes, derive_seed(trial.seed, "head", 0))
    return network


def train(trial: Trial, source: DrawnSource, folder: Path, all_seconds: float, own_seconds: float) -> Trained | None:
    """Train, or go on where an earlier command stopped; None if not even the first epoch is done.

    Parameters
    ----------
    trial, source
        What is learned.
    folder
        Of the resumable states.
    all_seconds, own_seconds
        Time of all commands that train into this folder, and of this one.
    """
    states = StateFolder(folder, key_of(trial, source.placement), _MINUTES_BETWEEN_STATES)
    before = states.latest()
    left = all_seconds - (float(before.facts["spent"][0]) if before else 0.0)
    is_whole = True
    try:
        with ended_after(min(left, own_seconds)), _judged_by_temperature(source.placement.device):
            fine_tune(fresh_network(trial), fold_data(trial, source), trial.recipe(), _task(trial), states)
    except TimeIsOverError:
        is_whole = False
    saved = states.latest()
    if saved is None or not saved.facts["history"]:
        return None
    best = {name.removeprefix("best/"): value for name, value in saved.tensors.items() if name.startswith("best/")}
    history = [EpochLog.model_validate(row) for row in saved.facts["history"]]
    seconds = float(saved.facts["spent"][0])
    return Trained(best, history, int(saved.facts["best_epoch"]), seconds, is_whole or seconds >= all_seconds - 1)


def planned_epochs(trial: Trial, source: DrawnSource, folder: Path, seconds: float) -> tuple[int, float]:
    """Measure how fast training is, and give the epochs that fit into the time, and images per second.

    The rates of learning follow the number of epochs: it is measured once and kept beside the states.
    """
    path, key = folder / "plan.json", key_of(replace(trial, epochs=0), source.placement)
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["key"] == key:  # with more time it goes on, too, and not with other rates
            return found["epochs"], found["images_per_second"]
    tried = replace(trial, epochs=2, rows=min(trial.rows, _TRIED_STEPS * trial.batch_size), held_out=64)
    with tempfile.TemporaryDirectory() as states, _judged_by_temperature(source.placement.device):
        task, place = _task(tried), StateFolder(Path(states), "speed")
        found = fine_tune(fresh_network(tried), fold_data(tried, source), tried.recipe(), task, place)
    speed = tried.rows / found.history[-1].seconds  # the first epoch warms up
    epochs = max(1, math.floor(_SHARE * seconds * speed / trial.rows))
    plan = {"key": key, "epochs": epochs, "images_per_second": speed}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plan), encoding="utf-8")
    return epochs, speed


def held_out_accuracy(trial: Trial, source: DrawnSource, state: dict[str, Tensor]) -> float:
    """Share of the pictures held out whose class is told."""
    network = fresh_network(trial)
    network.load_state_dict({**network.state_dict(), **state})
    network_on_device(network, source.placement.device)
    data = fold_data(trial, source)
    logits = predict_logits(network, source, data.validation_rows)
    return float((logits.argmax(axis=1) == data.validation_classes).mean())


@contextmanager
def _judged_by_temperature(device: str) -> Iterator[None]:
    """Let the loop judge an epoch by its loss at the best temperature alone.

    The loop's own criterion also fits an offset for each class, by differences: a few are wanted there, a thousand
    would take hours, and be fitted to a handful of pictures each. AUROC, for the progress line, is left out.
    """

    def loss(logits: np.ndarray, classes: np.ndarray, _weights: np.ndarray) -> float:
        values = torch.from_numpy(logits).to(device=device, dtype=torch.float32)
        truth = torch.from_numpy(np.asarray(classes, np.int64)).to(device)
        scaled = (values - values.mean(0)) / values.std().clamp_min(1e-12)
        tried = torch.linspace(-2.0, 5.0, 57).exp().tolist()
        return min(float(torch.nn.functional.cross_entropy(scaled * one, truth)) for one in tried)

    with (
        patch.object(finetuning, "calibrated_loss", loss),
        patch.object(finetuning, "validation_auroc", lambda _logits, _classes: None),
    ):
        yield


def _task(trial: Trial) -> Task:
    plan = STRATEGIES[STRATEGY].plan(BACKBONES[BACKBONE].blocks, epochs=trial.epochs, is_random=True)
    return Task(strategy=STRATEGY, fold=0, seed=trial.seed, backbone=BACKBONE, plan=plan, is_pretrained=False)


def key_of(trial: Trial, placement: Placement) -> str:
    """Digest everything that the weights depend on."""
    here = Path(__file__).parent
    code = [file_digest(here / f"fractal_{name}.py") for name in ("numbers", "families", "renderers", "training")]
    told = [asdict(trial), placement, code, fingerprint("pipeline.learning.loop.finetuning"), numerical(versions())]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
