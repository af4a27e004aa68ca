"""Broken sums stop the report; whole ones do not."""

import pytest

from pipeline.core.errors import ReportError
from pipeline.reporting.sums import check_sums
from tests.reporting.synthetic_evaluation import make_evaluation


def replaced(evaluation, field, index, **changes):
    """Change one row of a table without the checks of the record types."""
    rows = list(getattr(evaluation, field))
    rows[index] = rows[index].model_copy(update=changes)
    return evaluation.model_copy(update={field: tuple(rows)})


def with_confusion(evaluation, index, confusion):
    result = evaluation.strategies[index]
    point = result.operating_point.model_copy(update={"confusion": confusion})
    return replaced(evaluation, "strategies", index, operating_point=point)


@pytest.fixture(scope="module")
def evaluation():
    return make_evaluation()


@pytest.mark.parametrize("classes", [("a", "b"), ("a", "b", "c")])
def test_whole_numbers_pass(classes):
    check_sums(make_evaluation(classes=classes))


def test_a_patient_of_several_classes_is_decided_about_several_times(evaluation):
    three = make_evaluation(classes=("a", "b", "c"))
    for index, result in enumerate(three.strategies):
        first, *rest = result.operating_point.confusion
        three = with_confusion(three, index, ((first[0] + 1, *first[1:]), *rest))
    check_sums(three)


BREAKAGES = {
    "a step loses a file": lambda e: replaced(e, "flow", 0, left=e.flow[0].left - 1),
    "a step hands on more than it has": lambda e: replaced(e, "flow", 4, produced=e.flow[4].produced + 1),
    "an instance is lost between steps": lambda e: replaced(
        e, "flow", 1, entered=e.flow[1].entered - 1, left=e.flow[1].left - 1
    ),
    "units do not meet": lambda e: replaced(e, "flow", 3, unit="patient"),
    "an exclusion has no reason": lambda e: replaced(e, "findings", 0, count=e.findings[0].count - 1),
    "a reason belongs to no step": lambda e: replaced(e, "findings", 0, stage="elsewhere"),
    "the data table has another number of images": lambda e: replaced(
        e, "flow", 5, entered=e.flow[5].entered, left=e.flow[5].left - 1, excluded=e.flow[5].excluded + 1
    ),
    "no row for the whole": lambda e: e.model_copy(update={"cohort": e.cohort[1:]}),
    "a fold is missing": lambda e: e.model_copy(update={"cohort": tuple(r for r in e.cohort if r.fold != 2)}),
    "folds share a patient": lambda e: replaced(e, "cohort", 3, patients=e.cohort[3].patients + 1),
    "a class loses an image": lambda e: replaced(e, "cohort", 1, images=e.cohort[1].images - 1),
    "sexes do not sum": lambda e: replaced(e, "cohort", 0, male=e.cohort[0].male + 1),
    "a strategy decided about fewer": lambda e: with_confusion(e, 1, ((1, 2), (3, 4))),
    "decisions about too many": lambda e: make_evaluation(strategies=("full",)).model_copy(
        update={"cohort": make_evaluation(patients=140).cohort, "flow": make_evaluation(patients=140).flow}
    ),
    "a matrix of the wrong size": lambda e: with_confusion(e, 0, ((137,),)),
    "a strategy twice": lambda e: e.model_copy(update={"strategies": (*e.strategies, e.strategies[0])}),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_numbers_that_do_not_add_up_stop_the_report(name, evaluation):
    with pytest.raises(ReportError, match="do not add up"):
        check_sums(BREAKAGES[name](evaluation))
