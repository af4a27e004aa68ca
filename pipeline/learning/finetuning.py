"""Fine-tuning: one loop for every strategy, seeded by name and resumable after every epoch.

All randomness of an epoch is drawn from seeds named after the study, the fold and the epoch. A run that was
killed therefore goes on from its last saved epoch and ends with the same weights, bit for bit, as one that
was not.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.core.errors import TrainingError
from pipeline.core.progress import format_duration, say
from pipeline.core.records import EpochLog
from pipeline.core.seeding import derive_seed
from pipeline.learning.backbones import block_of, head_of
from pipeline.learning.batches import Inputs, shuffled_batches
from pipeline.learning.checkpoints import Checkpoint, StateFolder
from pipeline.learning.criteria import calibrated_loss, validation_auroc
from pipeline.learning.inference import predict_logits

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


# A pre-trained network needs small steps, a random one large steps, for the same optimiser (AdamW).
RANDOM_START_FACTOR = 10.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of a fine-tuning; their meanings are those of the configuration's section ``train``."""

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_fraction: float
    label_smoothing: float
    balance_classes: bool


@dataclass(frozen=True, kw_only=True)
class FoldData:
    """What one fold gives to training: rows of the inputs and class indices, both of shape (images,)."""

    inputs: Inputs
    train_rows: np.ndarray
    train_classes: np.ndarray
    validation_rows: np.ndarray
    validation_classes: np.ndarray
    class_weights: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Task:
    """Which training this is: names for logs and seeds, and where it starts.

    Attributes
    ----------
    backbone
        Key of `pipeline.learning.backbones.BACKBONES`.
    trained_blocks
        Those of its blocks whose parameters are trained.
    is_pretrained
        The network starts from a source, with a head already fitted to its features. Batch normalisation then
        keeps the source's statistics everywhere (a few hundred images estimate them badly), and the start
        counts as epoch 0: training that does not improve on it is not used. From random weights the
        statistics are learned and steps are `RANDOM_START_FACTOR` times as large.
    """

    strategy: str
    fold: int
    seed: int
    backbone: str
    trained_blocks: frozenset[str]
    is_pretrained: bool


class Tuned(NamedTuple):
    """What a fine-tuning did: a log for each epoch run, and the epoch whose weights were kept (0: the start)."""

    history: list[EpochLog]
    best_epoch: int


