"""Walker: the fast way through an ordinary header; at anything unusual it declines, and pydicom decides.

It reads explicit and implicit little endian from the first bytes of a file, skips what nobody asked for, and
gives the wanted values exactly as `elements` would get them from pydicom (words of which the standard leaves the
sign open come unsigned, see `elements.words`). It never judges a file: whatever is damaged, rare or ambiguous ends in
``None``, and the file goes the slow way.

References
----------
DICOM PS3.5, sections 6.2 (value representations), 7.1 (data elements) and 7.5 (sequences); PS3.10, section 7.1.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from struct import Struct, error
from typing import Any, NamedTuple

from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from pipeline.dicom.reading.conversions import Convert, DeclinedError, coding_of, conversion, declined, uid
from pipeline.dicom.reading.layouts import Layouts, Piece

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
_MOST_KNOWN = 20_000  # converted values that are kept
_LONGEST_KNOWN_BYTES = 256
_LONGEST_PIECE_BYTES = 0xFFFF


class SequenceTooDeepError(Exception):
    """Sequences are nested deeper than any real header's."""


class HeadTooShortError(Exception):
    """The pixel data do not begin within the bytes that were given."""


class Element(NamedTuple):
    """A value as pydicom would give it: text (several values as a tuple), or a number (several as a tuple).

    `VR` is its value representation: the standard's.
    """

    value: Any
    VR: str


class Wanted(NamedTuple):
    """How to read one element: its names, the value representations it may have, and its conversion."""

    representations: tuple[bytes, ...]
    names: tuple[str | int, ...]
    convert: Convert
    shown: str = ""


class Header(dict[str | int, Element]):
    """The wanted elements of a file: what `pipeline.dicom.reading.elements` asks of a pydicom data set, and no more.

    Elements stand under their tag, and under their keyword if they have one.

    Attributes
    ----------
    transfer_syntax_uid
        From the file meta information.
    end
        Position of the pixel data element in the file.
    """

    __slots__ = ("end", "transfer_syntax_uid")

    def __init__(self, transfer_syntax_uid: str, end: int, found: Mapping[str | int, Element]) -> None:
        super().__init__(found)
        self.transfer_syntax_uid = transfer_syntax_uid
        self.end = end

    def __bool__(self) -> bool:
        """Be true: a header without any wanted element is a header."""
        return True


def as_header(dataset: object) -> Header | None:
    """Tell a header that was walked from a data set of pydicom's."""
    return dataset if isinstance(dataset, Header) else None


