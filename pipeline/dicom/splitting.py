"""Splitting: an object with several slices becomes one header and one piece of pixel data for each.

Native and encapsulated frames are cut out as bytes and stay as they are. The tiles of a mosaic lie row by row
beside one another, so that it is decoded first; the tiles are written without compression.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import ExplicitVRLittleEndian

from pipeline.core.records import Instance
from pipeline.dicom.decoding import stored_pixels
from pipeline.dicom.files import INFLATION_ROOM_BYTES, FileFault, Source
from pipeline.dicom.frames import CLASSIC, EnhancedObject, set_element
from pipeline.dicom.mosaic import tile, tiles_to_a_side
from pipeline.dicom.pixel_format import PixelElement, check_pixel_data, pixel_element, pixel_format


@dataclass(frozen=True)
class Single:
    """One image to be written: its header as found, its encoding, and its pixel data."""

    instance: Instance
    header: Dataset
    transfer_syntax_uid: str
    place: PixelElement
    pixels: bytes


def decoded_bytes(instance: Instance) -> int:
    """Give the length of a file's decoded pixels, tiles without content included."""
    frame = instance.rows * instance.columns * instance.samples_per_pixel * instance.bits_allocated // 8
    return frame * max(instance.frames, tiles_to_a_side(instance.frames) ** 2)


def singles(source: Source, found: Dataset, instances: Sequence[Instance]) -> Iterator[Single]:
    """Give the images of one file, one at a time.

    Parameters
    ----------
    source
        The open file; its body stands at the pixel data.
    found
        Its elements, with functional groups where it has them.
    instances
        What is wanted of it: the whole file, or some of its frames.

    Raises
    ------
    FileFault
        If header, frames and pixel data disagree.
    """
    first = instances[0]
    if not first.frame:
        place = pixel_element(source)
        yield Single(first, found, source.transfer_syntax_uid, place, _value(source, place))
    elif first.sop_class_uid in CLASSIC:
        yield from _frames(source, found, instances)
    else:
        yield from _tiles(source, found, instances)


def _value(source: Source, place: PixelElement) -> bytes:
    source.body.seek(place.start)
    return source.body.read(place.length)


def _frames(source: Source, found: Dataset, instances: Sequence[Instance]) -> Iterator[Single]:
    """Cut out the frames of an enhanced object."""
    form = pixel_format(found, decoded_bytes(instances[0]))
    place = pixel_element(source)
    check_pixel_data(source, place, form)
    value = _value(source, place)
    wanted = {one.frame: one for one in instances}
    if form.frame_bytes % 2 and not source.is_little_endian:
        raise FileFault("UNSUPPORTED_IMAGE")  # bytes swapped in pairs, across frames (PS3.5, annex D)
    if place.is_encapsulated:
        pieces: Iterator[bytes] = generate_frames(value, number_of_frames=form.frames)
        pieces = (encapsulate([piece], has_bot=False) for piece in pieces)
    else:
        pieces = (value[start : start + form.frame_bytes] for start in range(0, form.size_bytes, form.frame_bytes))
        pieces = (piece + bytes(len(piece) % 2) for piece in pieces)
    whole = EnhancedObject(found)
    given = 0
    for number, piece in enumerate(pieces, start=1):
        if number in wanted:
            given += 1
            own = PixelElement(place.representation, 0, len(piece), place.is_encapsulated)
            yield Single(wanted[number], whole.header(number), source.transfer_syntax_uid, own, piece)
    if given != len(wanted):
        raise FileFault("TRUNCATED_FILE")


def _tiles(source: Source, found: Dataset, instances: Sequence[Instance]) -> Iterator[Single]:
    """Cut the tiles out of a mosaic."""
    form, stored = stored_pixels(source, found, decoded_bytes(instances[0]) + INFLATION_ROOM_BYTES)
    for one in instances:
        values = tile(stored, one.frames, one.frame)
        if values.shape != (one.rows, one.columns):
            raise FileFault("BAD_DIMENSIONS")
        header = Dataset()
        for element in found.values():
            header[element.tag] = element
        set_element(header, "Rows", one.rows)
        set_element(header, "Columns", one.columns)
        set_element(header, "ImagePositionPatient", [f"{value:.10g}" for value in one.image_position_mm or ()])
        set_element(header, "InstanceNumber", str(one.frame))
        word = np.dtype("<u2") if form.bits_allocated > 8 else np.dtype("u1")
        pixels = (values & ((1 << form.bits_stored) - 1)).astype(word).tobytes()
        pixels += bytes(len(pixels) % 2)
        representation = "OW" if form.bits_allocated > 8 else "OB"
        yield Single(one, header, ExplicitVRLittleEndian, PixelElement(representation, 0, len(pixels)), pixels)
