"""Fine-tune the network in one fold, and the strategies it is compared with."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cohort.kinds import require_one_kind
from pipeline.cohort.splits import assert_no_leakage, assert_same_rows
from pipeline.core.artefacts import read_document, read_table, write_table
from pipeline.core.progress import say
from pipeline.core.provenance import fingerprint
from pipeline.core.records import EpochLog, FoldRole, Image, Prediction, TrainingSummary
from pipeline.core.states import LabelKind
from pipeline.imaging.pixel_store import open_pixels
from pipeline.learning.bank.files import BankManifest
from pipeline.learning.inputs.augmentation import Augmentation
from pipeline.learning.inputs.devices import choose_devices
from pipeline.learning.loop.checkpoints import locked, write_checkpoint
from pipeline.learning.loop.interruption import interruptible
from pipeline.learning.recipes import Recipe
from pipeline.learning.strategies import banked
from pipeline.learning.study import Study
from pipeline.learning.training import Outcome, train_strategy
from pipeline.learning.volumes.roads import choose_road, normalisation_for
from pipeline.learning.weights.files import file_digest
from pipeline.learning.weights.loading import VerifiedWeights, verify
from pipeline.train_settings import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor

# Of a pixel digest: enough to recognise an image, and the list stays short.
_DIGITS = 16


def train(
    *,
    settings: TrainSettings,
    seed: int,
    images: Path,
    pixels: Path,
    folds: Path,
    bank: Path,
    classes: tuple[str, ...],
    fold: int,
    state: Path,
    checkpoint: Path,
    history: Path,
    predictions: Path,
    training: Path,
    threads: int = 1,
    gpus: int = 1,
    kind: LabelKind = "classes",
) -> None:
    """Train every strategy of the study in one fold; the study's own comes first and gives the checkpoint.

    Parameters
    ----------
    settings
        The section `train`.
    seed
        Of the study.
    images
        Table of `Image`.
    pixels
        The stored pixels, a ``.npy`` array.
    folds
        Table of `FoldRole`.
    bank
        The list of the bank's shards; read only if a strategy needs it.
    classes
        Names of the classes, or of the findings, as in the section `label`.
    fold
        Number of the fold, from 0.
    state
        Folder of the resumable state.
    checkpoint
        The trained network written, safetensors.
    history
        Table of `EpochLog` written.
    predictions
        Table of `Prediction` written.
    training
        Table of `TrainingSummary` written, one row for each strategy.
    threads
        Processor threads; the last digits of the results depend on them.
    gpus
        GPUs that the job may use.
    kind
        What the labels are.
    """
    roles = read_table(folds, FoldRole)
    index = read_table(images, Image)
    require_one_kind(index)
    stored = open_pixels(pixels, len(index))
    assert_same_rows(roles, index)
    assert_no_leakage(roles, {image.image_id: image.pixel_sha256 for image in index})
    weights = verify(settings.weights_choice)
    devices, placement = choose_devices(settings.device, settings.devices, settings.precision, threads, gpus)
    study = Study(
        classes=classes,
        roles=tuple(role for role in roles if role.fold == fold),
        fold=fold,
        seed=seed,
        pixels=stored,
        pixels_sha256=file_digest(pixels),
        backbone=settings.backbone,
        recipe=_recipe(settings),
        augmentation=Augmentation(**settings.augmentation.model_dump()),
        placement=placement,
        code=fingerprint(__name__),
        bank_code=fingerprint("pipeline.stages.bank"),
        views=settings.views,
        networks=settings.seeds,
        head=settings.head,
        state_minutes=settings.state_minutes,
        bank=_bank(bank, settings),
        road=choose_road(stored, **settings.volumes.model_dump()),
        kind=kind,
        devices=devices,
        compile=settings.compile,
    )
    _announce(study, weights)
    with locked(state), interruptible():
        outcomes = [train_strategy(name, study, weights, state) for name in _strategies(settings)]
    write_table(history, EpochLog, [log for outcome in outcomes for log in outcome.history])
    write_table(predictions, Prediction, [row for outcome in outcomes for row in outcome.predictions])
    digests = {image.image_id: image.pixel_sha256[:_DIGITS] for image in index}
    write_table(
        training, TrainingSummary, [_with_known(outcome.summary, study, weights, digests) for outcome in outcomes]
    )
    _write_networks(checkpoint, outcomes[0], study, weights, digests)


def _announce(study: Study, weights: VerifiedWeights) -> None:
    place = study.placement
    started = f"{weights.source} ({weights.ancestry})" if weights.ancestry else weights.source
    road = f", volumes by {study.road.name} ({study.road.slices} looks each)" if study.road else ""
    device = f"{study.devices} x {place.device}" if study.devices > 1 else place.device
    where = f"{device}, {place.precision}, {place.threads} threads"
    say(f"train: fold {study.fold} on {where}, weights {started}{road}")
    say(f"train: inputs are normalised by {normalisation_for(study.road, weights.normalisation).in_words()}")


def _strategies(settings: TrainSettings) -> tuple[str, ...]:
    return tuple(dict.fromkeys((settings.strategy, *settings.compare)))


def _bank(path: Path, settings: TrainSettings) -> BankManifest | None:
    """Read the list of the bank's shards if a strategy of the study reads the bank."""
    is_random = settings.weights.source == "random"
    return read_document(path, BankManifest) if banked(_strategies(settings), is_random=is_random) else None


