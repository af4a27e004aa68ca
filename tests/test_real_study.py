"""The road on real radiographs with real ImageNet weights: the numbers that the README quotes, in a short form."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.core.artefacts import read_document, read_table
from pipeline.core.records import FoldRole, Image
from pipeline.core.results import Evaluation
from pipeline.learning.weights.loading import file_digest

pytestmark = [pytest.mark.slow, pytest.mark.real_data]
ROOT = Path(__file__).resolve().parents[1]


def run(folder: Path, settings: dict[str, object]) -> Evaluation:
    """Run the workflow and give its numbers."""
    (folder / "study.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"),
        *("--workflow-profile", str(ROOT / "profiles/default"), "--quiet", "rules"),
        *("--directory", str(folder), "--configfile", str(folder / "study.yaml")),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return read_document(folder / "results" / str(settings["study"]) / "evaluation.json", Evaluation)


@pytest.fixture(scope="module")
def settings(cxr_nih: Path, imagenet_resnet18: Path) -> dict[str, object]:
    example = yaml.safe_load((ROOT / "config/examples/cxr_nih.yaml").read_text(encoding="utf-8"))
    example["ingest"]["source"] = str(cxr_nih / "dicom")
    example["label"]["table"] = str(cxr_nih / "labels.csv")
    example["train"]["weights"] |= {"file": str(imagenet_resnet18), "sha256": file_digest(imagenet_resnet18)}
    example["train"] |= {"strategy": "probe", "compare": []}
    return example


@pytest.fixture(scope="module")
def study(settings: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluation]:
    folder = tmp_path_factory.mktemp("real")
    return folder, run(folder, settings)


def test_a_probe_of_imagenet_features_tells_the_classes_apart(study):
    _, result = study
    for level in ("patient", "image"):
        estimate = result.estimate("probe", level, "auroc")
        assert estimate.value >= 0.9, level
        assert estimate.low > 0.85
    assert result.estimate("probe", "image", "auroc").images == 400
    assert result.estimate("probe", "patient", "auroc").patients == 283


def test_no_patient_stands_on_two_sides(study):
    folder, _ = study
    roles = read_table(folder / "results/cxr_nih/folds.tsv", FoldRole)
    for fold in range(5):
        sides: dict[str, set[str]] = {}
        for role in roles:
            if role.fold == fold:
                sides.setdefault(role.patient, set()).add(role.role)
        assert all(len(found) == 1 for found in sides.values())
    assert len(read_table(folder / "results/cxr_nih/images.tsv", Image)) == 400


def test_random_labels_give_no_skill(study, settings, tmp_path, cxr_nih):
    """Deal the patients' labels out again at random: the interval of the AUROC holds 0.5."""
    with (cxr_nih / "labels.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    patients = sorted({row["PatientID"] for row in rows})
    dealt = dict(zip(patients, np.random.default_rng(1).permutation(len(patients)) % 2, strict=True))
    table = tmp_path / "random.csv"
    with table.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["SOPInstanceUID", "label"])
        writer.writeheader()
        for row in rows:
            label = ("no_finding", "pneumonia")[dealt[row["PatientID"]]]
            writer.writerow({"SOPInstanceUID": row["SOPInstanceUID"], "label": label})
    folder, _ = study
    result = run(folder, {**settings, "label": {**settings["label"], "table": str(table)}})
    estimate = result.estimate("probe", "patient", "auroc")
    assert estimate.low < 0.5 < estimate.high, estimate.value
