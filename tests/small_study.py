"""A small built-in study and how tests run it: as a user would, in a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "study": "small",
    "phantom": {"patients": 36, "size": 96, "prevalence": 0.4},
    "ingest": {"source": "data/phantom/dicom"},
    "preprocess": {"size": 64},
    "label": {
        "table": "data/phantom/labels.csv",
        "key": "StudyInstanceUID",
        "classes": ["normal", "lesion"],
        "on_contradiction": "exclude",
    },
    "split": {"folds": 3},
    "train": {
        "weights": "random",
        "compare": ["probe"],
        "epochs": 2,
        "batch_size": 16,
        "device": "cpu",
        "precision": "float32",
    },
    "evaluate": {"bootstrap_replicates": 200},
}


def command(folder: Path, settings: dict[str, object], *words: str) -> list[str]:
    """Write the configuration and give the command line."""
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
        *("--workflow-profile", str(ROOT / "profiles/default"), "--cores", "2"),
        *("--directory", str(folder), "--configfile", str(folder / "study.yaml"), *words),
    ]


def run(
    folder: Path, settings: dict[str, object], *words: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the workflow to its end; ``terminal.txt`` in the folder gathers what was printed."""
    done = subprocess.run(
        command(folder, settings, *words),
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    with (folder / "terminal.txt").open("a", encoding="utf-8") as stream:
        stream.write(done.stdout + done.stderr)
    return done
