"""Walker: the fast way through an ordinary header; at anything unusual it declines, and pydicom decides.

It reads explicit and implicit little endian from the first bytes of a file, skips what nobody asked for, and
gives the wanted values exactly as `pipeline.dicom.elements` would get them from pydicom. It never judges a
file: whatever is damaged, rare or ambiguous ends in ``None``, and the file goes the slow way.

References
----------
DICOM PS3.5, sections 6.2 (value representations), 7.1 (data elements) and 7.5 (sequences); PS3.10, section 7.1.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct, error
from typing import Any, NamedTuple

from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

DEEPEST_SEQUENCE = 32
_FIRST_ELEMENT = 132  # behind the preamble and the magic word
_MAGIC = b"DICM"


def _as_stored(tag: int) -> int:
    """Give a tag as the number that its four bytes are: the group stands first, each half is little endian."""
    return (tag & 0xFFFF) << 16 | tag >> 16


_META_GROUP = 0x0002
_SOP_CLASS = _as_stored(0x00020002)
_TRANSFER_SYNTAX = _as_stored(0x00020010)
_CHARACTER_SET = _as_stored(0x00080005)
_PIXELS = tuple(map(_as_stored, (0x7FE00008, 0x7FE00009, 0x7FE00010)))
_ITEM = _as_stored(0xFFFEE000)
_ITEM_END = _as_stored(0xFFFEE00D)
_SEQUENCE_END = _as_stored(0xFFFEE0DD)
_DELIMITER_GROUP = 0xFFFE
_UNDEFINED = 0xFFFFFFFF
_SEQUENCE = b"SQ"
_SHORT = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_EXPLICIT = Struct("<L2sH").unpack_from
_IMPLICIT = Struct("<LL").unpack_from
_LENGTH = Struct("<L").unpack_from
_CODINGS = {"": "ascii", "ISO_IR 6": "ascii", "ISO_IR 100": "latin-1", "ISO_IR 192": "utf-8"}
_NUMBERS = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d"}
_PRINTABLE = re.compile(rb"[ -~]*").fullmatch
_UID = re.compile(rb"[0-9.]+").fullmatch
_DECIMAL = r" *[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})? *"
_DECIMALS = re.compile(rf"{_DECIMAL}(?:\\{_DECIMAL})*".encode()).fullmatch
_INTEGER = re.compile(rb" *[-+]?[0-9]{1,12} *").fullmatch
_SEVERAL = "\\"

Convert = Callable[[bytes, str], Any]


class SequenceTooDeepError(Exception):
    """Sequences are nested deeper than any real header's."""


class _DeclinedError(Exception):
    """Something is unusual."""


class Element(NamedTuple):
    """A value as pydicom would give it: text (several values as a list), or a number (several as a tuple)."""

    value: Any


class Wanted(NamedTuple):
    """How to read one element: its name, its value representation by the standard, and its conversion."""

    name: str | int
    representation: bytes
    convert: Convert


@dataclass(frozen=True, slots=True)
class Header:
    """The wanted elements of a file: what `pipeline.dicom.elements` asks of a pydicom data set, and no more.

    Attributes
    ----------
    transfer_syntax_uid
        From the file meta information.
    end
        Position of the pixel data element in the file.
    elements
        By keyword, or by tag where the element has none.
    """

    transfer_syntax_uid: str
    end: int
    elements: dict[str | int, Element]

    def __contains__(self, name: str | int) -> bool:
        return name in self.elements or (isinstance(name, int) and keyword_for_tag(name) in self.elements)

    def __getitem__(self, name: str | int) -> Element:
        return self.elements[name if name in self.elements else keyword_for_tag(name)]


def walk(head: bytes, tags: tuple[int, ...]) -> Header | None:
    """Read the wanted elements from the first bytes of a file.

    Parameters
    ----------
    head
        The file, or as much of it as holds the header; cut anywhere.
    tags
        The elements wanted, of the data set. The SOP class of the meta information is always read.

    Returns
    -------
    Header | None
        None if anything is unusual, or if the pixel data element does not begin within `head`.

    Raises
    ------
    SequenceTooDeepError
        If sequences of undefined length are nested more than `DEEPEST_SEQUENCE` deep.
    """
    if head[_FIRST_ELEMENT - len(_MAGIC) : _FIRST_ELEMENT] != _MAGIC:
        return None
    try:
        syntax, found, at = _meta(head)
        if syntax in {DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian}:
            return None
        wanted = _table(tags)
        values, end = (_implicit if syntax == ImplicitVRLittleEndian else _explicit)(head, at, wanted)
        coding = _coding(values.get(_CHARACTER_SET, b""))
        for tag, value in values.items():
            name, _, convert = wanted[tag]
            found[name] = Element(convert(value, coding) if value else "")
    except (_DeclinedError, error, UnicodeDecodeError):
        return None
    return Header(syntax, end, found)


