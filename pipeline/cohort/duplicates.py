"""Duplicates: one picture under several names, found before patients are divided.

A picture that stands twice would be counted twice, and could be learnt in training and asked in the test. So:

- Identical pixels with one label: one image is kept, the others are left out, also if they belong to different
  patients. Keeping both would count one observation twice in every estimate.
- Identical pixels with different labels: all are left out; nobody knows which label is right. Labels of findings
  differ where one says present and another absent; else they complete each other, and the image kept has what all know.
- Patients who share a picture, identical or nearly so, may be one person: they form one group, which stays on one
  side of every split. Nearly identical images are kept, because a second exposure is a second observation.

Groups are transitive: if A shares a picture with B and B with C, all three are one group.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.records import Finding, Image
from pipeline.core.states import LabelKind, join_copies

_STAGE = "split"
SAME_PICTURE = 0.7
"""Correlation of fine structure from which two images count as one picture (see `pipeline.imaging.hashing`)."""
_BLOCK_ROWS = 256
_BLOCK_COLUMNS = 4096
"""Hashes compared at a time: 256 x 4096 distances of two bytes stay in the processor's cache."""


@dataclass(frozen=True)
class Copies:
    """What is left when every picture stands once.

    Attributes
    ----------
    kept
        Images in the order of their pixel digests, which no two share.
    labels
        Of the images kept, by `image_id`: for findings, everything that is known of the picture.
    findings
        One for each image left out.
    links
        Pairs of patients who share identical pixels.
    """

    kept: tuple[Image, ...]
    labels: Mapping[str, str]
    findings: tuple[Finding, ...]
    links: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Similarities:
    """Patients who share almost the same picture, and a remark for each image concerned."""

    findings: tuple[Finding, ...]
    links: frozenset[tuple[str, str]]


def drop_copies(images: Sequence[Image], labels: Mapping[str, str], kind: LabelKind = "classes") -> Copies:
    """Keep one image of each picture.

    Of identical images with one label the one stays whose patient has most images; then the choice goes by
    digests of pixels and by what the records say of the image, never by pseudonyms, so that the secret key
    does not change results.

    Parameters
    ----------
    images
        Labelled images.
    labels
        Class, or states of findings, by `image_id`.
    kind
        What the labels are.
    """
    of_patient: dict[str, list[str]] = defaultdict(list)
    of_picture: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        of_patient[image.patient].append(image.pixel_sha256)
        of_picture[image.pixel_sha256].append(image)
    ranks = {patient: (-len(digests), _digest(digests)) for patient, digests in of_patient.items()}
    kept: list[Image] = []
    joined: dict[str, str] = {}
    findings: list[Finding] = []
    links: set[tuple[str, str]] = set()
    for _, same in sorted(of_picture.items()):
        first, *others = sorted(same, key=lambda image: (*ranks[image.patient], *_facts(image)))
        links.update(_link(first.patient, other.patient) for other in others if other.patient != first.patient)
        label = join_copies([labels[image.image_id] for image in same], kind)
        if label is None:
            findings += [_left_out(image, "SAME_IMAGE_DIFFERENT_LABELS") for image in (first, *others)]
            continue
        kept.append(first)
        joined[first.image_id] = label
        for other in others:
            is_one_patient = other.patient == first.patient
            findings.append(_left_out(other, "SAME_IMAGE_TWICE" if is_one_patient else "SAME_IMAGE_TWO_PATIENTS"))
    return Copies(tuple(kept), joined, tuple(findings), frozenset(links))


def find_similar(
    images: Sequence[Image], *, max_distance: int, correlate: Callable[[Image, Image], float]
) -> Similarities:
    """Find almost identical images of different patients.

    Parameters
    ----------
    images
        Images; those without a perceptual hash (volumes) are not compared.
    max_distance
        Largest number of differing bits of two hashes at which the images are compared closely.
    correlate
        The close comparison: correlation of the fine structure of two images, from -1 to 1.

    Returns
    -------
    Similarities
        Remarks carry the smallest distance to a similar image, in bits.
    """
    # A picture without any step of brightness (all bits 0) is like every other of its kind: nothing to compare.
    hashed = [image for image in images if image.perceptual_hash.strip("0")]
    nearest: dict[str, int] = {}
    links: set[tuple[str, str]] = set()
    for one, other, distance in close_pairs([image.perceptual_hash for image in hashed], max_distance):
        first, second = hashed[one], hashed[other]
        if first.patient == second.patient or correlate(first, second) < SAME_PICTURE:
            continue
        links.add(_link(first.patient, second.patient))
        for image in (first, second):
            nearest[image.image_id] = min(distance, nearest.get(image.image_id, distance))
    findings = tuple(
        Finding(
            stage=_STAGE,
            unit="image",
            unit_id=image.image_id,
            code="SIMILAR_IMAGE_TWO_PATIENTS",
            severity="noted",
            value=nearest[image.image_id],
        )
        for image in hashed
        if image.image_id in nearest
    )
    return Similarities(findings, frozenset(links))


