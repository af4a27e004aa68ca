"""Pixels: from stored bits to modality values, with what is needed to read them (spacing, window, padding)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    ExplicitVRBigEndian,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from pipeline.core.records import Pair
from pipeline.dicom import elements
from pipeline.dicom.files import (
    INFLATION_ROOM_BYTES,
    LARGEST_PIXEL_BYTES,
    FileFault,
    Source,
    opened,
    quiet,
    read_elements,
)
from pipeline.dicom.modality import MODALITY_KEYWORDS, Stored, Values, modality_values, padding_marks, stored_values
from pipeline.dicom.pixel_format import (
    NATIVE,
    PIXEL_FORMAT_KEYWORDS,
    PixelElement,
    PixelFormat,
    check_pixel_data,
    pixel_element,
    pixel_format,
)

# Which of several decoders pydicom takes first depends on what else is installed; ours is named.
_PREFERRED_PLUGIN = "pylibjpeg"
# pydicom's own plugins for these are under the GPL, not packaged for conda, or stop at 8 bits; imagecodecs is none
# of it.
_JPEG_LS = frozenset({JPEGLSLossless, JPEGLSNearLossless})
_BY_IMAGECODECS = frozenset({JPEGLossless, JPEGLosslessSV1, JPEGExtended12Bit}) | _JPEG_LS
_PLACE_KEYWORDS = (
    "WindowCenter", "WindowWidth", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing",
    "PixelAspectRatio", "EstimatedRadiographicMagnificationFactor", "ImagePositionPatient",
    "ImageOrientationPatient", "ViewPosition",
)  # fmt: skip
_TAGS = tuple(
    tag
    for keyword in (*PIXEL_FORMAT_KEYWORDS, *MODALITY_KEYWORDS, *_PLACE_KEYWORDS)
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
    """One grey image in modality values.

    Attributes
    ----------
    values
        Shape (rows, columns): values after the modality transformation (HU for CT), int32 if they are whole
        numbers by construction, else float32. Photometric interpretation is not applied.
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


