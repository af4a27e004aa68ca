"""Structured content: which items of a report's tree stay, by the concept that each is about.

References
----------
DICOM PS3.15, section E.3.4 and table E.3.4-1 (Clean Structured Content Option); PS3.3, section C.17.3.
"""

from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pipeline.dicom.deidentification.decisions import Place
from pipeline.dicom.deidentification.options import FULL_DATES, MODIFIED_DATES
from pipeline.dicom.deidentification.profile import content_items
from pipeline.dicom.deidentification.values import OLDEST_SHOWN_YEARS
from pipeline.dicom.deidentification.words import REMOVED
from pipeline.dicom.reading import elements
from pipeline.dicom.slices.frames import set_element

_TEXT_OF = {"TEXT": "TextValue", "PNAME": "PersonName"}
_DATES = frozenset({"DATE", "TIME", "DATETIME"})
_AGES = frozenset(
    {
        ("DCM", "121033"), ("LN", "30525-0"), ("LN", "29553-5"), ("LN", "21612-7"), ("SCT", "424144002"),
        ("SCT", "397669002"), ("SCT", "445518008"),
    }
)  # fmt: skip
_BIRTH_DATES = frozenset({("DCM", "121031"), ("LN", "21112-8"), ("SCT", "184099003")})
# Name, number, birth date and sex of the subject: the table knows each by one value type; as any other it goes.
_SUBJECT = frozenset(("DCM", code) for code in ("121029", "121030", "121031", "121032", "121033"))
# UCUM: how many of them are a year.
_PER_YEAR = {
    "a": 1.0,
    "a_j": 1.0,
    "a_g": 1.0,
    "a_t": 1.0,
    "mo": 12.0,
    "mo_j": 12.0,
    "mo_g": 12.0,
    "wk": 52.18,
    "d": 365.25,
}
_EXACT_VALUES = ("FloatingPointValue", "RationalNumeratorValue", "RationalDenominatorValue")


def kept_content(item: Dataset, place: Place) -> Dataset | None:
    """Give a content item as far as its concept lets it stay; its elements are treated afterwards, as all are.

    Returns
    -------
    Dataset | None
        None if the item is to go: what the table removes, and names of people and (without an option for dates)
        dates that it does not mention.
    """
    kind = elements.text(item, "ValueType")
    concept = _concept(item)
    row = content_items().get((*concept, kind))
    if row is None:
        is_dated = kind in _DATES and not {FULL_DATES, MODIFIED_DATES} & place.options
        is_gone = kind == "PNAME" or is_dated or concept in _SUBJECT | _BIRTH_DATES
        return None if is_gone else _with_limited_age(item, concept)
    action = row.action(place.options)
    if action in {"K", "C"}:
        return _with_limited_age(item, concept)
    if action == "X":
        return None
    return _with_dummy(item, kind)


def _concept(item: Dataset) -> tuple[str, str]:
    """Give scheme and code of an item's concept name."""
    try:
        names = item["ConceptNameCodeSequence"].value if "ConceptNameCodeSequence" in item else []
        name = names[0]
    except Exception:  # noqa: BLE001  a damaged sequence makes pydicom raise nearly anything
        return "", ""
    return elements.text(name, "CodingSchemeDesignator"), elements.text(name, "CodeValue")


def _with_dummy(item: Dataset, kind: str) -> Dataset | None:
    """Give an item whose text says nothing (D); items of other kinds cannot stand without what they say."""
    keyword = _TEXT_OF.get(kind)
    if keyword is None:
        return item if kind in {"IMAGE", "COMPOSITE", "WAVEFORM", "UIDREF", "CONTAINER"} else None
    changed = Dataset(dict(item.items()))
    set_element(changed, keyword, REMOVED)
    return changed


def _with_limited_age(item: Dataset, concept: tuple[str, str]) -> Dataset:
    """Give an item whose measured times are those of people up to 89 years; 90 stands for all above.

    A time that long is an age, whatever its concept is called.
    """
    is_age = concept in _AGES
    changed = Dataset(dict(item.items()))
    if "NumericValue" in item:
        changed = _limited(item, is_age)
    values = list(_items(item, "MeasuredValueSequence"))
    if values:
        limited = [_limited(one, is_age) for one in values]
        set_element(changed, "MeasuredValueSequence", Sequence([one for one in limited if "NumericValue" in one]))
    return changed


def _limited(measured: Dataset, is_age: bool) -> Dataset:
    """Give a measured value, without its number if that is an age in an unknown unit or no number."""
    unit = next((elements.text(one, "CodeValue") for one in _items(measured, "MeasurementUnitsCodeSequence")), "")
    per_year = _PER_YEAR.get(unit)
    if per_year is None and not is_age:
        return measured
    changed = Dataset(dict(measured.items()))
    for keyword in _EXACT_VALUES:  # say the same once more
        changed.pop(keyword, None)
    try:
        years = [float(text) / (per_year or 0) for text in elements.texts(measured, "NumericValue")]
    except (ValueError, ZeroDivisionError):
        changed.pop("NumericValue", None)
        return changed
    if any(not one < OLDEST_SHOWN_YEARS + 1 for one in years):
        set_element(changed, "NumericValue", f"{(OLDEST_SHOWN_YEARS + 1) * (per_year or 1):.10g}")
    return changed


def _items(dataset: Dataset, keyword: str) -> Iterator[Dataset]:
    """Give the items of a sequence, none if it is damaged."""
    try:
        yield from dataset[keyword].value if keyword in dataset else ()
    except Exception:  # noqa: BLE001  as above
        return
