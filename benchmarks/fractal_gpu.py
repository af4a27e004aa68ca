"""A larger trial of a source of our own on a GPU: ResNet-18, pictures of formulas, and whether it is worth shipping.

``python benchmarks/fractal_gpu.py`` draws pictures of 1600 classes on the GPU (`fractal_renderers.py`), trains on
them with the loop that fine-tunes, no picture twice, and writes the network. The time (``--minutes``) is that of all
commands together, ``--run-minutes`` that of this one: where a command may take ten minutes only, give it again until
it says that the training is over. With ``--radiographs DIR --mednist DIR`` (`docs/embedded-weights.md` says what they
hold) the verdict follows, by the rule that `fractal_verdict.py` states; with ``--judge`` nothing is trained, and the
network written before is judged, on a machine without a GPU, too.

The numbers, with date and device, go into ``benchmarks/fractal_gpu.json``. Without a GPU the script says so and prints
those measured last. ``--device cpu`` runs the same code slowly and records nothing, unless ``--record FILE`` says
where: ``--device cpu --classes 8 --rows 64 --size 32 --epochs 1``.
"""

import argparse
import datetime as dt
import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Threads that wait by spinning would slow down a machine shared with others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from fractal_renderers import speeds
from fractal_training import Trained, Trial, held_out_accuracy, planned_epochs, source_of, train
from gpu_measures import read_last

from pipeline.learning.inputs.devices import choose_placement, device_name
from pipeline.learning.loop.checkpoints import locked
from pipeline.learning.loop.interruption import TrainingInterruptedError, interruptible
from pipeline.learning.pretraining import write_source
from pipeline.learning.weights.files import file_digest

if TYPE_CHECKING:
    from fractal_verdict import Scores

RECORD = Path(__file__).with_suffix(".json")
RESULTS = Path(__file__).resolve().parent / "results" / "fractal"
_BEGAN = time.monotonic()
_SETS = ("radiographs", "mednist")
_SPEED_BATCH = 256
_JUDGING_SECONDS = 180.0
BY_HAND = """to register it as `fractal`, which remains a step by hand, and only if the verdict is `ships`: put the file
into pipeline/learning/weights/embedded/ with a data sheet of these numbers, add an entry with its SHA-256 beside
`phantom` in pipeline/learning/weights/sources.py, name it in docs/embedded-weights.md, decision 0027 and CHANGELOG.md,
and run docs/generate.py; otherwise these numbers go into docs/embedded-weights.md, and the file nowhere"""


def main() -> None:
    """Train, write the network, judge it, and record the numbers."""
    options = _options()
    if not options.judge and options.device == "cuda" and not torch.cuda.is_available():
        last_measured(options.record or RECORD)
        return
    if options.judge:
        facts = _known(options.output)
    else:
        try:
            facts = _trained(options)
        except TrainingInterruptedError as error:
            sys.exit(str(error))
    if not facts.pop("is_over"):
        print("not over yet: give the same command again, and it goes on")
        return
    folders = {name: getattr(options, name) for name in _SETS if getattr(options, name)}
    if folders and not options.judge and time.monotonic() - _BEGAN > 60 * options.run_minutes - _JUDGING_SECONDS:
        print("trained; for the verdict this command has no time left: give it again, and it judges")
    elif folders:
        facts.update(_judged(options, folders))
    else:
        print(f"no verdict yet: give --judge --output {options.output} --radiographs DIR --mednist DIR")
    record = options.record or (None if str(facts["device"]).startswith("processor") else RECORD)
    if record is not None:
        record.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        print(f"recorded in {record}")
    print(BY_HAND)


def last_measured(record: Path) -> None:
    """Print the numbers of a record, or that there is none."""
    facts = read_last(record)
    if not facts:
        return
    _print_training(facts)
    if "scores" in facts:
        _print_verdict(facts["scores"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "fractal-resnet18.safetensors")
    parser.add_argument("--state", type=Path, default=RESULTS / "state")
    parser.add_argument("--radiographs", type=Path)
    parser.add_argument("--mednist", type=Path)
    parser.add_argument("--judge", action="store_true", help="train nothing: judge the network at --output")
    parser.add_argument("--real-size", type=int, default=128, help="of the real images, in pixels")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--precision", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="of the processor")
    parser.add_argument("--seed", type=int, default=60_2027)
    parser.add_argument("--classes", type=int, default=1600)
    parser.add_argument("--rows", type=int, default=524_288, help="pictures of an epoch")
    parser.add_argument("--held-out", type=int, default=4800)
    parser.add_argument("--size", type=int, default=128, help="of the pictures, in pixels")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--epochs", type=int, help="default: as many as fit into the time, measured by the first run")
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="a tenth of the highest")
    parser.add_argument("--minutes", type=float, default=21.0, help="of the training, over all commands")
    parser.add_argument("--run-minutes", type=float, default=9.0, help="until this command ends its training")
    parser.add_argument("--record", type=Path, help="default: beside this script, for a GPU")
    options = parser.parse_args()
    if not 2 <= options.classes <= options.rows:
        parser.error("--classes: at least 2, and no more than --rows")
    return options


