"""Dates: moved by whole days, so that intervals stay to the day and no time of day crosses midnight.

Dates (DA) and the dates within date-times (DT) move by the same number of days, times (TM) and offsets from UTC stay:
a date and the time beside it keep meaning one moment, shifted.

References
----------
DICOM PS3.5, section 6.2 (DA, DT, TM); PS3.15, section E.3.6.
"""

import re
from datetime import date, timedelta

_DATE = re.compile(r"(\d{4})([.]?)(\d{2})\2(\d{2})")
_MOMENT = re.compile(r"(\d{8})(\d{0,6}(?:(?<=\d{14})\.\d{1,6})?)([+-]\d{4})?")
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d|60)?)?(?:(?<=\d{6})\.\d{1,6})?")
DUMMY_DATE = "19000101"
DUMMY_TIME = "000000"


def shifted_date(value: str, shift: timedelta) -> str:
    """Move a DICOM date back; what is no date, or would fall before year 1, becomes empty.

    Examples
    --------
    >>> shifted_date("20240301", timedelta(days=1)), shifted_date("2024", timedelta(days=1))
    ('20240229', '')
    """
    found = _DATE.fullmatch(value.strip(" \0"))
    try:
        day = date(int(found[1]), int(found[3]), int(found[4])) if found else None
    except ValueError:
        day = None
    if day is None or day - date.min < shift:
        return ""
    moved = day - shift
    return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}"


def shifted_moment(value: str, shift: timedelta) -> str:
    """Move a DICOM date-time back by whole days; time and offset stay. Without a day it cannot move: empty.

    Examples
    --------
    >>> shifted_moment("20240301235959.5+0200", timedelta(days=1)), shifted_moment("202403", timedelta(days=1))
    ('20240229235959.5+0200', '')
    """
    found = _MOMENT.fullmatch(value.strip(" \0"))
    if found is None or (found[2] and plain_time(found[2]) != found[2]):
        return ""
    day = shifted_date(found[1], shift)
    return f"{day}{found[2]}{found[3] or ''}" if day else ""


def plain_time(value: str) -> str:
    """Give a DICOM time, or nothing if it is none.

    Examples
    --------
    >>> plain_time("235959.123 "), plain_time("25"), plain_time("Doe")
    ('235959.123', '', '')
    """
    time = value.strip(" \0")
    return time if _TIME.fullmatch(time) else ""


def moved(representation: str, value: str, shift: timedelta) -> str:
    """Move one value of a representation DA, DT or TM."""
    if representation == "TM":
        return plain_time(value)
    return shifted_date(value, shift) if representation == "DA" else shifted_moment(value, shift)
