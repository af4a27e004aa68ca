"""Which way of fine-tuning on real radiographs? The table of docs/real-data.md, by one command.

``python benchmarks/real_study.py [--folder DIR] [--configfile FILE]`` runs the study (Snakemake does only what is not
done yet; the first time takes half an hour on two cores), then prints strategy, AUROC with interval, epochs and
processor time, and holds them to what the README claims. DIR is the folder in which Snakemake runs and where the
example's data and weights lie (docs/real-data.md says how).
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

from pipeline.config import load
from pipeline.core.artefacts import read_document
from pipeline.core.results import Evaluation, StrategyResult
from pipeline.learning.strategies import banked

ROOT = Path(__file__).resolve().parents[1]
WANTED = {"full": 0.90, "probe": 0.86}


def main() -> None:
    """Run, print a table of the strategies and one line for each target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(), help="where Snakemake runs (default: here)")
    parser.add_argument("--configfile", type=Path, default=ROOT / "config/examples/cxr_nih.yaml")
    parser.add_argument("--cores", default="2")
    options = parser.parse_args()
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", options.cores),
        *("--workflow-profile", str(ROOT / "profiles/default"), "--quiet", "rules"),
        *("--directory", str(options.folder), "--configfile", str(options.configfile.resolve())),
    ]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        sys.exit("the study did not end well: see the messages above")
    study = load(options.configfile)
    results = options.folder / "results" / study.study
    found = read_document(results / "evaluation.json", Evaluation)
    _table(found, _processor_seconds(results / "benchmarks" / "bank.tsv"), study.train.weights.source == "random")
    areas = {
        result.strategy: estimate.value
        for result in found.strategies
        if (estimate := found.estimate(result.strategy, "patient", "auroc")) and estimate.value is not None
    }
    for name, wanted in WANTED.items():
        _target(f"auroc_{name}", areas.get(name), wanted)
        if name in areas and "scratch" in areas:
            _target(f"auroc_{name}_minus_scratch", areas[name] - areas["scratch"], 0.0)


def _table(found: Evaluation, bank_seconds: float, is_random: bool) -> None:
    """Print the strategies as Markdown; whoever reads the bank is told its cost beside its own."""
    print("\n| strategy | AUROC by patient | AUROC by image | epochs, mean of the folds | processor time |")
    print("|---|---|---|---|---|")
    readers = banked([result.strategy for result in found.strategies], is_random=is_random)
    for result in found.strategies:
        areas = [_area(found, result, level) for level in ("patient", "image")]
        epochs = sum(item.epochs for item in result.training) / max(1, len(result.training))
        seconds = sum(item.processor_seconds for item in result.training)
        cost = f"{seconds:.0f} s" + (", and the bank" if result.strategy in readers else "")
        ran = f"{epochs:.1f}" if epochs else "-"
        print(f"| `{result.strategy}` | {areas[0]} | {areas[1]} | {ran} | {cost} |")
    print(f"\nBank, once for all: {bank_seconds:.0f} s of processor time.")
    for item in found.comparisons:
        if item.metric == "auroc" and item.level == "patient":
            difference = f"{item.difference:+.3f} ({item.low:+.3f} to {item.high:+.3f})"
            print(f"{item.strategy} minus {item.reference}, paired by patient: {difference}")


def _area(found: Evaluation, result: StrategyResult, level: str) -> str:
    estimate = found.estimate(result.strategy, level, "auroc")
    if estimate is None or estimate.value is None or estimate.low is None or estimate.high is None:
        return "-"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _processor_seconds(path: Path) -> float:
    """Read the processor time that Snakemake measured of a job."""
    if not path.is_file():
        return 0.0
    with path.open(encoding="utf-8") as stream:
        return float(next(csv.DictReader(stream, delimiter="\t"))["cpu_time"])


def _target(name: str, measured: float | None, wanted: float) -> None:
    if measured is None:
        print(f"target {name} measured - wanted >={wanted} short")
    else:
        print(f"target {name} measured {measured:.3f} wanted >={wanted} {'ok' if measured >= wanted else 'short'}")


if __name__ == "__main__":
    main()
