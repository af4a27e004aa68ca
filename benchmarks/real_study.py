"""Does it learn on real radiographs? The study of docs/real-data.md, against what its README table claims.

Run the study first (see docs/real-data.md), then ``python benchmarks/real_study.py [--folder DIR]``, where DIR is the
folder in which Snakemake ran. Reads its ``evaluation.json``; nothing is trained here, so it takes a second.
"""

import argparse
from pathlib import Path

from pipeline.core.artefacts import read_document
from pipeline.core.results import Evaluation

STUDY = "cxr_nih"
WANTED = {"full": 0.88, "probe": 0.86}


def main() -> None:
    """Print a table of the strategies and one line for each target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(), help="where Snakemake ran (default: here)")
    path = parser.parse_args().folder / "results" / STUDY / "evaluation.json"
    if not path.is_file():
        print(f"{path} is not there: run the study first, see docs/real-data.md")
        return
    found = read_document(path, Evaluation)
    areas: dict[str, float] = {}
    print(f"{'strategy':<10} {'level':<8} AUROC")
    for result in found.strategies:
        for level in ("patient", "image"):
            estimate = found.estimate(result.strategy, level, "auroc")
            if estimate is None or estimate.value is None:
                continue
            if level == "patient":
                areas[result.strategy] = estimate.value
            print(f"{result.strategy:<10} {level:<8} {estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})")
    for name, wanted in WANTED.items():
        _target(f"auroc_{name}", areas.get(name), wanted)
    for name in WANTED:
        if name in areas and "scratch" in areas:
            _target(f"auroc_{name}_minus_scratch", areas[name] - areas["scratch"], 0.0)


def _target(name: str, measured: float | None, wanted: float) -> None:
    if measured is None:
        print(f"target {name} measured - wanted >={wanted} short")
    else:
        print(f"target {name} measured {measured:.3f} wanted >={wanted} {'ok' if measured >= wanted else 'short'}")


if __name__ == "__main__":
    main()
