import json
import re

import pytest

from pipeline.core.errors import ReportError
from pipeline.evaluation.study import evaluate_study
from pipeline.reporting import methods
from pipeline.reporting.document import Report, as_bytes, compose
from pipeline.reporting.figures.findings import draw_calibration_panels, draw_roc_panels
from pipeline.reporting.figures.style import paint
from pipeline.reporting.layout import figures_of, tables_of
from pipeline.reporting.render import render
from pipeline.reporting.sections.findings import extremes
from pipeline.reporting.sections.order import sections
from pipeline.reporting.sums import check_sums
from pipeline.reporting.vocabulary import point_of, rule_of
from tests.evaluation.synthetic_findings import NAMES, make_finding_protocol, make_finding_tables
from tests.reporting.conftest import HOSTILE, make_text


def evaluated(names=NAMES):
    prevalences = (0.5, 0.3, 0.2, 0.4)[: len(names)]
    return evaluate_study(
        "study", make_finding_tables(names, prevalences=prevalences), make_finding_protocol(names, 100),
        created="2026-11-21T00:00:00Z", module="pipeline.core.states",
    )[0]  # fmt: skip


@pytest.fixture(scope="module")
def evaluation():
    return evaluated()


@pytest.fixture(scope="module")
def files(evaluation):
    return render(as_bytes(compose(evaluation, make_text())))


def test_the_page_has_a_row_and_an_interval_for_each_finding(evaluation, files):
    page = files["report.html"].decode()
    assert "Mean of the findings" in page
    for name in NAMES:
        found = evaluation.estimate("full", "patient", f"auroc:{name}")
        assert f"{found.low:.3f}" in page
        assert f"{name}" in page
    assert "positive class" not in page.lower().replace("positive class</dt><dd>of each finding", "")
    assert len(re.findall(r"<h2", page)) == 13


def test_every_finding_stands_in_each_table(evaluation):
    made = sections(compose(evaluation, make_text()))
    tables = {table.name: table for table in tables_of(made)}
    for name in (
        "findings",
        "decisions",
        "confusion-matrix",
        "predictive-values",
        "calibration",
        "calibration-by-fold",
    ):
        firsts = [row[0] for row in tables[name].rows]
        assert firsts[-3:] == list(NAMES), name
    figures = {figure.name: figure for figure in figures_of(made)}
    for name in ("findings-auroc", "findings-auprc", "roc", "calibration"):
        assert all(finding in figures[name].alt for finding in NAMES), name


def test_the_summary_names_the_findings_and_the_card_their_outputs(evaluation, files):
    page, card = files["report.html"].decode(), files["model_card.md"].decode()
    low, high = extremes(evaluation)
    assert f"Lowest: {low}" in page
    assert f"Highest: {high}" in page
    assert "patients with each: Effusion " in page
    assert "Findings, each with an output of its own (sigmoid)" in card
    assert "AUROC, Hernia" in card.replace("\\", "")


def test_a_single_finding_and_words_that_would_do_harm_are_shown():
    alone = evaluated(("Mass",))
    assert extremes(alone) is None
    assert b"AUROC, mean of 1 finding" in render(as_bytes(compose(alone, make_text())))["report.html"]
    hostile = tuple(name.replace("=", "").replace(";", "") for name in HOSTILE[:3])
    page = render(as_bytes(compose(evaluated(hostile), make_text())))["report.html"].decode()
    assert "<script>alert(1)" not in page


def test_rendering_the_stored_numbers_again_gives_the_same_bytes(evaluation, files):
    document = as_bytes(compose(evaluation, make_text()))
    assert render(as_bytes(Report.model_validate_json(document))) == files


def test_numbers_that_do_not_add_up_stop_the_report(evaluation):
    check_sums(evaluation)
    first = evaluation.strategies[0]
    lost = first.findings[0].model_copy(update={"patients_unknown": 5})
    broken = first.model_copy(update={"findings": (lost, *first.findings[1:])})
    with pytest.raises(ReportError, match="Effusion: 90 patients decided about and 5 unknown"):
        check_sums(evaluation.model_copy(update={"strategies": (broken, *evaluation.strategies[1:])}))
    with pytest.raises(ReportError, match="the findings are not those"):
        check_sums(evaluation.model_copy(update={"classes": NAMES[::-1]}))
    with pytest.raises(ReportError, match="no operating point"):
        point_of(first)
    with pytest.raises(ReportError):
        check_sums(evaluation.model_copy(update={"kind": "classes"}))


def test_panels_are_drawn_for_many_findings(evaluation):
    result = evaluation.strategies[0]
    curves = [
        curve.model_copy(update={"class_name": f"a rather long finding {n}"}) for n, curve in enumerate(result.roc * 5)
    ]
    for picture in (
        paint(lambda: draw_roc_panels(curves, [None, (0.1, 0.8)] * 7 + [None])),
        paint(lambda: draw_calibration_panels(result.calibration * 5)),
        paint(lambda: draw_calibration_panels(result.calibration[:1])),
    ):
        assert picture.svg.startswith(b"<?xml")


def test_methods_tell_what_findings_are(evaluation):
    labels = methods.labels_matched("PatientID", NAMES, "error", "exclude", "findings").text
    assert "present, absent or unknown" in labels
    assert "class" not in labels
    loss = methods.loss(0.05, balance_classes=True, kind="findings")
    assert loss.startswith("Binary cross-entropy of every finding that is known of an image")
    assert "each class" not in methods.numbers_made("mean", rule_of(evaluation), 100, 0.95, "findings").text
    assert "for each finding by itself" in rule_of(evaluation)
    assert json.loads(evaluation.model_dump_json())["kind"] == "findings"
