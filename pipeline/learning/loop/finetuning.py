"""Fine-tuning: one loop for every strategy, seeded by name and resumable after every step.

All randomness is drawn from seeds named after the study, the fold, the epoch and the step. A run that was killed
therefore goes on from its last saved state and ends with the same weights, bit for bit, as one that was not.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.core.errors import TrainingError
from pipeline.core.progress import format_duration, say
from pipeline.core.records import EpochLog
from pipeline.core.seeding import derive_seed
from pipeline.learning.criteria import AnyCriterion, calibrated_loss, criterion_for, validation_auroc
from pipeline.learning.findings import is_findings, state_weights
from pipeline.learning.inference import predict_together
from pipeline.learning.inputs.batches import Inputs, shuffled_batches
from pipeline.learning.inputs.devices import Placement
from pipeline.learning.inputs.feeding import feed
from pipeline.learning.inputs.transfer import network_on_device, on_device
from pipeline.learning.loop.averaging import WeightAverage
from pipeline.learning.loop.checkpoints import StateFolder
from pipeline.learning.loop.compiling import compiled
from pipeline.learning.loop.gradients import Differentiated, differentiate
from pipeline.learning.loop.interruption import TrainingInterruptedError, end_if_asked, is_asked_to_end
from pipeline.learning.loop.memory import announce, forecast
from pipeline.learning.loop.optimisers import RANDOM_START_FACTOR, adamw
from pipeline.learning.loop.resumption import Run
from pipeline.learning.loop.statistics import shared_statistics
from pipeline.learning.loop.team import ALONE, Team
from pipeline.learning.networks.backbones import block_of, head_of
from pipeline.learning.recipes import Recipe, learning_rate_at, opening_share
from pipeline.learning.strategies import BlockPlan

if TYPE_CHECKING:
    from torch import Tensor, nn


# In nats. Of validation parts without error, losses are what their search leaves over, and rounding would choose.
LEAST_IMPROVEMENT = 1e-4


@dataclass(frozen=True, kw_only=True)
class FoldData:
    """What one fold gives to training: rows of the inputs and class indices, both of shape (images,).

    Of several findings, the classes are states of shape (images, findings), see `pipeline.learning.findings`.
    """

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
        Key of `pipeline.learning.networks.backbones.BACKBONES`.
    plan
        Those of its blocks whose parameters are trained, from which epoch and how fast.
    is_pretrained
        The network starts from a source, with a head already fitted to its features. Batch normalisation then
        keeps the source's statistics everywhere (a few hundred images estimate them badly), and the start
        counts as epoch 0: training that does not improve on it is not used. From random weights the
        statistics are learned and steps are `RANDOM_START_FACTOR` times as large.
    is_compiled
        Steps run compiled once all blocks are open (`pipeline.learning.loop.compiling`).
    """

    strategy: str
    fold: int
    seed: int
    backbone: str
    plan: tuple[BlockPlan, ...]
    is_pretrained: bool
    is_compiled: bool = False

    def open_blocks(self, epoch: int) -> frozenset[str]:
        """Name the blocks that are trained in an epoch."""
        return frozenset(block.name for block in self.plan if block.first_epoch <= epoch)

    @property
    def last_opening(self) -> int:
        """Epochs done before the last block is opened; patience does not end before."""
        return max(block.first_epoch for block in self.plan) - 1


class Tuned(NamedTuple):
    """What a fine-tuning did.

    Attributes
    ----------
    history
        A log for each epoch run.
    best_epoch
        The epoch whose weights were kept; 0: the start.
    earlier
        Seconds, and seconds of the processor, that processes before this one have spent on it.
    """

    history: list[EpochLog]
    best_epoch: int
    earlier: tuple[float, float] = (0.0, 0.0)


def class_weights(classes: np.ndarray, count: int, *, balance: bool) -> np.ndarray:
    """Weights that give every class the same total, with mean 1 over the images; ones if not `balance`.

    Of findings the same for absent and present of each, shape (findings, 2).

    Examples
    --------
    >>> class_weights(np.array([0, 0, 0, 1]), 2, balance=True).round(3).tolist()
    [0.667, 2.0]
    """
    if is_findings(classes):
        return state_weights(classes, balance=balance)
    if not balance:
        return np.ones(count)
    frequencies = np.bincount(classes, minlength=count)
    return len(classes) / (count * np.maximum(frequencies, 1))