def _recipe(settings: TrainSettings) -> Recipe:
    return Recipe(
        epochs=settings.epochs,
        patience=settings.patience,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_fraction=settings.warmup_fraction,
        label_smoothing=settings.label_smoothing,
        balance_classes=settings.balance_classes,
        loss=settings.loss,
        focal_gamma=settings.focal_gamma,
        ema_decay=settings.ema_decay,
        unfreeze_every=settings.unfreeze_every,
        block_rate_factor=settings.block_rate_factor,
    )


def _with_known(
    summary: TrainingSummary, study: Study, weights: VerifiedWeights, digests: Mapping[str, str]
) -> TrainingSummary:
    """Count the test images that the weights' own run was trained or chosen on."""
    tested = [digests[role.image_id] for role in study.roles if role.role == "test"]
    known = sum(digest in weights.seen for digest in tested) if summary.weights_source == "run" else 0
    return summary.model_copy(update={"tested_before": known})


def _write_networks(
    path: Path, outcome: Outcome, study: Study, weights: VerifiedWeights, digests: Mapping[str, str]
) -> None:
    """Write the weights with what is needed to use them; times stay out, so that equal runs give equal bytes."""
    summary = outcome.summary
    seen = {digests[role.image_id] for role in study.roles if role.role != "test"}
    facts = summary.model_dump(mode="json", exclude={"seconds", "processor_seconds", "software"})
    inputs = outcome.normalisation._asdict()
    is_descendant = summary.weights_source == "run"
    volumes = {"volumes": {"road": summary.road, "slices": summary.slices, **_form(outcome)}} if summary.road else {}
    ancestry, before = (weights.ancestry, weights.seen) if is_descendant else ("", frozenset())
    more = {**volumes, "seed": study.seed, "normalisation": inputs, "ancestry": ancestry, "seen": sorted(seen | before)}
    write_checkpoint(path, _tensors(outcome), {**facts, **more})


def _form(outcome: Outcome) -> dict[str, object]:
    """Say how the network is built, if it takes whole volumes: another study starts from it by that."""
    return {"form": asdict(outcome.form)} if outcome.form else {}


def _tensors(outcome: Outcome) -> "dict[str, Tensor]":
    """Name the weights: those of one network as they are, those of an ensemble ``network1/...`` and so on."""
    if len(outcome.networks) == 1:
        return outcome.networks[0].state_dict()
    members = enumerate((network.state_dict() for network in outcome.networks), start=1)
    return {f"network{number}/{name}": value for number, state in members for name, value in state.items()}
