"""What the embedded source of weights is worth: on the built-in study, and on real images whatever it shows.

``python benchmarks/weights.py [--only target|real] [--radiographs DIR] [--mednist DIR] [--imagenet FILE] [--write]``

Target: five cohorts of the built-in study, fine-tuned against scratch on the same five folds, paired; and cohorts of
20, 40 and 80 patients against one cohort of 200 others, in as many steps as the study takes; both also with three
times the epochs. Real: frozen features of the embedded source beside five random networks, with and without batch
normalisation re-estimated, Gabor energies and ImageNet, on the radiographs of docs/real-data.md (DIR holds ``dicom``
and ``labels.csv``) and on MedNIST (a folder of JPEG files for each class), ten images of each class.

Rows are printed as they come and kept in ``benchmarks/results/weights.json``, from where an interrupted run goes on; a
row is measured again when the weights, the recipe, the data, the code or the libraries are others. ``--write`` puts
tables and figure into the documentation and the data sheet. ``--file FILE`` measures a file that ``pretrain`` has made
in the place of the embedded one, to compare.
"""

import argparse
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Threads that wait by spinning would slow down a machine shared with others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import weights_real
from numpy.typing import NDArray
from weights_pages import write_pages
from weights_target import (
    COHORTS,
    ENDS,
    LONGER,
    RUNS,
    SIZES,
    across_folds,
    area,
    built_in,
    by_patient,
    cohort,
    fold_roles,
    mean_paired,
    paired,
    roles_for,
    steps_of,
    train_on,
)

from pipeline.core.artefacts import replacing
from pipeline.core.provenance import fingerprint, numerical, versions
from pipeline.core.records import FoldRole
from pipeline.learning.inputs.devices import Placement, choose_placement
from pipeline.learning.weights.files import file_digest
from pipeline.learning.weights.loading import VerifiedWeights, WeightsChoice, verify
from pipeline.learning.weights.sources import PHANTOM_NORMALISATION

ROOT = Path(__file__).resolve().parents[1]
TESTED = 200
TEST_SEED = 900
WINS = 4
CODE = ("learning.training", "phantom.studies", "imaging.steps", "evaluation.delong", "evaluation.intervals")


class Record:
    """What was measured so far, by name and by what it depends on; written after every row.

    Attributes
    ----------
    rows
        Those of this call, measured now or found, by name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}
        self.rows: dict[str, dict[str, Any]] = {}

    def knows(self, name: str, key: str) -> bool:
        """Tell whether a row is there, measured on the same things."""
        found = self.all.get(f"{name} {key}")
        if found is not None:
            self.rows[name] = found
        return found is not None

    def keep(self, name: str, key: str, row: dict[str, Any]) -> None:
        """Print a row and write all of them."""
        self.rows[name] = self.all[f"{name} {key}"] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps(self.all, indent=1) + "\n", encoding="utf-8")
        print(name, row, flush=True)


def key_of(*facts: object) -> str:
    """Digest what a row depends on: the given facts, the code that measures, and the libraries."""
    here = Path(__file__).parent
    measuring = [file_digest(here / name) for name in ("weights.py", "weights_real.py", "weights_target.py")]
    code = [fingerprint(f"pipeline.{name}") for name in CODE]
    told = json.dumps([facts, measuring, code, numerical(versions())], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def main() -> None:
    """Measure what is asked for and not known yet; print a table and one line for each target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("target", "study", "curve", "real"))
    parser.add_argument("--cohorts", type=int, nargs="+", default=COHORTS, help="seeds of the cohorts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--radiographs", type=Path)
    parser.add_argument("--mednist", type=Path)
    parser.add_argument("--imagenet", type=Path)
    parser.add_argument("--file", type=Path, help="a file of pretrain, measured in the place of the embedded one")
    parser.add_argument("--size", type=int, default=128, help="of the real images, in pixels")
    parser.add_argument("--record", type=Path, default=ROOT / "benchmarks/results/weights.json")
    parser.add_argument("--write", action="store_true", help="put tables and figure into the documentation")
    options = parser.parse_args()
    if options.write and options.file:
        parser.error("--write is for the embedded file; leave out --file")
    record = Record(options.record)
    placement = choose_placement("cpu", "auto", options.threads)
    own = verify(_choice(options.file))
    if options.only in (None, "target", "curve"):
        measure_curve(record, own, placement, options.cohorts)
    if options.only in (None, "target", "study"):
        measure_study(record, own, placement, options.cohorts)
    if options.only in (None, "real"):
        measure_real(record, own, placement, options)
    if options.write:
        write_pages(record.rows)
    _targets(record.rows, options.cohorts)


def _choice(file: Path | None) -> WeightsChoice:
    if file is None:
        return WeightsChoice(source="phantom", backbone="resnet18")
    return WeightsChoice(
        source="file",
        backbone="resnet18",
        file=file,
        sha256=file_digest(file),
        normalisation=PHANTOM_NORMALISATION,
    )


