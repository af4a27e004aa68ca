"""Triage: which slices form volumes, which series hold several volumes, and what is no part of any.

Everything is decided by headers, before a pixel is decoded. What a series holds is proved again when its
slices are stacked; triage only sorts. Images that stand alone (radiographs) pass through.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise
from typing import NamedTuple

import numpy as np

from pipeline.core.records import Instance
from pipeline.dicom.slices.geometry import DUPLICATE_MM, FEWEST_SLICES
from pipeline.dicom.slices.mosaic import is_mosaic

# Slices whose direction cosines differ by more belong to different stacks; smaller differences are a fault of
# one stack, which is found when it is stacked.
_OTHER_ORIENTATION = 1e-2
_LOCALIZER = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM"})
_SECONDARY = "SECONDARY"

# What may tell volumes apart that lie in one place, by the words of a report; the first that works is taken.
AXES: dict[str, Callable[[Instance], Hashable]] = {
    "image type": lambda one: one.image_type[2:],
    "echo time": lambda one: one.echo_time_ms,
    "b-value": lambda one: one.b_value_s_mm2,
    "diffusion direction": lambda one: one.diffusion_direction or ("none" if one.b_value_s_mm2 is not None else None),
    "stack": lambda one: one.stack_id,
    "temporal position": lambda one: one.temporal_position,
    "acquisition number": lambda one: one.acquisition_number,
    "trigger time": lambda one: one.trigger_time_ms,
    "acquisition time": lambda one: one.acquisition_time or None,
}
# These may change within one volume; they count where the order of instance numbers does not contradict.
_WEAK = frozenset({"acquisition number", "trigger time", "acquisition time"})
_BY_ORDER = "order of instance numbers"
_BY_FRAME = "frame of reference or orientation"
# Slices that differ in these are not slices of one volume, even where they do not lie on one another.
_CONTENTS = ("image type", "echo time", "b-value")


@dataclass(frozen=True)
class Sorted:
    """What triage made of some instances: those kept, with their parts, and those left out with a reason code."""

    kept: tuple[Instance, ...]
    refused: tuple[tuple[Instance, str], ...]


def triage(instances: Iterable[Instance]) -> Sorted:
    """Sort the slices of every series into volumes.

    A series that holds one volume keeps ``part`` 0. One that holds several (orientations, echoes, time points,
    acquisitions) is divided into parts from 1, and each says in ``part_axis`` what tells it apart. Where
    slices lie on one another and nothing in the headers tells them apart, the series stays as it is, and is
    refused later (``DUPLICATE_POSITION``).

    Returns
    -------
    Sorted
        In the order of the instances given. Reason codes are ``LOCALIZER``, ``MOSAIC_IMAGE``, ``SECONDARY_IMAGE`` and
        ``SERIES_INCOMPLETE`` (of a concatenation, files are missing; or of a volume, slices that others in its place
        have).

    References
    ----------
    DICOM PS3.3, section C.7.6.1.1.2 (Image Type); C.7.6.2 (Image Plane Module).
    """
    given = list(instances)
    refused: list[tuple[Instance, str]] = []
    series: dict[str, list[Instance]] = defaultdict(list)
    for one in given:
        code = _no_slice_of_a_volume(one)
        if code:
            refused.append((one, code))
        elif one.kind == "slice":
            series[one.series_uid].append(one)
    for series_uid in [name for name, slices in series.items() if _lacks_a_file(slices)]:
        refused += [(one, "SERIES_INCOMPLETE") for one in series.pop(series_uid)]
    places: dict[int, tuple[int, str]] = {}
    for slices in series.values():
        labels, short = _labelled(slices)
        places.update((id(one), label) for one, label in labels)
        refused += [(one, "SERIES_INCOMPLETE") for one in short]
    left_out = {id(one) for one, _ in refused}
    kept = tuple(
        one.model_copy(update={"part": places[id(one)][0], "part_axis": places[id(one)][1]})
        if id(one) in places
        else one
        for one in given
        if id(one) not in left_out
    )
    return Sorted(kept, tuple(refused))


def _no_slice_of_a_volume(one: Instance) -> str:
    """Give the reason why a slice cannot belong to a volume, by its Image Type; empty if there is none."""
    words = {word.upper() for word in one.image_type}
    if one.kind != "slice":
        return ""
    if words & _LOCALIZER:
        return "LOCALIZER"
    if is_mosaic(one.image_type) and not one.frame:
        return "MOSAIC_IMAGE"
    if len(one.image_type) > 1 and one.image_type[1].upper() == _SECONDARY:
        return "SECONDARY_IMAGE"
    return ""


def _lacks_a_file(slices: Sequence[Instance]) -> bool:
    """Tell whether a file of a concatenation is missing: at an end, nothing else would show it (PS3.3, C.7.6.16)."""
    numbers: dict[str, set[int | None]] = defaultdict(set)
    totals: dict[str, int] = {}
    for one in slices:
        if one.concatenation_uid:
            numbers[one.concatenation_uid].add(one.concatenation_number)
            totals[one.concatenation_uid] = max(totals.get(one.concatenation_uid, 0), one.concatenation_total or 0)
    return any(found != set(range(1, max(totals[uid], len(found)) + 1)) for uid, found in numbers.items())


class _Division(NamedTuple):
    """Slices of one orientation as volumes, what tells these apart, and those that lack slices which others have."""

    axis: str
    volumes: list[list[Instance]]
    short: list[list[Instance]]


def _labelled(slices: Sequence[Instance]) -> tuple[list[tuple[Instance, tuple[int, str]]], list[Instance]]:
    """Give each slice of a series its part and the axis; and those of parts that are not whole."""
    volumes: list[tuple[str, list[Instance]]] = []
    short: list[Instance] = []
    stacks = _by_frame(slices)
    for stack in stacks:
        found = _by_place(stack)
        words = [_BY_FRAME] * (len(stacks) > 1) + [found.axis] * bool(found.axis)
        volumes += [(" and ".join(words), group) for group in found.volumes]
        short += chain.from_iterable(found.short)
    if len(volumes) == 1 and not short:
        return [(one, (0, "")) for one in slices], []
    return [(one, (number, axis)) for number, (axis, group) in enumerate(volumes, start=1) for one in group], short


def _by_frame(slices: Sequence[Instance]) -> list[list[Instance]]:
    """Divide slices by their coordinate system, and the directions of their rows and columns.

    Positions in different frames of reference say nothing about one another (PS3.3, C.7.4.1).
    """
    stacks: list[tuple[str, np.ndarray, list[Instance]]] = []
    for one in sorted(
        slices, key=lambda item: (item.frame_of_reference_uid, item.image_orientation or (), item.sop_uid)
    ):
        cosines = np.asarray(one.image_orientation, dtype=np.float64)
        for frame, first, members in stacks:
            if frame == one.frame_of_reference_uid and np.abs(cosines - first).max() <= _OTHER_ORIENTATION:
                members.append(one)
                break
        else:
            stacks.append((one.frame_of_reference_uid, cosines, [one]))
    return [members for _, _, members in stacks]


def _by_place(stack: Sequence[Instance]) -> _Division:
    """Divide slices of one orientation that lie on one another; one group if they do not, or cannot be told apart."""
    levels = _levels(stack)
    depth = max(levels.values()) + 1
    if depth == len(stack):
        return _by_contents(stack)
    in_order = _by_instance_number(stack, levels, depth)
    is_doubtful = False
    for words in (*combinations(AXES, 1), *combinations(AXES, 2)):
        groups = _grouped(stack, tuple(AXES[word] for word in words))
        if groups is None or not _are_volumes(groups, levels, depth):
            continue
        if _WEAK.isdisjoint(words) or _agrees(groups, in_order):
            whole = [group for group in groups if len(group) == depth]
            return _Division(" and ".join(words), whole, [group for group in groups if len(group) < depth])
        is_doubtful = True
    if in_order and not is_doubtful:
        return _Division(_BY_ORDER, in_order, [])
    return _Division("", [list(stack)], [])


def _agrees(groups: Sequence[Sequence[Instance]], in_order: Sequence[Sequence[Instance]] | None) -> bool:
    """Tell whether the order of instance numbers, where it says something, divides slices in the same way.

    Acquisition numbers alternate within one volume on some scanners: taken alone, they would make two volumes of
    mixed time points, in which nothing looks wrong.
    """
    if in_order is not None:
        return {frozenset(map(id, group)) for group in groups} == {frozenset(map(id, group)) for group in in_order}
    numbers = [sorted(one.instance_number or 0 for one in group) for group in groups]
    everything = sorted(chain.from_iterable(numbers))
    if len(set(everything)) != len(everything):
        return True  # numbers begin anew in each group, or there are none
    ranges = sorted((group[0], group[-1]) for group in numbers)
    return all(before[1] < behind[0] for before, behind in pairwise(ranges))


def _by_contents(stack: Sequence[Instance]) -> _Division:
    """Divide slices that lie beside one another but show different things (two echoes half a slice apart)."""
    for word in _CONTENTS:
        groups = _grouped(stack, (AXES[word],))
        if groups is not None and all(len(group) >= FEWEST_SLICES for group in groups):
            return _Division(word, groups, [])
    return _Division("", [list(stack)], [])


def _levels(stack: Sequence[Instance]) -> dict[int, int]:
    """Give each slice the number of its height along the normal; keys are the identities of the instances."""
    cosines = np.asarray(stack[0].image_orientation, dtype=np.float64)
    normal = np.cross(cosines[:3], cosines[3:])
    heights = np.array([np.asarray(one.image_position_mm) @ normal for one in stack])
    order = np.argsort(heights, kind="stable")
    steps = np.diff(heights[order]) > DUPLICATE_MM
    numbers = np.concatenate([[0], np.cumsum(steps)])
    return {id(stack[index]): int(number) for index, number in zip(order, numbers, strict=True)}


def _grouped(stack: Sequence[Instance], axes: Sequence[Callable[[Instance], Hashable]]) -> list[list[Instance]] | None:
    """Group by the values of some axes, in their order; None if an instance lacks a value or all agree."""
    groups: dict[tuple[Hashable, ...], list[Instance]] = defaultdict(list)
    for one in stack:
        values = tuple(axis(one) for axis in axes)
        if None in values:
            return None
        groups[values].append(one)
    if len(groups) < 2:
        return None
    return [groups[values] for values in sorted(groups, key=lambda item: tuple(map(_sortable, item)))]


def _sortable(value: Hashable) -> tuple[bool, float, str]:
    return (False, float(value), "") if isinstance(value, int | float) else (True, 0.0, str(value))


def _are_volumes(groups: Sequence[Sequence[Instance]], levels: dict[int, int], depth: int) -> bool:
    """Tell whether every group has at most one slice at each height, and all but some have them all.

    A group may be incomplete (an aborted last time point), which costs that part. Groups of a few slices out of
    many are no volumes, but the sign of an axis that means something else.
    """
    for group in groups:
        heights = [levels[id(one)] for one in group]
        if len(set(heights)) != len(heights) or len(heights) < FEWEST_SLICES:
            return False
    complete = sum(len(group) == depth for group in groups)
    return 2 * complete >= len(groups)


def _by_instance_number(stack: Sequence[Instance], levels: dict[int, int], depth: int) -> list[list[Instance]] | None:
    """Divide by the order of instance numbers, if these run regularly: volume by volume, or place by place."""
    numbers = {one.instance_number for one in stack}
    if None in numbers or len(numbers) != len(stack) or len(stack) % depth:
        return None
    ordered = sorted(stack, key=lambda one: one.instance_number or 0)
    heights = [levels[id(one)] for one in ordered]
    count = len(stack) // depth
    if all(heights[start : start + depth] == heights[:depth] for start in range(0, len(heights), depth)):
        groups = [ordered[start : start + depth] for start in range(0, len(heights), depth)]
    elif all(len(set(heights[start : start + count])) == 1 for start in range(0, len(heights), count)):
        groups = [ordered[start::count] for start in range(count)]
    else:
        return None
    return groups if all(len({levels[id(one)] for one in group}) == depth for group in groups) else None
