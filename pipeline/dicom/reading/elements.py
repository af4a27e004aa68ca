"""Values of a data set as plain types: what is missing, empty or not of the expected type is None (or empty).

Headers lie: an element can have another value representation than the standard gives it, text where
numbers belong, or one value where three belong. Nothing here raises. Attributes are named by keyword, or by
tag where they have none.
"""

import math
import struct
from collections.abc import Iterable
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from pipeline.core.records import Cosines, Pair, Triple

_WORD = 2  # bytes
_LOST = "\N{REPLACEMENT CHARACTER}"
_SEVERAL = (list, tuple, MultiValue)
_NO_NUMBERS = (bytes, bool)


def text(dataset: Dataset, keyword: str | int) -> str:
    """Give a text value without padding; several values are joined by a backslash."""
    found = _values(dataset, keyword)
    if len(found) == 1 and type(found[0]) is str:  # the most frequent by far
        return found[0].strip(" \0\\")
    values = texts(dataset, keyword)
    return "\\".join(values).strip(" \0\\") if values else ""


def texts(dataset: Dataset, keyword: str | int) -> tuple[str, ...]:
    """Give all values of a text element, each without padding; empty if there are none."""
    return tuple(str(value).strip(" \0") for value in _values(dataset, keyword) if not isinstance(value, bytes))


def is_garbled(found: str) -> bool:
    """Tell whether characters of a text were lost: pydicom reads bytes that its character set has not all as one.

    Two different identifiers may have become the same.
    """
    return _LOST in found


def is_unreadable(dataset: Dataset, keyword: str | int) -> bool:
    """Tell whether an element is there, but its value cannot be had: what is unreadable is not absent."""
    if keyword not in dataset:
        return False
    try:
        value = dataset[keyword].value
    except Exception:  # noqa: BLE001  as in `_values`
        return True
    return isinstance(value, bytes) and bool(value.strip(b" \0"))


def integer(dataset: Dataset, keyword: str | int) -> int | None:
    """Give a single whole number."""
    found = number(dataset, keyword)
    return int(found) if found is not None and found.is_integer() else None


def number(dataset: Dataset, keyword: str | int) -> float | None:
    """Give a single finite number."""
    found = _values(dataset, keyword)
    return _finite(found[0]) if len(found) == 1 else None


def numbers(dataset: Dataset, keyword: str | int, count: int) -> tuple[float, ...] | None:
    """Give exactly `count` finite numbers, or None."""
    found = [_finite(value) for value in _values(dataset, keyword)]
    plain = tuple(value for value in found if value is not None)
    return plain if len(plain) == len(found) == count else None


def first_number(dataset: Dataset, keyword: str | int) -> float | None:
    """Give the first of several numbers (windows come as lists), or None if it is not a finite number."""
    values = _values(dataset, keyword)
    return _finite(values[0]) if values else None


def triple(dataset: Dataset, keyword: str | int) -> Triple | None:
    """Give three finite numbers."""
    found = numbers(dataset, keyword, 3)
    return (found[0], found[1], found[2]) if found else None


def cosines(dataset: Dataset, keyword: str | int) -> Cosines | None:
    """Give six finite numbers."""
    found = numbers(dataset, keyword, 6)
    return (found[0], found[1], found[2], found[3], found[4], found[5]) if found else None


def positive_pair(dataset: Dataset, keyword: str | int) -> Pair | None:
    """Give two finite numbers above zero."""
    found = numbers(dataset, keyword, 2)
    return (found[0], found[1]) if found and min(found) > 0 else None


def words(dataset: Dataset, keyword: str, is_little_endian: bool) -> tuple[int, ...]:
    """Give 16-bit words whose signedness the encoding may leave open ("US or SS", PS3.6); empty if there are none.

    The values are those of their bits: -1 and 65535 may both come back for one file content, depending on how
    it is encoded; mask them before use.
    """
    values = _values(dataset, keyword)
    if len(values) == 1 and isinstance(values[0], bytes):
        order = "<" if is_little_endian else ">"
        count = len(values[0]) // _WORD
        return struct.unpack(f"{order}{count}H", values[0][: count * _WORD])
    return tuple(values) if all(isinstance(value, int) for value in values) else ()


def _values(dataset: Dataset, keyword: str | int) -> tuple[Any, ...]:
    try:
        value = dataset[keyword].value if keyword in dataset else None
    except Exception:  # noqa: BLE001  conversion of a damaged value makes pydicom raise nearly anything
        return ()
    if value is None or value == "":
        return ()
    if type(value) is str:  # the most frequent by far
        return (value,)
    if isinstance(value, _SEVERAL):
        return tuple(_guarded(value))
    return (value,)


def _guarded(values: Iterable[Any]) -> list[Any]:
    try:
        return list(values)
    except Exception:  # noqa: BLE001  as above: values are converted on access
        return []


def _finite(value: Any) -> float | None:
    if isinstance(value, _NO_NUMBERS):
        return None
    try:
        plain = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return plain if math.isfinite(plain) else None
