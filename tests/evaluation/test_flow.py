"""Flow: each way in which numbers may fail to add up is refused."""

import pytest

from pipeline.core.errors import ReportError
from pipeline.core.records import Finding, FlowStep
from pipeline.evaluation.flow import ORDER, check_flow, count_findings
from tests.evaluation.synthetic import make_flow

TABLES = {"deidentify": 10, "preprocess": 10, "label": 10, "split": 10}


def changed(flow, stage, **values):
    return [FlowStep.model_validate(step.model_dump() | values) if step.stage == stage else step for step in flow]


def test_sound_numbers_come_back_in_order():
    flow, findings = make_flow(10)
    assert [step.stage for step in check_flow(flow[::-1], findings, TABLES)] == list(ORDER)


@pytest.mark.parametrize(
    ("stage", "values", "message"),
    [
        ("deidentify", {"entered": 14, "left": 14}, "deidentify receives 14"),
        ("ingest", {"entered": 16, "left": 14, "produced": 14}, "deidentify receives 13"),
        ("preprocess", {"unit": "image"}, r"preprocess receives 10 \(image\)"),
        ("check_quality", {"produced": 9, "left": 9, "excluded": 1}, "check_quality leaves 9"),
        ("split", {"excluded": 1, "left": 9, "produced": 9}, "gives 0 reasons"),
    ],
)
def test_numbers_that_do_not_add_up(stage, values, message):
    flow, findings = make_flow(10)
    with pytest.raises(ReportError, match=message):
        check_flow(changed(flow, stage, **values), findings, TABLES)


def test_one_reason_too_many_too_few_or_for_another_unit():
    flow, findings = make_flow(10)
    with pytest.raises(ReportError, match=r"ingest excludes 2 \(file\), but gives 1 reasons"):
        check_flow(flow, findings[1:], TABLES)
    with pytest.raises(ReportError, match="gives 3 reasons for 2"):
        check_flow(flow, [*findings, findings[0]], TABLES)
    other = findings[0].model_copy(update={"unit": "series"})
    with pytest.raises(ReportError, match="gives 2 reasons for 1"):
        check_flow(flow, [other, *findings[1:]], TABLES)


def test_a_table_with_another_number():
    flow, findings = make_flow(10)
    with pytest.raises(ReportError, match=r"label counts 10 \(image\), its table 9"):
        check_flow(flow, findings, TABLES | {"label": 9})


def test_a_missing_or_repeated_stage():
    flow, findings = make_flow(10)
    for steps in (flow[1:], [*flow, flow[0]]):
        with pytest.raises(ReportError, match="one flow step for each"):
            check_flow(steps, findings, TABLES)


def test_findings_are_counted_with_their_meaning():
    _, findings = make_flow(10)
    rows = count_findings([findings[2], findings[0], findings[0].model_copy(update={"unit_id": "file-9"}), findings[1]])
    assert [(row.stage, row.code, row.count) for row in rows] == [
        ("ingest", "NOT_DICOM", 2),
        ("ingest", "TRUNCATED_FILE", 1),
        ("split", "SAME_IMAGE_TWO_PATIENTS", 1),
    ]
    assert all(row.meaning and row.remedy for row in rows)


def test_a_code_without_a_meaning_is_refused():
    finding = Finding(stage="ingest", unit="file", unit_id="file-1", code="NO_SUCH_CODE", severity="noted")
    with pytest.raises(ReportError, match="NO_SUCH_CODE"):
        count_findings([finding])
