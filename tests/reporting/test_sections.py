"""Sections: all of them, whatever is missing, with the evaluation's numbers."""

import re

import pytest

from pipeline.reporting import vocabulary
from pipeline.reporting.blocks import NOT_EVALUATED, Callout, Figures, Table, Tiles
from pipeline.reporting.document import compose
from pipeline.reporting.layout import figures_of, lay_out, tables_of
from pipeline.reporting.sections.accountability import BY_SITE, REGULATION
from pipeline.reporting.sections.order import SECTIONS, sections
from pipeline.reporting.sections.summary import transfer_verdict
from tests.reporting.conftest import make_text
from tests.reporting.synthetic_evaluation import make_evaluation

ORDER = [
    "summary", "flow", "data", "methods", "discrimination", "operating-point", "calibration", "training", "transfer",
    "rejected", "deidentification", "limits", "provenance",
]  # fmt: skip


def empty():
    """An evaluation from which everything is gone that may be."""
    evaluation = make_evaluation(
        strategies=("full",), has_intervals=False, flow=(), findings=(), comparisons=(), warnings=(), software=()
    )
    result = evaluation.strategies[0]
    point = result.operating_point.model_copy(update={"predictive_values": (), "thresholds": ()})
    bare = result.model_copy(
        update={
            "estimates": (), "roc": (), "precision_recall": (), "calibration": (), "history": (), "training": (),
            "operating_point": point,
        }
    )  # fmt: skip
    cohort = [
        row.model_copy(update={"sites": (("", row.images),), "scanners": (), "age_mean_years": None})
        for row in evaluation.cohort
    ]
    return evaluation.model_copy(update={"strategies": (bare,), "cohort": tuple(cohort)})


CASES = {
    "two classes": make_evaluation,
    "four classes": lambda: make_evaluation(classes=("a", "b", "c", "d")),
    "no intervals": lambda: make_evaluation(has_intervals=False),
    "one strategy": lambda: make_evaluation(strategies=("probe",)),
    "twenty folds": lambda: make_evaluation(folds=20, patients=200),
    "nothing": empty,
}


def words_of(section):
    return section.model_dump_json()


def table(made, name):
    return next(item for item in tables_of(made) if item.name == name)


@pytest.mark.parametrize("case", CASES)
def test_no_section_is_ever_left_out(case):
    text = make_text() if case != "nothing" else make_text(methods=(), settings=(), limitations=(), question="")
    made = sections(compose(CASES[case](), text))
    assert [section.name for section in made] == ORDER
    assert len(SECTIONS) == len(ORDER)
    names = [figure.name for figure in figures_of(made)], [item.name for item in tables_of(made)]
    assert all(len(set(found)) == len(found) for found in names)


def test_what_is_missing_is_said():
    made = {section.name: section for section in sections(compose(empty(), make_text(methods=(), settings=())))}
    for name in set(ORDER) - {"summary", "rejected", "limits"}:
        callouts = [block for block in made[name].blocks if isinstance(block, Callout)]
        assert any(block.text[0].startswith(f"{NOT_EVALUATED}: ") for block in callouts), name
    assert "Nothing was left out." in words_of(made["rejected"])


def test_figures_and_tables_are_numbered_through(report):
    laid = lay_out(sections(report))
    blocks = [block for section in laid for block in section["blocks"]]
    figures = [figure["label"] for block in blocks for figure in block.get("figures", ())]
    tables = [block["label"] for block in blocks if block["kind"] == "table"]
    assert figures == [f"Figure {number}" for number in range(1, len(figures) + 1)]
    assert tables == [f"Table {number}" for number in range(1, len(tables) + 1)]
    assert [section["number"] for section in laid] == list(range(13))


def test_the_receipt_is_summed_up(report):
    """Every element stands in one row; what is named is the most frequent; images have no names."""
    done = report.deidentification
    rows = {row[0]: row for row in table(sections(report), "deidentification-actions").rows}
    assert set(rows) == {line.action for line in done.receipt}
    for action, row in rows.items():
        lines = [line for line in done.receipt if line.action == action]
        assert number(row[1]) == len({line.keyword or line.tag for line in lines})
        assert number(row[2]) == sum(line.elements for line in lines)
        most = max(lines, key=lambda line: line.elements)
        assert row[3].startswith(most.keyword or most.tag)
    assert rows["removed"][3].startswith("PRIVATE, ")
    assert rows["removed"][3].endswith(" and 11 others")
    places = table(sections(report), "deidentification-pixels").rows
    assert places[0] == ("acme", "0", "0", "60", "1024", "8")
    assert sum(number(row[-1]) for row in places) == 14
    assert [row[:2] for row in table(sections(report), "deidentification-kept-out").rows] == [
        ("BURNED_IN_ANNOTATION", "2")
    ]
    section = next(one for one in sections(report) if one.name == "deidentification")
    assert "2.25." not in words_of(section)


