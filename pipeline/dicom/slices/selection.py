"""Selection: which series of a study are wanted, by what their headers say."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np

from pipeline.core.records import Instance
from pipeline.dicom.slices.triage import Sorted

Orientation = Literal["axial", "coronal", "sagittal", "oblique"]
# The normal of a slice must lie within this angle of a patient axis to be called by its name.
_OBLIQUE_DEGREES = 25.0
# The patient axis (left, posterior, superior) that the normal follows.
_NAMES: tuple[Orientation, ...] = ("sagittal", "coronal", "axial")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a series must be like; an empty rule lets everything pass.

    Attributes
    ----------
    descriptions, not_descriptions
        Patterns of Series Description with ``*`` and ``?``; capitals do not count. A series must fit one of the
        first, if there are any, and none of the second.
    orientations
        Orientations of slices wanted.
    slice_thickness_mm, slices
        Smallest and largest value, both included.
    contrast_agent
        Whether one was given; None does not ask.
    """

    descriptions: tuple[str, ...] = ()
    not_descriptions: tuple[str, ...] = ()
    orientations: tuple[Orientation, ...] = ()
    slice_thickness_mm: tuple[float, float] | None = None
    slices: tuple[int, int] | None = None
    contrast_agent: bool | None = None


def select(instances: Iterable[Instance], wanted: Selection) -> Sorted:
    """Keep the series, or parts of series, that fit; what does not is refused with ``UNWANTED_SERIES``.

    Rules about slices do not concern images that stand alone. A value that the header does not give fits no
    rule that asks for it.
    """
    given = list(instances)
    series: dict[tuple[str, int], list[Instance]] = defaultdict(list)
    for one in given:
        series[one.series_uid, one.part].append(one)
    fitting = {name for name, members in series.items() if _fits(members, wanted)}
    kept = tuple(one for one in given if (one.series_uid, one.part) in fitting)
    refused = tuple((one, "UNWANTED_SERIES") for one in given if (one.series_uid, one.part) not in fitting)
    return Sorted(kept, refused)


def orientation_of(cosines: Sequence[float]) -> Orientation:
    """Name the orientation of a slice by the patient axis that its normal follows.

    Parameters
    ----------
    cosines
        Image Orientation (Patient), six direction cosines.

    Examples
    --------
    >>> orientation_of((1, 0, 0, 0, 1, 0)), orientation_of((0, 1, 0, 0, 0, -1)), orientation_of((1, 0, 0, 0, 0.7, 0.7))
    ('axial', 'sagittal', 'oblique')
    """
    normal = np.abs(np.cross(cosines[:3], cosines[3:]))
    along = float(normal.max() / max(float(np.linalg.norm(normal)), 1e-12))
    return _NAMES[int(normal.argmax())] if along >= np.cos(np.radians(_OBLIQUE_DEGREES)) else "oblique"


def _fits(members: Sequence[Instance], wanted: Selection) -> bool:
    first = members[0]
    descriptions = {one.series_description.casefold() for one in members}
    if wanted.descriptions and not all(_is_like(text, wanted.descriptions) for text in descriptions):
        return False
    if any(_is_like(text, wanted.not_descriptions) for text in descriptions):
        return False
    has_agent = any(one.has_contrast_agent for one in members)
    if wanted.contrast_agent is not None and has_agent != wanted.contrast_agent:
        return False
    return first.kind != "slice" or _fits_as_volume(members, wanted)


def _fits_as_volume(members: Sequence[Instance], wanted: Selection) -> bool:
    cosines = members[0].image_orientation
    if wanted.orientations and (cosines is None or orientation_of(cosines) not in wanted.orientations):
        return False
    if wanted.slices is not None and not wanted.slices[0] <= len(members) <= wanted.slices[1]:
        return False
    if wanted.slice_thickness_mm is None:
        return True
    low, high = wanted.slice_thickness_mm
    return all(one.slice_thickness_mm is not None and low <= one.slice_thickness_mm <= high for one in members)


def _is_like(text: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(text, pattern.casefold()) for pattern in patterns)