def close_pairs(hashes: Sequence[str], max_distance: int) -> Iterator[tuple[int, int, int]]:
    """Find all pairs of hashes that differ in at most `max_distance` bits, exactly.

    All pairs are compared, block by block with whole machine words; the second half of the bits only where the
    first half allows. 100 000 hashes of 512 bits take about a minute on one core, memory stays below 100 MB.

    Parameters
    ----------
    hashes
        Hexadecimal digits, all of one length that is a multiple of 32.
    max_distance
        In bits.

    Yields
    ------
    tuple of int
        Positions of the first and of the second, first < second, and their distance.

    Raises
    ------
    ValueError
        If the hashes differ in length or do not fill pairs of 64-bit words.
    """
    if not hashes:
        return
    if len({len(value) for value in hashes}) > 1 or len(hashes[0]) % 32:
        message = "hashes must be of one length, a multiple of 32 hexadecimal digits"
        raise ValueError(message)
    words = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint64).reshape(len(hashes), -1)
    half = words.shape[1] // 2
    for top in range(0, len(words), _BLOCK_ROWS):
        rows = words[top : top + _BLOCK_ROWS]
        for left in range(top, len(words), _BLOCK_COLUMNS):
            columns = words[left : left + _BLOCK_COLUMNS]
            distance = np.zeros((len(rows), len(columns)), dtype=np.uint16)
            for word in range(half):
                distance += np.bitwise_count(rows[:, word, None] ^ columns[None, :, word])
            one, other = np.nonzero(distance <= max_distance)
            is_pair = one + top < other + left
            one, other = one[is_pair], other[is_pair]
            yield from _within(rows, columns, one, other, max_distance, (top, left))


def name_groups(members: Sequence[str], links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Give each member (a patient, say) a group: those linked directly or through others stand in one.

    Parameters
    ----------
    members
        In an order that does not depend on pseudonyms, repeated as they come; groups are numbered as they appear.
    links
        Pairs. They may name others than `members`, through whom members are joined.

    Returns
    -------
    dict
        Group, such as ``G0001``, of every member.

    Examples
    --------
    >>> name_groups(["b", "a", "c", "b"], [("a", "x"), ("x", "b")])
    {'b': 'G0001', 'a': 'G0001', 'c': 'G0002'}
    """
    parent: dict[str, str] = {}
    for one, other in links:
        parent[_root(parent, one)] = _root(parent, other)
    names: dict[str, str] = {}
    for member in members:
        names.setdefault(_root(parent, member), f"G{len(names) + 1:04d}")
    return {member: names[_root(parent, member)] for member in members}


def _root(parent: dict[str, str], member: str) -> str:
    """Find the representative of a member's set, halving the path on the way (doi:10.1145/62.2160)."""
    parent.setdefault(member, member)
    while parent[member] != member:
        parent[member] = parent[parent[member]]
        member = parent[member]
    return member


def _within(
    rows: NDArray[np.uint64],
    columns: NDArray[np.uint64],
    one: NDArray[np.intp],
    other: NDArray[np.intp],
    max_distance: int,
    corner: tuple[int, int],
) -> Iterator[tuple[int, int, int]]:
    """Count all bits of candidate pairs and give those within reach by their positions in the whole."""
    distance = np.bitwise_count(rows[one] ^ columns[other]).sum(axis=1, dtype=np.int64)
    near = distance <= max_distance
    found = zip(one[near].tolist(), other[near].tolist(), distance[near].tolist(), strict=True)
    for row, column, bits in found:
        yield row + corner[0], column + corner[1], bits


def _digest(values: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(sorted(values)).encode()).hexdigest()


def _facts(image: Image) -> tuple[Any, ...]:
    """Order images by what is recorded of them; pseudonyms decide only between images equal in all of it."""
    recorded = (image.scanner, image.view_position, image.patient_sex, str(image.patient_age_years))
    return *recorded, image.source_rows, image.source_columns, str(image.pixel_spacing_mm), image.image_id


def _link(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)


def _left_out(image: Image, code: str) -> Finding:
    return Finding(stage=_STAGE, unit="image", unit_id=image.image_id, code=code, severity="excluded")