def restore_prevalence(network: "nn.Module", weights: np.ndarray) -> None:
    """Take the class weights of the loss out of the head's bias.

    A network trained with class weights w estimates w_c p(c|x) / sum(w p); subtracting log(w_c) from each
    logit gives back p(c|x) (Elkan, 2001, "The foundations of cost-sensitive learning", theorem 2). The logit of a
    finding is that of present less that of absent.
    """
    import torch

    logs = np.log(weights)
    if is_findings(weights):
        logs = logs[:, 1] - logs[:, 0]
    with torch.no_grad():
        bias = head_of(network).bias
        bias.sub_(torch.from_numpy(logs).to(bias))


def fine_tune(
    network: "nn.Module", data: FoldData, recipe: Recipe, task: Task, states: StateFolder, team: Team = ALONE
) -> Tuned:
    """Train a network in place; it ends with the weights of the epoch with the lowest validation loss.

    An epoch replaces an earlier one only if its loss is lower by more than `LEAST_IMPROVEMENT`.

    Parameters
    ----------
    network
        With its new head; it is moved to the device. It may be the upper part of a backbone that takes what the
        frozen part below gives, if its names are those of the backbone.
    data
        The fold's images.
    recipe
        The numbers.
    task
        Names and the blocks to train.
    states
        Where the state after each epoch is kept, and found again after an interruption.
    team
        The processes that train together; all begin with the first one's network, and end with the same.

    Returns
    -------
    Tuned
        The history and the epoch kept.

    Raises
    ------
    TrainingError
        If the loss is no longer a finite number, or the smallest batch does not fit into memory.
    TrainingInterruptedError
        If the process was asked to end; the state is saved.
    """
    network_on_device(network, data.inputs.placement.device)
    _require_enough(data, recipe, team)
    team.spread(network)
    run = _begin(network, data, recipe, task, team)
    saved = states.latest()
    if saved is not None:
        run.restore(saved)
        steps = f" and {run.step} steps" if run.step else ""
        team.say(f"fold {task.fold} {task.strategy}: resumed after epoch {run.epoch}{steps}")
    team.require_equal((run.epoch, run.step, run.checksum()), "states (epoch, step, checksum)")
    if saved is None and task.is_pretrained:
        logits = predict_together(network, data.inputs, data.validation_rows, team)
        run.keep(network, calibrated_loss(logits, data.validation_classes, data.class_weights))
    if team.is_first and not _is_finished(run, recipe, task):
        _forecast(run, data, recipe, task)
    started, first = time.monotonic(), run.epoch
    with shared_statistics(network, team if _learns_statistics(run, task) else ALONE):
        while not _is_finished(run, recipe, task):
            log = _epoch(run, data, recipe, task, states)
            if states.is_due() or _is_finished(run, recipe, task):
                run.save(states)
            if team.is_first:
                _announce(log, recipe, run, (time.monotonic() - started) / (run.epoch - first))
    network.load_state_dict(run.best)
    return Tuned(run.history, run.best_epoch, run.earlier)


def set_mode(network: "nn.Module", backbone: str, trained_blocks: Iterable[str], *, keep_statistics: bool) -> None:
    """Put trained blocks into training mode; batch normalisation of others, or of all, keeps its statistics."""
    from torch.nn.modules.batchnorm import _BatchNorm

    blocks = set(trained_blocks)
    network.eval()
    for name, module in network.named_modules():
        is_kept = keep_statistics and isinstance(module, _BatchNorm)
        if name and block_of(name, backbone) in blocks and not is_kept:
            module.training = True  # not of leaves only: EfficientNet's blocks look at their own


def _begin(network: "nn.Module", data: FoldData, recipe: Recipe, task: Task, team: Team = ALONE) -> Run:
    import torch

    planned = {block.name for block in task.plan}
    names = [name for name, _ in network.named_parameters() if block_of(name, task.backbone) in planned]
    optimiser, ordered = adamw(network, names, recipe, task.plan, task.backbone, is_pretrained=task.is_pretrained)
    average = WeightAverage(network, names, recipe.ema_decay) if recipe.ema_decay else None
    run = Run(network, optimiser, ordered, average, torch.zeros((), device=data.inputs.placement.device), team)
    if task.is_compiled and not (team.size > 1 and _learns_statistics(run, task)):
        run.forward = compiled(network)
    if len(data.train_rows) == 1 and _learns_statistics(run, task):
        what = "the training part holds one image, from which batch normalisation cannot learn its statistics"
        raise TrainingError(what, where="train", remedy="use more images, or a source of weights")
    return run