def measure_study(record: Record, own: VerifiedWeights, placement: Placement, seeds: Iterable[int]) -> None:
    """Cross-validate both strategies on whole cohorts of the built-in study's size."""
    config = built_in()
    assert config.phantom is not None
    key = _target_key(own, placement)
    for seed in seeds:
        if record.knows(f"study {seed}", key):
            continue
        data = cohort(seed, config.phantom.patients)
        parts = [
            fold_roles(data, fold, config.split.folds, config.split.validation_fraction, seed)
            for fold in range(config.split.folds)
        ]
        folds = [
            _trained(data.pixels, roles, own, placement, seed, config.train.epochs, fold)
            for fold, roles in enumerate(parts)
        ]
        truths = [fold.truth for fold in folds]
        scores = {run: [fold.scores[run] for fold in folds] for run in RUNS}
        areas = {run: [area(t, s) for t, s in zip(truths, scores[run], strict=True)] for run in RUNS}
        row: dict[str, Any] = {run: float(np.mean(areas[run])) for run in RUNS}
        row |= {f"difference{end}": mean_paired(truths, scores[f"full{end}"], scores[f"scratch{end}"]) for end in ENDS}
        row |= {f"over trainings{end}": across_folds(areas[f"full{end}"], areas[f"scratch{end}"]) for end in ENDS}
        row["validation"] = {run: [fold.validation[run] for fold in folds] for run in RUNS}
        row["epochs"] = [times * config.train.epochs for times in (1, LONGER)]
        row["steps"] = steps_of(parts[0])
        record.keep(f"study {seed}", key, row)


def measure_curve(record: Record, own: VerifiedWeights, placement: Placement, seeds: Iterable[int]) -> None:
    """Train on few patients, for as many steps as the study takes, and test on one cohort of many others."""
    config = built_in()
    assert config.phantom is not None
    key = _target_key(own, placement)
    testing = cohort(TEST_SEED, TESTED)
    whole = cohort(COHORTS[0], config.phantom.patients)
    wanted = config.train.epochs * steps_of(
        fold_roles(whole, 0, config.split.folds, config.split.validation_fraction, COHORTS[0])
    )
    for seed in seeds:
        for patients in SIZES:
            name = f"curve {patients} {seed}"
            if record.knows(name, key):
                continue
            training = cohort(seed, patients)
            pixels = np.concatenate([training.pixels, testing.pixels])
            roles = roles_for(training, testing, seed)
            epochs = -(-wanted // steps_of(roles))
            fold = _trained(pixels, roles, own, placement, seed, epochs)
            row: dict[str, Any] = {run: area(fold.truth, fold.scores[run]) for run in RUNS}
            for end in ENDS:
                row[f"difference{end}"] = paired(fold.truth, fold.scores[f"full{end}"], fold.scores[f"scratch{end}"])
            row["epochs"] = [times * epochs for times in (1, LONGER)]
            record.keep(name, key, {**row, "steps": wanted})


@dataclass(frozen=True)
class Fold:
    """Truth of the tested patients, and by run their scores and the AUROC of each epoch on the validation part."""

    truth: NDArray[np.bool_]
    scores: dict[str, NDArray[np.float64]]
    validation: dict[str, list[float | None]]


def _trained(
    pixels: NDArray[np.uint8],
    roles: tuple[FoldRole, ...],
    own: VerifiedWeights,
    placement: Placement,
    seed: int,
    epochs: int,
    fold: int = 0,
) -> Fold:
    """Train every run on one division of the patients; no run ends before its last epoch."""
    scores, validation = {}, {}
    for run, (strategy, times) in RUNS.items():
        changes: dict[str, object] = {"epochs": times * epochs, "patience": times * epochs}
        more: dict[str, Any] = {"seed": seed, "placement": placement, "fold": fold, "changes": changes}
        with tempfile.TemporaryDirectory() as states:
            outcome = train_on(strategy, pixels, roles, own, Path(states), **more)
        truth, scores[run] = by_patient(outcome)
        validation[run] = [log.validation_auroc for log in outcome.history]
    return Fold(truth, scores, validation)


def _target_key(own: VerifiedWeights, placement: Placement) -> str:
    config = built_in().model_dump(mode="json")
    parts = [config[name] for name in ("phantom", "preprocess", "split", "train")]
    return key_of(own.sha256, placement, parts)


def measure_real(record: Record, own: VerifiedWeights, placement: Placement, options: argparse.Namespace) -> None:
    """Score frozen features on the real sets that are at hand."""
    sets = {}
    if options.radiographs:
        sets["radiographs"] = (weights_real.radiographs(options.radiographs, options.size), weights_real.auroc)
    if options.mednist:
        sets["mednist"] = (weights_real.mednist(options.mednist, options.size), weights_real.few_shot)
    for kind in weights_real.kinds(options.imagenet, own):
        for name, (real, score) in sets.items():
            title, key = f"real {name} {kind.name}", key_of(kind.sha256, real.sha256, placement)
            if record.knows(title, key):
                continue
            scores = [score(one, real) for one in kind.features(real.pixels, placement)]
            row = {"set": name, "group": kind.group, "size": options.size, "scores": scores}
            record.keep(title, key, row)


def _targets(rows: dict[str, dict[str, Any]], seeds: Sequence[int]) -> None:
    studies = [rows[f"study {seed}"] for seed in seeds if f"study {seed}" in rows]
    wins = sum(row["difference"][1] > 0 for row in studies)
    print(
        f"target cohorts_with_gain measured {wins} wanted >={WINS} {'ok' if wins >= WINS else 'short'} "
        f"(of {len(studies)} cohorts)"
    )
    means = []
    for patients in SIZES:
        names = [f"curve {patients} {seed}" for seed in seeds]
        found = [rows[name]["difference"][0] for name in names if name in rows]
        if found:
            means.append(float(np.mean(found)))
            print(f"gain with {patients} patients: {means[-1]:+.3f}, mean of {len(found)} cohorts")
    if len(means) == len(SIZES):
        falls = means[0] > means[1] > means[2]
        print(f"target gain_grows_as_patients_get_fewer {'ok' if falls else 'short'}")


if __name__ == "__main__":
    main()
