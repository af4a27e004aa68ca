"""Modality transformation: from stored bits to modality values (Hounsfield units, optical density, ...)."""

import math

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from pipeline.dicom import elements
from pipeline.dicom.files import FileFault
from pipeline.dicom.pixel_format import PixelFormat

Stored = NDArray[np.int32]
Values = NDArray[np.int32] | NDArray[np.float32]
MODALITY_KEYWORDS = (
    "Modality", "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "PixelPaddingValue",
    "PixelPaddingRangeLimit",
)  # fmt: skip
_DESCRIPTOR_WORDS = 3
_INT32 = np.iinfo(np.int32)


def stored_values(container: NDArray[np.integer], form: PixelFormat) -> Stored:
    """Keep the stored bits of each container and extend them by their sign.

    What stands in the other bits is not defined (PS3.5, section 8.1.1): overlays, garbage, or a sign.

    Parameters
    ----------
    container
        Shape (rows, columns), or (n,): words as they stand in the file, of either signedness.
    form
        Bits stored and signedness.
    """
    bits = container.astype(np.int32) & ((1 << form.bits_stored) - 1)
    if form.is_signed:
        sign = 1 << (form.bits_stored - 1)
        bits = (bits ^ sign) - sign
    return bits


def padding_marks(dataset: Dataset, form: PixelFormat, is_little_endian: bool) -> tuple[int, ...]:
    """Give the stored values between which pixels are padding: none, one or two (PS3.3, C.7.5.1.1.2)."""
    keywords = ("PixelPaddingValue", "PixelPaddingRangeLimit")
    found = [elements.words(dataset, keyword, is_little_endian) for keyword in keywords]
    known = found[0][:1] + found[1][:1] if found[0] else ()  # a limit without a value means nothing
    return tuple(int(mark) for mark in stored_values(np.array(known, dtype=np.int64), form))


def modality_values(dataset: Dataset, stored: Stored, form: PixelFormat, is_little_endian: bool) -> tuple[Values, str]:
    """Apply the Modality LUT, or slope and intercept.

    Parameters
    ----------
    dataset
        With the attributes named in `MODALITY_KEYWORDS`.
    stored
        Stored values, of any shape.
    form, is_little_endian
        How the pixels and the data set are encoded.

    Returns
    -------
    tuple
        Values of the shape of `stored` (int32 if slope and intercept are whole numbers, else float32, computed
        in float64), and their unit (empty if the file names none).

    Raises
    ------
    FileFault
        ``UNDECODABLE_PIXELS`` if the transformation is not a number, not invertible or overflows.

    References
    ----------
    DICOM PS3.3, section C.11.1.
    """
    if elements.is_unreadable(dataset, "ModalityLUTSequence"):
        raise FileFault("UNDECODABLE_PIXELS")
    items = dataset.get("ModalityLUTSequence")
    if items:
        first, table = _lookup_table(items[0], form, is_little_endian)
        mapped: Values = table[np.clip(stored - first, 0, len(table) - 1)]
        return mapped, _unit(elements.text(items[0], "ModalityLUTType"))
    slope = _factor(dataset, "RescaleSlope", 1.0)
    intercept = _factor(dataset, "RescaleIntercept", 0.0)
    if slope == 0:
        raise FileFault("UNDECODABLE_PIXELS")
    unit = _unit(elements.text(dataset, "RescaleType"))
    if not unit and elements.text(dataset, "Modality") == "CT":
        unit = "HU"  # the default of CT (PS3.3, C.8.2.1.1.2)
    values = stored.astype(np.float64) * slope + intercept
    if values.size and not np.abs(values).max() <= np.finfo(np.float32).max:
        raise FileFault("UNDECODABLE_PIXELS")
    whole = slope.is_integer() and intercept.is_integer()
    if whole and values.size and _INT32.min <= values.min() and values.max() <= _INT32.max:
        return values.astype(np.int32), unit
    return values.astype(np.float32), unit


def _lookup_table(item: Dataset, form: PixelFormat, is_little_endian: bool) -> tuple[int, Stored]:
    """Read a table: the stored value of its first entry, and its entries (PS3.3, C.11.1.1.1)."""
    words = elements.words(item, "LUTDescriptor", is_little_endian)
    data = elements.words(item, "LUTData", is_little_endian)
    if len(words) != _DESCRIPTOR_WORDS:
        raise FileFault("UNDECODABLE_PIXELS")
    entries, first, bits = words[0] or 1 << 16, words[1] & 0xFFFF, words[2]
    if form.is_signed and first >= 1 << 15:
        first -= 1 << 16
    if bits == 8 and len(data) == (entries + 1) // 2 < entries:  # two entries to a word
        data = tuple(half for word in data for half in (word & 0xFF, word >> 8))
    if not 8 <= bits <= 16 or len(data) < entries:
        raise FileFault("UNDECODABLE_PIXELS")
    return first, np.array(data[:entries], dtype=np.int32) & ((1 << bits) - 1)


def _factor(dataset: Dataset, keyword: str, default: float) -> float:
    if elements.is_unreadable(dataset, keyword):
        raise FileFault("UNDECODABLE_PIXELS")
    if not elements.text(dataset, keyword):
        return default
    if dataset[keyword].VR != "DS":  # the same bytes read as something else are another number
        raise FileFault("UNDECODABLE_PIXELS")
    value = elements.number(dataset, keyword)
    if value is None or not math.isfinite(value):
        raise FileFault("UNDECODABLE_PIXELS")
    return value


def _unit(text: str) -> str:
    """Give a known unit; "US" stands for unspecified, and free text is not repeated (PS3.3, C.11.1.1.2)."""
    return text if text in {"HU", "OD", "HU_MOD", "PCT", "MGML", "Z_EFF", "ED", "EDW"} else ""