def number(text):
    """First number of a cell, percentages as fractions."""
    found = re.search(r"[−+]?[0-9][0-9\N{NO-BREAK SPACE}]*(\.[0-9]+)?", text)
    value = float(found[0].replace("−", "-").replace("\N{NO-BREAK SPACE}", ""))
    return value / 100 if "%" in text else value


@pytest.mark.parametrize("classes", [("normal", "ill"), ("a", "b", "c")])
def test_printed_estimates_are_the_evaluations(classes):
    evaluation = make_evaluation(classes=classes)
    made = sections(compose(evaluation, make_text()))
    printed = {(row[0], row[1]): row for name in ("discrimination", "decisions") for row in table(made, name).rows}
    chosen = [item for item in evaluation.strategies[0].estimates if item.fold is None]
    assert len(printed) == len(chosen)
    for item in chosen:
        row = printed[vocabulary.overall_title(item.metric), item.level]
        low, high = (part if "%" in part or "%" not in row[3] else f"{part} %" for part in row[3].split(" to "))
        for cell, value in ((row[2], item.value), (low, item.low), (high, item.high)):
            assert number(cell) == pytest.approx(value, abs=0.00056), item.metric
        assert number(row[4]) == (item.patients if item.level == "patient" else item.images)


def test_folds_are_printed_as_evaluated(report):
    evaluation = report.evaluation
    rows = table(sections(report), "folds").rows
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    for fold, row in enumerate(rows):
        for cell, name in zip(row[3:], ("auroc", "auprc", "sensitivity", "specificity"), strict=True):
            value = evaluation.estimate("full", "patient", name, fold).value
            assert number(cell.splitlines()[0]) == pytest.approx(value, abs=0.00056)


def test_tiles_show_the_headline_numbers(report):
    tiles = next(block for block in sections(report)[0].blocks if isinstance(block, Tiles)).tiles
    evaluation = report.evaluation
    for tile, name in zip(tiles[:3], ("auroc", "sensitivity", "specificity"), strict=True):
        estimate = evaluation.estimate("full", "patient", name)
        assert number(tile.value) == pytest.approx(estimate.value, abs=0.0051)
        assert "95" in tile.detail
    assert tiles[3].value == "137"
    assert "48 (35" in tiles[3].detail


def test_flow_rows_are_the_evaluations_and_add_up(report):
    rows = table(sections(report), "cohort-flow").rows
    for row, step in zip(rows, report.evaluation.flow, strict=True):
        entered, excluded, left = (int(cell) for cell in row[2:5])
        assert (entered, excluded, left) == (step.entered, step.excluded, step.left)
        assert entered == excluded + left
        assert row[5].startswith(f"{step.produced} ")


def test_every_reason_has_meaning_and_remedy(report):
    made = sections(report)
    rows = {row[0]: row for name in ("excluded", "noted") for row in table(made, f"findings-{name}").rows}
    for item in report.evaluation.findings:
        assert rows[item.code][2].startswith(f"{item.count} ")
        assert rows[item.code][3:] == (item.meaning, item.remedy)


def test_alternative_texts_give_the_numbers(report):
    alts = {figure.name: figure.alt for figure in figures_of(sections(report))}
    auroc = report.evaluation.estimate("full", "patient", "auroc")
    assert f"{auroc.value:.3f}" in alts["roc"]
    for step in report.evaluation.flow:
        assert str(step.left) in alts["cohort-flow"]
    for row in report.evaluation.strategies[0].operating_point.confusion:
        assert all(str(cell) in alts["confusion-matrix"] for cell in row)


def verdict(low, high, *, across=None, weights="imagenet", **changes):
    evaluation = make_evaluation(strategies=("full", "scratch"), weights=weights, **changes)
    pairs = []
    for item in evaluation.comparisons:
        ends = across if item.metric == "auroc_across_folds" and across else (low, high)
        pairs.append(item.model_copy(update={"difference": 0.05, "low": ends[0], "high": ends[1]}))
    return transfer_verdict(evaluation.model_copy(update={"comparisons": tuple(pairs)})).text[0]


def test_the_verdict_on_transfer_follows_the_interval():
    assert verdict(0.01, 0.09).startswith("Yes. ")
    assert verdict(-0.09, -0.01).startswith("No, it did harm. ")
    assert verdict(-0.01, 0.09).startswith("Not clearly. ")
    assert verdict(None, None).endswith("chance cannot be excluded.")
    assert "not beyond doubt" in verdict(0.01, 0.09, across=(-0.02, 0.12))


