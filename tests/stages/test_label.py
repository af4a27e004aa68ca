from collections import Counter

import pytest

from pipeline.core.artefacts import read_table, write_table
from pipeline.core.errors import CohortError, PrivacyError
from pipeline.core.reasons import REASONS
from pipeline.core.records import Finding, FlowStep, Image, Label
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms, read_or_create_key
from pipeline.label_settings import LabelSettings
from pipeline.stages.label import label

TABLE = """PatientID,StudyInstanceUID,SOPInstanceUID,finding
CANARY-A,1.2.1,1.2.1.1,no
CANARY-A,1.2.2,1.2.2.1,yes
CANARY-B,1.2.3,1.2.3.1,no
CANARY-B,1.2.3,1.2.3.1,no
CANARY-C,1.2.4,1.2.4.1,yes
CANARY-D,1.2.5,1.2.5.1,no
CANARY-D,1.2.5,1.2.5.1,yes
CANARY-E,1.2.6,1.2.6.1,maybe
CANARY-X,1.2.9,1.2.9.1,yes
"""
# patient, study and instance of each image; the table says nothing of the last
IMAGES = [
    ("CANARY-A", "1.2.1", "1.2.1.1"),
    ("CANARY-A", "1.2.2", "1.2.2.1"),
    ("CANARY-B", "1.2.3", "1.2.3.1"),
    ("CANARY-C", "1.2.4", "1.2.4.1"),
    ("CANARY-D", "1.2.5", "1.2.5.1"),
    ("CANARY-E", "1.2.6", "1.2.6.1"),
    ("CANARY-F", "1.2.7", "1.2.7.1"),
]


@pytest.fixture
def study(tmp_path):
    """Folder with a key, a table and the images under their pseudonyms."""
    pseudonyms = Pseudonyms(read_or_create_key(tmp_path / "restricted" / "key"))
    (tmp_path / "labels.csv").write_text(TABLE)
    rows = [
        Image(
            image_id=pseudonyms.uid(instance),
            row=number,
            patient=pseudonyms.patient(patient),
            study_uid=pseudonyms.uid(examination),
            series_uid=pseudonyms.uid(f"{instance}.9"),
            sop_uid=pseudonyms.uid(instance),
            modality="CR",
            source_rows=8,
            source_columns=8,
            intensity_low=0,
            intensity_high=1,
            pixel_sha256=f"{number:064d}",
        )
        for number, (patient, examination, instance) in enumerate(IMAGES)
    ]
    write_table(tmp_path / "images.tsv", Image, rows)
    return tmp_path


def options(study):
    names = {"key": "restricted/key", "table": "labels.csv", "images": "images.tsv", "labels": "labels.tsv"}
    return {name: study / path for name, path in {**names, "unlabelled": "unlabelled.tsv", "flow": "flow.tsv"}.items()}


def configured(**changes):
    usual = {"key": "SOPInstanceUID", "column": "finding", "on_contradiction": "exclude", "on_unknown_class": "exclude"}
    return LabelSettings(table="labels.csv", classes=("no", "yes"), **{**usual, **changes})


def results(study):
    read = (
        read_table(study / f"{name}.tsv", kind)
        for name, kind in (("labels", Label), ("unlabelled", Finding), ("flow", FlowStep))
    )
    return tuple(read)


def test_labels_findings_and_flow_agree(study):
    label(settings=configured(), **options(study))
    labels, findings, (step,) = results(study)
    images = read_table(study / "images.tsv", Image)
    assert [(row.image_id, row.patient, row.label) for row in labels] == [
        (image.image_id, image.patient, name) for image, name in zip(images, ("no", "yes", "no", "yes"), strict=False)
    ]
    assert Counter((finding.code, finding.unit, finding.severity) for finding in findings) == {
        ("CONTRADICTORY_LABELS", "image", "excluded"): 1,
        ("UNKNOWN_LABEL", "image", "excluded"): 1,
        ("NO_LABEL", "image", "excluded"): 1,
        ("DUPLICATE_LABEL_ROW", "label", "noted"): 1,
        ("LABEL_WITHOUT_IMAGE", "label", "noted"): 1,
        ("PATIENT_HAS_SEVERAL_CLASSES", "patient", "noted"): 1,
    }
    assert {finding.code for finding in findings} <= set(REASONS)
    assert {finding.stage for finding in findings} == {"label"}
    assert (step.entered, step.excluded, step.left) == (7, 3, 4)


