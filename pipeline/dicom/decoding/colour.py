"""Colour: pictures in colour, or in the colours of a palette, become their luminance.

References
----------
DICOM PS3.3, sections C.7.6.3.1.2 (photometric interpretation), C.7.6.3.1.5 and C.7.6.3.1.6 (palettes); ITU-R BT.601.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from pipeline.dicom.reading import elements
from pipeline.dicom.reading.files import FileFault

PALETTE = "PALETTE COLOR"
SUBSAMPLED = "YBR_FULL_422"
# Three samples to a pixel. JPEG 2000 undoes its own two (RCT, ICT) when it is decoded.
COLOURS = frozenset({"RGB", "YBR_FULL", SUBSAMPLED, "YBR_RCT", "YBR_ICT"})
_PRIMARIES = ("Red", "Green", "Blue")
_DESCRIPTORS = tuple(f"{primary}PaletteColorLookupTableDescriptor" for primary in _PRIMARIES)
_TABLES = tuple(f"{primary}PaletteColorLookupTableData" for primary in _PRIMARIES)
PALETTE_KEYWORDS = (*_DESCRIPTORS, *_TABLES)
_WEIGHTS = np.array([299, 587, 114], dtype=np.int32)  # thousandths
_DESCRIPTOR_WORDS = 3
_ALL_WORDS = 1 << 16


def luminance(rgb: NDArray[np.integer]) -> NDArray[Any]:
    """Weigh red, green and blue as ITU-R BT.601 does: 0.299, 0.587, 0.114.

    Parameters
    ----------
    rgb
        Shape (..., 3): values of 8 or 16 bits.

    Returns
    -------
    NDArray
        Shape (...), of the type of `rgb`: rounded to the nearest number, halves to the even one. White stays white.

    Examples
    --------
    >>> luminance(np.array([[255, 255, 255], [255, 0, 0], [0, 0, 255]], np.uint8)).tolist()
    [255, 76, 29]
    """
    whole, rest = np.divmod(rgb.astype(np.int32) @ _WEIGHTS, 1000)
    rounded: NDArray[Any] = whole + ((rest > 500) | ((rest == 500) & (whole % 2 == 1)))
    return rounded.astype(rgb.dtype)


def palette_bits(dataset: Dataset) -> int:
    """Check the palette of a header, and give the bits of its entries: 8 or 16.

    Raises
    ------
    FileFault
        ``UNSUPPORTED_IMAGE`` if it has none (a segmented one does not count), or if its parts disagree: nothing may
        hide behind the last entry.
    """
    entries, _, bits = _descriptor(dataset)
    lengths = {len(_data(dataset, keyword)) for keyword in _TABLES}
    in_bytes, in_words = entries + entries % 2, 2 * entries
    if len(lengths) != 1 or not lengths <= ({in_bytes, in_words} if bits == 8 else {in_words}):
        raise FileFault("UNSUPPORTED_IMAGE")
    return bits


def palette_luminance(dataset: Dataset, indices: NDArray[np.integer], is_little_endian: bool) -> NDArray[Any]:
    """Look stored values up in the palette of their file, and give the luminance of its colours.

    Parameters
    ----------
    dataset
        With the attributes named in `PALETTE_KEYWORDS`, for which `palette_bits` has raised nothing.
    indices
        Stored values, shape (rows, columns), unsigned.
    is_little_endian
        How the data set is encoded.

    Returns
    -------
    NDArray
        Shape (rows, columns), as many bits as the entries of the palette.
    """
    entries, first, bits = _descriptor(dataset)
    plain = Dataset()  # all entries as words: pydicom counts them in the type of the entries
    for descriptor, table in zip(_DESCRIPTORS, _TABLES, strict=True):
        words = np.frombuffer(_data(dataset, table), dtype="<u2" if is_little_endian else ">u2").astype("<u2")
        if bits == 8 and len(words) < entries:  # two entries to a word
            words = np.frombuffer(words.tobytes(), dtype=np.uint8)[:entries].astype("<u2")
        if words.max() >> bits:
            raise FileFault("UNDECODABLE_PIXELS")
        plain.add_new(descriptor, "US", [entries & 0xFFFF, first, 16])
        plain.add_new(table, "OW", words.tobytes())
    colours = apply_color_lut(np.arange(int(indices.max()) + 1, dtype=np.int32), plain)
    grey: NDArray[Any] = luminance(colours)[indices].astype(np.uint8 if bits == 8 else np.uint16)
    return grey


def _descriptor(dataset: Dataset) -> tuple[int, int, int]:
    """Read the number of entries, the stored value of the first, and the bits of each: one for all three tables."""
    found = {elements.words(dataset, keyword, True) for keyword in _DESCRIPTORS}
    words = found.pop()
    if found or len(words) != _DESCRIPTOR_WORDS or words[2] not in {8, 16}:
        raise FileFault("UNSUPPORTED_IMAGE")
    return words[0] & 0xFFFF or _ALL_WORDS, words[1] & 0xFFFF, words[2]


def _data(dataset: Dataset, keyword: str) -> bytes:
    try:
        value = dataset[keyword].value
    except Exception:  # noqa: BLE001  missing, or damaged: pydicom raises nearly anything
        raise FileFault("UNSUPPORTED_IMAGE") from None
    if not isinstance(value, bytes) or not value:
        raise FileFault("UNSUPPORTED_IMAGE")
    return value
