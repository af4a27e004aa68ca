from collections import Counter, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cohort.splits import Division, assert_all_tested, assert_no_leakage, assert_same_rows, divide
from pipeline.core.errors import ArtefactError, CohortError, LeakageError
from tests.cohort.samples import by_content, cohort_plans, image

FEWER = settings(max_examples=30)


def division(folds=5, validation_fraction=0.2, unit="patient", seed=1):
    return Division(folds=folds, validation_fraction=validation_fraction, unit=unit, seed=seed)


def plain(per_class, classes=2, images_each=1):
    """One group for each patient, `per_class` patients of each class."""
    images, labels = [], {}
    for number in range(per_class * classes):
        for position in range(images_each):
            name = f"i{number}.{position}"
            images.append(image(name, f"p{number}"))
            labels[name] = f"c{number % classes}"
    return by_content(images), labels, {one.patient: f"g{one.patient}" for one in images}


def digests(images):
    return {one.image_id: one.pixel_sha256 for one in images}


@FEWER
@given(
    plan=cohort_plans,
    folds=st.integers(2, 6),
    fraction=st.sampled_from([0.1, 0.2, 0.35, 0.5]),
    seed=st.integers(0, 2**31),
)
def test_a_division_keeps_its_promises(plan, folds, fraction, seed):
    images, labels, groups = plan.build()
    rows = divide(images, labels, groups, division(folds, fraction, seed=seed))
    assert_no_leakage(rows, digests(images))
    assert_all_tested(rows)
    assert Counter(row.image_id for row in rows if row.role == "test") == Counter(list(labels))
    sides = defaultdict(set)
    for row in rows:
        assert (row.label, row.patient) == (labels[row.image_id], row.patient)
        assert row.group == groups[row.patient]
        for name in (row.patient, row.group):
            sides[row.fold, name].add(row.role)
    assert all(len(held) == 1 for held in sides.values())
    everything = set(labels.values())
    present = defaultdict(set)
    for row in rows:
        present[row.fold, row.role].add(row.label)
    assert len(present) == 3 * folds
    assert all(found == everything for found in present.values())
    assert [row.image_id for row in rows] == [one.image_id for one in images] * folds


@FEWER
@given(seed=st.integers(0, 2**31), per_class=st.integers(20, 60), classes=st.integers(2, 4), folds=st.integers(2, 8))
def test_classes_are_balanced(seed, per_class, classes, folds):
    images, labels, groups = plain(per_class, classes)
    rows = divide(images, labels, groups, division(folds, 0.25, seed=seed))
    for (fold, role, label), count in Counter((row.fold, row.role, row.label) for row in rows).items():
        remaining = per_class - sum(row.fold == fold and row.role == "test" and row.label == label for row in rows)
        wanted = {"test": per_class / folds, "validation": 0.25 * remaining, "train": 0.75 * remaining}[role]
        assert abs(count - wanted) <= 1


@FEWER
@given(plan=cohort_plans, names=st.randoms(use_true_random=False))
def test_results_do_not_depend_on_pseudonyms(plan, names):
    images, labels, groups = plan.build()
    patients = sorted(groups)
    others = [f"Q{number}" for number in range(len(patients))]
    names.shuffle(others)
    renamed = dict(zip(patients, others, strict=True))
    other_images = [one.model_copy(update={"patient": renamed[one.patient]}) for one in images]
    # groups are named by content (name_groups), here by an injection that keeps no order
    other_groups = {renamed[patient]: f"H{hash(group)}" for patient, group in groups.items()}
    one = divide(images, labels, groups, division())
    other = divide(other_images, labels, other_groups, division())
    assert [(row.image_id, row.fold, row.role) for row in one] == [(row.image_id, row.fold, row.role) for row in other]


