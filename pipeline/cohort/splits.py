"""Splits: folds and inner validation parts in which no patient, group or picture stands on two sides.

Results depend on the images and the seed only: images come in the order of their pixel digests, groups and sites
are numbered as they appear, so neither pseudonyms nor the order of files matter.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.cohort.allocation import allocate
from pipeline.cohort.duplicates import name_groups
from pipeline.core.errors import ArtefactError, CohortError, LeakageError
from pipeline.core.records import FoldRole, Image, Role
from pipeline.core.seeding import derive_seed
from pipeline.core.states import ABSENT, PRESENT, LabelKind, named, states_of

Side = Literal["patient", "site"]

_ATTEMPTS = 100
"""Random divisions tried before a cohort counts as indivisible; one is enough unless patients are very unequal."""
_RESPLIT = "run `split` and everything after it again; if it happens again, please report it"


@dataclass(frozen=True)
class Division:
    """How a cohort is to be divided.

    Attributes
    ----------
    folds
        Number of folds, at least 2.
    validation_fraction
        Part of each fold's remaining groups kept for choices inside training.
    unit
        What is tested as a whole: groups of patients, or sites.
    seed
        Of the study.
    """

    folds: int
    validation_fraction: float
    unit: Side
    seed: int


def divide(
    images: Sequence[Image],
    labels: Mapping[str, str],
    groups: Mapping[str, str],
    division: Division,
    kind: LabelKind = "classes",
) -> list[FoldRole]:
    """Give every image its role in every fold.

    Test parts are stratified by class and made of whole groups, or of whole sites (one in each fold if there
    are as many sites as folds). The validation part of a fold is a stratified sample of the remaining groups.
    In every fold, training and validation hold every class; so does the test part, unless a site does not. Of
    findings, "present" and "absent" are held like two classes each.

    Parameters
    ----------
    images
        In the order of their pixel digests, each digest once.
    labels
        Class by `image_id`; a class of which no image is left is an error.
    groups
        Group of each patient.
    division
        What is wanted.
    kind
        Whether the labels are classes, or findings with their states (`pipeline.core.states`).

    Returns
    -------
    list of FoldRole
        By fold, then in the order of `images`.

    Raises
    ------
    CohortError
        If there are too few groups of a class or too few sites for the folds.
    """
    of_image = [groups[image.patient] for image in images]
    if not images:
        raise CohortError("no image is left to divide", where="split", remedy="see the table of duplicates")
    strata = _strata(images, labels, kind)
    tested = _test_parts(images, of_image, strata, division)
    _require_known(strata, tested)
    rows: list[FoldRole] = []
    for fold in range(division.folds):
        inner = np.flatnonzero(tested != fold)
        # Counted over all classes of the study: one that stands at the tested site only is missing here.
        is_validation = _validation_part([of_image[index] for index in inner], strata.of(inner), division, fold)
        roles: list[Role] = ["test"] * len(images)
        for index, chosen in zip(inner.tolist(), is_validation.tolist(), strict=True):
            roles[index] = "validation" if chosen else "train"
        rows += [
            FoldRole(
                fold=fold,
                image_id=image.image_id,
                row=image.row,
                patient=image.patient,
                group=group,
                label=labels[image.image_id],
                role=role,
            )
            for image, group, role in zip(images, of_image, roles, strict=True)
        ]
    return rows


def assert_no_leakage(rows: Sequence[FoldRole], digests: Mapping[str, str]) -> None:
    """Refuse folds in which something of the test part is known before.

    Checked in every fold: an image has one role; no patient, no group and no pixel digest has two. Over all
    folds given: no image, patient or group is tested twice, a patient stands in one group. Whether every image
    is tested can only be told of all folds: `assert_all_tested`.

    Parameters
    ----------
    rows
        Roles of one or several folds.
    digests
        SHA-256 of the pixels by `image_id`.

    Raises
    ------
    LeakageError
        Saying what stands on two sides and how often, without naming anybody.
    """
    unknown = sum(row.image_id not in digests for row in rows)
    if unknown:
        raise LeakageError(f"{unknown} rows of the folds belong to no image at hand", remedy=_RESPLIT)
    if len({(row.fold, row.image_id) for row in rows}) != len(rows):
        raise LeakageError("an image is listed more than once in a fold", remedy=_RESPLIT)
    roles: dict[tuple[int, str, str], set[str]] = defaultdict(set)
    tested: dict[tuple[str, str], set[int]] = defaultdict(set)
    groups: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        groups[row.patient].add(row.group)
        things = (("image", row.image_id), ("patient", row.patient), ("group", row.group))
        for kind, name in (*things, ("picture", digests[row.image_id])):
            roles[row.fold, kind, name].add(row.role)
            if row.role == "test":
                tested[kind, name].add(row.fold)
    problems = Counter(
        f"{kind}s with several roles in fold {fold}" for (fold, kind, _), held in roles.items() if len(held) > 1
    )
    problems.update(f"{kind}s tested in several folds" for (kind, _), folds in tested.items() if len(folds) > 1)
    problems.update("patients in several groups" for held in groups.values() if len(held) > 1)
    if problems:
        what = "the split leaks: " + ", ".join(f"{count} {text}" for text, count in sorted(problems.items()))
        raise LeakageError(what, remedy=_RESPLIT)


def assert_same_rows(rows: Sequence[FoldRole], images: Sequence[Image]) -> None:
    """Refuse folds that were made of other images than those at hand, or of the same in another order.

    Raises
    ------
    ArtefactError
        Saying how many roles name another row than their image has.
    """
    places = {image.image_id: image.row for image in images}
    wrong = sum(places.get(row.image_id) != row.row for row in rows)
    if wrong:
        what = f"{wrong} of {len(rows)} rows of the folds do not point at their image: the images were made anew since"
        raise ArtefactError(what, where="folds.tsv", remedy=_RESPLIT)


def assert_all_tested(rows: Sequence[FoldRole]) -> None:
    """Check that every fold lists the same images and that each of them is tested in one fold.

    Raises
    ------
    LeakageError
        If an image is missing in a fold, or never tested.
    """
    tested = {row.image_id for row in rows if row.role == "test"}
    listed: dict[int, set[str]] = defaultdict(set)
    for row in rows:
        listed[row.fold].add(row.image_id)
    if any(images != tested for images in listed.values()):
        raise LeakageError("the folds do not test every image, or do not list the same images", remedy=_RESPLIT)


@dataclass(frozen=True)
class _Strata:
    """What every part must hold: classes, or each finding present and absent.

    Attributes
    ----------
    names
        Of the strata, for messages.
    member
        Whether an image is in a stratum, shape (images, strata).
    is_exclusive
        Every image is in exactly one.
    """

    names: tuple[str, ...]
    member: NDArray[np.bool_]
    is_exclusive: bool

    def of(self, chosen: NDArray[np.int64]) -> "_Strata":
        return _Strata(self.names, self.member[chosen], self.is_exclusive)

    def count(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count the images of each stratum in each block, shape (blocks, strata)."""
        counts = np.zeros((int(blocks.max()) + 1, len(self.names)), dtype=np.int64)
        np.add.at(counts, blocks, self.member.astype(np.int64))
        return counts

    def sizes(self, blocks: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Count the images of each block, where the strata do not do so."""
        return None if self.is_exclusive else np.bincount(blocks)

    def in_words(self) -> str:
        return "every class" if self.is_exclusive else "every finding, present as well as absent"

    def rarest(self) -> str:
        if self.is_exclusive:
            return "the rarest class"
        return f"`{self.names[int(np.argmin(self.member.sum(axis=0)))]}`"


def _strata(images: Sequence[Image], labels: Mapping[str, str], kind: LabelKind) -> _Strata:
    of_image = [labels[image.image_id] for image in images]
    if kind == "findings":
        findings = named(of_image[0])
        states = states_of(of_image, findings)
        names = tuple(f"{word}{name}" for name in findings for word in ("", "no "))
        member = np.stack([states == PRESENT, states == ABSENT], axis=2).reshape(len(images), -1)
        return _Strata(names, member, is_exclusive=False)
    classes = sorted(set(labels.values()))
    return _Strata(tuple(classes), np.array([[label == name for name in classes] for label in of_image]), True)


def _test_parts(
    images: Sequence[Image], of_image: Sequence[str], strata: _Strata, division: Division
) -> NDArray[np.int64]:
    """Choose the fold that tests each image, shape (images,)."""
    groups = _number(of_image)
    _require_groups(strata.count(groups), strata, division)
    if division.unit == "site":
        blocks = _number(_site_blocks(images, of_image))
        _require_sites(int(blocks.max()) + 1, images, division.folds)
    else:
        blocks = groups
        _require_no_giant(images, blocks, division.folds)
    counts = strata.count(blocks)
    if division.unit == "site" and len(counts) == division.folds:
        return blocks
    for attempt in range(_ATTEMPTS):
        generator = np.random.default_rng(derive_seed(division.seed, "folds", attempt))
        parts = allocate(counts, [1 / division.folds] * division.folds, generator, strata.sizes(blocks))
        totals = _totals(counts, parts, division.folds)
        is_complete = totals.any(axis=1) if division.unit == "site" else totals.all(axis=1)
        if is_complete.all():
            chosen: NDArray[np.int64] = parts[blocks]
            return chosen
    what = f"the patients cannot be divided into {division.folds} folds that all hold {strata.in_words()}"
    raise CohortError(what, where="split.folds", remedy=f"set fewer folds, or add patients of {strata.rarest()}")


def _validation_part(of_image: Sequence[str], strata: _Strata, division: Division, fold: int) -> NDArray[np.bool_]:
    """Choose the validation images among those that a fold does not test, shape (images,)."""
    blocks = _number(of_image)
    counts = strata.count(blocks)
    shares = (division.validation_fraction, 1 - division.validation_fraction)
    for attempt in range(_ATTEMPTS):
        generator = np.random.default_rng(derive_seed(division.seed, "validation", fold, attempt))
        parts = _with_every_class(counts, allocate(counts, shares, generator, strata.sizes(blocks)), generator)
        if _totals(counts, parts, 2).all():
            chosen: NDArray[np.bool_] = parts[blocks] == 0
            return chosen
    what = f"the training patients of fold {fold} cannot be divided so that both parts hold {strata.in_words()}"
    raise CohortError(what, where="split", remedy=f"set fewer folds, or add patients of {strata.rarest()}")


def _with_every_class(
    counts: NDArray[np.int64], parts: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Move the smallest block of a class that a part lacks into it; rare classes may round to nothing."""
    parts = parts.copy()
    for part in (0, 1):
        for column in np.flatnonzero(_totals(counts, parts, 2)[part] == 0):
            holders = generator.permutation(np.flatnonzero(counts[:, column] > 0))
            if len(holders) > 1:
                parts[holders[np.argmin(counts[holders].sum(axis=1))]] = part
    return parts


def _number(names: Sequence[str]) -> NDArray[np.int64]:
    """Give each name its number, from 0 in the order of first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def _totals(counts: NDArray[np.int64], parts: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Images of each class in each part, shape (parts, classes)."""
    return np.stack([counts[parts == part].sum(axis=0) for part in range(number)])


def _site_blocks(images: Sequence[Image], of_image: Sequence[str]) -> list[str]:
    """Name the block of each image: its site, joined with all sites that share a group with it."""
    unnamed = sum(not image.site for image in images)
    if unnamed:
        what = f"{unnamed} images do not name their institution, so sites cannot be kept apart"
        raise CohortError(what, where="split.unit", remedy="set split.unit to `patient`")
    links = {(f"site {image.site}", f"group {group}") for image, group in zip(images, of_image, strict=True)}
    sites = [f"site {image.site}" for image in images]
    blocks = name_groups(sites, links)
    return [blocks[site] for site in sites]


def _require_groups(counts: NDArray[np.int64], strata: _Strata, division: Division) -> None:
    """Refuse folds for which a class has too few groups: one to test, one to train and one to validate."""
    held = [int(number) for number in (counts > 0).sum(axis=0)]
    if len(held) < 2:
        raise CohortError("all images are of one class", where="label.classes", remedy="check the label table")
    folds = 2 if division.unit == "site" else division.folds
    if min(held) < 3 or (division.unit == "patient" and not _is_enough(min(held), folds)):
        pairs = list(zip(strata.names, held, strict=True))
        if not strata.is_exclusive:  # of many findings, only those that are the matter
            pairs = [(name, number) for name, number in pairs if number < 3 or not _is_enough(number, folds)]
        numbers = ", ".join(f"`{label}` {number}" for label, number in pairs)
        possible = [number for number in range(2, folds) if _is_enough(min(held), number)]
        what = f"too few patients for {division.folds} folds: {numbers} (linked patients count once)"
        remedy = f"set split.folds to at most {max(possible)}" if possible else "at least 3 of each class are needed"
        raise CohortError(what, where="split.folds", remedy=f"{remedy}, or add patients")


def _is_enough(groups: int, folds: int) -> bool:
    return groups >= folds and groups - -(-groups // folds) >= 2


def _require_sites(sites: int, images: Sequence[Image], folds: int) -> None:
    if sites < folds:
        named = len({image.site for image in images})
        joined = f" ({named} by name, but some share patients)" if named > sites else ""
        what = f"{sites} separate sites{joined} cannot make {folds} folds"
        remedy = f"set split.folds to {sites}" if sites >= 2 else "set split.unit to `patient`"
        raise CohortError(what, where="split.folds", remedy=remedy)


def _require_known(strata: _Strata, tested: NDArray[np.int64]) -> None:
    """Refuse sites at which a finding is unknown in every image: there is nothing to test it on."""
    if strata.is_exclusive:
        return
    counts = strata.count(tested)
    for place in range(0, len(strata.names), 2):  # present and absent
        if not counts[:, place : place + 2].any(axis=1).all():
            what = f"at one of the sites `{strata.names[place]}` is unknown in every image"
            raise CohortError(what, where="split.unit", remedy="set split.unit to `patient`, or take the finding out")


def _require_no_giant(images: Sequence[Image], blocks: NDArray[np.int64], folds: int) -> None:
    """Refuse a group of linked patients that no fold can hold: links made in error, for example by blank images."""
    sizes = np.bincount(blocks)
    largest = int(np.argmax(sizes))
    patients = {image.patient for image, block in zip(images, blocks.tolist(), strict=True) if block == largest}
    if len(patients) > 1 and sizes[largest] > min(0.5, 2 / folds) * len(images):
        what = f"{len(patients)} patients with {sizes[largest]} of {len(images)} images are linked by shared pictures"
        remedy = "look for pictures that are not of patients (placeholders, test images) and take them out"
        raise CohortError(what, where="split", remedy=remedy)