def _meta(head: bytes) -> tuple[str, dict[str | int, Element], int]:
    """Read the file meta information, which is always explicit little endian; give also where it ends."""
    at = _FIRST_ELEMENT
    found: dict[int, bytes] = {}
    while True:
        tag, code, length = _EXPLICIT(head, at)
        if tag & 0xFFFF != _META_GROUP:
            break
        at += 8
        if code in _LONG:
            (length,) = _LENGTH(head, at)
            at += 4
        elif code not in _SHORT:
            raise _DeclinedError
        if tag in {_SOP_CLASS, _TRANSFER_SYNTAX}:
            if code != b"UI":
                raise _DeclinedError
            found[tag] = head[at : at + length]
        at += length
    syntax = _uid(found.get(_TRANSFER_SYNTAX, b""), "")
    if not isinstance(syntax, str):
        raise _DeclinedError
    sop_class = found.get(_SOP_CLASS)
    meta: dict[str | int, Element] = {}
    if sop_class is not None:
        meta["MediaStorageSOPClassUID"] = Element(_uid(sop_class, "") if sop_class else "")
    return syntax, meta, at


def _explicit(head: bytes, at: int, wanted: dict[int, Wanted]) -> tuple[dict[int, bytes], int]:
    """Collect the wanted values up to the pixel data, in explicit little endian."""
    found: dict[int, bytes] = {}
    unpack, short, long = _EXPLICIT, _SHORT, _LONG  # this loop is where a scan spends its time
    while True:
        tag, code, length = unpack(head, at)
        begin = at
        if code in short:
            at += 8
        elif code in long:
            (length,) = _LENGTH(head, at + 8)
            at += 12
            if length == _UNDEFINED and tag not in wanted:
                if code != _SEQUENCE:
                    raise _DeclinedError
                at = _behind_sequence(head, at, False, 1)
                continue
        else:
            raise _DeclinedError
        if tag in wanted:
            if wanted[tag] is _STOP:
                return found, begin
            if code != wanted[tag].representation or length == _UNDEFINED:
                raise _DeclinedError
            found[tag] = head[at : at + length]
        at += length


def _implicit(head: bytes, at: int, wanted: dict[int, Wanted]) -> tuple[dict[int, bytes], int]:
    """Collect the wanted values up to the pixel data, in implicit little endian."""
    if head[at + 4 : at + 6].isalpha():  # looks like explicit encoding
        raise _DeclinedError
    found: dict[int, bytes] = {}
    while True:
        tag, length = _IMPLICIT(head, at)
        if tag in wanted:
            if wanted[tag] is _STOP:
                return found, at
            if length == _UNDEFINED or wanted[tag] is _BAR:
                raise _DeclinedError
            found[tag] = head[at + 8 : at + 8 + length]
        elif length == _UNDEFINED:
            if not _is_sequence(tag):
                raise _DeclinedError
            at = _behind_sequence(head, at + 8, True, 1)
            continue
        at += 8 + length


def _behind_sequence(head: bytes, at: int, is_implicit: bool, depth: int) -> int:
    """Give the position behind a sequence of undefined length whose first item begins at `at`."""
    if depth > DEEPEST_SEQUENCE:
        raise SequenceTooDeepError
    while True:
        tag, length = _IMPLICIT(head, at)
        at += 8
        if tag == _SEQUENCE_END and length == 0:
            return at
        if tag != _ITEM:
            raise _DeclinedError
        if length == _UNDEFINED:
            at = _behind_elements(head, at, None, is_implicit, depth)
        else:
            if at + length > len(head):
                raise _DeclinedError
            at = _behind_elements(head, at, at + length, is_implicit, depth)


