"""Rows of the index: what one file said, as values for SQL, and its record as JSON and back."""

import json
from collections.abc import Mapping
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from pipeline.core.records import Instance, MultiFrameInstance, Plane, Record

R = TypeVar("R", bound=Record)
# What files are compared by. A refused slice gives the place that it leaves empty in `series` and `sop`; `whole` is
# the digest of all bytes, once somebody has asked for it.
FILE_COLUMNS = """
    id INTEGER PRIMARY KEY, path TEXT UNIQUE NOT NULL, size_bytes INTEGER, modified_ns INTEGER, changed_ns INTEGER,
    inode TEXT, code TEXT NOT NULL, series TEXT, sop TEXT, study TEXT, patient TEXT, issuer TEXT, birth_date TEXT,
    sex TEXT, modality TEXT, kind TEXT, head TEXT, whole TEXT
"""
_SEXES = frozenset({"M", "F"})  # O (other) may be set for anybody (PS3.3, C.7.1.1)
_FIELDS = tuple(Instance.model_fields)
_PLANE_FIELDS = tuple(Plane.model_fields)
_PLANES = "planes"
_TUPLES = ("image_position_mm", "image_orientation", "pixel_spacing_mm", "image_type", "diffusion_direction")
_values_of = itemgetter(*_FIELDS)
_values_of_plane = itemgetter(*_PLANE_FIELDS)
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False, allow_nan=False).encode
_NO_FIELDS: set[str] = set()


class Entry(NamedTuple):
    """A regular file as its folder lists it; times in nanoseconds since 1970.

    A change of content that puts the time of the last change back still shows in the time of the last change of
    status, which no program can set. A file that was moved to the name of another still has its own inode.
    """

    path: str  # as text, see `pipeline.dicom.reading.paths`
    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: str  # as text: it may exceed the integers of SQL


def row_of(number: int, entry: Entry, found: Instance | str) -> tuple[object, ...]:
    """Give the values of a file's row, in the order of `FILE_COLUMNS`."""
    if isinstance(found, str):
        slot = getattr(found, "slot", None) or (None, None)
        return (number, *entry, str(found), *slot, *[None] * 9)
    sex = found.patient_sex.upper()
    return (
        number,
        *entry,
        "",
        found.series_uid,
        found.sop_uid,
        found.study_uid,
        found.patient_id,
        "".join(filter(str.isalnum, found.patient_id_issuer.casefold())),  # spellings vary
        found.patient_birth_date,
        sex if sex in _SEXES else "",
        found.modality,
        found.kind,
        found.head_sha256,
        None,
    )


def to_json(instance: Instance) -> str:
    """Write a record as a list of its values; names would take more room than all values."""
    values = list(_values_of(vars(instance)))
    if isinstance(instance, MultiFrameInstance):
        values.append([_values_of_plane(vars(plane)) for plane in instance.planes])
    return _encode(values)


def from_json(text: str) -> Instance:
    """Read a record of `to_json`: a `MultiFrameInstance` if it was one.

    It is not checked again: the index is ours, and it is thrown away when the code that filled it has changed.
    """
    values = json.loads(text)
    if len(values) == len(_FIELDS):
        return _made(Instance, dict(zip(_FIELDS, values, strict=True)))
    planes = tuple(_made(Plane, dict(zip(_PLANE_FIELDS, plane, strict=True))) for plane in values.pop())
    return _made(MultiFrameInstance, {**dict(zip(_FIELDS, values, strict=True)), _PLANES: planes})


def _made(kind: type[R], values: dict[str, Any]) -> R:
    """Make a record without asking pydantic to look at each value (a fifth of the time of `model_construct`)."""
    for name in _TUPLES:
        if values[name] is not None:
            values[name] = tuple(values[name])
    return _filled(kind, values)


def _filled(kind: type[R], values: Mapping[str, Any]) -> R:
    one = kind.__new__(kind)
    object.__setattr__(one, "__dict__", values)
    object.__setattr__(one, "__pydantic_fields_set__", _NO_FIELDS)
    object.__setattr__(one, "__pydantic_extra__", None)
    object.__setattr__(one, "__pydantic_private__", None)
    return one
