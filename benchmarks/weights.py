"""What the embedded source of weights is worth: on the built-in study, and on real images whatever it shows.

``python benchmarks/weights.py [--only target|real] [--radiographs DIR] [--mednist DIR] [--imagenet FILE] [--write]``

Target: five cohorts of the built-in study, fine-tuned against scratch on the same five folds, paired; and cohorts of
20, 40 and 80 patients against one cohort of 200 others. Real: frozen features of the embedded source beside five random
networks, with and without batch normalisation re-estimated, Gabor energies and ImageNet, on the radiographs of
docs/real-data.md (DIR holds ``dicom`` and ``labels.csv``) and on MedNIST (a folder of JPEG files for each class), ten
images of each class. Rows are printed as they come and kept in ``benchmarks/results/weights.json``, from where an
interrupted run goes on. ``--write`` puts tables and figure into the documentation and the data sheet.
"""

import argparse
import json
import os
import tempfile
import time
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

from pipeline.learning.inputs.devices import Placement, choose_placement
from pipeline.learning.weights.loading import RANDOM, VerifiedWeights, WeightsChoice, verify

ROOT = Path(__file__).resolve().parents[1]
SIZES = (20, 40, 80)
TESTED = 200
TEST_SEED = 900
WINS = 4


class Record:
    """What was measured so far, by name; written after every row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, object]] = json.loads(path.read_text()) if path.is_file() else {}

    def keep(self, name: str, row: dict[str, object]) -> None:
        """Print a row and write all of them."""
        self.rows[name] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.rows, indent=1) + "\n", encoding="utf-8")
        print(name, row, flush=True)


def main() -> None:
    """Measure what is asked for and not known yet; print a table and one line for each target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("target", "study", "curve", "real"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--radiographs", type=Path)
    parser.add_argument("--mednist", type=Path)
    parser.add_argument("--imagenet", type=Path)
    parser.add_argument("--size", type=int, default=128, help="of the real images, in pixels")
    parser.add_argument("--record", type=Path, default=ROOT / "benchmarks/results/weights.json")
    parser.add_argument("--write", action="store_true", help="put tables and figure into the documentation")
    options = parser.parse_args()
    record = Record(options.record)
    placement = choose_placement("cpu", "auto", options.threads)
    own = verify(WeightsChoice(source="phantom", backbone="resnet18"))
    if options.only in (None, "target", "curve"):
        measure_curve(record, own, placement, range(1, options.seeds + 1))
    if options.only in (None, "target", "study"):
        measure_study(record, own, placement, range(1, options.seeds + 1))
    if options.only in (None, "real"):
        measure_real(record, own, placement, options)
    if options.write:
        write_pages(record.rows, own.sha256)
    _targets(record.rows, options.seeds)


def measure_study(record: Record, own: VerifiedWeights, placement: Placement, seeds: range) -> None:
    """Cross-validate both strategies on whole cohorts of the built-in study's size."""
    config = built_in()
    assert config.phantom is not None
    for seed in seeds:
        name = f"study {seed}"
        if _is_known(record, name, own):
            continue
        data = cohort(seed, config.phantom.patients)
        started = time.process_time()
        truths, scores, epochs = [], {"full": [], "scratch": []}, {"full": [], "scratch": []}
        for fold in range(config.split.folds):
            roles = fold_roles(data, fold, config.split.folds, config.split.validation_fraction, seed)
            for strategy, of_folds in scores.items():
                with tempfile.TemporaryDirectory() as states:
                    weights = own if strategy == "full" else RANDOM
                    outcome = train_on(
                        strategy, data.pixels, roles, weights, Path(states), seed=seed, placement=placement
                    )
                truth, values = by_patient(outcome)
                of_folds.append(values)
                epochs[strategy].append([log.validation_auroc for log in outcome.history])
            truths.append(truth)
        difference, low, high = mean_paired(truths, scores["full"], scores["scratch"])
        areas = {key: float(np.mean([area(t, s) for t, s in zip(truths, scores[key], strict=True)])) for key in scores}
        record.keep(
            name,
            {
                **areas,
                "difference": difference,
                "low": low,
                "high": high,
                "validation": epochs,
                "seconds": time.process_time() - started,
                "weights": own.sha256,
            },
        )


def measure_curve(record: Record, own: VerifiedWeights, placement: Placement, seeds: range) -> None:
    """Train on few patients, and test on one cohort of many others."""
    testing = cohort(TEST_SEED, TESTED)
    for seed in seeds:
        for patients in SIZES:
            name = f"curve {patients} {seed}"
            if _is_known(record, name, own):
                continue
            training = cohort(seed, patients)
            roles = roles_for(training, testing, seed)
            pixels = np.concatenate([training.pixels, testing.pixels])
            found = {}
            for strategy, weights in (("full", own), ("scratch", RANDOM)):
                with tempfile.TemporaryDirectory() as states:
                    outcome = train_on(strategy, pixels, roles, weights, Path(states), seed=seed, placement=placement)
                found[strategy] = by_patient(outcome)
            truth = found["full"][0]
            difference, low, high = paired(truth, found["full"][1], found["scratch"][1])
            areas = {key: area(*value) for key, value in found.items()}
            record.keep(name, {**areas, "difference": difference, "low": low, "high": high, "weights": own.sha256})


def measure_real(record: Record, own: VerifiedWeights, placement: Placement, options: argparse.Namespace) -> None:
    """Score frozen features on the real sets that are at hand."""
    sets = {}
    if options.radiographs:
        sets["radiographs"] = (weights_real.radiographs(options.radiographs, options.size), weights_real.auroc)
    if options.mednist:
        sets["mednist"] = (weights_real.mednist(options.mednist, options.size), weights_real.few_shot)
    for kind, features_of in weights_real.kinds(options.imagenet, own):
        for name, (real, score) in sets.items():
            title = f"real {name} {kind} {options.size}"
            if _is_known(record, title, own):
                continue
            features = features_of(real.pixels, placement)
            record.keep(title, {"scores": [score(one, real) for one in features], "weights": own.sha256})


def _is_known(record: Record, name: str, own: VerifiedWeights) -> bool:
    return record.rows.get(name, {}).get("weights") == own.sha256


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
