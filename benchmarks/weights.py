"""What the embedded source of weights is worth: on the built-in study, and on real images whatever it shows.

``python benchmarks/weights.py [--only target|real] [--radiographs DIR] [--mednist DIR] [--imagenet FILE] [--write]``

Target: five cohorts of the built-in study, fine-tuned against scratch on the same five folds, paired, and scratch with
three times the epochs beside them; and cohorts of 20, 40 and 80 patients against one cohort of 200 others. Real:
frozen features of the embedded source beside five random networks, with and without batch normalisation re-estimated,
Gabor energies and ImageNet, on the radiographs of docs/real-data.md (DIR holds ``dicom`` and ``labels.csv``) and on
MedNIST (a folder of JPEG files for each class), ten images of each class.

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
import time
from collections.abc import Iterable
from pathlib import Path

# Threads that wait by spinning would slow down a machine shared with others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import weights_real
from weights_pages import write_pages
from weights_target import (
    area,
    built_in,
    by_patient,
    cohort,
    fold_roles,
    mean_paired,
    paired,
    roles_for,
    train_on,
)

from pipeline.core.provenance import fingerprint, numerical, versions
from pipeline.learning.inputs.devices import Placement, choose_placement
from pipeline.learning.weights.files import file_digest
from pipeline.learning.weights.loading import VerifiedWeights, WeightsChoice, verify
from pipeline.learning.weights.sources import PHANTOM_NORMALISATION

ROOT = Path(__file__).resolve().parents[1]
SIZES = (20, 40, 80)
TESTED = 200
TEST_SEED = 900
WINS = 4
LONGER = 3  # times the epochs, for the random start beside


class Record:
    """What was measured so far, by name and by what it depends on; written after every row.

    Attributes
    ----------
    rows
        Those of this call, measured now or found, by name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all: dict[str, dict[str, object]] = json.loads(path.read_text()) if path.is_file() else {}
        self.rows: dict[str, dict[str, object]] = {}

    def knows(self, name: str, key: str) -> bool:
        """Tell whether a row is there, measured on the same things."""
        found = self.all.get(f"{name} {key}")
        if found is not None:
            self.rows[name] = found
        return found is not None

    def keep(self, name: str, key: str, row: dict[str, object]) -> None:
        """Print a row and write all of them."""
        self.rows[name] = self.all[f"{name} {key}"] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.all, indent=1) + "\n", encoding="utf-8")
        print(name, row, flush=True)


def key_of(*facts: object) -> str:
    """Digest what a row depends on: the given facts, the code that measures, and the libraries."""
    here = Path(__file__).parent
    measuring = [file_digest(here / name) for name in ("weights.py", "weights_real.py", "weights_target.py")]
    code = [fingerprint(f"pipeline.{name}") for name in ("learning.training", "phantom.studies", "imaging.steps")]
    told = json.dumps([facts, measuring, code, numerical(versions())], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def main() -> None:
    """Measure what is asked for and not known yet; print a table and one line for each target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("target", "study", "curve", "real"))
    parser.add_argument("--seeds", type=int, default=5)
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
        measure_curve(record, own, placement, range(1, options.seeds + 1))
    if options.only in (None, "target", "study"):
        measure_study(record, own, placement, range(1, options.seeds + 1))
    if options.only in (None, "real"):
        measure_real(record, own, placement, options)
    if options.write:
        write_pages(record.rows)
    _targets(record.rows, options.seeds)


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
    """Cross-validate both strategies on whole cohorts of the built-in study's size, scratch with more epochs, too."""
    config = built_in()
    assert config.phantom is not None
    epochs = LONGER * config.train.epochs
    longer: dict[str, object] = {"epochs": epochs, "patience": epochs}
    runs: dict[str, tuple[str, dict[str, object]]] = {
        "full": ("full", {}),
        "scratch": ("scratch", {}),
        "longer": ("scratch", longer),
    }
    for seed in seeds:
        name, key = f"study {seed}", _target_key(own, placement)
        if record.knows(name, key):
            continue
        data = cohort(seed, config.phantom.patients)
        started = time.process_time()
        truths = []
        scores: dict[str, list[np.ndarray]] = {run: [] for run in runs}
        validation: dict[str, list[list[float | None]]] = {run: [] for run in runs}
        for fold in range(config.split.folds):
            roles = fold_roles(data, fold, config.split.folds, config.split.validation_fraction, seed)
            for run, (strategy, changes) in runs.items():
                with tempfile.TemporaryDirectory() as states:
                    outcome = train_on(
                        strategy, data.pixels, roles, own, Path(states), seed=seed, placement=placement, changes=changes
                    )
                truth, values = by_patient(outcome)
                scores[run].append(values)
                validation[run].append([log.validation_auroc for log in outcome.history])
            truths.append(truth)
        areas = {run: float(np.mean([area(t, s) for t, s in zip(truths, scores[run], strict=True)])) for run in runs}
        row: dict[str, object] = {**areas, "validation": validation, "epochs": epochs}
        row["difference"], row["low"], row["high"] = mean_paired(truths, scores["full"], scores["scratch"])
        row["against_longer"] = mean_paired(truths, scores["full"], scores["longer"])
        record.keep(name, key, {**row, "seconds": time.process_time() - started})


def measure_curve(record: Record, own: VerifiedWeights, placement: Placement, seeds: Iterable[int]) -> None:
    """Train on few patients, and test on one cohort of many others."""
    testing = cohort(TEST_SEED, TESTED)
    for seed in seeds:
        for patients in SIZES:
            name, key = f"curve {patients} {seed}", _target_key(own, placement)
            if record.knows(name, key):
                continue
            training = cohort(seed, patients)
            roles = roles_for(training, testing, seed)
            pixels = np.concatenate([training.pixels, testing.pixels])
            found = {}
            for strategy in ("full", "scratch"):
                with tempfile.TemporaryDirectory() as states:
                    outcome = train_on(strategy, pixels, roles, own, Path(states), seed=seed, placement=placement)
                found[strategy] = by_patient(outcome)
            truth = found["full"][0]
            difference, low, high = paired(truth, found["full"][1], found["scratch"][1])
            areas = {strategy: area(*value) for strategy, value in found.items()}
            record.keep(name, key, {**areas, "difference": difference, "low": low, "high": high})


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


def _targets(rows: dict[str, dict[str, object]], seeds: int) -> None:
    studies = [rows[f"study {seed}"] for seed in range(1, seeds + 1) if f"study {seed}" in rows]
    wins = sum(float(row["low"]) > 0 for row in studies)  # type: ignore[arg-type]
    print(
        f"target cohorts_with_gain measured {wins} wanted >={WINS} {'ok' if wins >= WINS else 'short'} "
        f"(of {len(studies)} cohorts)"
    )
    means = []
    for patients in SIZES:
        found = [
            rows[f"curve {patients} {seed}"]["difference"]
            for seed in range(1, seeds + 1)
            if f"curve {patients} {seed}" in rows
        ]
        if found:
            means.append(float(np.mean(found)))  # type: ignore[arg-type]
            print(f"gain with {patients} patients: {means[-1]:+.3f}, mean of {len(found)} cohorts")
    if len(means) == len(SIZES):
        falls = means[0] >= means[-1]
        print(
            f"target gain_20_minus_gain_80 measured {means[0] - means[-1]:.3f} wanted >=0 {'ok' if falls else 'short'}"
        )


if __name__ == "__main__":
    main()
