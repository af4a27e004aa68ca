"""Values: what becomes of the bytes of one value, by the action decided for its attribute.

Every function takes a value as encoded and gives the value to write, or None if the element is to go. Nothing is
decoded that need not be: what can stay is ASCII in every character set that DICOM knows (PS3.5, section 6.1), and
what is not ASCII is no word of the vocabulary.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import pairwise

from pydicom.uid import UID

from pipeline.dicom.deidentification.dates import DUMMY_DATE, DUMMY_TIME, moved
from pipeline.dicom.deidentification.decisions import Decision
from pipeline.dicom.deidentification.leaks import Tokens, whole_number
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms
from pipeline.dicom.deidentification.words import (
    REMOVED,
    cleaned,
    cleaned_term,
    is_digits,
    is_grouped,
    is_standard_code,
    is_standard_meaning,
    vocabulary,
)
from pipeline.dicom.reading.files import FileFault

_NUMBER = re.compile(rb" *(?:[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)? *")
# A day of a calendar, alone or with a time of day.
_DATE = re.compile(r"((?:19|20)\d\d)(\d\d)(\d\d)((?:[01]\d|2[0-3])(?:[0-5]\d){1,2})?")
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,&()/+_-]{0,63}")
_TECHNIQUE = re.compile(r"(?=.*[*_0-9])\*?[a-z0-9_]{2,16}")
_CODE = re.compile(r"[A-Za-z0-9.+/%*{}\[\]_-]{1,16}")
_LONG_NAMES = re.compile(r"[a-z]{4,}")  # shorter ones are no worse than in other terms
_LONG_LETTERS = re.compile(r"[a-z]{5,}")  # in codes that are no words, letters stand in short runs
_LONG_STEM = re.compile(r"[a-z]{6,}")  # those of pulse sequences are shorter
_YEAR_OR_LONG = re.compile(r"(?<!\d)(?:19\d\d|20[0-2]\d)(?!\d)|\d{5}")
_LONG_NUMBER = re.compile(r"\d{5}")
_MOST_WORDS_OF_A_MODEL = 4
_MAKERS = frozenset(
    {
        "acuson", "adac", "agfa", "agilent", "aloka", "analogic", "anke", "bruker", "canon", "carestream", "cti",
        "curvebeam", "del", "dentsply", "drgem", "elekta", "elscint", "eos", "esaote", "fuji", "fujifilm", "ge", "gehc",
        "giotto", "gmm", "hitachi", "hologic", "ims", "kavo", "kodak", "konica", "lodox", "lorad", "lumisys", "lunar",
        "marconi", "mediso", "medrad", "metaltronica", "mindray", "minolta", "neurologica", "neusoft", "oldelft",
        "parascan", "paramed", "perkinelmer", "philips", "picker", "planmeca", "planmed", "pixarray", "prowess",
        "rayence", "rayscape", "samsung", "sectra", "sedecal", "shimadzu", "siemens", "sirona", "sonosite", "sonoscape",
        "stephanix", "swissray", "toshiba", "trex", "trixell", "ultrasonix", "synthetic", "phantom", "maker", "other",
        "device", "healthineers", "healthcare", "medical", "systems", "corporation", "electric", "technologies",
        "company", "limited", "uih", "varian", "vatech", "vidar", "vieworks", "visage", "wandong", "wisonic", "xograph",
        "yiso", "zeiss", "ziehm", "zonare",
    }
)  # fmt: skip
_UID = re.compile(r"[0-2](\.(0|[1-9]\d*))+")
_OFFSET = re.compile(rb"[+-](?:0\d|1[0-4])[0-5]\d")
_OLDEST_YEARS = 130
_DAY_DIGITS = 8
_AGE = re.compile(r"(\d{3})([DWMY])")
_CHARACTER_SET = re.compile(r"(ISO[_ ]IR \d{1,3}|ISO 2022 IR \d{1,3}|GB18030|GBK)?")
# Coding schemes of PS3.16, section 8: their codes and meanings are public.
PUBLIC_SCHEMES = frozenset(
    {
        "DCM", "SRT", "SCT", "SNM3", "SNOMED-RT", "99SDM", "UCUM", "LN", "FMA",
        "RADLEX", "NCIt", "UMLS", "MDC", "IBSI", "ISO639_1", "ISO639_2", "ISO3166_1", "NEU",
        "NYUMCCG", "ITIS_TSN", "PUBCHEM_CID", "RXNORM", "ICD10", "I10", "I9", "I9C", "CPT4",
        "NDC", "BARI", "BI", "HPC", "MSH", "UNII",
    }
)  # fmt: skip
OLDEST_SHOWN_YEARS = 89  # ages above it are stated as 90 (US 45 CFR 164.514(b)(2)(i)(C))
_BACKSLASH = "\\"
_SHORTEST_WORD_IN_BINARY = 6
_BLANKS = re.compile("[ \t\n\v\f\r]+")  # of ASCII: other bytes that Python takes for blanks are parts of characters
_WITH_DIGITS = re.compile(r"[^ \t\n\v\f\r]*\d[^ \t\n\v\f\r]*")
# Between these escape sequences bytes of ASCII letters are halves of Japanese characters (PS3.3, table C.12-4).
_TWO_BYTES = re.compile(rb"\x1b(?:\$[@B]|\$\(D)[^\x1b]*")

# Tables run through all letters, up and down, in single bytes or in every other one; a text goes to and fro in all.
_TEXT_IN_TABLE = re.compile(rb"[A-Za-z0-9 .,:^/-]{16,}")
_TEXT_FOR_NUMBERS = re.compile(rb"(?=(?:[^A-Za-z]*[A-Za-z]){6})[ -~\t\r\n]{16,}[\0 ]*")
_PIECE_BYTES, _PIECES_APART_BYTES = 16, 4
_FEWEST_TURNS = 3  # of every other byte of a piece


@dataclass(frozen=True)
class Identity:
    """Who a data set is about, and how that is hidden."""

    pseudonyms: Pseudonyms
    patient_id: str
    largest_date_shift_days: int
    tokens: Tokens

    @property
    def shift(self) -> timedelta:
        """How far the patient's dates move back."""
        return timedelta(days=self.pseudonyms.date_shift_days(self.patient_id, self.largest_date_shift_days))


