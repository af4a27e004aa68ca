"""Duplicates: the same picture twice, found before splitting, so that it cannot stand on two sides.

One picture is kept of each set of identical ones: counting it twice would weigh it double, in training and in
the test. Patients that share a picture, or have almost the same one, may be one person under two numbers; they
form one group, which no split divides and the bootstrap draws as a whole.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.core.records import Finding, Image

STAGE = "split"
# The closer look at a candidate pair gives a correlation of fine detail. On 400 chest radiographs pictures of
# different persons reached at most 0.41 and altered copies at least 0.84; the bound lies between.
LEAST_CORRELATION = 0.7
_BLOCK = 4096


class Kept(NamedTuple):
    """The images that stay, the group of each patient, and what was found."""

    images: list[Image]
    groups: dict[str, str]
    findings: list[Finding]


def resolve_duplicates(
    images: Sequence[Image],
    labels: Mapping[str, str],
    *,
    max_distance: int,
    correlation: Callable[[int, int], float],
) -> Kept:
    """Keep one of each set of identical pictures and group the patients that share one.

    Parameters
    ----------
    images
        Labelled images, ordered by content (`Image.row`), so that the result does not depend on the secret key.
    labels
        Class by image.
    max_distance
        Pairs whose perceptual hashes differ in at most this many bits are looked at closely.
    correlation
        The closer look: correlation of fine detail of the pictures in two rows of the pixel array.

    Returns
    -------
    Kept
        Groups are named G0001, G0002, ... by first appearance.
    """
    findings: list[Finding] = []
    links: list[tuple[str, str]] = []
    kept: list[Image] = []
    same: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        same[image.pixel_sha256].append(image)
    for copies in same.values():
        first = copies[0]
        links += [(first.patient, other.patient) for other in copies[1:]]
        if len({labels[image.image_id] for image in copies}) > 1:
            findings += [_finding(image, "SAME_IMAGE_DIFFERENT_LABELS") for image in copies]
            continue
        kept.append(first)
        findings += [
            _finding(other, "SAME_IMAGE_TWICE" if other.patient == first.patient else "SAME_IMAGE_TWO_PATIENTS")
            for other in copies[1:]
        ]
    for one, other in similar_pairs([image.perceptual_hash for image in kept], max_distance):
        first, second = kept[one], kept[other]
        if first.patient != second.patient:
            found = correlation(first.row, second.row)
            if found >= LEAST_CORRELATION:
                links.append((first.patient, second.patient))
                findings.append(_finding(second, "SIMILAR_IMAGE_TWO_PATIENTS", value=found))
    patients = list(dict.fromkeys(image.patient for image in images))
    return Kept(kept, _groups(patients, links), findings)


def similar_pairs(hashes: Sequence[str], max_distance: int) -> list[tuple[int, int]]:
    """Find all pairs of hashes that differ in at most `max_distance` bits.

    All pairs are compared, by matrix products of blocks: 10 000 hashes of 512 bits take about a second.

    Parameters
    ----------
    hashes
        Hexadecimal digits, all of one length; empty ones match nothing.
    max_distance
        Largest number of differing bits.

    Returns
    -------
    list of tuple
        Pairs of positions (smaller, larger), sorted.

    Examples
    --------
    >>> similar_pairs(["00", "01", "", "ff"], 1)
    [(0, 1)]
    """
    places = np.array([index for index, text in enumerate(hashes) if text], dtype=np.int64)
    if len(places) < 2:
        return []
    raw = np.stack([np.frombuffer(bytes.fromhex(hashes[index]), dtype=np.uint8) for index in places])
    signs = np.unpackbits(raw, axis=1).astype(np.float32) * 2 - 1
    least = signs.shape[1] - 2 * max_distance  # the product of two sign vectors is bits - 2 * distance
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(signs), _BLOCK):
        for other in range(start, len(signs), _BLOCK):
            close = signs[start : start + _BLOCK] @ signs[other : other + _BLOCK].T >= least
            rows, columns = np.nonzero(close)
            upper = rows + start < columns + other
            pairs += zip(places[rows[upper] + start].tolist(), places[columns[upper] + other].tolist(), strict=True)
    return sorted(pairs)


def _groups(patients: Sequence[str], links: Sequence[tuple[str, str]]) -> dict[str, str]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    number = {patient: index for index, patient in enumerate(patients)}
    pairs = np.array([(number[one], number[other]) for one, other in links], dtype=np.int64).reshape(-1, 2)
    shape = (len(patients), len(patients))
    _, component = connected_components(coo_array((np.ones(len(pairs)), pairs.T), shape=shape), directed=False)
    order = {found: index for index, found in enumerate(dict.fromkeys(component.tolist()), start=1)}
    return {patient: f"G{order[component[index]]:04d}" for patient, index in number.items()}


def _finding(image: Image, code: str, value: float | None = None) -> Finding:
    return Finding(
        stage=STAGE,
        unit="image",
        unit_id=image.image_id,
        code=code,
        severity="noted" if code == "SIMILAR_IMAGE_TWO_PATIENTS" else "excluded",
        value=value,
    )
