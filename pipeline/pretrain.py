"""Train the embedded source weights on rendered pictures: other anatomies, scanners and findings than the study's."""

import platform
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pipeline.core.artefacts import replacing
from pipeline.core.errors import ConfigError
from pipeline.core.places import standing_at
from pipeline.core.progress import say
from pipeline.core.provenance import fingerprint, versions
from pipeline.learning.inputs.devices import Placement, choose_placement
from pipeline.learning.loop.checkpoints import locked
from pipeline.learning.loop.interruption import interruptible
from pipeline.learning.pretraining import Pretrained, SourceTask, held_out_scores, pretrain_network, write_source
from pipeline.learning.recipes import Recipe
from pipeline.learning.weights.files import file_digest
from pipeline.learning.weights.sources import PHANTOM_NORMALISATION
from pipeline.phantom.source_findings import FINDINGS
from pipeline.phantom.source_radiograph import ANY, GROUNDS, LABELS, SCANNERS, SourceStream
from pipeline.phantom.textures import LARGEST_SIDE

BACKBONE = "resnet18"
SEED = 60_2026
DATASHEET = ".md"
_LEAST = {"epochs": 1, "rows": 2, "size": 32, "batch_size": 2, "held_out": 2, "threads": 1}
# The noise has no larger pieces, and no timer waits longer.
_MOST = {"size": LARGEST_SIDE, "minutes": int(threading.TIMEOUT_MAX // 60), "learning_rate": 1}


def pretrain(
    *,
    output: Path,
    state: Path,
    seed: int = SEED,
    epochs: int = 34,
    rows: int = 8192,
    size: int = 64,
    batch_size: int = 64,
    learning_rate: float = 1e-4,
    minutes: float = 40.0,
    threads: int = 1,
    held_out: int = 1024,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
) -> None:
    """Train, and write the weights and their data sheet, which says whether the time ended before the last epoch.

    A training that was killed goes on where it was, if the command is the same and its time is not over.

    Parameters
    ----------
    output
        the weights file, NAME.safetensors; the data sheet NAME.md is written beside it. Nothing else is overwritten
    state
        folder of the resumable states; each training has one of its own in it
    seed
        of everything random
    epochs
        passes over the rows; every pass draws other pictures of them
    rows
        pictures of an epoch
    size
        rows and columns of a picture in pixels
    batch_size
        pictures in a step
    learning_rate
        a tenth of AdamW's highest rate, as everywhere for random weights
    minutes
        time of the training, over all runs with one state; then it ends and the best epoch so far is written
    threads
        processor threads of the network; another thread draws the pictures
    held_out
        pictures for validation
    device
        a GPU if there is one (auto), or cpu, cuda
    precision
        of matrix products
    """
    if output.suffix != ".safetensors":
        raise ConfigError("weights are written as safetensors", where="--output", remedy="name it NAME.safetensors")
    _require_in_range(epochs=epochs, rows=rows, size=size, batch_size=batch_size, held_out=held_out, threads=threads)
    _require_in_range(learning_rate=learning_rate, minutes=minutes)
    _require_own(output)
    stream = SourceStream(seed, size)
    task = SourceTask(
        draw=stream.picture,
        states=stream.labels,
        names=LABELS,
        rows=rows,
        recipe=source_recipe(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate),
        backbone=BACKBONE,
        seed=seed,
        size=size,
        code=fingerprint(__name__),
        held_out=held_out,
    )
    placement = choose_placement(device, precision, threads)
    say(f"pretrain: {rows} pictures of {size} pixels in each of {epochs} epochs, at most {minutes:g} minutes")
    with locked(state), interruptible():
        found = pretrain_network(task, placement, state, 60 * minutes)
    if not found.is_whole:
        say(f"pretrain: the time is over after {len(found.history)} of {epochs} epochs; with more --minutes it goes on")
    say(f"pretrain: epoch {found.best_epoch} of {len(found.history)} is kept")
    _write(output, state, task, found, placement)
    say(f"pretrain: {output}, {output.stat().st_size / 1e6:.1f} MB, SHA-256 {file_digest(output)}")


def source_recipe(*, epochs: int, batch_size: int, learning_rate: float) -> Recipe:
    """Give the numbers of the source training: no patience, and averaged weights so that it may end at any epoch."""
    return Recipe(
        epochs=epochs,
        patience=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=0.05,
        warmup_fraction=0.05,
        label_smoothing=0.0,
        balance_classes=True,
        ema_decay=0.995,
    )


def _require_in_range(**given: float) -> None:
    """Stop at a number that is too small or too large to train with."""
    for name, value in given.items():
        least = _LEAST.get(name, 0)
        limit = ""
        if not (value >= least if name in _LEAST else value > 0):
            limit = f"at least {least}" if name in _LEAST else "above 0"
        elif name in _MOST and value > _MOST[name]:
            limit = f"at most {_MOST[name]}"
        if limit:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{value:g} is not {limit}", where=option, remedy="leave the option out for its default")


def _require_own(output: Path) -> None:
    """Stop before anything is overwritten that is not a file of this verb: its data sheet is how one is known."""
    sheet = output.with_suffix(DATASHEET)
    remedy = "name another file, or move it away"
    if standing_at(sheet) != "nothing":
        if standing_at(sheet) != "file" or not _first_line(sheet).startswith(_opening(output)):
            raise ConfigError(
                f"{sheet.name} exists and is no data sheet of such a file", where="--output", remedy=remedy
            )
    elif standing_at(output) != "nothing":
        raise ConfigError(f"{output.name} exists, without a data sheet beside it", where="--output", remedy=remedy)


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return stream.readline()
    except OSError:  # what may not be read is not known to be ours
        return ""


def _opening(output: Path) -> str:
    return f"{output.name}: made for the built-in study"


def _write(output: Path, state: Path, task: SourceTask, found: Pretrained, placement: Placement) -> None:
    """Write data sheet and weights, in this order.

    Of a process that ends between them no weights without a sheet stay, which the next would refuse to overwrite.
    """
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory(dir=state) as folder:
        made = Path(folder) / output.name
        write_source(made, found.state, _facts(task))
        sheet = _data_sheet(made, task, found, placement, held_out_scores(task, load_file(made), placement))
    with replacing(output.with_suffix(DATASHEET)) as temporary:
        temporary.write_text(sheet, encoding="utf-8")
    write_source(output, found.state, _facts(task))


def _facts(task: SourceTask) -> dict[str, object]:
    """Say in the file itself what it is; neither times nor machines, so that equal trainings give equal bytes."""
    return {
        "source": "phantom",
        "backbone": task.backbone,
        "classes": task.names,
        "seed": task.seed,
        "size": task.size,
        "normalisation": PHANTOM_NORMALISATION._asdict(),
    }


def _data_sheet(
    output: Path, task: SourceTask, found: Pretrained, placement: Placement, scores: dict[str, float]
) -> str:
    kept = found.history[found.best_epoch - 1]
    recipe = task.recipe
    rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in scores.items())
    software = ", ".join(f"{name} {version}" for name, version in versions() if name in {"torch", "monai", "numpy"})
    ended = "all planned epochs were run" if found.is_whole else "the time ended before the last planned epoch"
    return f"""{_opening(output)} of this software, and no substitute for ImageNet on patients.

# Data sheet of `{output.stem}`

| | |
|---|---|
| network | MONAI {task.backbone}, three equal channels, inputs from 0 to 1 less 0.5, divided by 0.25 |
| SHA-256 | `{file_digest(output)}` |
| size | {output.stat().st_size:,} bytes; kernels in float16, everything else in float32 |
| licence | Apache-2.0, that of this project: no picture, label or weight of others went into it |
| trained on | {task.rows} rendered pictures of {task.size} pixels in each of {len(found.history)} epochs, \
no picture twice |
| seed | {task.seed} |
| recipe | AdamW, highest rate {10 * recipe.learning_rate:g}, weight decay {recipe.weight_decay:g}, batches of \
{recipe.batch_size}, warm-up {recipe.warmup_fraction:g}, cosine over {recipe.epochs} epochs, averaged weights \
({recipe.ema_decay:g}), findings balanced |
| ended | {ended}; epoch {found.best_epoch} is kept |
| time | {found.seconds / 60:.1f} minutes, {found.processor_seconds / 60:.1f} minutes of processor time |
| device | {_device(placement)} |
| software | {software} |
| source task | validation loss {kept.validation_loss:.3f} nats; AUROC of {_in_short(scores)}; \
on {task.held_out} pictures that were never trained on, but by which the epoch was chosen |

Made by `{_command(output, task, placement)}`.

## What the pictures show

Rendered radiographs of six anatomies that are no chest and of made-up bodies, seen by {len(SCANNERS)} scanners that are
not the study's, and eight procedural textures; on them none, one or several of {len(FINDINGS)} findings, none of which
is the study's lesion (one, the cyst, is a lucent hole of about its outline). No seed, patient or picture is shared
with the built-in study (`tests/phantom/test_source.py`).

| what is told | AUROC on held-out pictures |
|---|---|
{rows}

## What it gains on the built-in study

<!-- study: made by benchmarks/weights.py -->
<!-- end of study -->

<!-- curve: made by benchmarks/weights.py -->
<!-- end of curve -->

## What it is worth on real images, beside random networks and ImageNet

<!-- real: made by benchmarks/weights.py -->
<!-- end of real -->

`docs/embedded-weights.md` says how this was measured. A larger trial on a GPU has not been made: none was at hand.
"""


def _in_short(scores: Mapping[str, float]) -> str:
    """Tell findings apart from grounds, which are so easy that a mean over both would say little."""
    findings, grounds = (sum(scores[name] for name in names) / len(names) for names in (FINDINGS, GROUNDS))
    return (
        f"{ANY} {scores[ANY]:.3f}, mean of the {len(FINDINGS)} findings {findings:.3f}, "
        f"mean of the {len(GROUNDS)} grounds {grounds:.3f}"
    )


def _command(output: Path, task: SourceTask, placement: Placement) -> str:
    recipe = task.recipe
    return (
        f"python -m pipeline pretrain --output {output.name} --state FOLDER --seed {task.seed} "
        f"--epochs {recipe.epochs} --rows {task.rows} --size {task.size} --batch-size {recipe.batch_size} "
        f"--learning-rate {recipe.learning_rate:g} --held-out {task.held_out} --threads {placement.threads} "
        f"--device {placement.device} --precision {placement.precision}"
    )


def _device(placement: Placement) -> str:
    if placement.device == "cuda":
        import torch

        return f"{torch.cuda.get_device_name()}, {placement.precision}"
    return f"processor ({platform.machine()}), {placement.threads} threads, {placement.precision}"
