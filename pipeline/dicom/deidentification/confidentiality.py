"""De-identification of a data set by an allow list: what no rule names does not leave.

The rules stand in ``confidentiality_profile.tsv``; everything else (private elements, overlays, curves,
free text, sequences, unknown attributes) is left behind because it is never copied. A deny list would keep
whatever its author had not thought of.

References
----------
DICOM PS3.15, annex E (Basic Application Confidentiality Profile).
"""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import UID

from pipeline.dicom.deidentification.leaks import Tokens
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms
from pipeline.dicom.reading import elements
from pipeline.dicom.reading.files import FileFault
from pipeline.dicom.slices.headers import age_years, parsed_date

METHOD = "imaging-transfer: allow list, keyed UIDs, shifted dates"
# (code value, meaning) of PS3.16, context group 7050
METHOD_CODES = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ("113108", "Retain Patient Characteristics Option"),
)
OLDEST_SHOWN_YEARS = 89  # ages above it are stated as 90 (US 45 CFR 164.514(b)(2)(i)(C))
_PROFILE = Path(__file__).with_name("confidentiality_profile.tsv")
_NUMBER_TEXT = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DEVICE_TEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,&()/+_-]{0,63}")
_WORDS = {
    "number": "kept if it is a number and not the patient's, else removed",
    "vital_number": "kept if it is a number and not the patient's, else the whole instance is kept out",
    "terms": "kept if it is one of the listed terms, else emptied",
    "class": "kept: a UID of the standard",
    "uid": "replaced by a keyed UID",
    "date": "moved back by the patient's own secret number of days",
    "empty": "emptied",
    "device": "kept if it is plain text without a word of the patient's identity, else removed",
    "pseudonym": "replaced by the patient's pseudonym",
    "age": "kept; above 89 years stated as 90",
    "sequence": "kept with the listed elements of its items",
    "table": "kept: a table of numbers",
    "pixels": "kept, not a byte changed",
}


@dataclass(frozen=True)
class Rule:
    """What happens to one attribute."""

    attribute: str  # keyword, or "Sequence.Keyword" for an element of an item
    action: str
    terms: frozenset[str]
    reason: str

    @property
    def tag(self) -> int:
        """The attribute's tag."""
        found = tag_for_keyword(self.attribute.rpartition(".")[2])
        if found is None:
            message = f"{_PROFILE.name}: {self.attribute} is no attribute of the standard"
            raise ValueError(message)
        return found


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


@cache
def profile() -> tuple[Rule, ...]:
    """Read the rules, in the order of the table.

    Raises
    ------
    ValueError
        If the table names an unknown action.
    """
    with _PROFILE.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    unknown = {row["rule"] for row in rows} - set(_WORDS)
    if unknown:
        message = f"{_PROFILE.name}: unknown rules {', '.join(sorted(unknown))}"
        raise ValueError(message)
    return tuple(
        Rule(row["attribute"], row["rule"], frozenset(filter(None, row["terms"].split("|"))), row["reason"])
        for row in rows
    )


def describe_actions() -> tuple[tuple[str, str, str], ...]:
    """Say in words what happens to each attribute: (attribute, action, reason)."""
    rules = tuple((rule.attribute, _WORDS[rule.action], rule.reason) for rule in profile())
    return (*rules, ("everything else", "removed", "not needed, or not known to be harmless"))


@cache
def fixed_words() -> str:
    """Give all words that the rules may write, in lower case: finding one of them tells nothing about a patient."""
    terms = [term for rule in profile() for term in sorted(rule.terms)]
    codes = [word for code in METHOD_CODES for word in code]
    return "\n".join([METHOD, "DICM", "DCM", "YES", "MODIFIED", *terms, *codes]).casefold()


def deidentified(source: Dataset, identity: Identity) -> Dataset:
    """Build a new data set from what the rules let through; `source` is not changed.

    Pixel data are not handled here: they are copied as bytes (see `rewriting`).

    Parameters
    ----------
    source
        The data set as read.
    identity
        The patient and the key.

    Raises
    ------
    FileFault
        ``DEIDENTIFICATION_FAILED`` if something without which the pixels would mean something else cannot be kept.
    """
    result = _filtered(source, identity, within="")
    result.PatientIdentityRemoved = "YES"
    result.DeidentificationMethod = METHOD
    result.DeidentificationMethodCodeSequence = Sequence([_code(value, meaning) for value, meaning in METHOD_CODES])
    result.LongitudinalTemporalInformationModified = "MODIFIED"
    return result


def shifted_date(value: str, shift: timedelta) -> str:
    """Move a DICOM date back; what is no date, or would fall before year 1, becomes empty.

    Examples
    --------
    >>> shifted_date("20240301", timedelta(days=1)), shifted_date("2024", timedelta(days=1))
    ('20240229', '')
    """
    found = parsed_date(value)
    if found is None or found - date.min < shift:
        return ""
    moved = found - shift
    return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}"


def _filtered(source: Dataset, identity: Identity, within: str) -> Dataset:
    result = Dataset()
    for rule in profile():
        parent, _, keyword = rule.attribute.rpartition(".")
        if parent != within or rule.action == "pixels" or rule.tag not in source:
            continue
        kept = _ACTIONS[rule.action](rule, keyword, source, identity)
        if kept is not None:
            result.add(kept)
    if not within:
        _complete(result, source, identity)
    return result


