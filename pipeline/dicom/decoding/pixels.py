"""Pixels: from stored bits to modality values, with what is needed to read them (spacing, window, padding)."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from pipeline.core.records import Pair
from pipeline.dicom.decoding.codecs import is_decodable, narrow_pixels, stored_pixels
from pipeline.dicom.decoding.modality import MODALITY_KEYWORDS, Modality, Values, modality_of, padding_marks
from pipeline.dicom.decoding.pixel_format import PIXEL_FORMAT_KEYWORDS, PixelFormat
from pipeline.dicom.reading import elements
from pipeline.dicom.reading.files import (
    INFLATION_ROOM_BYTES,
    LARGEST_PIXEL_BYTES,
    FileFault,
    Source,
    opened,
    read_elements,
)
from pipeline.dicom.reading.quiet import quiet
from pipeline.dicom.reading.walker import Element, as_header

__all__ = ["PixelData", "PixelReadError", "is_decodable", "read_pixels", "stored_pixels"]
_SHARED_KEYWORDS = (
    *MODALITY_KEYWORDS, "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio",
    "EstimatedRadiographicMagnificationFactor", "ImageOrientationPatient", "ViewPosition",
)  # fmt: skip
_OWN_KEYWORDS = ("WindowCenter", "WindowWidth", "ImagePositionPatient")
_TAGS = tuple(
    tag
    for keyword in (*PIXEL_FORMAT_KEYWORDS, *_SHARED_KEYWORDS, *_OWN_KEYWORDS)
    if (tag := tag_for_keyword(keyword)) is not None
)


class PixelReadError(Exception):
    """The pixels of one file cannot be had.

    Parameters
    ----------
    code
        A key of `pipeline.core.reasons.REASONS`; the message holds nothing else.
    """

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


@dataclass(frozen=True, eq=False)
class PixelData:
    """One grey image in modality values; of a picture in colour, its luminance.

    Attributes
    ----------
    values
        Shape (rows, columns): values after the modality transformation (HU for CT): if they are whole numbers by
        construction int16 where they fit, else int32; otherwise float32. Photometric interpretation is not
        applied. The array may be read only.
    is_monochrome1
        Whether the lowest value is meant to be shown white.
    lowest_possible, highest_possible
        The modality values of the ends of the stored range (BitsStored): where an image saturates.
    padding
        Lowest and highest modality value that mark pixels outside of the image; None if none do.
    unit
        Of the values: ``HU``, another Rescale Type, or empty.
    pixel_spacing_mm, pixel_spacing_source
        Distance between rows and between columns, and the attribute it comes from; None and empty if unknown.
        Imager spacing is divided by the magnification factor if the file gives one (`...PixelSpacing/magnification`).
    pixel_aspect_ratio
        Height and width of a pixel in a unit of its own, where the file gives no spacing but Pixel Aspect Ratio
        (PS3.3, C.7.6.3.1.7); else None.
    window_centre, window_width
        The first window of the file, in modality values; None if there is none.
    image_position_mm, image_orientation
        Of a slice (LPS); None where the file has none.
    view_position
        As the file gives it.
    was_colour
        Whether the picture was in colour; then the values have neither unit nor window (PS3.3, C.11.1 and C.11.2 are
        about grey pictures).
    """

    values: Values
    is_monochrome1: bool
    lowest_possible: float
    highest_possible: float
    padding: tuple[float, float] | None
    unit: str
    pixel_spacing_mm: tuple[float, float] | None
    pixel_spacing_source: str
    pixel_aspect_ratio: tuple[float, float] | None
    window_centre: float | None
    window_width: float | None
    image_position_mm: tuple[float, float, float] | None
    image_orientation: tuple[float, float, float, float, float, float] | None
    view_position: str
    was_colour: bool = False


def read_pixels(path: Path, *, largest_bytes: int = LARGEST_PIXEL_BYTES) -> PixelData:
    """Read one single-frame DICOM file into modality values, or into luminance if it is in colour.

    Everything is checked by arithmetic before anything is decoded. Bits above BitsStored are not trusted:
    stored values are masked, and extended by their sign (PS3.5, section 8.1.1).

    Parameters
    ----------
    path
        The file.
    largest_bytes
        Largest length of the decoded pixels.

    Raises
    ------
    PixelReadError
        With a reason code; no other exception leaves this function because of what a file holds.

    References
    ----------
    DICOM PS3.3, sections C.7.6.3 (Image Pixel), C.11.1 (Modality LUT), 10.7 (spacing).
    """
    try:
        with quiet(), opened(path, largest_bytes + INFLATION_ROOM_BYTES, _TAGS, with_pixels=True) as source:
            return _read(source, largest_bytes)
    except FileFault as fault:
        raise PixelReadError(fault.code) from None
    except (OSError, MemoryError):
        raise PixelReadError("UNREADABLE_FILE") from None
    except Exception:  # noqa: BLE001  decoders raise nearly anything, and their messages may repeat the input
        raise PixelReadError("UNDECODABLE_PIXELS") from None


@dataclass(frozen=True)
class _Facts:
    """What the slices of a series have in common: the transformation, and what `PixelData` says beside the pixels."""

    modality: Modality
    shared: dict[str, Any]


def _read(source: Source, largest_bytes: int) -> PixelData:
    dataset = source.header or read_elements(source, _TAGS)
    form, stored = narrow_pixels(source, dataset, largest_bytes)
    if header := as_header(dataset):
        facts = _known_facts(tuple(map(header.get, _SHARED_KEYWORDS)), form)
    else:
        facts = _facts(dataset, form, source.is_little_endian)
    centre, width = (elements.first_number(dataset, keyword) for keyword in ("WindowCenter", "WindowWidth"))
    has_window = centre is not None and width is not None and width > 0 and not form.is_colour
    return PixelData(
        values=facts.modality.of_pixels(stored, in_place=True),
        window_centre=centre if has_window else None,
        window_width=width if has_window else None,
        image_position_mm=elements.triple(dataset, "ImagePositionPatient"),
        **facts.shared,
    )


@lru_cache(maxsize=256)
def _known_facts(found: tuple[Element | None, ...], form: PixelFormat) -> _Facts:
    """Give the facts of a header whose elements are those of one that was read before."""
    known = {name: element for name, element in zip(_SHARED_KEYWORDS, found, strict=True) if element is not None}
    return _facts(cast("Dataset", known), form, True)


def _facts(dataset: Dataset, form: PixelFormat, is_little_endian: bool) -> _Facts:
    # The ends of the stored range and the padding marks go through the same transformation as the pixels.
    marks = () if form.is_colour else padding_marks(dataset, form, is_little_endian)
    modality = Modality("", form.grey_range) if form.is_colour else modality_of(dataset, form, is_little_endian)
    first, last, *padding = modality.of_numbers((*form.grey_range, *marks))
    spacing, spacing_source = _spacing(dataset)
    shared = {
        "is_monochrome1": form.photometric_interpretation == "MONOCHROME1",
        "lowest_possible": min(first, last),
        "highest_possible": max(first, last),
        "padding": (min(padding), max(padding)) if padding else None,
        "unit": modality.unit,
        "pixel_spacing_mm": spacing,
        "pixel_spacing_source": spacing_source,
        "pixel_aspect_ratio": None if spacing else elements.positive_pair(dataset, "PixelAspectRatio"),
        "image_orientation": elements.cosines(dataset, "ImageOrientationPatient"),
        "view_position": elements.text(dataset, "ViewPosition"),
        "was_colour": form.is_colour,
    }
    return _Facts(modality, shared)


def _spacing(dataset: Dataset) -> tuple[Pair | None, str]:
    """Choose the spacing: calibrated at the patient, else at the detector, else of a digitised film."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        pair = elements.positive_pair(dataset, keyword)
        if pair is None:
            continue
        factor = elements.number(dataset, "EstimatedRadiographicMagnificationFactor")
        if keyword == "ImagerPixelSpacing" and factor is not None and factor >= 1:
            return (pair[0] / factor, pair[1] / factor), f"{keyword}/magnification"
        return pair, keyword
    return None, ""
