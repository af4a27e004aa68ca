"""One strategy in one fold: from verified weights to a trained network and its raw predictions."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.core.progress import say
from pipeline.core.provenance import numerical, versions
from pipeline.core.records import EpochLog, Prediction, Role, TrainingSummary
from pipeline.core.seeding import derive_seed
from pipeline.core.states import truth_of
from pipeline.learning.bank.files import BankManifest
from pipeline.learning.bank.filling import setting_of
from pipeline.learning.bank.use import Cut, cut_for_blocks, cut_for_probe, require_same
from pipeline.learning.findings import check_states
from pipeline.learning.inference import mean_probability_logits, pooled_features, predict_logits
from pipeline.learning.inputs.batches import Inputs, PixelSource
from pipeline.learning.inputs.devices import choose_placement, device_name
from pipeline.learning.inputs.feeding import settle
from pipeline.learning.inputs.transfer import network_on_device
from pipeline.learning.loop.checkpoints import StateFolder
from pipeline.learning.loop.compiling import compiles
from pipeline.learning.loop.finetuning import (
    FoldData,
    Task,
    Tuned,
    class_weights,
    fine_tune,
    restore_prevalence,
)
from pipeline.learning.loop.launching import together
from pipeline.learning.loop.team import Team
from pipeline.learning.networks.backbones import BACKBONES, HEAD, SLICES, block_of
from pipeline.learning.networks.blocks import feature_blocks, joined_network
from pipeline.learning.networks.forms import VolumeForm
from pipeline.learning.probing.probe import check_classes, fit_head, install_head
from pipeline.learning.probing.sweep import ProbeData
from pipeline.learning.strategies import STRATEGIES, BlockPlan, Strategy, banked
from pipeline.learning.study import Study
from pipeline.learning.volumes.roads import form_for, network_for, normalisation_for
from pipeline.learning.weights.loading import VerifiedWeights
from pipeline.learning.weights.sources import Normalisation

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Outcome:
    """The trained networks (one, or an ensemble) with everything that is written about them and their inputs."""

    networks: "tuple[nn.Module, ...]"
    history: list[EpochLog]
    predictions: list[Prediction]
    summary: TrainingSummary
    normalisation: Normalisation
    form: VolumeForm | None = None  # of networks that take whole volumes


def train_strategy(name: str, study: Study, weights: VerifiedWeights, states: Path) -> Outcome:
    """Train one strategy in one fold and predict its validation and test images.

    Parameters
    ----------
    name
        A key of `pipeline.learning.strategies.STRATEGIES`.
    study
        What all strategies share.
    weights
        The study's verified weights; strategies that do not use them put random ones into the same network.
    states
        Folder for resumable states.

    Raises
    ------
    WeightsError
        If the file does not fit the backbone.
    TrainingError
        If the training diverges, does not fit into memory, or a class or finding cannot be learned.
    ArtefactError
        If the labels are not those that the study asks for.
    TrainingInterruptedError
        If the process was asked to end; the state is saved.
    """
    started, processor = time.monotonic(), time.process_time()
    strategy = STRATEGIES[name]
    used = weights if strategy.uses_source else weights.untrained()
    data = _fold_data(study, used)
    if study.kind == "findings":
        check_states(data.train_classes, data.validation_classes, study.classes, f"fold {study.fold}")
    else:
        check_classes(data.train_classes, len(study.classes), data.validation_classes)
    plan = _plan(strategy, study, is_random=used.path is None)
    cuts, courses = [], []
    for member in range(_members(strategy, study, used)):
        if member:
            say(f"fold {study.fold} {name}: network {member + 1} of {study.networks}")
        cut, tuned = _train(name, study, used, data, plan, _Member(member, states))
        cuts.append(cut)
        courses.append(tuned)
    normalisation = normalisation_for(study.road, used.normalisation)
    summary = TrainingSummary(
        strategy=name,
        fold=study.fold,
        backbone=study.backbone,
        classes=study.classes,
        kind=study.kind,
        weights_source=used.source,
        weights_file=used.name,
        weights_sha256=used.sha256,
        weights_licence=used.licence,
        inputs_normalised_by=normalisation.in_words(),
        **_sizes(cuts[0].whole, study, plan, strategy),
        head_blocks=cuts[0].blocks or feature_blocks(study.backbone)[-1:],
        image_size=study.pixels.shape[-1],
        road=study.road.name if study.road else "",
        slices=study.road.slices if study.road else 1,
        networks=len(cuts),
        epochs=len(courses[0].history),
        best_epoch=courses[0].best_epoch,
        train_images=len(data.train_rows),
        validation_images=len(data.validation_rows),
        test_images=sum(role.role == "test" for role in study.roles),
        device=device_name(study.placement) if study.devices == 1 else _team_name(study),
        precision=study.placement.precision,
        threads=study.placement.threads,
        seed=study.seed,
        seconds=time.monotonic() - started + sum(course.earlier[0] for course in courses),
        processor_seconds=time.process_time() - processor + sum(course.earlier[1] for course in courses),
        software=versions(),
    )
    predictions = _predict(cuts, name, study, data.inputs)
    networks = tuple(cut.whole for cut in cuts)
    form = form_for(study.road, study.backbone, used)
    return Outcome(networks, courses[0].history, predictions, summary, normalisation, form)


class _Member(NamedTuple):
    """One network of an ensemble: its number, from 0, and the folder for the states of all."""

    number: int
    states: Path

    def seed(self, study: Study) -> int:
        """Give the study's own seed to the first network, so that an ensemble begins with what one run gives."""
        return derive_seed(study.seed, "network", self.number) if self.number else study.seed

    def folder(self, name: str) -> Path:
        return self.states / (f"{name}-{self.number}" if self.number else name)


