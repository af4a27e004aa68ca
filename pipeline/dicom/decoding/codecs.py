"""Decoding: from the bytes of a pixel data element to stored values, by decoders that are named, not found."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import (
    ExplicitVRBigEndian,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from pipeline.dicom.decoding.colour import SUBSAMPLED, luminance, palette_luminance
from pipeline.dicom.decoding.modality import Stored, narrow_values, stored_values
from pipeline.dicom.decoding.pixel_format import (
    NATIVE,
    PixelElement,
    PixelFormat,
    check_pixel_data,
    pixel_element,
    pixel_format,
)
from pipeline.dicom.reading.files import FileFault, Source

# Which of several decoders pydicom takes first depends on what else is installed; ours is named.
_PREFERRED_PLUGIN = "pylibjpeg"
# pydicom's own plugins for these are under the GPL, not packaged for conda, or stop at 8 bits; imagecodecs is none
# of it.
_JPEG_LS = frozenset({JPEGLSLossless, JPEGLSNearLossless})
_BY_IMAGECODECS = frozenset({JPEGLossless, JPEGLosslessSV1, JPEGExtended12Bit}) | _JPEG_LS


def is_decodable(transfer_syntax_uid: str) -> bool:
    """Tell whether a decoder for a transfer syntax is installed (asked of pydicom at run time)."""
    try:
        return transfer_syntax_uid in NATIVE | _BY_IMAGECODECS or bool(get_decoder(transfer_syntax_uid).is_available)
    except NotImplementedError:
        return False


def stored_pixels(source: Source, dataset: Dataset, largest_bytes: int) -> tuple[PixelFormat, NDArray[np.int32]]:
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
        With the reason why it cannot be decoded; ``UNSUPPORTED_IMAGE`` for colours too. Decoders may raise nearly
        anything else.
    """
    form, stored = narrow_pixels(source, dataset, largest_bytes)
    if form.is_colour:
        raise FileFault("UNSUPPORTED_IMAGE")
    return form, stored.astype(np.int32)


def narrow_pixels(source: Source, dataset: Dataset, largest_bytes: int) -> tuple[PixelFormat, Stored]:
    """Check and decode as `stored_pixels` does; the values come in words as narrow as those of the file.

    Of a picture in colour they are its luminance, within `PixelFormat.grey_range`. Native pixels whose words hold
    nothing else are not copied: the array may be read only.
    """
    form = pixel_format(dataset, largest_bytes)
    if form.frames != 1:
        raise FileFault("UNSUPPORTED_IMAGE")
    if not is_decodable(source.transfer_syntax_uid):
        raise FileFault("UNSUPPORTED_TRANSFER_SYNTAX")
    element = pixel_element(source)
    check_pixel_data(source, element, form)
    encoded = source.value(element.start, element.length)
    if len(encoded) != element.length:
        raise FileFault("TRUNCATED_FILE")
    syntax = source.transfer_syntax_uid
    if form.samples > 1:
        return form, luminance(_colours(bytes(encoded), form, element, syntax))
    stored = grey_values(encoded, form, element, syntax)
    return form, palette_luminance(dataset, stored, source.is_little_endian) if form.palette_bits else stored


def grey_values(encoded: bytes | memoryview, form: PixelFormat, element: PixelElement, syntax: str) -> Stored:
    """Decode one frame of one sample, whose bytes have been checked.

    Parameters
    ----------
    encoded
        Value of the pixel data element.
    form, element, syntax
        What the header says of the pixels, how their element is packed, and the transfer syntax.

    Returns
    -------
    Stored
        Shape (rows, columns), of one sign and width: stored values, no more. May be read only.

    Raises
    ------
    FileFault
        ``UNDECODABLE_PIXELS``; decoders may raise nearly anything else.
    """
    if syntax in NATIVE:
        return _native(encoded, form, element, syntax)
    return _decoded(bytes(encoded), form, syntax)


def unused_bits(
    encoded: bytes | memoryview, form: PixelFormat, element: PixelElement, syntax: str
) -> NDArray[np.unsignedinteger[Any]] | None:
    """Give what stands in the bits that store no value, where retired overlays hide (PS3.5, section 8.1.2).

    Parameters
    ----------
    encoded, form, element, syntax
        As `grey_values`.

    Returns
    -------
    NDArray | None
        Shape (rows, columns): words with zeros in the stored bits; None if all others repeat a sign, be it that of the
        whole word (which overflows the stored bits, or is declared to have none), or are zero.
    """
    if form.bits_stored == form.bits_allocated or syntax not in NATIVE | {RLELossless}:
        return None
    if syntax in NATIVE:
        words = _words(encoded, form, element, syntax)
    else:
        whole = replace(form, bits_stored=form.bits_allocated)  # else pydicom empties the rest
        plain, _ = _decoded_by_pydicom(bytes(encoded), whole, syntax)
        words = plain.view(f"u{form.bits_allocated // 8}").reshape(form.rows, form.columns)
    found = words ^ narrow_values(words, form).view(f"u{form.bits_allocated // 8}")
    if not found.any():
        return None
    unused = form.bits_allocated - form.bits_stored
    rest = words >> form.bits_stored
    is_sign = unused > 1 and bool(((rest == 0) | (rest == (1 << unused) - 1)).all())
    return None if is_sign else found


def _native(encoded: bytes | memoryview, form: PixelFormat, element: PixelElement, syntax: str) -> Stored:
    return narrow_values(_words(encoded, form, element, syntax), form)


