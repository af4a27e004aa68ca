from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cohort.splits import Division, assert_all_tested, assert_no_leakage, divide
from pipeline.core.errors import ArtefactError, CohortError
from pipeline.core.states import read_states, write_states
from tests.cohort.samples import RELAXED, by_content, image

NAMES = ("Effusion", "Mass", "Hernia")
PREVALENCES = (0.4, 0.2, 0.08)
DIVISION = Division(folds=4, validation_fraction=0.25, unit="patient", seed=5)


def cohort(seed, patients=150, unknown=0.1, prevalences=PREVALENCES, names=NAMES):
    """Images in the order of content, their findings, and every patient as its own group."""
    generator = np.random.default_rng(seed)
    images, labels = [], {}
    for patient in range(patients):
        has = generator.random(len(names)) < prevalences
        for number in range(generator.integers(1, 4)):
            name = f"image {patient}.{number}"
            images.append(image(name, f"patient {patient}", pixels=f"{seed} {name}", row=len(images)))
            states = np.where(generator.random(len(names)) < unknown, -1, has)
            states[0] = int(has[0])  # of an image of which nothing is known there is no label
            labels[name] = write_states(names, states.tolist())
    images = by_content(images)
    return images, labels, {one.patient: one.patient for one in images}


@RELAXED
@given(seed=st.integers(0, 2**31))
def test_every_part_holds_every_finding_present_and_absent(seed):
    images, labels, groups = cohort(seed)
    try:
        roles = divide(images, labels, groups, DIVISION, "findings")
    except CohortError as error:
        assert "Hernia" in str(error)  # noqa: PT017  too few patients of the rarest finding
        return
    assert_no_leakage(roles, {one.image_id: one.pixel_sha256 for one in images})
    assert_all_tested(roles)
    for fold in range(DIVISION.folds):
        for part in ("train", "validation", "test"):
            found = [read_states(row.label, NAMES) for row in roles if (row.fold, row.role) == (fold, part)]
            for column in zip(*found, strict=True):
                assert {0, 1} <= set(column), (fold, part)


def spread(parts, states):
    """Worst relative departure of a fold's number of images of a finding from an equal share."""
    worst = 0.0
    for finding in range(states.shape[1]):
        counts = np.bincount(parts[states[:, finding] == 1], minlength=DIVISION.folds)
        worst = max(worst, float(np.abs(counts / counts.mean() - 1).max()))
    return worst


def test_rare_findings_are_spread_more_evenly_than_by_chance():
    ours, chance = [], []
    for seed in range(12):
        images, labels, groups = cohort(seed, patients=200)
        roles = divide(images, labels, groups, DIVISION, "findings")
        tested = {row.image_id: row.fold for row in roles if row.role == "test"}
        states = np.array([read_states(labels[one.image_id], NAMES) for one in images])
        ours.append(spread(np.array([tested[one.image_id] for one in images]), states))
        random = {
            name: int(fold) for name, fold in zip(groups, np.random.default_rng(seed).permutation(200) % 4, strict=True)
        }
        chance.append(spread(np.array([random[one.patient] for one in images]), states))
    assert np.mean(ours) < 0.5 * np.mean(chance)


def test_the_order_of_the_findings_and_the_pseudonyms_do_not_matter():
    images, labels, groups = cohort(3)
    order = [2, 0, 1]
    other = {
        name: write_states([NAMES[i] for i in order], [read_states(text, NAMES)[i] for i in order])
        for name, text in labels.items()
    }
    plain = divide(images, labels, groups, DIVISION, "findings")
    permuted = divide(images, other, groups, DIVISION, "findings")
    assert [row.role for row in plain] == [row.role for row in permuted]


def test_a_single_finding_is_divided_as_evenly_as_two_classes():
    images, labels, groups = cohort(1, unknown=0.0, prevalences=(0.3,), names=("Mass",))
    roles = divide(images, labels, groups, DIVISION, "findings")
    counts = Counter((row.fold, row.label) for row in roles if row.role == "test")
    present = [counts[fold, "Mass=1"] for fold in range(DIVISION.folds)]
    assert max(present) - min(present) <= 3


def test_a_finding_with_too_few_patients_is_named():
    images, labels, groups = cohort(1, patients=60, prevalences=(0.4, 0.3, 0.03), unknown=0.0)
    with pytest.raises(CohortError, match=r"too few patients for 4 folds: `Hernia` [0-3] ") as caught:
        divide(images, labels, groups, DIVISION, "findings")
    assert "Effusion" not in str(caught.value)


def test_classes_are_no_findings():
    images, labels, groups = cohort(1)
    with pytest.raises(ArtefactError):
        divide(images, dict.fromkeys(labels, "Effusion"), groups, DIVISION, "findings")
