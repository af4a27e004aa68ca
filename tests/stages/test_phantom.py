"""The stage hands its settings on, and says nothing that could be a name."""

import pytest

from pipeline.config import PhantomSettings
from pipeline.core.artefacts import read_document
from pipeline.phantom.manifest import Manifest
from pipeline.stages.phantom import phantom


@pytest.mark.parametrize("kind", ["radiograph", "volume"])
def test_settings_reach_the_cohort(tmp_path, capsys, kind):
    settings = PhantomSettings(kind=kind, patients=20, prevalence=0.5, size=64, seed=11)
    phantom(settings=settings, output=tmp_path / "raw")
    manifest = read_document(tmp_path / "raw/manifest.json", Manifest)
    assert (manifest.kind, manifest.size, manifest.seed) == (kind, 64, 11)
    ill = {study.patient_id for study in manifest.studies if study.label == "lesion"}
    assert len(ill) == 10
    assert len(manifest.patients) == 21
    shown = capsys.readouterr().err
    assert "21 patients" in shown
    assert manifest.stem not in shown
    assert not [file.sop_uid for file in manifest.files if file.sop_uid and file.sop_uid in shown]