@dataclass(slots=True)
class Values:
    """Treats values of one patient, and remembers what it made up itself.

    Attributes
    ----------
    made
        Pseudonyms, UIDs and dates that were written: a chance hit of a search inside of them means nothing.
    """

    identity: Identity
    shift: timedelta
    pseudonym: str
    made: set[str] = field(default_factory=set)

    def treat(self, value: bytes, found: Decision) -> bytes | None:
        """Give what is to be written for a value.

        Raises
        ------
        FileFault
            ``DEIDENTIFICATION_FAILED`` if something without which the pixels would mean something else cannot stay.
        """
        treatment = _TREATMENTS.get(found.action)
        return treatment(self, value, found) if treatment else None

    def empty(self, value: bytes, found: Decision) -> bytes | None:
        """Write nothing."""
        return b""

    def dummy(self, value: bytes, found: Decision) -> bytes | None:
        """Write a value that says nothing, valid for the representation."""
        texts = {"DA": DUMMY_DATE, "DT": DUMMY_DATE + DUMMY_TIME, "TM": DUMMY_TIME, "DS": "0", "IS": "0", "AS": "000Y"}
        texts |= {"UR": "about:blank", "CS": REMOVED}
        if found.representation in {"LO", "SH", "LT", "ST", "UC", "UT", "PN", "AE"}:
            return REMOVED.encode()
        return texts[found.representation].encode() if found.representation in texts else bytes(8)

    def number(self, value: bytes, found: Decision) -> bytes | None:
        """Keep numbers as text."""
        parts = value.rstrip(b" \0").split(b"\\")
        if not all(_NUMBER.fullmatch(part) for part in parts):
            return None
        texts = [part.decode("ascii") for part in parts]
        if found.action == "number" and any(map(_is_date, texts)):
            return None  # and if it is none, its loss changes no pixel
        return None if any(map(self.identity.tokens.is_number, texts)) else value

    def binary(self, value: bytes, found: Decision) -> bytes | None:
        """Keep numbers in binary form, unless a name stands in them, or a text in their stead or in a table."""
        if len(value) % found.word_bytes or (found.most_bytes and len(value) > found.most_bytes):
            return None
        if len(value) >= _SHORTEST_WORD_IN_BINARY and self.identity.tokens.long_in_bytes(value):
            return None
        is_table = found.keyword.endswith(("LookupTableData", "LUTData"))
        return None if (self._is_text(value) if is_table else _TEXT_FOR_NUMBERS.fullmatch(value)) else value

    def _is_text(self, value: bytes) -> bool:
        """Tell whether a table of numbers holds one of the patient's words, or letters that do not rise and fall."""
        folded = value.lower()
        if any(word.encode() in folded for word in self.identity.tokens.words):
            return True
        pieces = (piece for match in _TEXT_IN_TABLE.finditer(value) for piece in _pieces(match[0]))
        return any(min(_turns(one[0::2]), _turns(one[1::2])) >= _FEWEST_TURNS for one in pieces)

    def vital(self, value: bytes, found: Decision) -> bytes | None:
        """Keep what gives pixels their meaning, or refuse the file."""
        is_text = found.representation in {"DS", "IS"}
        kept = self.number(value, found) if is_text else self.binary(value, found)
        if kept is None:
            raise FileFault("DEIDENTIFICATION_FAILED")
        return kept

    def terms(self, value: bytes, found: Decision) -> bytes | None:
        """Keep the listed terms."""
        return _joined([part.upper() if part.upper() in found.terms else "" for part in _texts(value)])

    def term(self, value: bytes, found: Decision) -> bytes | None:
        """Keep terms whose words are known."""
        parts = _texts(value)
        if self.identity.tokens.is_spelled_in("".join(parts)):
            return b""
        return _joined(_ungrouped([cleaned_term(part, self.identity.tokens.is_word) for part in parts]))

    def words(self, value: bytes, found: Decision) -> bytes | None:
        """Keep the words of texts that are known."""
        if not value.strip(b" \0"):
            return b""
        value = _TWO_BYTES.sub(b"\x1b", value)  # goes with the word that it stands in
        is_long = found.representation in {"ST", "LT", "UT"}  # where a backslash is a character
        parts = [value.decode("latin-1").rstrip(" \0")] if is_long else _texts(value)
        if self.identity.tokens.is_spelled_in("".join(parts)):
            parts = [_WITH_DIGITS.sub("", part) for part in parts]
        kept = [cleaned(_BLANKS.sub(" ", part).strip(" "), self.identity.tokens.is_word) for part in parts]
        return _joined(_ungrouped(kept)) or REMOVED.encode()

    def technique(self, value: bytes, found: Decision) -> bytes | None:
        """Keep names of pulse sequences, which are no words."""
        text = value.decode("latin-1").strip(" \0")
        is_plain = _TECHNIQUE.fullmatch(text) and not (_LONG_STEM.search(text) or _YEAR_OR_LONG.search(text))
        if is_plain and not self.identity.tokens.are_in(text):
            return value
        return self.words(value, found)

    def device(self, value: bytes, found: Decision) -> bytes | None:
        """Keep the names of maker and model."""
        text = value.decode("latin-1").strip(" \0")
        if not text:
            return b""
        if not _DEVICE.fullmatch(text) or self.identity.tokens.are_in(text):
            return None
        if is_grouped(text.replace(" ", "/")) or _LONG_NUMBER.search(text):
            return self.words(value, found)
        if found.keyword != "Manufacturer":  # models have names of all kinds
            return value if len(text.split()) <= _MOST_WORDS_OF_A_MODEL else self.words(value, found)
        chunks = text.split()
        kept = [chunk for chunk in chunks if all(map(_is_of_a_maker, _LONG_NAMES.findall(chunk.lower())))]
        return value if kept == chunks else (" ".join(kept) or REMOVED).encode()

    def code(self, value: bytes, found: Decision) -> bytes | None:
        """Keep codes; whether their scheme is a public one is asked by the walk (see `coding_is_public`)."""
        text = value.decode("latin-1").strip(" \0")
        if found.keyword == "CodingSchemeVersion" and _is_date(text):
            return None
        is_plain = _CODE.fullmatch(text) is not None and not self.identity.tokens.are_in(text)
        is_short = all(word in vocabulary() for word in _LONG_LETTERS.findall(text.lower()))
        is_code = is_plain and (is_short or text in PUBLIC_SCHEMES or is_standard_code(text))
        return value if is_code else self.words(value, found)

    def meaning(self, value: bytes, found: Decision) -> bytes | None:
        """Keep meanings of the standard's codes."""
        text = value.decode("latin-1").strip(" \0")
        return value if text.isascii() and is_standard_meaning(text) else self.words(value, found)

    def retained(self, value: bytes, found: Decision) -> bytes | None:
        """Keep a text that an option asks for."""
        tokens = self.identity.tokens
        return self.words(value, found) if tokens.are_in_text(value) or tokens.are_in_bytes(value) else value

    def character_set(self, value: bytes, found: Decision) -> bytes | None:
        """Keep names of character sets."""
        return value if all(_CHARACTER_SET.fullmatch(part) for part in _texts(value)) else None

    def standard_class(self, value: bytes, found: Decision) -> bytes | None:
        """Keep UIDs of the standard."""
        return value if all(UID(part).type for part in _texts(value)) else None

    def known_uid(self, value: bytes, found: Decision) -> bytes | None:
        """Replace UIDs but those of the standard."""
        return self._uids(value, lambda part: bool(UID(part).type))

    def retained_uid(self, value: bytes, found: Decision) -> bytes | None:
        """Keep UIDs."""
        return self._uids(value, lambda part: len(part) <= 64 and _UID.fullmatch(part) is not None)

    def _uids(self, value: bytes, is_kept: Callable[[str], bool]) -> bytes | None:
        parts = [part if not part or is_kept(part) else self._uid(part) for part in _texts(value)]
        return "\\".join(parts).encode("latin-1")

    def _uid(self, uid: str) -> str:
        made = self.identity.pseudonyms.uid(uid)
        self.made.add(made)
        return made

    def date(self, value: bytes, found: Decision) -> bytes | None:
        """Move dates."""
        return self._moved(value, found, self.shift)

    def full_date(self, value: bytes, found: Decision) -> bytes | None:
        """Keep what is a date or a time."""
        return self._moved(value, found, timedelta(0))

    def _moved(self, value: bytes, found: Decision, shift: timedelta) -> bytes | None:
        parts = [moved(found.representation, part, shift) for part in _texts(value)]
        self.made.update(parts)
        return _joined(parts)

    def time_zone(self, value: bytes, found: Decision) -> bytes | None:
        """Keep an offset from UTC."""
        return value if _OFFSET.fullmatch(value.strip(b" \0")) else b""

    def age(self, value: bytes, found: Decision) -> bytes | None:
        """Keep an age, the highest as one group."""
        text = value.decode("latin-1").strip(" \0")
        match = _AGE.fullmatch(text)
        if match is None or (match[2] == "Y" and int(match[1]) > _OLDEST_YEARS):
            return b"" if not text else None
        return b"090Y" if match[2] == "Y" and int(match[1]) > OLDEST_SHOWN_YEARS else value

    def name(self, value: bytes, found: Decision) -> bytes | None:
        """Write the pseudonym."""
        return self.pseudonym.encode()


