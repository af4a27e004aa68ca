"""Raw elements: values as encoded, whatever way an element was read or made.

References
----------
DICOM PS3.5, sections 6.2 (value representations) and 7.1 (data elements).
"""

from collections.abc import Iterator, Mapping

from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from pipeline.dicom.reading import elements

TEXTS = frozenset(
    ["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"]
)
_LONG_HEADER_BYTES = 12  # of an element in explicit encoding
_LONG = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])


def copied(dataset: Dataset) -> Dataset:
    """Copy a data set one level deep: reading a value converts it in place, what was not read is copied fast."""
    made = Dataset(dict(dataset.items()))
    is_implicit, is_little_endian = dataset.original_encoding
    made.set_original_encoding(is_implicit, is_little_endian, dataset.original_character_set)
    return made


def text_of(dataset: Dataset, tag: int) -> str:
    """Give a text value as `elements.text` does, without converting the element where it stands if it is ASCII."""
    element = dataset.get_item(tag) if tag in dataset else None
    value: object = element.value if isinstance(element, RawDataElement) else None
    if isinstance(value, bytes) and value.isascii() and b"\x1b" not in value:  # which begins another character set
        return "\\".join(part.strip(" \0") for part in value.decode("ascii").split("\\")).strip(" \0\\")
    return elements.text(dataset, tag)


def has_text_value(representation: str | None) -> bool:
    """Tell whether values of a representation are written as text."""
    return representation in TEXTS


def raw_element(
    tag: BaseTag,
    element: DataElement | RawDataElement,
    expected: str,
    source: Dataset,
    *,
    is_little_endian: bool,
) -> RawDataElement | None:
    """Give an element with its value as bytes, in the standard's representation.

    Parameters
    ----------
    tag, element
        As found in `source`.
    expected
        What the standard says: a representation, or several joined by " or ".
    source
        The data set, for its character set.
    is_little_endian
        The order of bytes that is wanted.

    Returns
    -------
    RawDataElement | None
        None if the value is of another kind than the standard says (numbers where text belongs, or the reverse), or
        was too long to be read.
    """
    if not isinstance(element, RawDataElement):
        found = _encoded(element, source, is_little_endian=is_little_endian)
    elif element.value is None and element.length == 0:  # pydicom's word for empty; what is too long has a length
        found = element._replace(value=b"")
    elif element.is_little_endian == is_little_endian or has_text_value(expected):
        found = element
    else:
        found = _encoded(_converted(element, source), source, is_little_endian=is_little_endian)
    if found is None or found.value is None:
        return None
    return _of_kind(found, expected)


def _of_kind(found: RawDataElement, expected: str) -> RawDataElement | None:
    """Give an element the expected representation, if its own is of the same kind."""
    allowed = (expected, *expected.split(" or "))
    if found.VR in allowed:
        return found
    if found.VR is None or (found.VR == "UN" and found.is_little_endian):
        return found._replace(VR=expected)
    if has_text_value(found.VR) and has_text_value(expected):
        return found._replace(VR=expected)
    return found._replace(VR=expected) if not found.value else None


def values_of(result: Mapping[BaseTag, DataElement | RawDataElement]) -> Iterator[tuple[str | None, bytes]]:
    """Give representation and bytes of every value of a result, nested ones included."""
    for element in result.values():
        if isinstance(element, RawDataElement):
            yield element.VR, element.value or b""
        elif isinstance(element.value, Sequence):
            for item in element.value:
                yield from values_of(dict(item.items()))


def _converted(element: RawDataElement, source: Dataset) -> DataElement | None:
    try:
        return convert_raw_data_element(element, ds=source)
    except Exception:  # noqa: BLE001  conversion of a damaged value makes pydicom raise nearly anything
        return None


def _encoded(element: DataElement | None, source: Dataset, *, is_little_endian: bool) -> RawDataElement | None:
    """Encode a value that was converted, or made in memory."""
    if element is None:
        return None
    buffer = DicomBytesIO()
    buffer.is_little_endian = is_little_endian
    is_open = " or " in element.VR
    buffer.is_implicit_VR = is_open
    try:
        if is_open and isinstance(element.value, int):
            element = DataElement(element.tag, "SS" if element.value < 0 else "US", element.value)
        if is_open and isinstance(element.value, list):
            element = DataElement(element.tag, "US", element.value)
        write_data_element(buffer, element, source.get("SpecificCharacterSet", "ISO_IR 100"))
    except Exception:  # noqa: BLE001  as above, for values that do not fit their representation
        return None
    header = _LONG_HEADER_BYTES if element.VR in _LONG and not is_open else 8
    value = buffer.getvalue()[header:]
    return RawDataElement(element.tag, element.VR, len(value), value, 0, False, is_little_endian)