def _complete(result: Dataset, source: Dataset, identity: Identity) -> None:
    """Add what every data set must say, whether or not its source did."""
    pseudonym = identity.pseudonyms.patient(identity.patient_id)
    result.PatientName = pseudonym
    result.PatientID = pseudonym
    age = _age(source)
    if age:
        result.PatientAge = age


def _number(rule: Rule, keyword: str, source: Dataset, identity: Identity) -> DataElement | None:
    try:
        element = source[rule.tag]
        value = element.value
    except Exception:  # noqa: BLE001  conversion of a damaged value makes pydicom raise nearly anything
        return None
    if element.VR not in _representations(rule.tag):
        return None
    if value is None or element.VM == 0:
        return DataElement(rule.tag, element.VR, None)
    if isinstance(value, bytes):  # "US or SS" in implicit encoding: one undecided word
        return element if len(value) == 2 else None
    values = list(value) if isinstance(value, MultiValue) else [value]
    is_plain = all(
        isinstance(one, int | float | Decimal)
        and _NUMBER_TEXT.fullmatch(str(one).strip())
        and not identity.tokens.is_number(str(one))
        for one in values
    )
    return element if is_plain else None


def _vital_number(rule: Rule, keyword: str, source: Dataset, identity: Identity) -> DataElement:
    found = _number(rule, keyword, source, identity)
    if found is None:  # without it the pixels would mean something else
        raise FileFault("DEIDENTIFICATION_FAILED")
    return found


def _terms(rule: Rule, keyword: str, source: Dataset, identity: Identity) -> DataElement:
    found = [value.upper() if value.upper() in rule.terms else "" for value in elements.texts(source, keyword)]
    while found and not found[-1]:
        found.pop()
    return _element(rule.tag, found if len(found) > 1 else "".join(found))


def _class(rule: Rule, keyword: str, source: Dataset, identity: Identity) -> DataElement | None:
    value = elements.text(source, keyword)
    return _element(rule.tag, value) if UID(value).type else None


def _uid(rule: Rule, keyword: str, source: Dataset, identity: Identity) -> DataElement | None:
    value = elements.text(source, keyword)
    return _element(rule.tag, identity.pseudonyms.uid(value)) if value else None


def _date(rule: Rule, keyword: str, source: Dataset, identity: Identity) -> DataElement:
    return _element(rule.tag, shifted_date(elements.text(source, keyword), identity.shift))


def _empty(rule: Rule, keyword: str, source: Dataset, identity: Identity) -> DataElement:
    return _element(rule.tag, "")


def _device(rule: Rule, keyword: str, source: Dataset, identity: Identity) -> DataElement | None:
    value = elements.text(source, keyword)
    is_plain = _DEVICE_TEXT.fullmatch(value) is not None and not identity.tokens.are_in(value)
    return _element(rule.tag, value) if is_plain else None


def _left_to_completion(rule: Rule, keyword: str, source: Dataset, identity: Identity) -> None:
    return None


def _sequence(rule: Rule, keyword: str, source: Dataset, identity: Identity) -> DataElement | None:
    items = source[rule.tag].value
    if not isinstance(items, Sequence):
        raise FileFault("DEIDENTIFICATION_FAILED")
    kept = [_filtered(item, identity, within=rule.attribute) for item in items]
    return DataElement(rule.tag, "SQ", Sequence(kept)) if kept else None


def _table(rule: Rule, keyword: str, source: Dataset, identity: Identity) -> DataElement:
    element = source[rule.tag]
    if element.VR not in _representations(rule.tag):
        raise FileFault("DEIDENTIFICATION_FAILED")
    return element


_ACTIONS: dict[str, Callable[[Rule, str, Dataset, Identity], DataElement | None]] = {
    "number": _number,
    "vital_number": _vital_number,
    "terms": _terms,
    "class": _class,
    "uid": _uid,
    "date": _date,
    "empty": _empty,
    "device": _device,
    "pseudonym": _left_to_completion,
    "age": _left_to_completion,
    "sequence": _sequence,
    "table": _table,
}


def _age(source: Dataset) -> str:
    found = elements.text(source, "PatientAge")
    years = age_years(found, elements.text(source, "PatientBirthDate"), elements.text(source, "StudyDate"))
    if years is None:
        return ""
    if years > OLDEST_SHOWN_YEARS:
        return f"{OLDEST_SHOWN_YEARS + 1:03d}Y"
    if age_years(found, "", "") is not None:
        return found
    return f"{years:03.0f}Y" if years >= 2 else f"{years * 12:03.0f}M"


def _representations(tag: int) -> set[str]:
    """Value representations that the standard allows for a tag; "US or SS" stands for itself while undecided."""
    allowed = dictionary_VR(tag)
    return {allowed, *allowed.split(" or ")}


def _element(tag: int, value: Any) -> DataElement:
    return DataElement(tag, dictionary_VR(tag), value)


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = "DCM"
    item.CodeMeaning = meaning
    return item
