"""Pre-training: a source of weights of our own, trained by the same loop that fine-tunes.

The source task asks which of many findings a rendered picture shows. Everything else, from the losses to resumption
after a kill, is `pipeline.learning.loop.finetuning`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.core.errors import TrainingError
from pipeline.core.progress import say
from pipeline.core.provenance import numerical, versions
from pipeline.core.records import EpochLog
from pipeline.core.seeding import derive_seed
from pipeline.learning.findings import STATES, check_states
from pipeline.learning.inference import predict_logits
from pipeline.learning.inputs.devices import Placement
from pipeline.learning.inputs.rendered import Picture, RenderedSource
from pipeline.learning.inputs.transfer import network_on_device
from pipeline.learning.loop.checkpoints import Checkpoint, StateFolder, write_tensors
from pipeline.learning.loop.finetuning import FoldData, Task, class_weights, fine_tune
from pipeline.learning.loop.interruption import TimeIsOverError, ended_after
from pipeline.learning.networks.backbones import BACKBONES, replace_head
from pipeline.learning.recipes import Recipe
from pipeline.learning.strategies import STRATEGIES
from pipeline.learning.weights.sources import PHANTOM_NORMALISATION

if TYPE_CHECKING:
    from torch import Tensor, nn

STRATEGY = "scratch"  # what the loop calls a training of all layers from random weights
_HELD_OUT = 1024  # pictures that are never trained on
_MINUTES_BETWEEN_STATES = 5.0
_COUNTER = ".num_batches_tracked"
_DIGITS = 12  # of its key that the folder of a training is named by


@dataclass(frozen=True, kw_only=True)
class SourceTask:
    """What a source network learns.

    Attributes
    ----------
    draw, states
        Give a picture by its row and variant, and what it shows by its row: 1 or 0 for each of `names`.
    names
        Of the findings, in the order of the logits.
    rows
        Pictures of an epoch; each is drawn anew in every epoch.
    recipe
        The numbers.
    backbone, seed, size
        The network, the seed of everything, and the side of the pictures in pixels.
    code
        Fingerprint of the code, part of the resumable state's key.
    """

    draw: Callable[[int, int], Picture]
    states: Callable[[int], np.ndarray]
    names: tuple[str, ...]
    rows: int
    recipe: Recipe
    backbone: str
    seed: int
    size: int
    code: str
    held_out: int = _HELD_OUT


class Pretrained(NamedTuple):
    """A source network as far as it has come.

    Attributes
    ----------
    state
        The tensors of the epoch kept, by the network's names.
    history
        A log for each epoch done.
    best_epoch
        The epoch kept.
    seconds, processor_seconds
        Spent, by all processes that took part.
    is_whole
        All planned epochs were run.
    """

    state: "dict[str, Tensor]"
    history: list[EpochLog]
    best_epoch: int
    seconds: float
    processor_seconds: float
    is_whole: bool


def pretrain_network(task: SourceTask, placement: Placement, folder: Path, seconds: float) -> Pretrained:
    """Train a network on the source task, or go on where an earlier process stopped.

    When the time is over, the best epoch so far is given; a later call with more time goes on from there.

    Parameters
    ----------
    task
        What is learned.
    placement
        Device, precision and threads.
    folder
        Of the resumable states; each training has one of its own in it, so that none is lost to another command.
    seconds
        Time for all processes together that do this training in this folder, one after the other.

    Raises
    ------
    TrainingInterruptedError
        If the process was asked to end; the state is saved.
    TimeIsOverError
        If the time is over before the first epoch is done.
    TrainingError
        If the training diverges, or a finding is never or always present.
    """
    data = _data(task, placement)
    _require_both_states(task, data)
    key = _key(task, placement)
    states = StateFolder(folder / key[:_DIGITS], key, _MINUTES_BETWEEN_STATES)
    before = states.latest()
    if before is None and any(folder.glob("*/epoch-*.safetensors")):
        say("pretrain: begins anew; the states in this folder are of other commands, code or versions, and stay")
    spent = float(before.facts["spent"][0]) if before else 0.0
    is_whole = True
    try:
        with ended_after(seconds - spent):
            fine_tune(fresh_network(task), data, task.recipe, _task(task), states)
    except TimeIsOverError:
        is_whole = False
    saved = states.latest()
    if saved is None:
        raise TrainingError("the last state cannot be read", where=str(folder), remedy="check the disk; run it again")
    if not saved.facts["history"]:
        raise TimeIsOverError(
            "the time is over before the first epoch is done",
            where="pretrain",
            remedy="give more time (--minutes) and run it again: it goes on; or use fewer --rows",
        )
    return _outcome(saved, is_whole=is_whole)


def _require_both_states(task: SourceTask, data: FoldData) -> None:
    """Stop before the training if a finding could not be learned, or not be judged at the end."""
    remedy = "draw more pictures: raise --rows, and --held-out with it"
    check_states(data.train_classes, data.validation_classes, task.names, "pretrain", remedy)
    faults = [
        f"`{name}` is not both present and absent in the pictures held out"
        for name, column in zip(task.names, data.validation_classes.T, strict=True)
        if len(np.unique(column)) < STATES
    ]
    if faults:
        raise TrainingError("; ".join(faults), where="pretrain", remedy=remedy)


def fresh_network(task: SourceTask) -> "nn.Module":
    """Build the network with random weights and a head for the task's findings."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(task.seed, "initialisation", 0))
        network = BACKBONES[task.backbone].build(len(task.names))
    replace_head(network, len(task.names), derive_seed(task.seed, "head", 0))
    return network