def _trained(options: argparse.Namespace) -> dict[str, object]:
    """Train as long as this command may, write the network and what is known of it, and give that."""
    placement = choose_placement(options.device, options.precision, options.threads)
    trial = Trial(
        seed=options.seed,
        classes=options.classes,
        rows=options.rows,
        held_out=min(options.held_out, 8 * options.classes),
        size=options.size,
        epochs=options.epochs or 0,
        batch_size=options.batch,
        learning_rate=options.learning_rate,
    )
    source = source_of(trial, placement)
    with locked(options.state), interruptible():
        speed = None
        if options.epochs is None:
            epochs, speed = planned_epochs(trial, source, options.state, 60 * options.minutes)
            trial = replace(trial, epochs=epochs)
            print(f"{speed:.0f} images a second: {epochs} epochs fit into {options.minutes:g} minutes")
        own = 60 * options.run_minutes - (time.monotonic() - _BEGAN)
        found = train(trial, source, options.state, 60 * options.minutes, own)
    if found is None:
        print("no epoch is done yet")
        return {"is_over": False}
    facts = {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "device": device_name(placement),
        "torch": torch.__version__,
        "precision": placement.precision,
        "trial": asdict(trial),
        "planned_images_per_second": speed,
        **_outcome(trial, found, held_out_accuracy(trial, source, found.state)),
    }
    if found.is_over:
        facts["pictures_per_second"] = speeds(source.renderer, min(_SPEED_BATCH, options.batch))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_source(options.output, found.state, {"source": "fractal", "seed": trial.seed, "classes": trial.classes})
    facts["sha256"] = file_digest(options.output)
    options.output.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.output}, {options.output.stat().st_size / 1e6:.1f} MB")
    _print_training(facts)
    return facts


def _outcome(trial: Trial, found: Trained, accuracy: float) -> dict[str, object]:
    return {
        "epochs_done": len(found.history),
        "best_epoch": found.best_epoch,
        "pictures_seen": len(found.history) * trial.rows,
        "minutes": round(found.seconds / 60, 2),
        "images_per_second": round(len(found.history) * trial.rows / found.seconds, 1),
        "validation_loss": found.history[found.best_epoch - 1].validation_loss,
        "held_out_accuracy": accuracy,
        "chance": 1 / trial.classes,
        "is_over": found.is_over,
    }


def _known(output: Path) -> dict[str, object]:
    """Read what was written beside a network, and see that it is that network's."""
    facts: dict[str, object] = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    if facts["sha256"] != file_digest(output):
        sys.exit(f"{output.with_suffix('.json').name} is of another network than {output.name}")
    facts["is_over"] = True  # whatever it is, it is judged
    _print_training(facts)
    return facts


def _judged(options: argparse.Namespace, folders: dict[str, Path]) -> dict[str, object]:
    """Compare the network with its rivals; there is a verdict if both sets are at hand."""
    import fractal_verdict  # and with it pydicom: a machine that only trains may be without

    placement = choose_placement("cpu", "float32", options.threads)
    scores = fractal_verdict.measure(options.output, folders, options.real_size, placement)
    return {"scores": scores, "real_size": options.real_size, "ships": _print_verdict(scores)}


def _print_training(facts: dict[str, Any]) -> None:
    trial = facts["trial"]
    print(
        f"{facts['pictures_seen']} pictures of {trial['classes']} classes and {trial['size']} pixels in "
        f"{facts['epochs_done']} of {trial['epochs']} epochs, {facts['minutes']} minutes, "
        f"{facts['images_per_second']} images a second; held-out accuracy {facts['held_out_accuracy']:.4f} "
        f"(chance {facts['chance']:.4f}), epoch {facts['best_epoch']} is kept"
    )
    for name, speed in facts.get("pictures_per_second", {}).items():
        print(f"{name}: {speed:.0f} pictures a second")


def _print_verdict(scores: "Scores") -> bool | None:
    import fractal_verdict

    print(fractal_verdict.table(scores))
    if set(scores) != set(fractal_verdict.SETS):
        print("no verdict: both sets are needed")
        return None
    found = fractal_verdict.compared(scores)
    for one in found:
        print(one.line())
    verdict = fractal_verdict.ships(found)
    print("verdict: ships" if verdict else "verdict: does not ship")
    return verdict


if __name__ == "__main__":
    main()
