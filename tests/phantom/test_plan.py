"""The plan keeps its promises for any number of patients and any prevalence."""

from collections import Counter
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from pipeline.phantom.plan import plan_cohort

plans = st.builds(
    lambda patients, prevalence, seed: (
        patients,
        prevalence,
        plan_cohort(patients=patients, prevalence=prevalence, seed=seed, has_second_studies=True),
    ),
    st.integers(20, 200),
    st.floats(0.1, 0.9),
    st.integers(0, 2**31),
)


def default_plan(**changes):
    return plan_cohort(**{"patients": 140, "prevalence": 0.35, "seed": 1, "has_second_studies": True} | changes)


@settings(max_examples=15)
@given(plans)
def test_numbers_prevalence_and_labels(drawn):
    patients, prevalence, people = drawn
    labelled = [person for person in people if person.studies[0].is_in_table]
    assert len(labelled) == patients
    assert sum(person.has_lesion for person in labelled) == round(patients * prevalence)
    assert [person.number for person in people] == list(range(patients + 1))
    numbers = [study.number for person in people for study in person.studies]
    assert numbers == list(range(len(numbers)))


@settings(max_examples=15)
@given(plans)
def test_every_plan_holds_the_patients_that_tests_need(drawn):
    _, _, people = drawn
    assert any(len({study.has_lesion for study in person.studies}) == 2 for person in people)
    assert sum(not person.studies[0].is_in_table for person in people) == 1
    assert max(person.age_years(person.studies[0].day) for person in people) > 89


@settings(max_examples=15)
@given(plans)
def test_studies_of_a_patient_follow_one_another_and_a_lesion_never_heals(drawn):
    for person in drawn[2]:
        assert [study.visit for study in person.studies] == list(range(len(person.studies)))
        assert [study.day for study in person.studies] == sorted({study.day for study in person.studies})
        assert [study.has_lesion for study in person.studies] == sorted(study.has_lesion for study in person.studies)


@settings(max_examples=15)
@given(plans)
def test_a_shared_picture_is_of_another_patient_of_the_same_class_and_site(drawn):
    people = drawn[2]
    owners = {study.number: (person, study) for person in people for study in person.studies}
    for person in people:
        for study in person.studies:
            if study.shows is not None:
                owner, shown = owners[study.shows]
                assert owner.number != person.number
                assert owner.site == person.site
                assert shown.has_lesion == study.has_lesion
                assert shown.shows is None


@pytest.mark.parametrize("seed", range(5))
def test_neither_site_sex_nor_encoding_tells_the_label_and_age_hardly(seed):
    people = [person for person in default_plan(seed=seed) if person.studies[0].is_in_table]
    label = [person.has_lesion for person in people]
    for feature in ([person.site for person in people], [person.sex == "F" for person in people]):
        shares = [np.mean([value for value, one in zip(feature, label, strict=True) if one == side]) for side in (0, 1)]
        assert abs(shares[0] - shares[1]) < 0.03
    studies = [study for person in people for study in person.studies]
    encoded = Counter((study.has_lesion, study.encoding != "native" or study.is_inverted) for study in studies)
    shares = [encoded[side, True] / (encoded[side, True] + encoded[side, False]) for side in (False, True)]
    assert abs(shares[0] - shares[1]) < 0.08
    ages = [person.age_years(person.studies[0].day) for person in people]
    assert 0.35 < roc_auc_score(label, ages) < 0.65


def test_site_does_not_tell_the_encoding_away():
    studies = [(person.site, study) for person in default_plan() for study in person.studies]
    for encoding in ("rle", "jpeg2000"):
        assert {site for site, study in studies if study.encoding == encoding} == {0, 1}


def test_the_built_in_study_is_as_large_as_promised():
    people = default_plan()
    assert len(people) > 120
    assert 10 <= sum(len(person.studies) == 2 for person in people) <= 40
    kinds = {study.is_exact_copy for person in people for study in person.studies if study.shows is not None}
    assert kinds == {True, False}


def test_the_same_seed_gives_the_same_plan_and_another_seed_another():
    assert default_plan() == default_plan()
    assert default_plan() != default_plan(seed=2)


def test_volumes_come_once_each():
    assert all(len(person.studies) == 1 for person in default_plan(has_second_studies=False))


@pytest.mark.parametrize(
    ("day", "age"), [("2020-02-29", 39), ("2020-03-01", 40), ("2020-03-02", 40), ("1980-03-01", 0)]
)
def test_age_counts_completed_years(day, age):
    person = replace(default_plan()[5], birth=date(1980, 3, 1))
    assert person.age_years(date.fromisoformat(day)) == age
