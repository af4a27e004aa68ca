"""Conversions: the bytes of one value as pydicom would give it; what is unusual is declined, and pydicom decides.

References
----------
DICOM PS3.5, section 6.2 (value representations).
"""

import re
from collections.abc import Callable
from struct import Struct
from typing import Any

_CODINGS = {"": "ascii", "ISO_IR 6": "ascii", "ISO_IR 100": "latin-1", "ISO_IR 192": "utf-8"}
_NUMBERS = {"US": "H", "SS": "h", "US or SS": "H", "UL": "L", "SL": "l", "FL": "f", "FD": "d"}
_PRINTABLE = re.compile(rb"[ -~]*").fullmatch
_UID = re.compile(rb"[0-9.]+").fullmatch
_DECIMAL = r" *[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})? *"
_DECIMALS = re.compile(rf"{_DECIMAL}(?:\\{_DECIMAL})*".encode()).fullmatch
_INTEGER = r" *[-+]?[0-9]{1,12} *"
_INTEGERS = re.compile(rf"{_INTEGER}(?:\\{_INTEGER})*".encode()).fullmatch
_SEVERAL = "\\"

Convert = Callable[[bytes, str], Any]


class DeclinedError(Exception):
    """Something is unusual."""


def coding_of(value: bytes) -> str:
    """Name the codec of a Specific Character Set (PS3.3, C.12.1.1.2); the rarer ones are left to pydicom."""
    name = value.rstrip(b" \0").decode("ascii")
    if name not in _CODINGS:
        raise DeclinedError
    return _CODINGS[name]


def conversion(representation: str) -> Convert:
    """Give how to read values of a representation, as the standard's dictionary names it."""
    return _CONVERSIONS.get(representation, declined)


def declined(_value: bytes, _coding: str) -> Any:
    """Convert nothing."""
    raise DeclinedError


def _plain(value: bytes, _coding: str) -> Any:
    """Read text that no character set applies to."""
    value = value.rstrip(b" \0")
    if not _PRINTABLE(value):
        raise DeclinedError
    return _split(value.decode("ascii"))


def _text(value: bytes, coding: str) -> Any:
    """Read text in the character set of the file."""
    value = value.rstrip(b" \0")
    if _PRINTABLE(value):
        return _split(value.decode("ascii"))
    words = value.decode(coding)
    if not words.replace("\xa0", " ").isprintable():
        raise DeclinedError
    return _split(words)


def _split(words: str) -> str | tuple[str, ...]:
    return tuple(words.split(_SEVERAL)) if _SEVERAL in words else words


def uid(value: bytes, _coding: str = "") -> str:
    """Read a UID."""
    value = value.rstrip(b" \0")
    if not _UID(value):
        raise DeclinedError
    return value.decode("ascii")


def _decimals(value: bytes, _coding: str) -> Any:
    """Read decimal strings; they stay text, which `elements` turns into the same numbers as pydicom's."""
    value = value.rstrip(b" \0")
    if not _DECIMALS(value):
        raise DeclinedError
    return _split(value.decode("ascii"))


def _integers(value: bytes, _coding: str) -> Any:
    value = value.rstrip(b" \0")
    if not _INTEGERS(value):
        raise DeclinedError
    return _split(value.decode("ascii"))


def _numbers(code: str) -> Convert:
    single = Struct(f"<{code}")

    def convert(value: bytes, _coding: str) -> Any:
        if len(value) == single.size:
            return single.unpack(value)[0]
        count, rest = divmod(len(value), single.size)
        if rest:
            raise DeclinedError
        return Struct(f"<{count}{code}").unpack(value)

    return convert


_CONVERSIONS: dict[str, Convert] = {
    **dict.fromkeys(("AS", "CS", "DA", "TM"), _plain),
    **dict.fromkeys(("LO", "SH"), _text),
    "UI": uid,
    "DS": _decimals,
    "IS": _integers,
    **{representation: _numbers(code) for representation, code in _NUMBERS.items()},
}