def write_source(path: Path, state: "Mapping[str, Tensor]", facts: Mapping[str, object]) -> None:
    """Write a network as a source: kernels in float16, statistics and other vectors in float32; equal bytes for equal.

    A variance may be smaller than the smallest float16, and vectors are a thousandth of the file.

    Raises
    ------
    TrainingError
        If a kernel does not fit into float16.
    """
    import torch

    kept = {name: value for name, value in state.items() if not name.endswith(_COUNTER)}
    narrow = {name: value.to(torch.float16 if value.ndim > 1 else torch.float32) for name, value in kept.items()}
    bad = [name for name, value in narrow.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise TrainingError(f"{len(bad)} tensors do not fit into float16", where="pretrain", remedy="lower the rate")
    # Its digest is registered or pinned: none is written into it.
    write_tensors(path, narrow, facts)


def held_out_scores(task: SourceTask, state: "Mapping[str, Tensor]", placement: Placement) -> dict[str, float]:
    """Compute the AUROC of each finding on pictures of the source task that were never trained on."""
    from sklearn.metrics import roc_auc_score

    data = _data(task, placement)
    network = fresh_network(task)
    network.load_state_dict({**network.state_dict(), **{name: value.float() for name, value in state.items()}})
    network_on_device(network, placement.device)
    logits = predict_logits(network, data.inputs, data.validation_rows)
    return {
        name: float(roc_auc_score(truth, column))
        for name, truth, column in zip(task.names, data.validation_classes.T, logits.T, strict=True)
    }


def _data(task: SourceTask, placement: Placement) -> FoldData:
    rows, held_out = np.arange(task.rows), np.arange(task.rows, task.rows + task.held_out)
    truth = np.stack([task.states(int(row)) for row in rows])
    return FoldData(
        inputs=RenderedSource(task.draw, PHANTOM_NORMALISATION, placement),
        train_rows=rows,
        train_classes=truth,
        validation_rows=held_out,
        validation_classes=np.stack([task.states(int(row)) for row in held_out]),
        class_weights=class_weights(truth, len(task.names), balance=task.recipe.balance_classes),
    )


def _task(task: SourceTask) -> Task:
    plan = STRATEGIES[STRATEGY].plan(BACKBONES[task.backbone].blocks, epochs=task.recipe.epochs, is_random=True)
    return Task(strategy=STRATEGY, fold=0, seed=task.seed, backbone=task.backbone, plan=plan, is_pretrained=False)


def _key(task: SourceTask, placement: Placement) -> str:
    """Digest everything that the weights after an epoch depend on."""
    import torch

    facts = {
        "names": task.names,
        "rows": task.rows,
        "held_out": task.held_out,
        "recipe": asdict(task.recipe),
        "backbone": task.backbone,
        "seed": task.seed,
        "size": task.size,
        "code": task.code,
        "placement": placement,
        "capability": torch.backends.cpu.get_cpu_capability() if placement.device == "cpu" else "cuda",
        "software": numerical(versions()),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _outcome(saved: Checkpoint, *, is_whole: bool) -> Pretrained:
    best = {name.removeprefix("best/"): value for name, value in saved.tensors.items() if name.startswith("best/")}
    history = [EpochLog.model_validate(row) for row in saved.facts["history"]]
    seconds, processor = map(float, saved.facts["spent"])
    return Pretrained(best, history, int(saved.facts["best_epoch"]), seconds, processor, is_whole)
