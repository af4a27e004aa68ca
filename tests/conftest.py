"""What tests of several packages share: one small synthetic cohort, written once."""

import os
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

# Before PyTorch is imported: threads that wait shall sleep, or tests beside other work take ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pipeline.phantom.cohort import Order, write_cohort
from pipeline.phantom.manifest import Manifest

settings.register_profile("shared machine", deadline=None)  # slow is no failure where others work too
settings.load_profile("shared machine")

pytest_plugins = ("tests.real_data",)


class Cohort(NamedTuple):
    """A written cohort: its folder (with `dicom`, `labels.csv`, `manifest.json`) and the truth about it."""

    folder: Path
    manifest: Manifest

    @property
    def dicom(self) -> Path:
        return self.folder / "dicom"

    @property
    def labels(self) -> Path:
        return self.folder / "labels.csv"


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """30 labelled patients with radiographs of 96 pixels, all hazards planted. Read only."""
    folder = tmp_path_factory.mktemp("cohort")
    return Cohort(folder, write_cohort(Order("radiograph", patients=30, prevalence=0.35, size=96, seed=7), folder))


@pytest.fixture(scope="session")
def volume_cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """10 labelled patients with CT series of 64 x 48 x 24 or more voxels. Read only."""
    folder = tmp_path_factory.mktemp("volumes")
    return Cohort(folder, write_cohort(Order("volume", patients=10, prevalence=0.3, size=128, seed=7), folder))