@dataclass(slots=True)
class _Plan:
    """What to do with the elements of a list: by tag as stored; and what was learned on the way."""

    wanted: dict[int, Wanted]
    meta: Layouts = field(default_factory=Layouts)
    explicit: Layouts = field(default_factory=Layouts)
    implicit: Layouts = field(default_factory=Layouts)
    known: dict[str, dict[tuple[int, bytes], Element]] = field(default_factory=lambda: defaultdict(dict))

    def converted(self, values: dict[int, bytes], found: dict[str | int, Element]) -> None:
        """Convert values; files of one series have most of theirs in common."""
        coding = coding_of(values.get(_CHARACTER_SET, b""))
        known = self.known[coding]
        if len(known) > _MOST_KNOWN:
            known.clear()
        for pair in values.items():
            element = known.get(pair)
            tag, value = pair
            _, names, convert, shown = self.wanted[tag]
            if element is None:
                element = Element(convert(value, coding) if value else "", shown)
                if len(value) <= _LONGEST_KNOWN_BYTES:
                    known[pair] = element
            for name in names:
                found[name] = element


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
        None if anything is unusual.

    Raises
    ------
    HeadTooShortError
        If the pixel data element does not begin within `head`.
    SequenceTooDeepError
        If sequences of undefined length are nested more than `DEEPEST_SEQUENCE` deep.
    """
    if head[_FIRST_ELEMENT - len(_MAGIC) : _FIRST_ELEMENT] != _MAGIC:
        return None
    try:
        plan = _plan(tags)
        syntax, found, at = _meta(head, plan.meta)
        if syntax in {DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian}:
            return None
        values, end = (_implicit if syntax == ImplicitVRLittleEndian else _explicit)(head, at, plan)
        plan.converted(values, found)
    except (DeclinedError, UnicodeDecodeError):
        return None
    except error:
        raise HeadTooShortError from None
    return Header(syntax, end, found)


def data_set_place(head: bytes) -> tuple[str, Header, int] | None:
    """Read ordinary file meta information: transfer syntax, what it says, and where the data set begins.

    None if anything is unusual, or if `head`, the first bytes of the file, ends before.
    """
    if head[_FIRST_ELEMENT - len(_MAGIC) : _FIRST_ELEMENT] != _MAGIC:
        return None
    try:
        syntax, found, at = _meta(head, _META_LAYOUTS)
    except (DeclinedError, UnicodeDecodeError, error):
        return None
    return syntax, Header(syntax, at, found), at


def _meta(head: bytes, layouts: Layouts) -> tuple[str, dict[str | int, Element], int]:
    """Read the file meta information, which is always explicit little endian; give also where it ends."""
    at = _FIRST_ELEMENT
    found: dict[int, bytes] = {}
    pieces: list[Piece] = []
    while True:
        begin = at = at if pieces else layouts.leap(head, at, found)
        tag, code, length = _EXPLICIT(head, at)
        if tag & 0xFFFF != _META_GROUP:
            break
        at += 8
        if code in _LONG:
            layouts.learn(pieces)
            pieces = []
            (length,) = _LENGTH(head, at)
            at += 4
        elif code not in _SHORT:
            raise DeclinedError
        is_wanted = tag in {_SOP_CLASS, _TRANSFER_SYNTAX}
        if is_wanted:
            if code != b"UI":
                raise DeclinedError
            found[tag] = head[at : at + length]
        if code in _SHORT:
            pieces.append(Piece(head[begin:at], begin, length, tag if is_wanted else None))
        at += length
    layouts.learn(pieces)
    syntax = uid(found.get(_TRANSFER_SYNTAX, b""))
    if not isinstance(syntax, str):
        raise DeclinedError
    sop_class = found.get(_SOP_CLASS)
    meta: dict[str | int, Element] = {}
    if sop_class is not None:
        meta["MediaStorageSOPClassUID"] = Element(uid(sop_class) if sop_class else "", "UI")
    return syntax, meta, at


def _explicit(head: bytes, at: int, plan: _Plan) -> tuple[dict[int, bytes], int]:
    """Collect the wanted values up to the pixel data, in explicit little endian."""
    found: dict[int, bytes] = {}
    pieces: list[Piece] = []
    unpack, short, wanted, layouts = _EXPLICIT, _SHORT, plan.wanted, plan.explicit  # this loop is where a scan is
    while True:
        begin = at = at if pieces else layouts.leap(head, at, found)
        tag, code, length = unpack(head, at)
        if code in short:
            at += 8
        elif code in _LONG:
            layouts.learn(pieces)
            pieces = []
            (length,) = _LENGTH(head, at + 8)
            at += 12
            if length == _UNDEFINED and tag not in wanted:
                at = _behind_undefined(head, at, code)
                continue
        else:
            raise DeclinedError
        if tag in wanted:
            if wanted[tag] is _STOP:
                layouts.learn(pieces)
                return found, begin
            if code not in wanted[tag].representations or length == _UNDEFINED:
                raise DeclinedError
            found[tag] = head[at : at + length]
        if code in short:
            pieces.append(Piece(head[begin:at], begin, length, tag if tag in wanted else None))
        at += length
        if pieces and layouts.knows(head, at):
            layouts.learn(pieces)
            pieces = []


def _implicit(head: bytes, at: int, plan: _Plan) -> tuple[dict[int, bytes], int]:
    """Collect the wanted values up to the pixel data, in implicit little endian."""
    if head[at + 4 : at + 6].isalpha():  # looks like explicit encoding
        raise DeclinedError
    found: dict[int, bytes] = {}
    pieces: list[Piece] = []
    wanted, layouts = plan.wanted, plan.implicit
    while True:
        at = at if pieces else layouts.leap(head, at, found)
        tag, length = _IMPLICIT(head, at)
        if tag in wanted:
            if wanted[tag] is _STOP:
                layouts.learn(pieces)
                return found, at
            if length == _UNDEFINED or wanted[tag] is _BAR:
                raise DeclinedError
            found[tag] = head[at + 8 : at + 8 + length]
        elif length == _UNDEFINED:
            if not _is_sequence(tag):
                raise DeclinedError
            layouts.learn(pieces)
            pieces = []
            at = behind_sequence(head, at + 8, True, 1)
            continue
        if length <= _LONGEST_PIECE_BYTES:
            pieces.append(Piece(head[at : at + 8], at, length, tag if tag in wanted else None))
        else:
            layouts.learn(pieces)
            pieces = []
        at += 8 + length
        if pieces and layouts.knows(head, at):
            layouts.learn(pieces)
            pieces = []


def _behind_undefined(head: bytes, at: int, code: bytes) -> int:
    if code != _SEQUENCE:
        raise DeclinedError
    return behind_sequence(head, at, False, 1)


def behind_sequence(head: bytes, at: int, is_implicit: bool, depth: int) -> int:
    """Give the position behind a sequence of undefined length whose first item begins at `at`."""
    if depth > DEEPEST_SEQUENCE:
        raise SequenceTooDeepError
    while True:
        tag, length = _IMPLICIT(head, at)
        at += 8
        if tag == _SEQUENCE_END and length == 0:
            return at
        if tag != _ITEM:
            raise DeclinedError
        if length == _UNDEFINED:
            at = _behind_elements(head, at, None, is_implicit, depth)
        else:
            if at + length > len(head):
                raise HeadTooShortError
            at = _behind_elements(head, at, at + length, is_implicit, depth)


def _behind_elements(head: bytes, at: int, end: int | None, is_implicit: bool, depth: int) -> int:
    """Give the position behind the elements of an item, which end at `end` or at a delimiter."""
    while at != end:
        tag, length = _IMPLICIT(head, at)
        code = head[at + 4 : at + 6]
        at += 8
        if tag & 0xFFFF == _DELIMITER_GROUP:
            if tag != _ITEM_END or length or end is not None:
                raise DeclinedError
            return at
        if is_implicit:
            is_sequence = length == _UNDEFINED and _is_sequence(tag)
        else:
            length, at = _item_length(head, at, code)
            is_sequence = code == _SEQUENCE
        if tag == _CHARACTER_SET:
            coding_of(head[at : at + length])
        if length == _UNDEFINED:
            if not is_sequence:
                raise DeclinedError
            at = behind_sequence(head, at, is_implicit, depth + 1)
        else:
            at += length
        if end is not None and at > end:
            raise DeclinedError
    return at


def _item_length(head: bytes, at: int, code: bytes) -> tuple[int, int]:
    """Give the length of an explicitly encoded value, and where it begins; `at` is 8 bytes into its element."""
    if code in _SHORT:
        return head[at - 2] | head[at - 1] << 8, at
    if code in _LONG:
        return _LENGTH(head, at)[0], at + 4
    raise DeclinedError


@lru_cache(maxsize=4096)
def _is_sequence(stored: int) -> bool:
    tag = _as_stored(stored)
    return dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ"


@lru_cache(maxsize=8)
def _plan(tags: Collection[int]) -> _Plan:
    """Give what to do with an element, by its tag as stored."""
    table: dict[int, Wanted] = {}
    for tag in {*tags, _as_stored(_CHARACTER_SET)}:
        representation = dictionary_VR(tag)
        names = (keyword, tag) if (keyword := keyword_for_tag(tag)) else (tag,)
        allowed = tuple(name.encode("ascii", "replace") for name in representation.split(" or "))
        table[_as_stored(tag)] = Wanted(allowed, names, conversion(representation), representation)
    return _Plan({**table, **dict.fromkeys(_PIXELS, _STOP), _ITEM_END: _BAR})


_META_LAYOUTS = Layouts()
_STOP = Wanted((), (), declined)  # here the pixels begin
_BAR = Wanted((), (), declined)  # an end where nothing began
