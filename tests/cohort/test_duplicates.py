import time
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cohort.duplicates import close_pairs, drop_copies, find_similar, name_groups
from tests.cohort.samples import RELAXED, hexadecimal, image

BITS = 512


def codes(result):
    return sorted((finding.unit_id, finding.code, finding.severity) for finding in result.findings)


def kept(result):
    return {one.image_id for one in result.kept}


# identical pixels


def test_the_same_picture_twice_for_one_patient_stays_once():
    images = [image("1", "a", pixels="x"), image("2", "a", pixels="x"), image("3", "a")]
    result = drop_copies(images, dict.fromkeys("123", "yes"))
    assert kept(result) == {"1", "3"}
    assert codes(result) == [("2", "SAME_IMAGE_TWICE", "excluded")]
    assert not result.links


def test_the_same_picture_under_two_patients_stays_once_and_links_them():
    images = [image("1", "a", pixels="x"), image("2", "b", pixels="x"), image("3", "b")]
    result = drop_copies(images, dict.fromkeys("123", "yes"))
    assert kept(result) == {"2", "3"}  # b has more images
    assert codes(result) == [("1", "SAME_IMAGE_TWO_PATIENTS", "excluded")]
    assert result.links == {("a", "b")}


def test_a_picture_with_two_labels_is_left_out_everywhere_and_still_links():
    images = [image("1", "a", pixels="x"), image("2", "b", pixels="x"), image("3", "a", pixels="x"), image("4", "b")]
    result = drop_copies(images, {"1": "yes", "2": "no", "3": "yes", "4": "no"})
    assert kept(result) == {"4"}
    assert codes(result) == [(name, "SAME_IMAGE_DIFFERENT_LABELS", "excluded") for name in "123"]
    assert result.links == {("a", "b")}


def test_copies_whose_findings_complete_each_other_stay_with_what_all_know():
    images = [image("1", "a", pixels="x"), image("2", "a", pixels="x"), image("3", "b", pixels="x"), image("4", "b")]
    labels = {"1": "E=1;M=?;N=?", "2": "E=1;M=0;N=?", "3": "E=?;M=0;N=?", "4": "E=0;M=0;N=1"}
    result = drop_copies(images, labels, "findings")
    (first,) = kept(result) - {"4"}
    assert result.labels == {first: "E=1;M=0;N=?", "4": "E=0;M=0;N=1"}
    assert {code for _, code, _ in codes(result)} == {"SAME_IMAGE_TWICE", "SAME_IMAGE_TWO_PATIENTS"} - (
        {"SAME_IMAGE_TWICE"} if first == "3" else set()
    )
    assert result.links == {("a", "b")}


def test_copies_whose_findings_clash_are_left_out():
    images = [image("1", "a", pixels="x"), image("2", "a", pixels="x"), image("3", "a", pixels="x"), image("4", "a")]
    labels = {"1": "E=1;M=?", "2": "E=?;M=0", "3": "E=0;M=?", "4": "E=0;M=1"}
    result = drop_copies(images, labels, "findings")
    assert kept(result) == set(result.labels) == {"4"}
    assert codes(result) == [(name, "SAME_IMAGE_DIFFERENT_LABELS", "excluded") for name in "123"]


def test_labels_of_classes_do_not_complete_each_other():
    images = [image("1", "a", pixels="x"), image("2", "a", pixels="x")]
    assert not drop_copies(images, {"1": "E=?", "2": "E=1"}).kept


pictures = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8), st.booleans()), max_size=25)


def made(drawn, rename=str):
    images = [
        image(f"i{number}", rename(f"p{patient}"), pixels=f"x{picture}", view_position=f"V{number}")
        for number, (patient, picture, _) in enumerate(drawn)
    ]
    return images, {f"i{number}": f"c{label}" for number, (_, _, label) in enumerate(drawn)}


@RELAXED
@given(drawn=pictures)
def test_every_picture_stays_at_most_once_and_nothing_is_lost(drawn):
    images, labels = made(drawn)
    result = drop_copies(images, labels)
    digests = [one.pixel_sha256 for one in result.kept]
    assert digests == sorted(set(digests))
    assert Counter(kept(result)) + Counter(finding.unit_id for finding in result.findings) == Counter(list(labels))
    label_sets = {
        one.pixel_sha256: {labels[other.image_id] for other in images if other.pixel_sha256 == one.pixel_sha256}
        for one in images
    }
    assert set(digests) == {digest for digest, found in label_sets.items() if len(found) == 1}
    sharing = {
        tuple(sorted((one.patient, other.patient)))
        for one, other in combinations(images, 2)
        if one.pixel_sha256 == other.pixel_sha256 and one.patient != other.patient
    }
    members = [one.patient for one in images]
    assert name_groups(members, result.links) == name_groups(members, sharing)


@RELAXED
@given(drawn=pictures, order=st.randoms(use_true_random=False), names=st.permutations(range(6)))
def test_neither_the_order_nor_the_names_of_patients_matter(drawn, order, names):
    images, labels = made(drawn)
    renamed, _ = made(drawn, lambda patient: f"q{names[int(patient[1:])]}")
    order.shuffle(renamed)
    one, other = drop_copies(images, labels), drop_copies(renamed, labels)
    assert [image.image_id for image in one.kept] == [image.image_id for image in other.kept]
    assert codes(one) == codes(other)