def with_epochs(evaluation, name, *best_and_run):
    trainings = {item.strategy: item.training for item in evaluation.strategies}
    changed = tuple(
        item.model_copy(update={"best_epoch": best, "epochs": run})
        for item, (best, run) in zip(trainings[name], best_and_run, strict=True)
    )
    results = tuple(
        item.model_copy(update={"training": changed}) if item.strategy == name else item
        for item in evaluation.strategies
    )
    return evaluation.model_copy(update={"strategies": results})


def test_a_random_start_that_was_still_learning_is_told_beside_the_verdict():
    evaluation = make_evaluation(strategies=("full", "scratch"), folds=3)
    done = with_epochs(evaluation, "scratch", (8, 10), (3, 10), (0, 0))
    assert len(transfer_verdict(with_epochs(done, "full", (10, 10), (10, 10), (10, 10))).text) == 1
    _, told = transfer_verdict(with_epochs(evaluation, "scratch", (10, 10), (8, 10), (17, 20))).text
    assert told.startswith("In 2 of 3 folds the random start was best in the last fifth of its epochs")


def test_without_a_random_start_to_compare_with_there_is_no_verdict():
    found = transfer_verdict(make_evaluation(strategies=("full", "probe")))
    assert found.text[0].startswith(NOT_EVALUATED)


def test_random_weights_are_said_at_the_top():
    report = compose(make_evaluation(strategies=("full", "scratch"), weights="random"), make_text())
    summary = sections(report)[0]
    assert isinstance(summary.blocks[0], Callout)
    assert summary.blocks[0].title == "No transfer is measured"
    assert "cannot be said" in verdict(0.01, 0.09, weights="random")


def test_synthetic_images_are_said_first():
    summary = sections(compose(make_evaluation(), make_text(is_synthetic=True)))[0]
    assert summary.blocks[0].title == "Synthetic images"


def test_limits_name_warnings_limitations_and_no_compliance(report):
    words = words_of(sections(report)[11])
    for text in (*report.evaluation.warnings, *report.text.limitations):
        assert text in words
    assert "supports evidence for" in REGULATION
    assert "complian" not in "".join(map(words_of, sections(report))).lower()


def test_held_out_sites_have_another_limit():
    made = sections(compose(make_evaluation(), make_text(is_split_by_site=True)))
    assert BY_SITE in words_of(made[11])


def test_rare_sites_are_joined_and_none_is_lost():
    evaluation = make_evaluation(strategies=("full",))
    rows = []
    for row in evaluation.cohort:
        sites = tuple((f"site-{index:02d}", 1) for index in range(row.images))
        rows.append(row.model_copy(update={"sites": sites}))
    made = sections(compose(evaluation.model_copy(update={"cohort": tuple(rows)}), make_text()))
    sites = table(made, "sites")
    whole = evaluation.cohort[0].images
    assert sum(int(row[1].split("\n")[0]) for row in sites.rows) == whole
    assert sites.rows[-1][0].endswith("others")


def test_tables_fit_a_page_and_lose_no_fold_and_no_class():
    classes = ("a", "b", "c", "d", "e", "f", "g")
    made = sections(compose(make_evaluation(folds=20, patients=300, classes=classes), make_text()))
    assert all(len(item.columns) <= 10 for item in tables_of(made))
    titles = [column.title for item in tables_of(made) if item.name.startswith("sites") for column in item.columns]
    assert {*classes, *(f"Fold {number}" for number in range(1, 21))} <= set(titles)


def test_curves_that_find_no_room_are_counted():
    made = sections(compose(make_evaluation(classes=tuple("abcdefghi"), patients=300), make_text()))
    captions = {figure.name: figure.caption for figure in figures_of(made)}
    assert "2 more curves in report.json" in captions["roc"]
    assert "2 more curves in report.json" in captions["precision-recall"]


def test_software_that_differs_between_training_and_evaluation_is_shown():
    evaluation = make_evaluation(software=(("torch", "9.9.9"),))
    row = next(row for row in table(sections(compose(evaluation, make_text())), "software").rows if row[0] == "torch")
    assert row == ("torch", "2.13.0", "9.9.9")


def test_a_table_must_be_rectangular(report):
    first = next(tables_of(sections(report)))
    with pytest.raises(ValueError, match="cells"):
        Table(name="x", caption="x", columns=first.columns, rows=(("one cell",),))


def test_single_figures_and_pairs_only(report):
    for section in sections(report):
        for block in section.blocks:
            if isinstance(block, Figures):
                assert len(block.figures) in (1, 2)


def test_a_probe_says_after_which_blocks_it_looks():
    made = sections(compose(make_evaluation(strategies=("full", "probe")), make_text()))
    found = table(made, "training-probe")
    assert found.columns[1].title == "Features after"
    assert {row[1] for row in found.rows} == {"layer3 + layer4"}