def test_no_identifier_leaves_the_restricted_folder(study, capsys):
    label(settings=configured(), **options(study))
    written = "".join((study / name).read_text() for name in ("labels.tsv", "unlabelled.tsv", "flow.tsv"))
    shown = capsys.readouterr()
    for text in (written, shown.err, shown.out):
        assert "CANARY" not in text
        assert "1.2." not in text.replace("2.25.", "")
    assert "4 of 7 images" in shown.err


def test_patients_can_be_the_key(study):
    label(settings=configured(key="PatientID"), **options(study))
    labels, findings, _ = results(study)
    # A has images of both classes in the table: as a patient it contradicts itself
    assert [row.label for row in labels] == ["no", "yes"]
    assert sum(finding.code == "CONTRADICTORY_LABELS" for finding in findings) == 3


def test_errors_name_every_line_and_no_identifier(study):
    with pytest.raises(CohortError) as caught:
        label(settings=configured(on_contradiction="error", on_unknown_class="error"), **options(study))
    message = str(caught.value)
    assert "line 7: lines 7, 8 give one key 2 classes" in message
    assert "line 9: the class is not one of those configured" in message
    assert "CANARY" not in message
    assert not (study / "labels.tsv").exists()


def test_another_key_matches_nothing_and_says_so(study):
    (study / "restricted" / "key").unlink()
    read_or_create_key(study / "restricted" / "key")
    with pytest.raises(CohortError, match="none of the 7 labelled keys"):
        label(settings=configured(), **options(study))


def test_a_missing_key_is_not_made_anew(study):
    (study / "restricted" / "key").unlink()
    with pytest.raises(PrivacyError, match="missing"):
        label(settings=configured(), **options(study))
    assert not (study / "restricted" / "key").exists()


FINDINGS = """PatientID,SOPInstanceUID,Mass,Effusion
CANARY-A,1.2.1.1,1,0
CANARY-A,1.2.2.1,0,1
CANARY-B,1.2.3.1,,1
CANARY-C,1.2.4.1,1,0
CANARY-D,1.2.5.1,,
CANARY-E,1.2.6.1,CANARY-CELL,0
CANARY-X,1.2.9.1,0,0
"""


def findings_settings(**changes):
    asked = {"style": "columns", "names": ["Mass", "Effusion"]}
    return LabelSettings(table="labels.csv", key="SOPInstanceUID", findings=asked, **changes)


def run_findings(folder, settings):
    names = {"key": "restricted/key", "table": "labels.csv", "images": "images.tsv", "labels": "labels.tsv"}
    names |= {"unlabelled": "unlabelled.tsv", "flow": "label.tsv"}
    label(settings=settings, **{name: folder / file for name, file in names.items()})


def test_findings_reach_the_table_and_everything_else_is_counted(study, capfd):
    (study / "labels.csv").write_text(FINDINGS)
    run_findings(study, findings_settings(on_unknown_class="exclude"))
    assert [row.label for row in read_table(study / "labels.tsv", Label)] == [
        "Mass=1;Effusion=0", "Mass=0;Effusion=1", "Mass=?;Effusion=1", "Mass=1;Effusion=0",
    ]  # fmt: skip
    counted = Counter(row.code for row in read_table(study / "unlabelled.tsv", Finding))
    assert counted == {"NO_LABEL": 2, "UNKNOWN_LABEL": 1, "LABEL_WITHOUT_IMAGE": 1}
    (step,) = read_table(study / "label.tsv", FlowStep)
    assert (step.entered, step.excluded, step.left) == (7, 3, 4)
    told = capfd.readouterr().err
    assert "Mass 2 of 3, Effusion 2 of 4" in told
    assert "CANARY" not in told


def test_no_cell_of_a_table_of_findings_is_repeated(study, capfd):
    (study / "labels.csv").write_text(FINDINGS)
    with pytest.raises(CohortError, match="line 7: a word that is not configured") as caught:
        run_findings(study, findings_settings())
    assert "CANARY" not in str(caught.value) + capfd.readouterr().err
