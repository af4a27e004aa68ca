"""Structured content: which items of a report's tree stay, by the concept that each is about.

References
----------
DICOM PS3.15, section E.3.4 and table E.3.4-1 (Clean Structured Content Option); PS3.3, section C.17.3.
"""

from pydicom.dataset import Dataset

from pipeline.dicom.deidentification.decisions import Place
from pipeline.dicom.deidentification.options import FULL_DATES, MODIFIED_DATES
from pipeline.dicom.deidentification.profile import content_items
from pipeline.dicom.deidentification.words import REMOVED
from pipeline.dicom.reading import elements
from pipeline.dicom.slices.frames import set_element

_TEXT_OF = {"TEXT": "TextValue", "PNAME": "PersonName"}
_DATES = frozenset({"DATE", "TIME", "DATETIME"})


def kept_content(item: Dataset, place: Place) -> Dataset | None:
    """Give a content item as far as its concept lets it stay; its elements are treated afterwards, as all are.

    Returns
    -------
    Dataset | None
        None if the item is to go: what the table removes, and names of people and (without an option for dates)
        dates that it does not mention.
    """
    kind = elements.text(item, "ValueType")
    row = content_items().get((*_concept(item), kind))
    if row is None:
        is_dated = kind in _DATES and not {FULL_DATES, MODIFIED_DATES} & place.options
        return None if kind == "PNAME" or is_dated else item
    action = row.action(place.options)
    if action in {"K", "C"}:
        return item
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
