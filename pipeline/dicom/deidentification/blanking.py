"""Blanking: pixels of an image are overwritten, and nothing else of it changes.

What was compressed is written without compression afterwards. Stored values outside the blanked pixels stay as they
were decoded, bit by bit; bits that store no value, where overlays can hide, are emptied.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    RLELossless,
)

from pipeline.dicom.decoding.codecs import colour_values, grey_values, unused_bits
from pipeline.dicom.decoding.colour import SUBSAMPLED, luminance, palette_luminance
from pipeline.dicom.decoding.pixel_format import NATIVE, PixelElement, PixelFormat, pixel_format
from pipeline.dicom.deidentification.pixel_rules import Rectangle
from pipeline.dicom.deidentification.splitting import Single, frames_of
from pipeline.dicom.reading import elements
from pipeline.dicom.reading.files import FileFault
from pipeline.dicom.slices.frames import set_element

Mask = NDArray[np.bool_]
_YBR_BLACK = (0, 128, 128)
# What has been lossy once stays so, whatever it is encoded in afterwards (PS3.3, C.7.6.1.1.5). The last two may be
# either; where the file does not say, the worse is said.
_LOSSY_METHODS = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
    JPEG2000: "ISO_15444_1",
    HTJ2K: "ISO_15444_15",
}
_OVERLAY_GROUPS = range(0x6000, 0x6100, 2)  # PS3.5, 7.6, knows sixteen; files of the past may hold more
# Of pixels as they were, and of their fragments.
_OUTDATED = ("SmallestImagePixelValue", "LargestImagePixelValue", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")


def mask_of(rectangles: Iterable[Rectangle], rows: int, columns: int) -> Mask:
    """Mark the pixels of some rectangles, which lie inside of the image."""
    mask = np.zeros((rows, columns), dtype=bool)
    for one in rectangles:
        mask[one.top : one.top + one.rows, one.left : one.left + one.columns] = True
    return mask


def rectangles_of(mask: Mask) -> tuple[Rectangle, ...]:
    """Divide marked pixels into rectangles that do not overlap: bands of equal rows, each from left to right.

    Examples
    --------
    >>> found = rectangles_of(np.array([[1, 0, 1], [1, 0, 1], [0, 0, 1]], bool))
    >>> [(one.top, one.left, one.rows, one.columns) for one in found]
    [(0, 0, 2, 1), (0, 2, 2, 1), (2, 2, 1, 1)]
    """
    changes = np.flatnonzero((mask[1:] != mask[:-1]).any(axis=1)) + 1
    found = []
    for top, bottom in pairwise([0, *changes.tolist(), len(mask)]):
        edges = np.flatnonzero(np.diff(mask[top].astype(np.int8), prepend=0, append=0)).tolist()
        for left, right in zip(edges[::2], edges[1::2], strict=True):
            found.append(Rectangle(top=top, left=left, rows=bottom - top, columns=right - left))
    return tuple(found)


def decoded(single: Single) -> tuple[PixelFormat, NDArray[np.integer], str]:
    """Decode all frames of an image, whose bytes have been checked.

    Returns
    -------
    tuple
        Its format; stored values, shape (frames, rows, columns) or (frames, rows, columns, 3), which may be read only;
        and their photometric interpretation, which for colours is ``RGB`` or ``YBR_FULL``.

    Raises
    ------
    FileFault
        ``UNDECODABLE_PIXELS``.
    """
    try:
        return _decoded(single)
    except FileFault:
        raise
    except Exception:  # noqa: BLE001  decoders raise nearly anything, and their messages may repeat the input
        raise FileFault("UNDECODABLE_PIXELS") from None


def _decoded(single: Single) -> tuple[PixelFormat, NDArray[np.integer], str]:
    form = pixel_format(single.header, single.largest_bytes)
    one = replace(form, frames=1)
    photometric = form.photometric_interpretation
    frames: list[NDArray[np.integer]] = []
    for piece in _pieces(single, form):
        if form.samples > 1:
            values, photometric = colour_values(piece, one, single.place, single.transfer_syntax_uid)
            frames.append(values)
        else:
            frames.append(grey_values(piece, one, single.place, single.transfer_syntax_uid))
    return form, frames[0][None] if len(frames) == 1 else np.stack(frames), photometric


def pictures(single: Single) -> NDArray[np.integer]:
    """Decode all frames of an image to grey pictures, shape (frames, rows, columns): stored values, or luminance.

    Raises
    ------
    FileFault
        As `decoded`.
    """
    form, stored, photometric = decoded(single)
    if form.samples > 1:
        return stored[..., 0] if photometric == "YBR_FULL" else luminance(stored)
    if form.palette_bits:
        is_little_endian = single.transfer_syntax_uid != ExplicitVRBigEndian
        return np.asarray(palette_luminance(single.header, stored, is_little_endian))
    return stored


def hidden_pictures(single: Single, step: int = 1) -> Iterator[NDArray[np.uint8]]:
    """Give what is drawn in bits that store no value of every `step`-th frame: one picture for each such bit.

    Raises
    ------
    FileFault
        As `decoded`.
    """
    form = pixel_format(single.header, single.largest_bytes)
    if form.samples > 1:
        return
    for piece in islice(_pieces(single, form), 0, None, step):
        try:
            words = unused_bits(piece, replace(form, frames=1), single.place, single.transfer_syntax_uid)
        except Exception:  # noqa: BLE001  as in `decoded`
            raise FileFault("UNDECODABLE_PIXELS") from None
        if words is None:
            continue
        for bit in range(form.bits_stored, form.bits_allocated):
            plane = np.asarray(words >> bit & 1, dtype=np.uint8)
            if plane.any() and not plane.all():
                yield plane


def blanked(single: Single, mask: Mask) -> Single:
    """Overwrite the marked pixels of all frames with what is shown darkest.

    Grey pixels get the darkest value among those that stay (a value that no detector writes would spoil windows and
    percentiles), colours get black, indices that of the palette's darkest colour.

    Parameters
    ----------
    single
        The image; it is not changed.
    mask
        Shape (rows, columns), true where pixels are blanked; not everywhere.

    Returns
    -------
    Single
        In native encoding: that of the image if it was native, else explicit little endian. Its header says how
        pixels are stored now, and has no overlay and no extreme values any more.

    Raises
    ------
    FileFault
        As `decoded`; ``UNDECODABLE_PIXELS`` too if mask and image differ in size, or nothing would be left.
    """
    form, stored, photometric = decoded(single)
    if mask.shape != stored.shape[1:3] or mask.all():
        raise FileFault("UNDECODABLE_PIXELS")
    word = np.dtype(f"{'i' if form.is_signed else 'u'}{form.bits_allocated // 8}")
    values = stored.astype(word)  # a copy
    values[:, mask] = _darkest(single, form, values, mask, photometric)
    is_native = single.transfer_syntax_uid in NATIVE
    syntax = single.transfer_syntax_uid if is_native else ExplicitVRLittleEndian
    pixels = values.astype(word.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")).tobytes()
    pixels += bytes(len(pixels) % 2)
    representation = "OW" if form.bits_allocated > 8 else "OB"
    if syntax == ImplicitVRLittleEndian:
        representation = ""
    header = _header(single, photometric, form.samples)
    place = PixelElement(representation, 0, len(pixels))
    return replace(single, header=header, transfer_syntax_uid=syntax, place=place, pixels=pixels)


def _pieces(single: Single, form: PixelFormat) -> Iterable[bytes]:
    """Give the encoded bytes of each frame; encapsulated ones each in items of their own."""
    syntax, value = single.transfer_syntax_uid, single.pixels
    if form.frames == 1:
        yield value
    elif single.place.is_encapsulated:
        for frame in frames_of(value, form.frames, has_end=syntax != RLELossless):
            yield encapsulate([frame], has_bot=False)
    else:
        swapped = syntax == ExplicitVRBigEndian and form.frame_bytes % 2 and single.place.representation == "OW"
        if len(value) < form.size_bytes or form.photometric_interpretation == SUBSAMPLED or swapped:
            raise FileFault("UNDECODABLE_PIXELS")
        for start in range(0, form.size_bytes, form.frame_bytes):
            yield value[start : start + form.frame_bytes]


def _darkest(
    single: Single, form: PixelFormat, values: NDArray[np.integer], mask: Mask, photometric: str
) -> NDArray[np.integer]:
    """Choose the stored value that is shown darkest."""
    if form.samples > 1:
        return np.array(_YBR_BLACK if photometric == "YBR_FULL" else (0, 0, 0), dtype=values.dtype)
    if form.palette_bits:
        is_little_endian = single.transfer_syntax_uid != ExplicitVRBigEndian
        indices = np.arange(1 << form.bits_stored)
        return np.asarray(palette_luminance(single.header, indices, is_little_endian).argmin(), dtype=values.dtype)
    slope = elements.number(single.header, "RescaleSlope")
    is_dark_high = (form.photometric_interpretation == "MONOCHROME1") != (slope is not None and slope < 0)
    kept = values[:, ~mask]
    return np.asarray(kept.max() if is_dark_high else kept.min())


def _header(single: Single, photometric: str, samples: int) -> Dataset:
    header = Dataset()
    for element in single.header.values():
        if element.tag.group not in _OVERLAY_GROUPS:
            header[element.tag] = element
    for keyword in _OUTDATED:
        if keyword in header:
            del header[keyword]
    set_element(header, "PhotometricInterpretation", photometric)
    if samples > 1:
        set_element(header, "PlanarConfiguration", 0)
    method = _LOSSY_METHODS.get(UID(single.transfer_syntax_uid))
    if method and elements.text(header, "LossyImageCompression") not in {"00", "01"}:
        set_element(header, "LossyImageCompression", "01")
        set_element(header, "LossyImageCompressionMethod", method)
    return header
