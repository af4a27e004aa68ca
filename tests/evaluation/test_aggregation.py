"""Aggregation: situations of patients with several images and several classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.aggregation import aggregate, group_patients, in_words

BINARY, THREE = ("no", "yes"), ("a", "b", "c")


def test_a_patient_is_positive_if_any_image_is():
    units = group_patients(["p", "q", "p", "p"], [0, 0, 1, 0], BINARY)
    assert [(unit.unit_id, unit.label, unit.images) for unit in units] == [("p", 1, (0, 2, 3)), ("q", 0, (1,))]


def test_of_several_classes_none_outranks_another():
    units = group_patients(["p", "p", "q", "p"], [2, 0, 1, 2], THREE)
    found = [(unit.unit_id, unit.patient, unit.label, unit.images) for unit in units]
    assert found == [("p:a", "p", 0, (1,)), ("p:c", "p", 2, (0, 3)), ("q", "q", 1, (2,))]


def test_mean_and_largest_probability():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]])
    units = group_patients(["p", "p", "q"], [0, 1, 0], BINARY)
    assert aggregate(probabilities, units, "mean") == pytest.approx(np.array([[0.65, 0.35], [0.7, 0.3]]))
    assert aggregate(probabilities, units, "max") == pytest.approx(np.array([[0.4, 0.6], [0.7, 0.3]]))


def test_largest_of_several_classes_sums_to_one():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    units = group_patients(["p", "p"], [1, 1], THREE)
    assert aggregate(probabilities, units, "max") == pytest.approx(np.array([[0.5, 0.3, 0.7]]) / 1.5)


@pytest.mark.parametrize("how", ["mean", "max"])
@given(seed=st.integers(0, 10**6), classes=st.sampled_from([BINARY, THREE]))
def test_the_order_of_images_changes_nothing(how, seed, classes):
    generator = np.random.default_rng(seed)
    raw = generator.random((20, len(classes)))
    probabilities = raw / raw.sum(axis=1, keepdims=True)
    patients, labels = [f"P{i}" for i in generator.integers(0, 6, 20)], generator.integers(0, len(classes), 20)
    order = generator.permutation(20)

    def by_name(index):
        units = group_patients([patients[i] for i in index], labels[index].tolist(), classes)
        rows = aggregate(probabilities[index], units, how)
        return {unit.unit_id: (unit.label, *row) for unit, row in zip(units, rows.tolist(), strict=True)}

    assert by_name(order) == by_name(np.arange(20))


def test_words_name_the_rule():
    assert "a patient is yes if any image is" in in_words("mean", BINARY)
    assert in_words("max", THREE).startswith("largest")