def _require_enough(data: FoldData, recipe: Recipe, team: Team) -> None:
    """Stop if a process would be left without an image of a batch."""
    fewest = min(map(len, shuffled_batches(data.train_rows, recipe.batch_size, 0)))
    if fewest < team.size:
        what = f"batches of {fewest} images cannot be divided over {team.size} processes"
        raise TrainingError(what, where="train.devices", remedy="set train.devices lower, or train.batch_size higher")


def _learns_statistics(run: Run, task: Task) -> bool:
    from torch.nn.modules.batchnorm import _BatchNorm

    return not task.is_pretrained and any(isinstance(module, _BatchNorm) for module in run.network.modules())


def _forecast(run: Run, data: FoldData, recipe: Recipe, task: Task) -> None:
    """Say how much memory the training needs when all blocks are open."""
    _open(run, task, task.last_opening + 1)
    placement, rows = data.inputs.placement, data.train_rows
    example = data.inputs.plain(np.resize(rows, 2))
    found = forecast(run.network, example, placement, is_averaged=run.average is not None)
    largest = max(map(len, shuffled_batches(rows, recipe.batch_size, 0)))  # may be larger than asked for
    announce(found, -(-largest // (run.pieces * run.team.size)), placement)


def _is_finished(run: Run, recipe: Recipe, task: Task) -> bool:
    """Tell whether all epochs are run or patience has ended, which begins when all blocks are open."""
    return run.epoch >= recipe.epochs or run.epoch - max(run.best_epoch, task.last_opening) >= recipe.patience


def _open(run: Run, task: Task, epoch: int) -> None:
    """Freeze or open blocks as planned; a frozen parameter has no gradient, and the optimiser passes it over."""
    blocks = task.open_blocks(epoch)
    for name, parameter in run.network.named_parameters():
        parameter.requires_grad_(block_of(name, task.backbone) in blocks)
    set_mode(run.network, task.backbone, blocks, keep_statistics=task.is_pretrained)


def _steps(run: Run, data: FoldData, recipe: Recipe, task: Task, states: StateFolder) -> float:
    """Take the steps of an epoch that are still to be taken, and give the learning rate of the last one."""
    import torch

    inputs, epoch = data.inputs, run.epoch + 1
    device = inputs.placement.device
    _open(run, task, epoch)
    batches = shuffled_batches(data.train_rows, recipe.batch_size, task.seed, task.fold, epoch)
    # The classes of the whole epoch go to the device at once: in each step the copy would wait for a GPU.
    class_of = dict(zip(data.train_rows.tolist(), data.train_classes.tolist(), strict=True))
    truth = on_device(torch.tensor([class_of[row] for rows in batches for row in rows.tolist()]), device)
    truths = torch.split(truth, [len(rows) for rows in batches])
    gamma = recipe.focal_gamma if recipe.loss == "focal" else None
    weights = on_device(torch.from_numpy(data.class_weights).float(), device)
    criterion = criterion_for(weights, recipe.label_smoothing, gamma)
    smallest = _smallest_piece(run, recipe, task)
    forward = run.forward if epoch > task.last_opening else None  # with other blocks open it would be another one
    if run.step == 0:
        run.loss_sum.zero_()
    seeds = [derive_seed(task.seed, "augmentation", task.fold, epoch, index) for index in range(len(batches))]
    images_of = feed(inputs, batches[run.step :], seeds[run.step :], run.team.part)
    for index, images in enumerate(images_of, start=run.step):
        rows, total = batches[index], recipe.epochs * len(batches)
        _set_rates(run, recipe, task, (epoch - 1) * len(batches) + index, total)
        # For dropout, which knows no generator of its own; the parts of a batch need other masks.
        torch.manual_seed(derive_seed(task.seed, "dropout", task.fold, epoch, index, run.team.number))
        done = _differentiate(run, images, truths[index], criterion, inputs.placement, smallest, forward)
        loss = run.team.add_up(run.network, done.loss)
        run.optimiser.step()
        if run.average is not None:
            run.average.update()
        run.loss_sum += loss * len(rows)
        run.pieces, run.step = done.pieces, index + 1
        if is_asked_to_end() or states.is_overdue():
            run.save(states)
            end_if_asked()
    return _rate(recipe, task, epoch * len(batches) - 1, recipe.epochs * len(batches))


def _differentiate(
    run: Run,
    images: "Tensor",
    truth: "Tensor",
    criterion: AnyCriterion,
    placement: Placement,
    smallest: int,
    forward: "Callable[[Tensor], Tensor] | None",
) -> Differentiated:
    """Compute the gradients of this process's part of a batch; `truth` is that of the whole batch."""
    weight = criterion.weight_of(truth) if run.team.size > 1 else None
    own = truth[run.team.part.within(len(truth))]
    more = {"pieces": run.pieces, "smallest": smallest}
    return differentiate(run.network, images, own, criterion, placement, **more, forward=forward, weight=weight)


def _smallest_piece(run: Run, recipe: Recipe, task: Task) -> int:
    """Fewest images of a piece; where processes share statistics, one cannot compute its part again by itself."""
    if not _learns_statistics(run, task):
        return 1
    return 2 if run.team.size == 1 else recipe.batch_size


def _rate(recipe: Recipe, task: Task, step: int, steps: int) -> float:
    return (1.0 if task.is_pretrained else RANDOM_START_FACTOR) * learning_rate_at(step, steps, recipe)


def _set_rates(run: Run, recipe: Recipe, task: Task, step: int, steps: int) -> None:
    rate = _rate(recipe, task, step, steps)
    for group in run.optimiser.param_groups:
        first_step = (group["first_epoch"] - 1) * steps // recipe.epochs
        group["lr"] = rate * group["rate"] * opening_share(step, first_step, steps, recipe)


def _epoch(run: Run, data: FoldData, recipe: Recipe, task: Task, states: StateFolder) -> EpochLog:
    """Take an epoch's steps, judge the network, and keep it if it is the best so far."""
    started, epoch = time.monotonic(), run.epoch + 1
    rate = _steps(run, data, recipe, task, states)
    train_loss = float(run.loss_sum) / len(data.train_rows)
    with run.judged() as network:
        try:
            run.team.require_equal(run.checksum(), "weights")
            logits = predict_together(network, data.inputs, data.validation_rows, run.team)
        except TrainingInterruptedError:
            is_interrupted = True
        else:
            is_interrupted = False
            validation_loss = calibrated_loss(logits, data.validation_classes, data.class_weights)
            if not (math.isfinite(train_loss) and math.isfinite(validation_loss)):
                what = f"the loss is not a finite number in epoch {epoch} of fold {task.fold} ({task.strategy})"
                remedy = "lower train.learning_rate, or set train.precision: float32"
                raise TrainingError(what, where="train", remedy=remedy)
            run.epoch, run.step = epoch, 0
            if validation_loss < run.best_loss - LEAST_IMPROVEMENT:
                run.keep(network, validation_loss)
    if is_interrupted:  # only now the network has its own weights again, which are those to be saved
        run.save(states)
        end_if_asked()
    log = EpochLog(
        strategy=task.strategy,
        fold=task.fold,
        epoch=epoch,
        train_loss=train_loss,
        validation_loss=validation_loss,
        validation_auroc=validation_auroc(logits, data.validation_classes),
        learning_rate=rate,
        seconds=time.monotonic() - started,
    )
    run.history.append(log)
    return log


def _announce(log: EpochLog, recipe: Recipe, run: Run, seconds_per_epoch: float) -> None:
    auroc = "-" if log.validation_auroc is None else f"{log.validation_auroc:.3f}"
    mark = " *" if run.best_epoch == log.epoch else ""
    left = seconds_per_epoch * (recipe.epochs - log.epoch)
    say(
        f"fold {log.fold} {log.strategy}: epoch {log.epoch}/{recipe.epochs}  loss {log.train_loss:.3f}  "
        f"validation loss {log.validation_loss:.3f}  AUROC {auroc}{mark}  "
        f"up to {format_duration(left)} left"
    )
