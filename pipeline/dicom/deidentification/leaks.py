"""Leaks: the words that would give a patient away, and the search for them in what is about to be written."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from pipeline.dicom.deidentification.raw import copied, text_of
from pipeline.dicom.reading import elements

PERSON_KEYWORDS = (
    "PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ResponsiblePerson",
)  # fmt: skip
NAME_KEYWORDS = (
    *PERSON_KEYWORDS, "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName",
    "NameOfPhysiciansReadingStudy", "PhysiciansOfRecord", "RequestingPhysician", "ConsultingPhysicianName",
    "ContentCreatorName", "ScheduledPerformingPhysicianName", "InterpretationAuthor", "VerifyingObserverName",
)  # fmt: skip
CODE_KEYWORDS = (
    "PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "IssuerOfPatientID", "InstitutionName",
    "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "DeviceSerialNumber", "PatientTelephoneNumbers",
    "PatientAddress", "RequestedProcedureID", "PerformedProcedureStepID", "AdmissionID", "MedicalRecordLocator",
)  # fmt: skip
UID_KEYWORDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
# What an option keeps is no leak where it stands.
KEPT_BY_OPTION = {
    "retain_institution_identity": ("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName"),
    "retain_device_identity": ("StationName", "DeviceSerialNumber"),
}
# Shorter words ("LI", "1") stand in nearly every file by chance.
_SHORTEST = 4
_SHORTEST_NUMBER = 5
_MOST_DIGITS = 32
# Digits alone are frequent in coordinates; in bytes only long ones mean something.
_SHORTEST_DIGITS_IN_BYTES = 8
_SHORTEST_IN_BINARY = 6
IDENTITY_TAGS = tuple(
    Tag(tag)
    for keyword in ("SpecificCharacterSet", *NAME_KEYWORDS, *CODE_KEYWORDS)
    if (tag := tag_for_keyword(keyword)) is not None
)
UID_TAGS = tuple(tag for keyword in UID_KEYWORDS if (tag := tag_for_keyword(keyword)) is not None)
_MOST_KNOWN = 1000  # studies whose words are remembered
_KNOWN: dict[tuple[object, ...], tuple[frozenset[str], frozenset[str]]] = {}
# Of the character sets of DICOM (PS3.3, C.12.1.1.2); what an element's own is, is not asked: a wrong one finds nothing.
_CODECS = (
    "utf-8", "latin-1", "iso8859-2", "iso8859-3", "iso8859-4", "iso8859-5", "iso8859-6", "iso8859-7", "iso8859-8",
    "iso8859-9", "iso8859-15", "tis-620", "shift_jis", "euc_jp", "gb18030", "euc_kr",
)  # fmt: skip
_ESCAPES = re.compile(rb"\x1b[\x20-\x2f]+[\x30-\x7e]")
_JOINTS = re.compile(r"[-'’`._]+")  # of names with several parts
_SEPARATORS = re.compile(r"[\^=\\\s,;]+")


@dataclass(frozen=True)
class Tokens:
    """Words of one patient's identity, in lower case.

    Attributes
    ----------
    words
        Those that are long enough to be searched for anywhere.
    short_words
        Those of names that are not: they count as whole words only.
    uids
        Of the object, its series and its study; they differ from file to file.

    Examples
    --------
    >>> tokens = Tokens(frozenset({"doe-smith", "48213390"}), frozenset({"li"}))
    >>> tokens.are_in("CT of Doe-Smith"), tokens.is_number("48213390"), tokens.are_in("Siemens")
    (True, True, False)
    >>> tokens.is_word("li"), tokens.is_word("liver"), tokens.is_word("doe-smiths")
    (True, False, True)
    """

    words: frozenset[str]
    short_words: frozenset[str] = frozenset()
    uids: frozenset[str] = frozenset()

    def is_word(self, word: str) -> bool:
        """Tell whether a word, in lower case, is a part of the identity or holds one."""
        return word in self.short_words or (len(word) >= _SHORTEST and any(one in word for one in self.words))

    def are_in(self, text: str) -> bool:
        """Tell whether a text holds one of the words, whatever the capitals, or one of the numbers, however spelled."""
        folded = text.casefold()
        return any(word in folded for word in self.words) or self.is_spelled_in(folded)

    def is_spelled_in(self, text: str) -> bool:
        """Tell whether a text holds one of the numbers with other blanks and signs in it, or without its own.

        Examples
        --------
        >>> tokens = Tokens(frozenset({"ab123-cd456", "481516"}))
        >>> [tokens.is_spelled_in(text) for text in ("CT AB123 CD456", "head 481.516", "head 481", "123 456")]
        [True, True, False, False]
        """
        numbers = _spelled_plainly(self.words)
        if not numbers:
            return False
        plain = _plain(text.casefold())
        return any(map(plain.__contains__, numbers))

    def are_in_text(self, value: bytes) -> bool:
        """Tell whether an encoded text holds one of the words or, as a word, a short one, in any character set.

        Examples
        --------
        >>> tokens = Tokens(frozenset({"müller", "иванов"}), frozenset({"li"}))
        >>> [tokens.are_in_text(text.encode("iso8859-5")) for text in ("ИВАНОВ", "Haus Иванов", "Петров")]
        [True, True, False]
        >>> [tokens.are_in_text(text.encode("latin-1")) for text in ("Praxis MÜLLER", "Dr LI", "Link")]
        [True, True, False]
        """
        for text in _read_in_all(value):
            if self.are_in(text) or any(word in self.short_words for word in re.findall(r"\w+", text.casefold())):
                return True
        return False

    def is_number(self, text: str) -> bool:
        """Tell whether a text is one of the numbers, of some length, whatever its zeros, its point and its exponent."""
        plain = whole_number(text)
        return len(plain) >= _SHORTEST_NUMBER and plain in _whole_numbers(self.words)

    def long_in_bytes(self, data: bytes, fixed_words: str = "") -> bool:
        """Tell whether binary data hold one of the words that are too long to stand there by chance."""
        if not data:
            return False
        folded = data.lower()
        return any(map(folded.__contains__, _forms(self.words, fixed_words, _SHORTEST_IN_BINARY)))

    def are_in_bytes(self, data: bytes, *, generated: Iterable[str] = (), fixed_words: str = "") -> bool:
        """Tell whether encoded data hold one of the words, in ASCII, UTF-8, Latin-1 or UTF-16, whatever the capitals.

        Parameters
        ----------
        data
            What is about to be written, without pixels.
        generated
            Texts that the de-identification wrote itself (pseudonyms, UIDs, dates): a chance hit inside of them
            means nothing, and would depend on the key.
        fixed_words
            Lower-case text of all words that the rules may write: a patient called "Chest" is not given away by
            the body part.
        """
        if not data:
            return False
        folded = data.lower()
        for text in sorted(set(generated), key=len, reverse=True):
            folded = folded.replace(text.lower().encode(), b"\0")
        is_found = any(map(folded.__contains__, _forms(self.words, fixed_words)))
        return is_found or any(uid.encode() in folded for uid in self.uids)


def identity_tokens(dataset: Dataset, options: Collection[str] = ()) -> Tokens:
    """Collect the words of names, numbers and UIDs of a data set's top level.

    What an option keeps (`KEPT_BY_OPTION`, UIDs) is left out.
    """
    found = dict(dataset.items())
    elements_found = [found.get(tag) for tag in IDENTITY_TAGS]
    own = copied(dataset)  # reading a value converts it in place
    if any(one is not None and not isinstance(one, RawDataElement) for one in elements_found):
        words, short_words = _read_words(own, frozenset(options))  # some have been converted already
    else:
        key = (frozenset(options), *(one and one.value for one in elements_found))
        known = _KNOWN.get(key)
        if known is None:
            if len(_KNOWN) >= _MOST_KNOWN:
                _KNOWN.clear()
            known = _KNOWN[key] = _read_words(own, frozenset(options))
        words, short_words = known
    uids = () if "retain_uids" in options else (text_of(own, tag) for tag in UID_TAGS)
    return Tokens(words, short_words, frozenset(filter(is_worth_a_search, uids)))


def whole_number(text: str) -> str:
    """Give the digits of a whole number; empty for a fraction, for what is below zero, and for what is no number.

    Examples
    --------
    >>> [whole_number(text) for text in ("+00481516.0", "4.81516e5", "481.5", "-481516", "x", "1e999")]
    ['481516', '481516', '', '', '', '']
    """
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        return ""
    is_whole = number.is_finite() and number >= 0 and number.adjusted() < _MOST_DIGITS and number == int(number)
    return str(int(number)) if is_whole else ""


def is_worth_a_search(uid: str) -> bool:
    """Tell whether a UID is long enough not to stand anywhere by chance."""
    return len(uid) >= _SHORTEST


def _read_words(dataset: Dataset, options: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    kept = {keyword for option in options for keyword in KEPT_BY_OPTION.get(option, ())}
    names = tuple(value for keyword in NAME_KEYWORDS for value in elements.texts(dataset, keyword))
    codes = (keyword for keyword in CODE_KEYWORDS if keyword not in kept)
    numbers = tuple(value for keyword in codes for value in elements.texts(dataset, keyword))
    return _words(names, numbers)


@lru_cache(maxsize=64)
def _words(names: tuple[str, ...], numbers: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """Split names into words; give the long ones, with the numbers, and the short ones."""
    parts = {word.strip(" .\0").casefold() for name in names for word in _SEPARATORS.split(name)}
    parts |= {part for word in parts for part in _JOINTS.split(word)}
    whole = {number.strip(" .\0").casefold() for number in numbers}
    long = frozenset(word for word in parts | whole if len(word) >= _SHORTEST)
    return long, frozenset(word for word in parts if 1 < len(word) < _SHORTEST)


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, text))


@lru_cache(maxsize=256)
def _spelled_plainly(words: frozenset[str]) -> tuple[str, ...]:
    """Give letters and digits of the words with digits in them, of those that are long enough."""
    plain = {_plain(word) for word in words if any(map(str.isdigit, word))}
    return tuple(sorted(one for one in plain if len(one) >= _SHORTEST_NUMBER))


@lru_cache(maxsize=256)
def _whole_numbers(words: frozenset[str]) -> frozenset[str]:
    return frozenset(one.lstrip("0") for one in _spelled_plainly(words) if one.isdecimal())


@lru_cache(maxsize=256)
def _forms(words: frozenset[str], fixed_words: str, shortest: int = 0) -> tuple[bytes, ...]:
    """Give the encodings of each word that is worth a search in bytes."""
    return tuple(
        form
        for word in sorted(words)
        if len(word) >= shortest
        and word not in fixed_words
        and not (word.isdecimal() and len(word) < _SHORTEST_DIGITS_IN_BYTES)
        for form in sorted(_encodings(word))
    )


def _read_in_all(value: bytes) -> set[str]:
    """Read a text in every character set that it may be of."""
    plain = _ESCAPES.sub(b"", value)
    if plain == value and value.isascii():
        return {value.decode("ascii")}
    found = {data.decode(codec, "ignore") for data in (value, plain) for codec in _CODECS}
    if plain != value:  # Japanese and Chinese sets of seven bits stand between escape sequences
        found.add(value.decode("iso2022_jp_2", "ignore"))
        found.add(value.decode("iso2022_jp_ext", "ignore"))
    return found


def _encodings(word: str) -> set[bytes]:
    if not word.isascii():  # capitals with accents are not those of their small letters in bytes
        cases = {word, word.upper(), word.title()}
        forms = {form for case in cases for codec in _CODECS if (form := _encoded(case, codec))}
        forms |= {case.encode(codec, "replace").lower() for case in cases for codec in ("utf-16-le", "utf-16-be")}
        latin = word.encode("latin-1", "ignore")
        return {*forms, latin if len(latin) >= _SHORTEST else b""} - {b""}
    return {word.encode(codec) for codec in ("ascii", "utf-16-le", "utf-16-be")}


def _encoded(word: str, codec: str) -> bytes:
    """Encode a word as the search has it, with ASCII in small letters; empty if a set has not all its characters."""
    try:
        form = word.encode(codec).lower()
    except UnicodeEncodeError:
        return b""
    return form if len(form) >= _SHORTEST else b""