def _members(strategy: Strategy, study: Study, weights: VerifiedWeights) -> int:
    """How many networks differ by their seeds: of a logistic regression on given features there is but one."""
    return 1 if strategy.head == "logistic" and weights.path is not None else study.networks


def _plan(strategy: Strategy, study: Study, *, is_random: bool) -> tuple[BlockPlan, ...]:
    blocks, recipe = BACKBONES[study.backbone].blocks, study.recipe
    plan = strategy.plan(
        blocks,
        epochs=recipe.epochs,
        unfreeze_every=recipe.unfreeze_every,
        block_rate_factor=recipe.block_rate_factor,
        is_random=is_random,
    )
    closed = [block for block in blocks if block in strategy.trained_blocks(blocks) - {one.name for one in plan}]
    if closed:
        say(f"train: {recipe.epochs} epochs end before these blocks would be opened: {', '.join(closed)}")
    return plan


def _train(
    name: str, study: Study, used: VerifiedWeights, data: FoldData, plan: tuple[BlockPlan, ...], member: _Member
) -> tuple[Cut, Tuned]:
    """Train one network, and take the class weights out of its head again."""
    cut = _begin(name, study, used, data, member)
    data = replace(data, inputs=cut.inputs)
    # Fine-tuning starts from the probe: with a random head, the first steps would distort the source's features
    # (Kumar et al., 2022, arXiv:2202.10054).
    if STRATEGIES[name].head == "logistic" or used.path is not None:
        _fit_probe(cut.part, data)
    tuned = Tuned([], 0)
    if STRATEGIES[name].head == "gradient":
        task = _task(name, study, used, data, plan, member)
        key = _key(name, study, used, task)
        states = StateFolder(member.folder(name), key, study.state_minutes)
        order = (name, study, used, task, member, key)
        with together(study.devices, study.placement.device, follow_training, *order) as team:
            tuned = fine_tune(cut.part, data, study.recipe, task, states, team)
    restore_prevalence(cut.part, data.class_weights)
    return cut, tuned


def follow_training(
    team: Team, name: str, study: Study, used: VerifiedWeights, task: Task, member: _Member, key: str
) -> None:
    """Train a network as another process of the team than the first, from whom its weights come."""
    choose_placement(study.placement.device, study.placement.precision, study.placement.threads)
    data = _fold_data(study, used)
    cut = _begin(name, study, used, data, member)
    states = StateFolder(member.folder(name), key, study.state_minutes, is_read_only=True)
    fine_tune(cut.part, replace(data, inputs=cut.inputs), study.recipe, task, states, team)


def _begin(name: str, study: Study, used: VerifiedWeights, data: FoldData, member: _Member) -> Cut:
    """Make the network with its new head, and the part of it that is trained."""
    seed = member.seed(study)
    head_seed = derive_seed(seed, "head", study.fold)
    network = network_for(
        study.road,
        study.backbone,
        used,
        len(study.classes),
        seed=derive_seed(seed, "initialisation", study.fold),
        head_seed=head_seed,
    )
    return _cut(name, network, data, study, used, head_seed)


def _task(
    name: str, study: Study, used: VerifiedWeights, data: FoldData, plan: tuple[BlockPlan, ...], member: _Member
) -> Task:
    steps = study.recipe.epochs * len(data.train_rows) // study.recipe.batch_size
    return Task(
        strategy=name,
        fold=study.fold,
        seed=member.seed(study),
        backbone=study.backbone,
        plan=plan,
        is_pretrained=used.path is not None,
        is_compiled=compiles(study.compile, study.placement, steps),
    )


def _bank_of(name: str, study: Study) -> BankManifest | None:
    """Give the bank if it serves a strategy."""
    return study.bank if study.bank is not None and banked([name], is_random=False) else None


