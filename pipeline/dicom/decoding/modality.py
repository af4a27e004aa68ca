"""Modality transformation: from stored bits to modality values (Hounsfield units, optical density, ...)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from pipeline.dicom.decoding.pixel_format import PixelFormat
from pipeline.dicom.reading import elements
from pipeline.dicom.reading.files import FileFault

# Stored values: unsigned or signed words of 8, 16 or 32 bits.
Stored = NDArray[np.integer]
Values = NDArray[np.int16] | NDArray[np.int32] | NDArray[np.float32]
MODALITY_KEYWORDS = (
    "Modality", "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "PixelPaddingValue",
    "PixelPaddingRangeLimit",
)  # fmt: skip
_DESCRIPTOR_WORDS = 3
_LARGEST = float(np.finfo(np.float32).max)


class _Whole(NamedTuple):
    """A type for whole numbers, the unsigned one in which arithmetic goes round at both ends, and its limits."""

    signed: np.dtype[Any]
    unsigned: np.dtype[Any]
    lowest: int
    highest: int

    def holds(self, values: Sequence[float]) -> bool:
        """Tell whether all values fit."""
        return self.lowest <= min(values) and max(values) <= self.highest


_INT16 = _Whole(np.dtype(np.int16), np.dtype(np.uint16), -(1 << 15), (1 << 15) - 1)
_INT32 = _Whole(np.dtype(np.int32), np.dtype(np.uint32), -(1 << 31), (1 << 31) - 1)


def stored_values(container: NDArray[np.integer], form: PixelFormat) -> NDArray[np.int32]:
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


def narrow_values(container: NDArray[np.integer], form: PixelFormat) -> Stored:
    """Give what `stored_values` gives in words as wide as the container's; without a copy if all bits are stored.

    Parameters
    ----------
    container
        Unsigned words of 8 or 16 bits, in any byte order.
    form
        Bits stored and signedness.
    """
    words = container.astype(container.dtype.newbyteorder("="), copy=False)
    signed = np.dtype(f"i{words.dtype.itemsize}")
    unused = 8 * words.dtype.itemsize - form.bits_stored
    if form.is_signed:
        # Shifted to the top and back: arithmetic shifts repeat the sign.
        return (words << unused).view(signed) >> unused if unused else words.view(signed)
    return words & ((1 << form.bits_stored) - 1) if unused else words


def padding_marks(dataset: Dataset, form: PixelFormat, is_little_endian: bool) -> tuple[int, ...]:
    """Give the stored values between which pixels are padding: none, one or two (PS3.3, C.7.5.1.1.2)."""
    keywords = ("PixelPaddingValue", "PixelPaddingRangeLimit")
    found = [elements.words(dataset, keyword, is_little_endian) for keyword in keywords]
    known = found[0][:1] + found[1][:1] if found[0] else ()  # a limit without a value means nothing
    return tuple(int(mark) for mark in stored_values(np.array(known, dtype=np.int64), form))


@dataclass(frozen=True, eq=False)
class Modality:
    """The modality transformation of one file: a table, or slope and intercept.

    Attributes
    ----------
    unit
        Of the values: ``HU``, another Rescale Type, or empty.
    stored_range
        Lowest and highest value that the stored bits can hold.
    slope, intercept
        Used if there is no table.
    first, table
        The stored value that the table begins with, and its entries; None if there is none.
    """

    unit: str
    stored_range: tuple[int, int]
    slope: float = 1.0
    intercept: float = 0.0
    first: int = 0
    table: NDArray[np.int16] | NDArray[np.int32] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether whole numbers become whole numbers."""
        return self.slope.is_integer() and self.intercept.is_integer()

    def of_numbers(self, stored: Sequence[int]) -> list[float]:
        """Transform some stored values: exactly where all of them are whole and fit 32 bits, else as float32."""
        if self.table is not None:
            last = len(self.table) - 1
            return [float(self.table[min(max(value - self.first, 0), last)]) for value in stored]
        values = [value * self.slope + self.intercept for value in stored]
        if self.is_whole and _INT32.holds(values):
            return values
        return [float(np.float32(value)) for value in values]

    def of_pixels(self, stored: Stored, *, in_place: bool = False) -> Values:
        """Transform stored values of any shape (not empty); they lie within the stored range.

        Parameters
        ----------
        stored
            Stored values of 8, 16 or 32 bits.
        in_place
            Whether nobody needs them any more: the results may take their place in memory.

        Notes
        -----
        Whole numbers are computed in the narrowest type that holds the results: both operations go round at its
        ends, so that what is in between may overflow, and the result is exact.
        """
        if self.table is not None:
            mapped: Values = self.table[np.clip(stored.astype(np.int32) - self.first, 0, len(self.table) - 1)]
            return mapped
        if self.is_whole:
            kind = self._whole_type(stored)
            if kind is not None:
                return self._whole_values(stored, kind, in_place=in_place)
        values = stored.astype(np.float64)
        values *= self.slope
        values += self.intercept
        return values.astype(np.float32)

    def _whole_type(self, stored: Stored) -> _Whole | None:
        """Choose by what the stored bits could be, or else by what they are."""
        possible = [value * self.slope + self.intercept for value in self.stored_range]
        if not _INT16.holds(possible):
            possible = [int(end) * self.slope + self.intercept for end in (stored.min(), stored.max())]
        return next((kind for kind in (_INT16, _INT32) if kind.holds(possible)), None)

    def _whole_values(self, stored: Stored, kind: _Whole, *, in_place: bool) -> Values:
        size = kind.unsigned.itemsize
        is_as_wide = stored.dtype.itemsize == size
        words = stored.view(kind.unsigned) if is_as_wide else stored.astype(kind.unsigned)
        is_ours = not is_as_wide or (in_place and stored.flags.writeable)
        for factor, neutral, operation in ((self.slope, 1, np.multiply), (self.intercept, 0, np.add)):
            if factor != neutral:
                operand = kind.unsigned.type(int(factor) % (1 << 8 * size))
                words = operation(words, operand, out=words if is_ours else None)
                is_ours = True
        values: Values = words.view(kind.signed)
        return values


def modality_of(dataset: Dataset, form: PixelFormat, is_little_endian: bool) -> Modality:
    """Read the Modality LUT, or slope and intercept.

    Parameters
    ----------
    dataset
        With the attributes named in `MODALITY_KEYWORDS`.
    form, is_little_endian
        How the pixels and the data set are encoded.

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
    items = dataset["ModalityLUTSequence"].value if "ModalityLUTSequence" in dataset else None
    if items:
        first, table = _lookup_table(items[0], form, is_little_endian)
        unit = _unit(elements.text(items[0], "ModalityLUTType"))
        return Modality(unit, form.stored_range, first=first, table=table)
    slope = _factor(dataset, "RescaleSlope", 1.0)
    intercept = _factor(dataset, "RescaleIntercept", 0.0)
    if slope == 0 or not all(abs(value * slope + intercept) <= _LARGEST for value in form.stored_range):
        raise FileFault("UNDECODABLE_PIXELS")
    unit = _unit(elements.text(dataset, "RescaleType"))
    if not elements.text(dataset, "RescaleType") and elements.text(dataset, "Modality") == "CT":
        unit = "HU"  # the default of CT where nothing is said (PS3.3, C.8.2.1.1.2)
    return Modality(unit, form.stored_range, slope, intercept)


def _lookup_table(item: Dataset, form: PixelFormat, is_little_endian: bool) -> tuple[int, NDArray[np.int32]]:
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