# groups


@RELAXED
@given(links=st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=20))
def test_groups_are_the_connected_components(links):
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    members = [str(number) for number in range(0, 15, 2)]  # the odd ones join, but have no images
    groups = name_groups(members, [(str(one), str(other)) for one, other in links])
    ends = ([one for one, _ in links], [other for _, other in links])
    _, component = connected_components(coo_array((np.ones(len(links)), ends), shape=(15, 15)), directed=False)
    for one, other in combinations(members, 2):
        assert (groups[one] == groups[other]) == (component[int(one)] == component[int(other)])
    assert list(dict.fromkeys(groups[one] for one in members)) == [
        f"G{number:04d}" for number in range(1, len(set(groups.values())) + 1)
    ]


def test_merges_are_transitive():
    groups = name_groups(["c", "b", "a", "d"], [("a", "b"), ("b", "c")])
    assert groups == {"c": "G0001", "b": "G0001", "a": "G0001", "d": "G0002"}


# similar pictures


def brute_force(hashes, limit):
    numbers = [int(value, 16) for value in hashes]
    found = (
        (one, other, (numbers[one] ^ numbers[other]).bit_count()) for one, other in combinations(range(len(hashes)), 2)
    )
    return sorted(pair for pair in found if pair[2] <= limit)


@RELAXED
@given(
    seed=st.integers(0, 2**32 - 1), count=st.integers(0, 40), limit=st.integers(0, 64), bits=st.sampled_from([128, 512])
)
def test_the_search_equals_brute_force(seed, count, limit, bits):
    generator = np.random.default_rng(seed)
    base = generator.random((3, bits)) < 0.5
    flips = generator.random((count, bits)) < generator.choice([0, 0.02, 0.08], size=(count, 1))
    hashes = [hexadecimal(base[number % 3] ^ flip) for number, flip in enumerate(flips)]
    assert sorted(close_pairs(hashes, limit)) == brute_force(hashes, limit)


def test_the_search_equals_brute_force_across_blocks(monkeypatch):
    monkeypatch.setattr("pipeline.cohort.duplicates._BLOCK_ROWS", 4)
    monkeypatch.setattr("pipeline.cohort.duplicates._BLOCK_COLUMNS", 7)
    generator = np.random.default_rng(0)
    base = generator.random(BITS) < 0.5
    hashes = [hexadecimal(base ^ (generator.random(BITS) < 0.05)) for _ in range(60)]
    expected = brute_force(hashes, 50)
    assert len(expected) > 100
    assert sorted(close_pairs(hashes, 50)) == expected


@pytest.mark.parametrize("hashes", [["00" * 16, "00" * 32], ["00" * 8] * 2])
def test_hashes_of_other_lengths_are_refused(hashes):
    with pytest.raises(ValueError, match="one length"):
        list(close_pairs(hashes, 1))


@pytest.mark.slow
def test_ten_thousand_hashes_are_searched_in_seconds():
    generator = np.random.default_rng(1)
    hashes = [hexadecimal(bits) for bits in generator.random((10_000, BITS)) < 0.5]
    hashes.append(hashes[17])
    started = time.process_time()
    assert list(close_pairs(hashes, 32)) == [(17, 10_000, 0)]
    assert time.process_time() - started < 20  # about 0.5 s where it was written; a Python loop takes minutes


def pattern(*flipped):
    bits = [number % 2 for number in range(BITS)]
    for number in flipped:
        bits[number] ^= 1
    return hexadecimal(bits)


def similar(images, limit=4, correlation=1.0):
    return find_similar(images, max_distance=limit, correlate=lambda *_: correlation)


def test_similar_pictures_of_two_patients_link_them_and_note_the_smallest_distance():
    images = [
        image("1", "a", perceptual_hash=pattern()),
        image("2", "b", perceptual_hash=pattern(0, 1, 2)),
        image("3", "c", perceptual_hash=pattern(0, 1)),
        image("4", "c", perceptual_hash=pattern(0, 1)),
        image("5", "d", perceptual_hash=pattern(*range(100, 110))),
        image("6", "e"),
    ]
    result = similar(images)
    assert result.links == {("a", "b"), ("a", "c"), ("b", "c")}
    assert [(f.unit_id, f.code, f.severity, f.value) for f in result.findings] == [
        (name, "SIMILAR_IMAGE_TWO_PATIENTS", "noted", value) for name, value in zip("1234", (2, 1, 1, 1), strict=True)
    ]


def test_the_close_comparison_decides():
    images = [image("1", "a", perceptual_hash=pattern()), image("2", "b", perceptual_hash=pattern())]
    assert not similar(images, correlation=0.69).links
    assert similar(images, correlation=0.7).links == {("a", "b")}


def test_pictures_of_one_patient_and_empty_pictures_are_not_compared():
    images = [
        image("1", "a", perceptual_hash=pattern()),
        image("2", "a", perceptual_hash=pattern()),
        image("3", "b", perceptual_hash="0" * 128),
        image("4", "c", perceptual_hash="0" * 128),
    ]
    result = find_similar(images, max_distance=4, correlate=lambda *_: pytest.fail("nothing to compare"))
    assert not result.links
    assert not result.findings
