"""The manifest: read back as written, and every reason is one that the pipeline knows."""

from pipeline.core.artefacts import read_document
from pipeline.core.reasons import REASONS
from pipeline.phantom.manifest import Manifest


def test_it_is_read_back_as_written(cohort, volume_cohort):
    for one in (cohort, volume_cohort):
        assert read_document(one.folder / "manifest.json", Manifest) == one.manifest


def test_reasons_are_known(cohort, volume_cohort):
    for manifest in (cohort.manifest, volume_cohort.manifest):
        codes = {hazard.reason for hazard in manifest.hazards} | {file.reason for file in manifest.files}
        assert codes - {""} <= set(REASONS)
        assert all((hazard.stage == "") == (hazard.reason == "") for hazard in manifest.hazards)


def test_what_is_left_out_and_what_stays_is_everything(cohort):
    manifest = cohort.manifest
    out = [file for stage in ("ingest", "deidentify", "check_quality") for file in manifest.left_out(stage)]
    assert len(out) + len(manifest.accepted()) == len(manifest.files)
    assert len(manifest.left_out("ingest")) == 9
    assert len(manifest.left_out("deidentify")) == 1


def test_identifiers_hold_names_numbers_and_uids(cohort):
    identifiers = cohort.manifest.identifiers()
    assert {file.sop_uid for file in cohort.manifest.accepted()} <= identifiers
    assert {person.patient_id for person in cohort.manifest.patients} <= identifiers
    assert "" not in identifiers
    assert min(map(len, identifiers)) > 8