def _cut(name: str, network: "nn.Module", data: FoldData, study: Study, used: VerifiedWeights, seed: int) -> Cut:
    """Cut off what a bank has computed already; without one the whole network is used."""
    bank, source = _bank_of(name, study), data.inputs
    if study.head == "joined" and STRATEGIES[name].can_join():
        whole = joined_network(network, study.backbone, source.plain(data.train_rows[:1]), seed)
        return Cut(whole, source, whole, feature_blocks(study.backbone))
    cut = None
    if bank is not None and isinstance(source, PixelSource):
        require_same(
            bank, used.identity, study.pixels_sha256, setting_of(source, study.seed, bank.views), study.bank_code
        )
        if STRATEGIES[name].head == "logistic":
            fold = ProbeData(
                data.train_rows, data.train_classes, data.validation_rows, data.validation_classes, data.class_weights
            )
            cut = cut_for_probe(network, study.backbone, bank, source, fold)
        else:
            trained = STRATEGIES[name].trained_blocks(BACKBONES[study.backbone].blocks)
            cut = cut_for_blocks(network, study.backbone, bank, source, trained)
    return cut or Cut(network, source, network)


def _sizes(network: "nn.Module", study: Study, plan: tuple[BlockPlan, ...], strategy: Strategy) -> dict[str, int]:
    """Count trained and frozen parameters; a logistic regression leaves the pooling of slices as it was."""
    trained = {HEAD, *(block.name for block in plan)}
    sizes = {"trained_parameters": 0, "frozen_parameters": 0}
    for parameter, value in network.named_parameters():
        is_pooling = parameter.startswith(f"{SLICES}.")
        is_trained = block_of(parameter, study.backbone) in trained and not (is_pooling and strategy.head == "logistic")
        sizes["trained_parameters" if is_trained else "frozen_parameters"] += value.numel()
    return sizes


def _fold_data(study: Study, weights: VerifiedWeights) -> FoldData:
    parts = {role: [one for one in study.roles if one.role == role] for role in ("train", "validation")}
    rows = {role: np.array([one.row for one in part]) for role, part in parts.items()}
    truth = {role: truth_of(part, study.classes, study.kind) for role, part in parts.items()}
    return FoldData(
        inputs=settle(
            PixelSource(
                study.pixels,
                normalisation_for(study.road, weights.normalisation),
                study.placement,
                study.augmentation,
                road=study.road,
            )
        ),
        train_rows=rows["train"],
        train_classes=truth["train"],
        validation_rows=rows["validation"],
        validation_classes=truth["validation"],
        class_weights=class_weights(truth["train"], len(study.classes), balance=study.recipe.balance_classes),
    )


def _fit_probe(network: "nn.Module", data: FoldData) -> None:
    """Fit the head to the network's features as they are."""
    network_on_device(network, data.inputs.placement.device)
    train = pooled_features(network, data.inputs, data.train_rows)
    validation = pooled_features(network, data.inputs, data.validation_rows)
    head = fit_head(train, data.train_classes, validation, data.validation_classes, data.class_weights)
    install_head(network, head)


def _predict(cuts: Sequence[Cut], name: str, study: Study, source: Inputs) -> list[Prediction]:
    """Predict the validation and test images; variants of them are looked at whole, as a bank does not hold them."""
    ways = [(cut.whole, source) if study.views else (cut.part, cut.inputs) for cut in cuts]
    for network, inputs in ways:
        network_on_device(network, inputs.placement.device)
    roles: tuple[Role, ...] = ("validation", "test")
    found: list[Prediction] = []
    for part in roles:
        members = [role for role in study.roles if role.role == part]
        rows, seed = np.array([role.row for role in members]), derive_seed(study.seed, "views", study.fold)
        looks = [predict_logits(network, inputs, rows, views=study.views, seed=seed) for network, inputs in ways]
        logits = mean_probability_logits(looks, study.kind)
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


def _key(name: str, study: Study, weights: VerifiedWeights, task: Task) -> str:
    """Digest everything that the weights after an epoch depend on, down to the kind of processor."""
    facts = {
        "strategy": name,
        "classes": study.classes,
        "kind": study.kind,
        "roles": [(role.row, role.label, role.role) for role in study.roles],
        "fold": study.fold,
        "seed": task.seed,
        "head": study.head,
        "pixels": study.pixels_sha256,
        "backbone": study.backbone,
        "weights": weights.identity,
        "normalisation": weights.normalisation,
        "form": asdict(form) if (form := form_for(study.road, study.backbone, weights)) else None,
        "recipe": asdict(study.recipe),
        "augmentation": asdict(study.augmentation),
        "bank": bank.key if (bank := _bank_of(name, study)) else "",
        "road": asdict(study.road) if study.road else None,
        "placement": study.placement,
        "device": device_name(study.placement),
        # Parts of batches are summed up in another order, and compiled kernels round otherwise.
        "devices": study.devices,
        "is_compiled": task.is_compiled,
        "software": numerical(versions()),
        "code": study.code,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _team_name(study: Study) -> str:
    return f"{study.devices} x {device_name(study.placement)}"