def read_pixels(path: Path, *, largest_bytes: int = LARGEST_PIXEL_BYTES) -> PixelData:
    """Read one single-frame grey DICOM file into modality values.

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
        with quiet(), opened(path, largest_bytes + INFLATION_ROOM_BYTES) as source:
            return _read(source, largest_bytes)
    except FileFault as fault:
        raise PixelReadError(fault.code) from None
    except (OSError, MemoryError):
        raise PixelReadError("UNREADABLE_FILE") from None
    except Exception:  # noqa: BLE001  decoders raise nearly anything, and their messages may repeat the input
        raise PixelReadError("UNDECODABLE_PIXELS") from None


def is_decodable(transfer_syntax_uid: str) -> bool:
    """Tell whether a decoder for a transfer syntax is installed (asked of pydicom at run time)."""
    try:
        return transfer_syntax_uid in NATIVE | _BY_IMAGECODECS or bool(get_decoder(transfer_syntax_uid).is_available)
    except NotImplementedError:
        return False


def stored_pixels(source: Source, dataset: Dataset, largest_bytes: int) -> tuple[PixelFormat, Stored]:
    """Check and decode the one frame of an open file.

    Parameters
    ----------
    source
        Its body stands at the pixel data.
    dataset
        The header, with the attributes named in `PIXEL_FORMAT_KEYWORDS`.
    largest_bytes
        Largest length of the decoded pixels.

    Returns
    -------
    tuple
        The format, and the stored values, shape (rows, columns).

    Raises
    ------
    FileFault
        With the reason why it cannot be decoded. Decoders may raise nearly anything else.
    """
    form = pixel_format(dataset, largest_bytes)
    if form.frames != 1:
        raise FileFault("UNSUPPORTED_IMAGE")
    if not is_decodable(source.transfer_syntax_uid):
        raise FileFault("UNSUPPORTED_TRANSFER_SYNTAX")
    element = pixel_element(source)
    check_pixel_data(source, element, form)
    source.body.seek(element.start)
    encoded = source.body.read(element.length)
    stored = (
        _native(encoded, form, element, source)
        if source.transfer_syntax_uid in NATIVE
        else _decoded(encoded, form, source)
    )
    return form, stored


def _read(source: Source, largest_bytes: int) -> PixelData:
    dataset = read_elements(source, _TAGS)
    form, stored = stored_pixels(source, dataset, largest_bytes)
    # The ends of the stored range and the padding marks go through the same transformation as the pixels.
    marks = padding_marks(dataset, form, source.is_little_endian)
    values, unit = modality_values(dataset, stored, form, source.is_little_endian)
    limits = np.array([*form.stored_range, *marks], dtype=np.int32)
    ends, _ = modality_values(dataset, limits, form, source.is_little_endian)
    spacing, spacing_source = _spacing(dataset)
    centre, width = (elements.first_number(dataset, keyword) for keyword in ("WindowCenter", "WindowWidth"))
    has_window = centre is not None and width is not None and width > 0
    return PixelData(
        values=values,
        is_monochrome1=form.photometric_interpretation == "MONOCHROME1",
        lowest_possible=float(ends[:2].min()),
        highest_possible=float(ends[:2].max()),
        padding=(float(ends[2:].min()), float(ends[2:].max())) if marks else None,
        unit=unit,
        pixel_spacing_mm=spacing,
        pixel_spacing_source=spacing_source,
        pixel_aspect_ratio=None if spacing else elements.positive_pair(dataset, "PixelAspectRatio"),
        window_centre=centre if has_window else None,
        window_width=width if has_window else None,
        image_position_mm=elements.triple(dataset, "ImagePositionPatient"),
        image_orientation=elements.cosines(dataset, "ImageOrientationPatient"),
        view_position=elements.text(dataset, "ViewPosition"),
    )


def _native(encoded: bytes, form: PixelFormat, element: PixelElement, source: Source) -> Stored:
    order = "<" if source.is_little_endian else ">"
    if form.bits_allocated == 16:
        plain = np.frombuffer(encoded, dtype=f"{order}u2")
    elif source.transfer_syntax_uid == ExplicitVRBigEndian and element.representation == "OW":
        # Bytes travel in words whose halves are swapped (PS3.5, annex D, note on OW).
        plain = np.frombuffer(encoded + b"\0" * (len(encoded) % 2), dtype=np.uint16).byteswap().view(np.uint8)
    else:
        plain = np.frombuffer(encoded, dtype=np.uint8)
    return stored_values(plain[: form.rows * form.columns].reshape(form.rows, form.columns), form)


def _decoded(encoded: bytes, form: PixelFormat, source: Source) -> Stored:
    if source.transfer_syntax_uid in _BY_IMAGECODECS:
        plain = _decoded_by_imagecodecs(encoded, source.transfer_syntax_uid)
    else:
        plain = _decoded_by_pydicom(encoded, form, source)
    if plain.shape != (form.rows, form.columns):
        raise FileFault("UNDECODABLE_PIXELS")
    stored = stored_values(plain, form)
    # RLE packs whole words, unused bits included; the other codecs know numbers, and these must fit (signed ones
    # may come as the bits that are stored).
    mask = (1 << form.bits_stored) - 1
    fits = np.array_equal(stored, plain) or (form.is_signed and np.array_equal(stored & mask, plain))
    if source.transfer_syntax_uid != RLELossless and not fits:
        raise FileFault("UNDECODABLE_PIXELS")
    return stored


def _decoded_by_imagecodecs(encoded: bytes, transfer_syntax_uid: str) -> Stored:
    """Decode one frame of JPEG-LS, or of JPEG with more than 8 bits: lossless (process 14) or extended (process 4)."""
    import imagecodecs
    from pydicom.encaps import get_frame

    codestream = get_frame(encoded, 0, number_of_frames=1)
    if transfer_syntax_uid in _JPEG_LS:
        return np.asarray(imagecodecs.jpegls_decode(codestream)).astype(np.int32)
    if transfer_syntax_uid == JPEGExtended12Bit:
        return np.asarray(imagecodecs.jpeg_decode(codestream)).astype(np.int32)
    return np.asarray(imagecodecs.jpegsof3_decode(codestream)).astype(np.int32)


def _decoded_by_pydicom(encoded: bytes, form: PixelFormat, source: Source) -> Stored:
    options: dict[str, Any] = {
        "rows": form.rows,
        "columns": form.columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "bits_allocated": form.bits_allocated,
        "bits_stored": form.bits_stored,
        "pixel_representation": int(form.is_signed),
        "photometric_interpretation": form.photometric_interpretation,
        "pixel_keyword": "PixelData",
    }
    decoder = get_decoder(source.transfer_syntax_uid)
    plugin = _PREFERRED_PLUGIN if _PREFERRED_PLUGIN in decoder.available_plugins else ""
    plain, _ = decoder.as_array(encoded, index=0, raw=True, decoding_plugin=plugin, **options)
    decoded: Stored = plain
    return decoded


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