def _behind_elements(head: bytes, at: int, end: int | None, is_implicit: bool, depth: int) -> int:
    """Give the position behind the elements of an item, which end at `end` or at a delimiter."""
    while at != end:
        tag, length = _IMPLICIT(head, at)
        code = head[at + 4 : at + 6]
        at += 8
        if tag & 0xFFFF == _DELIMITER_GROUP:
            if tag != _ITEM_END or length or end is not None:
                raise _DeclinedError
            return at
        if is_implicit:
            is_sequence = length == _UNDEFINED and _is_sequence(tag)
        else:
            length, at = _item_length(head, at, code)
            is_sequence = code == _SEQUENCE
        if tag == _CHARACTER_SET:
            _coding(head[at : at + length])
        if length == _UNDEFINED:
            if not is_sequence:
                raise _DeclinedError
            at = _behind_sequence(head, at, is_implicit, depth + 1)
        else:
            at += length
        if at > (len(head) if end is None else end):
            raise _DeclinedError
    return at


def _item_length(head: bytes, at: int, code: bytes) -> tuple[int, int]:
    """Give the length of an explicitly encoded value, and where it begins; `at` is 8 bytes into its element."""
    if code in _SHORT:
        return head[at - 2] | head[at - 1] << 8, at
    if code in _LONG:
        return _LENGTH(head, at)[0], at + 4
    raise _DeclinedError


@lru_cache(maxsize=4096)
def _is_sequence(stored: int) -> bool:
    tag = _as_stored(stored)
    return dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ"


def _coding(value: bytes) -> str:
    """Name the codec of a Specific Character Set (PS3.3, C.12.1.1.2); the rarer ones are left to pydicom."""
    name = value.rstrip(b" \0").decode("ascii")
    if name not in _CODINGS:
        raise _DeclinedError
    return _CODINGS[name]


@lru_cache(maxsize=8)
def _table(tags: Collection[int]) -> dict[int, Wanted]:
    """Give what to do with an element, by its tag as stored."""
    table: dict[int, Wanted] = {}
    for tag in {*tags, _as_stored(_CHARACTER_SET)}:
        representation = dictionary_VR(tag)
        convert = _CONVERSIONS.get(representation, _declined)
        if representation in _NUMBERS:
            convert = _numbers(_NUMBERS[representation])
        table[_as_stored(tag)] = Wanted(keyword_for_tag(tag) or tag, representation.encode("ascii", "replace"), convert)
    return {**table, **dict.fromkeys(_PIXELS, _STOP), _ITEM_END: _BAR}


def _declined(_value: bytes, _coding: str) -> Any:
    raise _DeclinedError


def _plain(value: bytes, _coding: str) -> Any:
    """Read text that no character set applies to."""
    value = value.rstrip(b" \0")
    if not _PRINTABLE(value):
        raise _DeclinedError
    return _split(value.decode("ascii"))


def _text(value: bytes, coding: str) -> Any:
    """Read text in the character set of the file."""
    value = value.rstrip(b" \0")
    if _PRINTABLE(value):
        return _split(value.decode("ascii"))
    words = value.decode(coding)
    if not words.replace("\xa0", " ").isprintable():
        raise _DeclinedError
    return _split(words)


def _split(words: str) -> str | list[str]:
    return words.split(_SEVERAL) if _SEVERAL in words else words


def _uid(value: bytes, _coding: str) -> Any:
    value = value.rstrip(b" \0")
    if not _UID(value):
        raise _DeclinedError
    return value.decode("ascii")


def _decimals(value: bytes, _coding: str) -> Any:
    """Read decimal strings; they stay text, which `elements` turns into the same numbers as pydicom's."""
    value = value.rstrip(b" \0")
    if not _DECIMALS(value):
        raise _DeclinedError
    return _split(value.decode("ascii"))


def _integer(value: bytes, _coding: str) -> Any:
    value = value.rstrip(b" \0")
    if not _INTEGER(value):
        raise _DeclinedError
    return value.decode("ascii")


def _numbers(code: str) -> Convert:
    single = Struct(f"<{code}")

    def convert(value: bytes, _coding: str) -> Any:
        if len(value) == single.size:
            return single.unpack(value)[0]
        count, rest = divmod(len(value), single.size)
        if rest:
            raise _DeclinedError
        return Struct(f"<{count}{code}").unpack(value)

    return convert


_STOP = Wanted("", b"", _declined)  # here the pixels begin
_BAR = Wanted("", b"", _declined)  # an end where nothing began
_CONVERSIONS: dict[str, Convert] = {
    **dict.fromkeys(("AS", "CS", "DA", "TM"), _plain),
    **dict.fromkeys(("LO", "SH"), _text),
    "UI": _uid,
    "DS": _decimals,
    "IS": _integer,
}
