"""Cohort table: rows add up to the whole, values by hand."""

import pytest

from pipeline.evaluation.cohort_table import NOT_STATED, describe_cohort
from tests.evaluation.synthetic import BINARY, Plan, make_tables


@pytest.fixture(scope="module")
def rows():
    tables = make_tables(Plan())
    return {(row.fold, row.label): row for row in describe_cohort(tables.images, tables.folds, BINARY)}


def test_every_fold_and_class_has_a_row(rows):
    assert list(rows) == [(fold, label) for fold in (None, 0, 1, 2) for label in (None, *BINARY)]


def test_folds_sum_to_the_whole(rows):
    for label in (None, *BINARY):
        for kind in ("patients", "studies", "images", "female", "male", "sex_other_or_missing", "age_missing"):
            assert sum(getattr(rows[fold, label], kind) for fold in (0, 1, 2)) == getattr(rows[None, label], kind)


def test_images_of_classes_sum_to_the_whole_but_patients_may_have_several(rows):
    for fold in (None, 0, 1, 2):
        assert sum(rows[fold, label].images for label in BINARY) == rows[fold, None].images
    assert sum(rows[None, label].patients for label in BINARY) == rows[None, None].patients + 2


def test_counts_of_one_row(rows):
    whole = rows[None, None]
    assert (whole.patients, whole.studies, whole.images) == (60, 60, 120)
    assert (whole.female, whole.male, whole.sex_other_or_missing) == (40, 40, 40)
    assert whole.age_missing == 2 * 7  # patients 0, 9, ..., 54
    ages = [20 + patient for patient in range(60) if patient % 9]
    mean = sum(ages) / len(ages)
    # Two images a patient: each age twice.
    deviation = (2 * sum((age - mean) ** 2 for age in ages) / (2 * len(ages) - 1)) ** 0.5
    assert (whole.age_mean_years, whole.age_sd_years) == pytest.approx((mean, deviation))
    assert whole.sites == (("site-0", 64), ("site-1", 56))
    assert whole.scanners == ((NOT_STATED, 120),)


def test_no_ages_are_no_mean():
    tables = make_tables(Plan())
    images = [image.model_copy(update={"patient_age_years": None}) for image in tables.images]
    row = describe_cohort(images, tables.folds, BINARY)[0]
    assert (row.age_mean_years, row.age_sd_years, row.age_missing) == (None, None, 120)
