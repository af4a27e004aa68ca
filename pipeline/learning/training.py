"""One strategy in one fold: from verified weights to a trained network and its raw predictions."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.provenance import numerical, versions
from pipeline.core.records import EpochLog, FoldRole, Prediction, Role, TrainingSummary
from pipeline.core.seeding import derive_seed
from pipeline.learning.augmentation import Augmentation
from pipeline.learning.backbones import BACKBONES, HEAD, block_of, replace_head
from pipeline.learning.batches import PixelSource
from pipeline.learning.checkpoints import StateFolder
from pipeline.learning.devices import Placement
from pipeline.learning.finetuning import (
    FoldData,
    Recipe,
    Task,
    Tuned,
    class_weights,
    fine_tune,
    restore_prevalence,
)
from pipeline.learning.inference import pooled_features, predict_logits
from pipeline.learning.probe import fit_head, install_head
from pipeline.learning.sources import Normalisation
from pipeline.learning.strategies import STRATEGIES
from pipeline.learning.weights import RANDOM, VerifiedWeights, build_network

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Study:
    """What all strategies of a fold share.

    Attributes
    ----------
    classes
        Class names in the order of the logits.
    roles
        The rows of the fold table that belong to this fold.
    pixels
        Stored images, shape (images, height, width).
    pixels_sha256
        Digest of the stored images, part of the resumable state's key.
    code
        Fingerprint of the code, part of the key as well.
    """

    classes: tuple[str, ...]
    roles: tuple[FoldRole, ...]
    fold: int
    seed: int
    pixels: np.ndarray
    pixels_sha256: str
    backbone: str
    recipe: Recipe
    augmentation: Augmentation
    placement: Placement
    code: str


@dataclass(frozen=True)
class Outcome:
    """A trained network with everything that is written about it, and the inputs it wants."""

    network: "nn.Module"
    history: list[EpochLog]
    predictions: list[Prediction]
    summary: TrainingSummary
    normalisation: Normalisation


def train_strategy(name: str, study: Study, weights: VerifiedWeights, states: Path) -> Outcome:
    """Train one strategy in one fold and predict its validation and test images.

    Parameters
    ----------
    name
        A key of `pipeline.learning.strategies.STRATEGIES`.
    study
        What all strategies share.
    weights
        The study's verified weights; strategies that do not use them start at random.
    states
        Folder for resumable states.

    Raises
    ------
    WeightsError
        If the file does not fit the backbone.
    TrainingError
        If the training diverges or a class is absent from the training part.
    """
    started = time.monotonic()
    strategy = STRATEGIES[name]
    used = weights if strategy.uses_source else RANDOM
    network = build_network(study.backbone, used, seed=derive_seed(study.seed, "initialisation", study.fold))
    replace_head(network, len(study.classes), derive_seed(study.seed, "head", study.fold))
    data = _fold_data(study, used)
    # Fine-tuning starts from the probe: with a random head, the first steps would distort the source's features
    # (Kumar et al., 2022, arXiv:2202.10054).
    if strategy.head == "logistic" or used.path is not None:
        _fit_probe(network, data)
    tuned = Tuned([], 0)
    blocks = strategy.trained_blocks(BACKBONES[study.backbone].blocks)
    if strategy.head == "gradient":
        task = Task(
            strategy=name,
            fold=study.fold,
            seed=study.seed,
            backbone=study.backbone,
            trained_blocks=blocks,
            is_pretrained=used.path is not None,
        )
        tuned = fine_tune(network, data, study.recipe, task, StateFolder(states / name, _key(name, study, used)))
    trained = {HEAD, *blocks}
    restore_prevalence(network, data.class_weights)
    sizes = {True: 0, False: 0}
    for parameter, value in network.named_parameters():
        sizes[block_of(parameter, study.backbone) in trained] += value.numel()
    summary = TrainingSummary(
        strategy=name,
        fold=study.fold,
        backbone=study.backbone,
        classes=study.classes,
        weights_source=used.source,
        weights_file=used.path.name if used.path else "",
        weights_sha256=used.sha256,
        weights_licence=used.licence,
        trained_parameters=sizes[True],
        frozen_parameters=sizes[False],
        image_size=study.pixels.shape[1],
        epochs=len(tuned.history),
        best_epoch=tuned.best_epoch,
        train_images=len(data.train_rows),
        validation_images=len(data.validation_rows),
        test_images=sum(role.role == "test" for role in study.roles),
        device=_device_name(study.placement),
        precision=study.placement.precision,
        threads=study.placement.threads,
        seed=study.seed,
        seconds=time.monotonic() - started,
        software=versions(),
    )
    return Outcome(network, tuned.history, _predict(network, data, name, study), summary, used.normalisation)


def _fold_data(study: Study, weights: VerifiedWeights) -> FoldData:
    rows = {role: np.array([r.row for r in study.roles if r.role == role]) for role in ("train", "validation")}
    truth = {
        role: np.array([study.classes.index(r.label) for r in study.roles if r.role == role])
        for role in ("train", "validation")
    }
    return FoldData(
        inputs=PixelSource(study.pixels, weights.normalisation, study.placement, study.augmentation),
        train_rows=rows["train"],
        train_classes=truth["train"],
        validation_rows=rows["validation"],
        validation_classes=truth["validation"],
        class_weights=class_weights(truth["train"], len(study.classes), balance=study.recipe.balance_classes),
    )


def _fit_probe(network: "nn.Module", data: FoldData) -> None:
    """Fit the head to the network's features as they are."""
    import torch

    network.to(data.inputs.placement.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    train = pooled_features(network, data.inputs, data.train_rows)
    validation = pooled_features(network, data.inputs, data.validation_rows)
    head = fit_head(train, data.train_classes, validation, data.validation_classes, data.class_weights)
    install_head(network, head)


def _predict(network: "nn.Module", data: FoldData, name: str, study: Study) -> list[Prediction]:
    roles: tuple[Role, ...] = ("validation", "test")
    found: list[Prediction] = []
    for part in roles:
        members = [role for role in study.roles if role.role == part]
        logits = predict_logits(network, data.inputs, np.array([role.row for role in members]))
        found += [
            Prediction(
                strategy=name,
                fold=study.fold,
                role=part,
                image_id=member.image_id,
                patient=member.patient,
                group=member.group,
                label=member.label,
                logits=tuple(values),
            )
            for member, values in zip(members, logits.tolist(), strict=True)
        ]
    return found


def _key(name: str, study: Study, weights: VerifiedWeights) -> str:
    """Digest everything that the weights after an epoch depend on, down to the kind of processor."""
    facts = {
        "strategy": name,
        "classes": study.classes,
        "roles": [(role.row, role.label, role.role) for role in study.roles],
        "fold": study.fold,
        "seed": study.seed,
        "pixels": study.pixels_sha256,
        "backbone": study.backbone,
        "weights": weights.sha256,
        "recipe": asdict(study.recipe),
        "augmentation": asdict(study.augmentation),
        "placement": study.placement,
        "device": _device_name(study.placement),
        "software": numerical(versions()),
        "code": study.code,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _device_name(placement: Placement) -> str:
    import platform

    import torch

    if placement.device == "cuda":
        return torch.cuda.get_device_name()
    # The instruction set decides which kernels run, and with them the last bits.
    return f"processor ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"