def test_the_seed_decides_and_nothing_else():
    images, labels, groups = plain(15)
    first, again, other = (divide(images, labels, groups, division(seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_validation_parts_differ_between_folds_and_match_their_fraction_in_groups():
    images, labels, groups = plain(40, images_each=2)
    rows = divide(images, labels, groups, division(5, 0.25))
    parts = {fold: {row.group for row in rows if row.fold == fold and row.role == "validation"} for fold in range(5)}
    assert {len(part) for part in parts.values()} == {16}
    assert len({frozenset(part) for part in parts.values()}) == 5


def test_a_rare_class_stands_in_every_part():
    images, labels, groups = plain(60)
    rare = {f"r{number}": image(f"r{number}", f"rare {number}") for number in range(5)}
    images = by_content([*images, *rare.values()])
    labels |= dict.fromkeys(rare, "rare")
    groups |= {one.patient: one.patient for one in rare.values()}
    rows = divide(images, labels, groups, division(5, 0.1))
    counts = Counter((row.fold, row.role) for row in rows if row.label == "rare")
    assert all(counts[fold, "test"] == counts[fold, "validation"] == 1 for fold in range(5))


# too few


@pytest.mark.parametrize(
    ("per_class", "folds", "advice"),
    [(4, 5, "at most 4"), (3, 5, "at most 3"), (3, 2, "at least 3 of each class"), (2, 2, "at least 3 of each class")],
)
def test_too_few_patients_are_refused_with_the_number_that_would_do(per_class, folds, advice):
    images, labels, groups = plain(per_class)
    with pytest.raises(CohortError, match=rf"`c0` {per_class}, `c1` {per_class}") as caught:
        divide(images, labels, groups, division(folds))
    assert advice in str(caught.value)
    assert caught.value.where == "split.folds"


@pytest.mark.parametrize(("per_class", "folds"), [(3, 3), (4, 2), (4, 4), (5, 5)])
def test_the_fewest_patients_that_do(per_class, folds):
    images, labels, groups = plain(per_class)
    assert_all_tested(divide(images, labels, groups, division(folds)))


def test_linked_patients_count_once():
    images, labels, groups = plain(5)
    groups |= {"p0": "both", "p2": "both"}
    with pytest.raises(CohortError, match=r"`c0` 4, `c1` 5 \(linked patients count once\)"):
        divide(images, labels, groups, division(5))


def test_a_single_class_is_refused():
    images, labels, groups = plain(10, classes=1)
    with pytest.raises(CohortError, match="one class"):
        divide(images, labels, groups, division())


def test_a_class_that_lost_all_its_images_is_refused():
    images, labels, groups = plain(10)
    with pytest.raises(CohortError, match="`c0` 10, `c1` 10, `c9` 0"):
        divide(images, {**labels, "gone": "c9"}, groups, division())


def test_no_image_left_is_refused():
    with pytest.raises(CohortError, match="no image is left"):
        divide([], {"gone": "c0"}, {}, division())


def test_a_giant_group_is_refused():
    images, labels, groups = plain(20)
    groups |= {f"p{number}": "linked" for number in range(18)}
    with pytest.raises(CohortError, match="18 patients with 18 of 40 images are linked"):
        divide(images, labels, groups, division(5))


@pytest.mark.parametrize(("parts", "expected"), [(1, "that all hold every class"), (2, "of fold 0 cannot be divided")])
def test_a_cohort_that_cannot_be_divided_stops_with_advice(monkeypatch, parts, expected):
    def careless(counts, shares, generator, sizes):
        """Fill the folds in turn; of two parts (validation and training) only the first."""
        return (
            np.arange(len(counts)) // 2 % len(shares) if parts == 2 and len(shares) > 2 else np.zeros(len(counts), int)
        )

    monkeypatch.setattr("pipeline.cohort.splits.allocate", careless)
    monkeypatch.setattr("pipeline.cohort.splits._with_every_class", lambda counts, parts, generator: parts)
    images, labels, groups = plain(30)
    with pytest.raises(CohortError, match=expected):
        divide(images, labels, groups, division(3))


# sites


def at_sites(sites, patients=60, moving=0):
    """Patients spread over sites; the first `moving` patients have an image at the next site too."""
    images, labels, site_of = [], {}, {}
    for number in range(patients):
        stays = [number % sites, (number + 1) % sites] if number < moving else [number % sites]
        for position, site in enumerate(stays):
            name = f"i{number}.{position}"
            images.append(image(name, f"p{number}", site=f"site-{site}"))
            labels[name] = f"c{number // sites % 2}"
            site_of[name] = site
    return by_content(images), labels, {one.patient: one.patient for one in images}, site_of


@pytest.mark.parametrize(("sites", "folds"), [(3, 3), (7, 3), (2, 2)])
def test_whole_sites_are_tested(sites, folds):
    images, labels, groups, site_of = at_sites(sites)
    rows = divide(images, labels, groups, division(folds, unit="site"))
    assert_no_leakage(rows, digests(images))
    assert_all_tested(rows)
    tested = defaultdict(set)
    for row in rows:
        if row.role == "test":
            tested[site_of[row.image_id]].add(row.fold)
    assert all(len(found) == 1 for found in tested.values())
    assert len({min(found) for found in tested.values()}) == folds
    assert {row.group for row in rows} == set(groups.values())  # still patients: intervals need them


def test_sites_that_share_patients_go_together():
    images, labels, groups, site_of = at_sites(4, moving=1)
    rows = divide(images, labels, groups, division(3, unit="site"))
    assert_no_leakage(rows, digests(images))
    fold_of = {site_of[row.image_id]: row.fold for row in rows if row.role == "test"}
    assert fold_of[0] == fold_of[1]
    assert len(set(fold_of.values())) == 3


def test_too_few_sites_are_refused_with_the_number_there_is():
    images, labels, groups, _ = at_sites(3)
    with pytest.raises(CohortError, match=r"(?s)3 separate sites cannot make 5 folds.*split.folds to 3"):
        divide(images, labels, groups, division(5, unit="site"))
    images, labels, groups, _ = at_sites(3, moving=2)
    with pytest.raises(CohortError, match=r"(?s)1 separate sites \(3 by name.*split.unit to `patient`"):
        divide(images, labels, groups, division(3, unit="site"))


def test_images_without_a_site_are_refused():
    images, labels, groups, _ = at_sites(3)
    images[0] = images[0].model_copy(update={"site": ""})
    with pytest.raises(CohortError, match="1 images do not name their institution"):
        divide(images, labels, groups, division(3, unit="site"))


def test_names_of_sites_do_not_matter():
    images, labels, groups, _ = at_sites(7)
    renamed = [one.model_copy(update={"site": f"x{-int(one.site[5:])}"}) for one in images]
    assert divide(images, labels, groups, division(3, unit="site")) == divide(
        renamed, labels, groups, division(3, unit="site")
    )


# leakage


def leaky(change):
    """Make a sound division, then let `change` replace rows or digests."""
    images, labels, groups = plain(6, images_each=2)
    rows = divide(images, labels, groups, division(3))
    known = digests(images)
    return change(rows, known), known


def one_image_moved(rows, known):
    first = next(index for index, row in enumerate(rows) if row.role == "test")
    return [row.model_copy(update={"role": "train"}) if index == first else row for index, row in enumerate(rows)]


def one_patient_renamed(rows, known):
    test, train = (next(row for row in rows if row.fold == 0 and row.role == role) for role in ("test", "train"))
    same = {"patient": test.patient}
    return [row.model_copy(update=same) if row.patient == train.patient else row for row in rows]


def one_group_shared(rows, known):
    test, train = (next(row for row in rows if row.fold == 0 and row.role == role) for role in ("test", "validation"))
    return [row.model_copy(update={"group": test.group}) if row.group == train.group else row for row in rows]


def one_picture_shared(rows, known):
    test, train = (next(row for row in rows if row.fold == 0 and row.role == role) for role in ("test", "train"))
    known[train.image_id] = known[test.image_id]
    return rows


def one_row_twice(rows, known):
    return [*rows, rows[0]]


def one_image_unknown(rows, known):
    del known[rows[0].image_id]
    return rows


def everything_tested_again(rows, known):
    return [row.model_copy(update={"role": "test" if row.fold == 1 else row.role}) for row in rows]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (one_image_moved, "1 patients with several roles in fold 0"),
        (one_patient_renamed, "patients with several roles in fold 0"),
        (one_group_shared, "1 groups with several roles in fold 0"),
        (one_picture_shared, "1 pictures with several roles in fold 0"),
        (one_row_twice, "more than once"),
        (one_image_unknown, "3 rows of the folds belong to no image"),
        (everything_tested_again, "images tested in several folds"),
    ],
)
def test_every_kind_of_leak_is_found_and_nobody_is_named(change, expected):
    rows, known = leaky(change)
    with pytest.raises(LeakageError, match=expected) as caught:
        assert_no_leakage(rows, known)
    assert not any(row.patient in str(caught.value).split() for row in rows)


def test_a_single_fold_can_be_checked():
    rows, known = leaky(lambda rows, known: [row for row in rows if row.fold == 1])
    assert_no_leakage(rows, known)


@pytest.mark.parametrize("lost", [0, -1])
def test_a_missing_row_is_found(lost):
    rows, _ = leaky(lambda rows, known: rows)
    rows.pop(lost)
    with pytest.raises(LeakageError, match="do not test every image"):
        assert_all_tested(rows)


def test_folds_of_images_in_another_order_are_found():
    rows, _ = leaky(lambda rows, known: rows)
    places = {row.image_id: place for place, row in enumerate(row for row in rows if row.fold == 0)}
    rows = [row.model_copy(update={"row": places[row.image_id]}) for row in rows]
    images = [SimpleNamespace(image_id=name, row=place) for name, place in places.items()]
    assert_same_rows(rows, images)
    images[0].row, images[1].row = images[1].row, images[0].row
    with pytest.raises(ArtefactError, match=f"6 of {len(rows)} rows of the folds do not point at their image"):
        assert_same_rows(rows, images)
    with pytest.raises(ArtefactError, match="do not point at their image"):
        assert_same_rows(rows, images[2:])


def test_a_patient_in_two_groups_is_found():
    rows, known = leaky(lambda rows, known: rows)
    rows[0] = rows[0].model_copy(update={"group": "another"})
    with pytest.raises(LeakageError, match="1 patients in several groups"):
        assert_no_leakage(rows, known)


def test_random_slices_instead_of_patients_would_be_flagged():
    """The mistake that inflates accuracy most: dividing images, not patients."""
    images, labels, _ = plain(10, images_each=4)
    as_if_patients = [one.model_copy(update={"patient": one.image_id}) for one in images]
    rows = divide(as_if_patients, labels, {one.image_id: one.image_id for one in images}, division(5))
    patients = {one.image_id: one.patient for one in images}
    true = [row.model_copy(update={"patient": patients[row.image_id], "group": patients[row.image_id]}) for row in rows]
    with pytest.raises(LeakageError, match="patients with several roles"):
        assert_no_leakage(true, digests(images))


@pytest.mark.parametrize("rare", ["a rare class", "z rare class"])
def test_a_class_of_one_site_is_refused_whatever_its_name(rare):
    """The fold that tests the site would train without the class."""
    images, labels, groups, site_of = at_sites(3)
    for name in labels:
        labels[name] = rare if site_of[name] == 0 and labels[name] == "c1" else "common"
    with pytest.raises(CohortError, match="both parts hold every class"):
        divide(images, labels, groups, division(3, unit="site"))
