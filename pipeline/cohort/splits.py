"""Folds: patients are divided, never images; nothing of a test part is ever seen in training."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from pipeline.core.errors import CohortError, LeakageError
from pipeline.core.records import FoldRole, Role
from pipeline.core.seeding import derive_seed

_ATTEMPTS = 200


class Member(NamedTuple):
    """One image to be divided: its row in the pixel array, its group and what the folds are balanced for."""

    image_id: str
    row: int
    patient: str
    group: str
    site: str
    label: str


def make_folds(
    members: Sequence[Member],
    *,
    folds: int,
    validation_fraction: float,
    unit: Literal["patient", "site"],
    seed: int,
) -> list[FoldRole]:
    """Divide images into folds and give each fold an inner validation part.

    Folds are stratified by class and never divide a group of patients (nor, with ``unit="site"``, a site).
    The result depends on the order of `members` and on `seed`, not on any pseudonym's value.

    Parameters
    ----------
    members
        All images, in an order that does not depend on the secret key.
    folds
        Number of folds.
    validation_fraction
        Fraction of each fold's training groups that becomes its validation part.
    unit
        What stays on one side.
    seed
        The study's seed.

    Returns
    -------
    list of FoldRole
        For every fold, every image with its role, in the order of `members`.

    Raises
    ------
    CohortError
        If a class has too few groups for the folds, or no division gives every part every class.
    """
    groups = _indices([member.group for member in members])
    if unit == "site":
        groups = joined(groups, _indices([member.site for member in members]))
    inner = _indices([member.group for member in members])
    classes = _indices([member.label for member in members])
    _require_groups(members, groups, folds, unit)
    test_parts = _divide(classes, groups, folds, seed, "folds")
    roles: list[FoldRole] = []
    for fold, test in enumerate(test_parts):
        rest = np.setdiff1d(np.arange(len(members)), test)
        parts = round(1 / validation_fraction)
        candidates = _divide(classes[rest], inner[rest], parts, seed, "validation", fold)
        # All parts are valid; the one whose size and balance are nearest to what was asked for is taken.
        validation = rest[min(candidates, key=lambda part: abs(len(part) / len(rest) - validation_fraction))]
        names: dict[int, Role] = dict.fromkeys(rest.tolist(), "train")
        names |= dict.fromkeys(validation.tolist(), "validation")
        names |= dict.fromkeys(test.tolist(), "test")
        roles += [
            FoldRole(
                fold=fold,
                image_id=member.image_id,
                row=member.row,
                patient=member.patient,
                group=member.group,
                label=member.label,
                role=names[index],
            )
            for index, member in enumerate(members)
        ]
    return roles


def assert_no_leakage(roles: Sequence[FoldRole], digests: Mapping[str, str]) -> None:
    """Prove that no patient, group or picture stands on two sides of a fold and every image is tested once.

    Parameters
    ----------
    roles
        The fold table.
    digests
        Digest of the decoded pixels of every image, by image.

    Raises
    ------
    LeakageError
        Saying what is shared and in which fold; never of whom.
    """
    sides: dict[tuple[int, str, str], set[Role]] = defaultdict(set)
    tested: dict[str, int] = defaultdict(int)
    for role in roles:
        if role.image_id not in digests:
            raise LeakageError("the fold table names an image that does not exist", remedy="run split again")
        for kind, value in (("patient", role.patient), ("group", role.group), ("picture", digests[role.image_id])):
            sides[role.fold, kind, value].add(role.role)
        tested[role.image_id] += role.role == "test"
    shared = sorted({(fold, kind) for (fold, kind, _), found in sides.items() if len(found) > 1})
    if shared:
        fold, kind = shared[0]
        count = sum(1 for (f, k, _), found in sides.items() if (f, k) == (fold, kind) and len(found) > 1)
        what = f"{count} {kind}{'s' if count > 1 else ''} stand on two sides of fold {fold}"
        raise LeakageError(what, remedy="run split again; the fold table was altered or made by hand")
    wrong = sum(1 for count in tested.values() if count != 1)
    if wrong:
        what = f"{wrong} images are not tested exactly once"
        raise LeakageError(what, remedy="run split again; the fold table was altered or made by hand")


def joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Join two groupings of the same items: what shares a group in either, directly or by others, stays together.

    Parameters
    ----------
    first, second
        Group numbers from 0, shape (items,).

    Returns
    -------
    ndarray
        Group numbers, shape (items,), counted by first appearance.

    Examples
    --------
    >>> joined(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])).tolist()
    [0, 0, 0, 1]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = int(first.max()) + int(second.max()) + 2
    edges = coo_array((np.ones(len(first)), (first, second + int(first.max()) + 1)), shape=(size, size))
    _, component = connected_components(edges, directed=False)
    return _indices([str(number) for number in component[first].tolist()])


def _indices(names: Sequence[str]) -> np.ndarray:
    """Replace names by numbers in order of first appearance, so that their values do not matter."""
    order = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return np.array([order[name] for name in names])


def _require_groups(members: Sequence[Member], groups: np.ndarray, folds: int, unit: str) -> None:
    having: dict[str, set[int]] = defaultdict(set)
    for member, group in zip(members, groups.tolist(), strict=True):
        having[member.label].add(group)
    # A fold's training part is divided again for validation: each side needs one of every class.
    least = max(folds, 3)
    few = {label: len(found) for label, found in having.items() if len(found) < least}
    if len(having) < 2:
        raise CohortError("all images have one class", remedy="check label.classes and the table")
    if few:
        counts = ", ".join(f"{label}: {count}" for label, count in sorted(few.items()))
        noun = "patients" if unit == "patient" else "sites"
        what = f"too few {noun} for {folds} folds; each class needs at least {least} ({counts})"
        raise CohortError(what, where="split.folds", remedy="use fewer folds, or more patients")


def _divide(classes: np.ndarray, groups: np.ndarray, parts: int, seed: int, *names: str | int) -> list[np.ndarray]:
    """Divide indices into parts, stratified by class and by whole groups; every part and rest has every class."""
    from sklearn.model_selection import StratifiedGroupKFold

    wanted = set(classes.tolist())
    smallest = min(len(set(groups[classes == kind].tolist())) for kind in wanted)
    parts = max(2, min(parts, smallest))
    for attempt in range(_ATTEMPTS):
        state = derive_seed(seed, *names, attempt) % 2**32
        splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=state)
        found = [(rest, part) for rest, part in splitter.split(classes, classes, groups)]
        if all(set(classes[rest]) == wanted == set(classes[part]) for rest, part in found):
            return [part for _, part in found]
    what = f"no division into {parts} parts gives every part every class"
    raise CohortError(what, where="split", remedy="use fewer folds, or more patients of the rare class")