def _words(
    encoded: bytes | memoryview, form: PixelFormat, element: PixelElement, syntax: str
) -> NDArray[np.unsignedinteger[Any]]:
    """Give the words of native pixels as they stand in the file."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    if form.bits_allocated == 16:
        plain = np.frombuffer(encoded, dtype=f"{order}u2")
    elif syntax == ExplicitVRBigEndian and element.representation == "OW":
        # Bytes travel in words whose halves are swapped (PS3.5, annex D, note on OW).
        plain = np.frombuffer(bytes(encoded) + b"\0" * (len(encoded) % 2), dtype=np.uint16).byteswap().view(np.uint8)
    else:
        plain = np.frombuffer(encoded, dtype=np.uint8)
    return plain[: form.rows * form.columns].reshape(form.rows, form.columns)


def _decoded(encoded: bytes, form: PixelFormat, syntax: str) -> NDArray[np.int32]:
    if syntax in _BY_IMAGECODECS:
        plain = _decoded_by_imagecodecs(encoded, syntax)
    else:
        plain, _ = _decoded_by_pydicom(encoded, form, syntax)
    if plain.shape != (form.rows, form.columns):
        raise FileFault("UNDECODABLE_PIXELS")
    stored = stored_values(plain, form)
    # RLE packs whole words, unused bits included; the other codecs know numbers, and these must fit (signed ones
    # may come as the bits that are stored).
    mask = (1 << form.bits_stored) - 1
    fits = np.array_equal(stored, plain) or (form.is_signed and np.array_equal(stored & mask, plain))
    if syntax != RLELossless and not fits:
        raise FileFault("UNDECODABLE_PIXELS")
    return stored


def _colours(encoded: bytes, form: PixelFormat, element: PixelElement, syntax: str) -> NDArray[np.uint8]:
    """Decode red, green and blue, shape (rows, columns, 3)."""
    plain, photometric = colour_values(encoded, form, element, syntax, as_rgb=True)
    return convert_color_space(plain, photometric, "RGB") if photometric != "RGB" else plain


def colour_values(
    encoded: bytes, form: PixelFormat, element: PixelElement, syntax: str, *, as_rgb: bool = False
) -> tuple[NDArray[np.uint8], str]:
    """Decode one frame of three samples, whose bytes have been checked.

    Parameters
    ----------
    encoded, form, element, syntax
        As for `grey_values`.
    as_rgb
        Whether pydicom, where it decodes, converts colours too.

    Returns
    -------
    tuple
        Shape (rows, columns, 3), and what the samples are: ``RGB``, or ``YBR_FULL`` (of subsampled colours, each
        pixel has been given its own).

    Raises
    ------
    FileFault
        As `grey_values`.
    """
    photometric = "YBR_FULL" if form.photometric_interpretation in {"YBR_FULL", SUBSAMPLED} else "RGB"
    if syntax in _BY_IMAGECODECS:
        plain = _decoded_by_imagecodecs(encoded, syntax)
    else:
        raw = not as_rgb
        plain, said = _decoded_by_pydicom(encoded, form, syntax, representation=element.representation, raw=raw)
        photometric = "YBR_FULL" if said == SUBSAMPLED else said
    if plain.shape != (form.rows, form.columns, form.samples) or plain.min() < 0 or plain.max() >> 8:
        raise FileFault("UNDECODABLE_PIXELS")
    if photometric not in {"RGB", "YBR_FULL"}:
        raise FileFault("UNDECODABLE_PIXELS")
    return plain.astype(np.uint8), photometric


def _decoded_by_imagecodecs(encoded: bytes, transfer_syntax_uid: str) -> NDArray[Any]:
    """Decode one frame of JPEG-LS, or of JPEG with more than 8 bits: lossless (process 14) or extended (process 4)."""
    import imagecodecs
    from pydicom.encaps import get_frame

    codestream = get_frame(encoded, 0, number_of_frames=1)
    if transfer_syntax_uid in _JPEG_LS:
        return np.asarray(imagecodecs.jpegls_decode(codestream)).astype(np.int32)
    if transfer_syntax_uid == JPEGExtended12Bit:
        return np.asarray(imagecodecs.jpeg_decode(codestream)).astype(np.int32)
    return np.asarray(imagecodecs.jpegsof3_decode(codestream)).astype(np.int32)


def _decoded_by_pydicom(
    encoded: bytes, form: PixelFormat, syntax: str, *, representation: str = "OB", raw: bool = True
) -> tuple[NDArray[Any], str]:
    options: dict[str, Any] = {
        "rows": form.rows,
        "columns": form.columns,
        "number_of_frames": 1,
        "samples_per_pixel": form.samples,
        "planar_configuration": form.planar_configuration or 0,
        "bits_allocated": form.bits_allocated,
        "bits_stored": form.bits_stored,
        "pixel_representation": int(form.is_signed),
        "photometric_interpretation": form.photometric_interpretation,
        "pixel_keyword": "PixelData",
        "pixel_vr": representation or "OW",
    }
    decoder = get_decoder(syntax)
    plugin = _PREFERRED_PLUGIN if _PREFERRED_PLUGIN in decoder.available_plugins else ""
    plain, properties = decoder.as_array(encoded, index=0, raw=raw, decoding_plugin=plugin, **options)
    return plain, str(properties["photometric_interpretation"])