def _is_of_a_maker(word: str) -> bool:
    return word in _MAKERS or word in vocabulary()


def _is_date(text: str) -> bool:
    """Tell whether a number is a day of the years 1900 to 2099, or a moment of one."""
    whole = text.strip().lstrip("+")
    moment = whole.partition(".")[0]
    match = _DATE.fullmatch(whole_number(whole) or (moment if len(moment) > _DAY_DIGITS else ""))
    try:
        return match is not None and bool(date(int(match[1]), int(match[2]), int(match[3])))
    except ValueError:
        return False


def _ungrouped(parts: list[str]) -> list[str]:
    """Empty the parts that are numbers, if there are several: together they may be a date or a telephone number."""
    numbers = [part for part in parts if part and is_digits(part)]
    return [part if len(numbers) < 2 or part not in numbers else "" for part in parts]


def _pieces(text: bytes) -> Iterator[bytes]:
    """Give overlapping pieces of one length."""
    for start in range(0, len(text) - _PIECE_BYTES + 1, _PIECES_APART_BYTES):
        yield text[start : start + _PIECE_BYTES]


def _turns(letters: bytes) -> int:
    """Count how often a row of numbers turns from rising to falling, or back."""
    steps = [second > first for first, second in pairwise(letters) if first != second]
    return sum(first != second for first, second in pairwise(steps))


def _texts(value: bytes) -> list[str]:
    """Split a value into its parts; characters that are not ASCII come as any others that are not."""
    return [part.strip(" \0") for part in value.decode("latin-1").split(_BACKSLASH)]


def _joined(parts: list[str]) -> bytes:
    while parts and not parts[-1]:
        parts.pop()
    return _BACKSLASH.join(parts).encode("latin-1")


_TREATMENTS: dict[str, Callable[[Values, bytes, Decision], bytes | None]] = {
    "number": Values.number,
    "vital": Values.vital,
    "binary": Values.binary,
    "terms": Values.terms,
    "term": Values.term,
    "technique": Values.technique,
    "device": Values.device,
    "words": Values.words,
    "code": Values.code,
    "meaning": Values.meaning,
    "retained": Values.retained,
    "character_set": Values.character_set,
    "class": Values.standard_class,
    "known_uid": Values.known_uid,
    "retained_uid": Values.retained_uid,
    "uid": Values.known_uid,
    "date": Values.date,
    "full_date": Values.full_date,
    "pseudonym": Values.name,
    "age": Values.age,
    "time_zone": Values.time_zone,
    "dummy": Values.dummy,
    "empty": Values.empty,
}
