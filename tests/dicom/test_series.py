from dataclasses import replace

import pytest

from pipeline.dicom.deidentification.rewriting import Rewritten
from pipeline.dicom.deidentification.series import series_records

ONE = Rewritten(
    source_sha256="5",
    patient="P1",
    study_uid="2.25.1",
    series_uid="2.25.2",
    part=0,
    part_axis="",
    sop_uid="2.25.3",
    site="site-1",
    modality="CR",
    kind="image",
    rows=10,
    columns=12,
    photometric_interpretation="MONOCHROME2",
    is_compressed=False,
    scanner="Maker Model",
    body_part="CHEST",
    view_position="PA",
    study_date="20240229",
    patient_age="045Y",
    patient_sex="F",
)


def records_of(instances):
    return [record for _, record in sorted(series_records(instances), key=lambda one: (one[0], one[1].part))]


def test_one_instance_describes_its_series():
    (record,) = records_of([ONE])
    assert (record.patient, record.series_uid, record.kind, record.instances) == ("P1", "2.25.2", "image", 1)
    assert record.study_date == "2024-02-29"
    assert record.patient_age_years == 45
    assert (record.rows, record.columns, record.view_position, record.site) == (10, 12, "PA", "site-1")


def test_slices_are_a_volume():
    parts = [replace(ONE, kind="slice", sop_uid=f"2.25.{n}", source_sha256=str(n)) for n in range(4)]
    (record,) = records_of(parts)
    assert (record.kind, record.instances) == ("volume", 4)


def test_a_series_of_several_volumes_has_a_record_for_each():
    parts = [
        replace(ONE, kind="slice", sop_uid=f"2.25.{n}", source_sha256=str(n), part=1 + n % 2, part_axis="echo time")
        for n in range(4)
    ]
    records = records_of(parts)
    assert [(one.series_uid, one.part, one.name, one.instances) for one in records] == [
        ("2.25.2", 1, "2.25.2-1", 2),
        ("2.25.2", 2, "2.25.2-2", 2),
    ]
    assert {one.part_axis for one in records} == {"echo time"}
    assert records_of([ONE])[0].name == "2.25.2"


def test_where_instances_disagree_nothing_is_said():
    other = replace(ONE, sop_uid="2.25.4", view_position="LL", body_part="", patient_age="046Y", study_date="20240301")
    (record,) = records_of([ONE, other])
    assert record.view_position == ""
    assert record.body_part == "CHEST"
    assert record.patient_age_years is None
    assert record.study_date == ""


@pytest.mark.parametrize(("age", "years"), [("090Y", 90), ("006M", 0.5), ("", None), ("120Y", 90)])
def test_ages(age, years):
    (record,) = records_of([replace(ONE, patient_age=age)])
    assert record.patient_age_years == years


def test_the_order_depends_on_contents_and_not_on_pseudonyms():
    others = [replace(ONE, series_uid=f"2.25.{uid}", source_sha256=digest) for uid, digest in (("9", "1"), ("1", "9"))]
    for given_order in ([ONE, *others], [*others, ONE]):
        assert [record.series_uid for record in records_of(given_order)] == ["2.25.9", "2.25.2", "2.25.1"]