@dataclass
class _Run:
    """What changes from epoch to epoch."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    best: dict[str, "Tensor"] = field(default_factory=dict)
    history: list[EpochLog] = field(default_factory=list)

    def is_finished(self, recipe: Recipe) -> bool:
        """Tell whether all epochs are run or patience has ended."""
        return self.epoch >= recipe.epochs or self.epoch - self.best_epoch >= recipe.patience

    def keep(self, network: "nn.Module", loss: float) -> None:
        """Remember the network of this epoch as the best so far."""
        self.best_loss, self.best_epoch = loss, self.epoch
        self.best = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def class_weights(classes: np.ndarray, count: int, *, balance: bool) -> np.ndarray:
    """Weights that give every class the same total, with mean 1 over the images; ones if not `balance`.

    Examples
    --------
    >>> class_weights(np.array([0, 0, 0, 1]), 2, balance=True).round(3).tolist()
    [0.667, 2.0]
    """
    if not balance:
        return np.ones(count)
    frequencies = np.bincount(classes, minlength=count)
    return len(classes) / (count * np.maximum(frequencies, 1))


def restore_prevalence(network: "nn.Module", weights: np.ndarray) -> None:
    """Take the class weights of the loss out of the head's bias.

    A network trained with class weights w estimates w_c p(c|x) / sum(w p); subtracting log(w_c) from each
    logit gives back p(c|x) (Elkan, 2001, "The foundations of cost-sensitive learning", theorem 2).
    """
    import torch

    with torch.no_grad():
        bias = head_of(network).bias
        bias.sub_(torch.from_numpy(np.log(weights)).to(bias))


def fine_tune(network: "nn.Module", data: FoldData, recipe: Recipe, task: Task, states: StateFolder) -> Tuned:
    """Train a network in place; it ends with the weights of the epoch with the lowest validation loss.

    Parameters
    ----------
    network
        With its new head; it is moved to the device.
    data
        The fold's images.
    recipe
        The numbers.
    task
        Names and the blocks to train.
    states
        Where the state after each epoch is kept, and found again after an interruption.

    Returns
    -------
    Tuned
        The history and the epoch kept.

    Raises
    ------
    TrainingError
        If the loss is no longer a finite number.
    """
    import torch

    network.to(data.inputs.placement.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = [name for name, _ in network.named_parameters() if block_of(name, task.backbone) in task.trained_blocks]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in trained)
    optimiser = _optimiser(network, trained, recipe, data.inputs.placement.device)
    run = _Run()
    saved = states.latest()
    if saved is None and task.is_pretrained:
        logits = predict_logits(network, data.inputs, data.validation_rows)
        run.keep(network, calibrated_loss(logits, data.validation_classes, data.class_weights))
    if saved is not None:
        _restore(saved, network, optimiser, run)
        say(f"fold {task.fold} {task.strategy}: resumed after epoch {run.epoch}")
    started, first = time.monotonic(), run.epoch
    while not run.is_finished(recipe):
        run.epoch += 1
        log = _epoch(network, optimiser, data, recipe, task, run.epoch)
        run.history.append(log)
        if log.validation_loss < run.best_loss:
            run.keep(network, log.validation_loss)
        if states.is_due() or run.is_finished(recipe):
            states.save(run.epoch, *_freeze(network, optimiser, run))
        _announce(log, recipe, run, (time.monotonic() - started) / (run.epoch - first))
    network.load_state_dict(run.best)
    return Tuned(run.history, run.best_epoch)


def learning_rate_at(step: int, steps: int, recipe: Recipe) -> float:
    """Learning rate of a step, counted from 0: a linear rise, then half a cosine down to 0 (Loshchilov, 2017).

    References
    ----------
    arXiv:1608.03983
    """
    rising = recipe.warmup_fraction * steps
    if step < rising:
        return recipe.learning_rate * (step + 1) / (rising + 1)
    share = (step - rising) / max(1.0, steps - rising)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def set_mode(network: "nn.Module", backbone: str, trained_blocks: Iterable[str], *, keep_statistics: bool) -> None:
    """Put trained blocks into training mode; batch normalisation of others, or of all, keeps its statistics."""
    from torch.nn.modules.batchnorm import _BatchNorm

    blocks = set(trained_blocks)
    network.eval()
    for name, module in network.named_modules():
        is_kept = keep_statistics and isinstance(module, _BatchNorm)
        if name and block_of(name, backbone) in blocks and not any(module.children()) and not is_kept:
            module.train()


def _epoch(
    network: "nn.Module", optimiser: "torch.optim.AdamW", data: FoldData, recipe: Recipe, task: Task, epoch: int
) -> EpochLog:
    import torch

    started = time.monotonic()
    inputs = data.inputs
    set_mode(network, task.backbone, task.trained_blocks, keep_statistics=task.is_pretrained)
    factor = 1.0 if task.is_pretrained else RANDOM_START_FACTOR
    classes_of = dict(zip(data.train_rows.tolist(), data.train_classes.tolist(), strict=True))
    weights = torch.from_numpy(data.class_weights).float().to(inputs.placement.device)
    batches = shuffled_batches(data.train_rows, recipe.batch_size, task.seed, task.fold, epoch)
    total = torch.zeros((), device=inputs.placement.device)
    for index, rows in enumerate(batches):
        step = (epoch - 1) * len(batches) + index
        rate = factor * learning_rate_at(step, recipe.epochs * len(batches), recipe)
        for group in optimiser.param_groups:
            group["lr"] = rate
        truth = torch.tensor([classes_of[row] for row in rows.tolist()], device=inputs.placement.device)
        seed = derive_seed(task.seed, "augmentation", task.fold, epoch, index)
        images = inputs.train(rows, seed)
        with inputs.placement.autocast():
            logits = network(images)
        loss = torch.nn.functional.cross_entropy(
            logits.float(), truth, weight=weights, label_smoothing=recipe.label_smoothing
        )
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        total += loss.detach() * len(rows)  # read once an epoch: reading it each step would wait for the GPU
    train_loss = float(total) / len(data.train_rows)
    logits = predict_logits(network, inputs, data.validation_rows)
    validation_loss = calibrated_loss(logits, data.validation_classes, data.class_weights)
    if not (math.isfinite(train_loss) and math.isfinite(validation_loss)):
        what = f"the loss is not a finite number in epoch {epoch} of fold {task.fold} ({task.strategy})"
        raise TrainingError(what, where="train", remedy="lower train.learning_rate, or set train.precision: float32")
    return EpochLog(
        strategy=task.strategy,
        fold=task.fold,
        epoch=epoch,
        train_loss=train_loss,
        validation_loss=validation_loss,
        validation_auroc=validation_auroc(logits, data.validation_classes),
        learning_rate=rate,
        seconds=time.monotonic() - started,
    )


def _optimiser(network: "nn.Module", trained: list[str], recipe: Recipe, device: str) -> "torch.optim.AdamW":
    """AdamW without decay for biases and normalisation, whose size carries meaning of its own."""
    import torch

    parameters = {name: value for name, value in network.named_parameters() if name in trained}
    groups = [
        {"params": [value for value in parameters.values() if value.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [value for value in parameters.values() if value.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=device == "cuda")


def _freeze(
    network: "nn.Module", optimiser: "torch.optim.AdamW", run: _Run
) -> tuple[dict[str, "Tensor"], dict[str, object]]:
    """Give the state after an epoch as tensors and facts."""
    tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in run.best.items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{index}/{name}": value for name, value in state.items()}
    facts: dict[str, object] = {
        "epoch": run.epoch,
        "best_epoch": run.best_epoch,
        "best_loss": run.best_loss,
        "history": [log.model_dump(mode="json") for log in run.history],
    }
    return tensors, facts


def _restore(saved: Checkpoint, network: "nn.Module", optimiser: "torch.optim.AdamW", run: _Run) -> None:
    import torch

    parts: dict[str, dict[str, Tensor]] = {"network": {}, "best": {}, "optimiser": {}}
    for name, value in saved.tensors.items():
        part, rest = name.split("/", maxsplit=1)
        parts[part][rest] = value
    network.load_state_dict(parts["network"])
    run.best = parts["best"]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in parts["optimiser"].items():
        index, key = name.split("/")
        moments.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    for parameter, state in optimiser.state.items():
        for key, value in state.items():
            if value.shape == parameter.shape:  # files hold plain order; fused optimisers want the parameter's own
                state[key] = torch.empty_like(parameter).copy_(value)
    run.epoch = int(saved.facts["epoch"])
    run.best_epoch = int(saved.facts["best_epoch"])
    run.best_loss = float(saved.facts["best_loss"])
    run.history = [EpochLog.model_validate(row) for row in saved.facts["history"]]


def _announce(log: EpochLog, recipe: Recipe, run: _Run, seconds_per_epoch: float) -> None:
    auroc = "-" if log.validation_auroc is None else f"{log.validation_auroc:.3f}"
    mark = " *" if run.best_epoch == log.epoch else ""
    left = seconds_per_epoch * (recipe.epochs - log.epoch)
    say(
        f"fold {log.fold} {log.strategy}: epoch {log.epoch}/{recipe.epochs}  loss {log.train_loss:.3f}  "
        f"validation loss {log.validation_loss:.3f}  AUROC {auroc}{mark}  "
        f"up to {format_duration(left)} left"
    )
