"""Splitting: an object with several slices becomes one header and one piece of pixel data for each.

Native and encapsulated frames are cut out as bytes and stay as they are. The tiles of a mosaic lie row by row
beside one another, so that it is decoded first; the tiles are written without compression.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from pipeline.core.records import Instance
from pipeline.dicom.decoding.codecs import stored_pixels
from pipeline.dicom.decoding.pixel_format import (
    CODESTREAM_PADDING,
    END_OF_CODESTREAM,
    NATIVE,
    PixelElement,
    check_pixel_data,
    pixel_element,
    pixel_format,
)
from pipeline.dicom.reading.files import INFLATION_ROOM_BYTES, FileFault, Source
from pipeline.dicom.slices.frames import CLASSIC, EnhancedObject, set_element
from pipeline.dicom.slices.mosaic import tile, tiles_to_a_side


@dataclass(frozen=True)
class Single:
    """One image to be written: its header as found, its encoding, and its pixel data.

    Attributes
    ----------
    header
        As found.
    transfer_syntax_uid
        The encoding of header and pixels.
    place, pixels
        How the pixel data stood, and their value.
    largest_bytes
        That its pixels may have when decoded.
    slice_number
        Its number, if it is a slice of a volume and has one.
    frames_are_slices
        Whether its frames are slices of a volume.
    """

    header: Dataset
    transfer_syntax_uid: str
    place: PixelElement
    pixels: bytes
    largest_bytes: int
    slice_number: int | None = None
    frames_are_slices: bool = False


def decoded_bytes(instance: Instance) -> int:
    """Give the length of a file's decoded pixels, tiles without content included."""
    frame = instance.rows * instance.columns * instance.samples_per_pixel * instance.bits_allocated // 8
    return frame * max(instance.frames, tiles_to_a_side(instance.frames) ** 2)


def needs_decoder(instance: Instance) -> bool:
    """Tell whether looking at the pixels of an instance takes a decoder."""
    return instance.transfer_syntax_uid not in NATIVE


def singles(source: Source, found: Dataset, instances: Sequence[Instance]) -> Iterator[tuple[Instance, Single]]:
    """Give the images of one file, one at a time, each with its instance.

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
        yield first, _single(first, found, source.transfer_syntax_uid, place, _value(source, place))
    elif first.sop_class_uid in CLASSIC:
        yield from _frames(source, found, instances)
    else:
        yield from _tiles(source, found, instances)


def _single(instance: Instance, header: Dataset, syntax: str, place: PixelElement, pixels: bytes) -> Single:
    number = instance.instance_number if instance.kind == "slice" else None
    return Single(header, syntax, place, pixels, decoded_bytes(instance), number)


def _value(source: Source, place: PixelElement) -> bytes:
    source.body.seek(place.start)
    return source.body.read(place.length)


def _frames(source: Source, found: Dataset, instances: Sequence[Instance]) -> Iterator[tuple[Instance, Single]]:
    """Cut out the frames of an enhanced object."""
    form = pixel_format(found, decoded_bytes(instances[0]))
    place = pixel_element(source)
    check_pixel_data(source, place, form)
    value = _value(source, place)
    wanted = {one.frame: one for one in instances}
    if place.is_encapsulated:
        found_frames = frames_of(value, form.frames, has_end=source.transfer_syntax_uid != RLELossless)
        pieces: Iterator[bytes] = (encapsulate([piece], has_bot=False) for piece in found_frames)
    else:
        pieces = (value[start : start + form.frame_bytes] for start in range(0, form.size_bytes, form.frame_bytes))
        pieces = (piece + bytes(len(piece) % 2) for piece in pieces)
    whole = EnhancedObject(found)
    given = 0
    for number, piece in enumerate(pieces, start=1):
        if number in wanted:
            given += 1
            own = PixelElement(place.representation, 0, len(piece), place.is_encapsulated)
            one = wanted[number]
            yield one, _single(one, whole.header(number), source.transfer_syntax_uid, own, piece)
    if given != len(wanted):
        raise FileFault("TRUNCATED_FILE")


def frames_of(value: bytes, count: int, *, has_end: bool) -> Iterator[bytes]:
    """Take the frames out of encapsulated pixel data, if it is certain where each begins.

    Parameters
    ----------
    value
        The items (PS3.5, section A.4): the offset table, and fragments.
    count
        Number of frames.
    has_end
        Whether a frame is a codestream with an end marker (all but RLE).

    Raises
    ------
    FileFault
        ``UNDECODABLE_PIXELS`` if fragments, offset table and frames do not fit together: a frame too many in the
        middle would move all that follow to their neighbours' places.
    """
    fragments = list(generate_fragments(value[8 + int.from_bytes(value[4:8], "little") :]))
    starts = _starts(value, fragments, count)
    for first, behind in pairwise([*starts, len(fragments)]):
        frame = b"".join(fragments[first:behind])
        # Within a codestream the two bytes of the end marker cannot stand (ISO/IEC 10918-1, 14495-1, 15444-1).
        if has_end and frame.find(END_OF_CODESTREAM) != len(frame.rstrip(CODESTREAM_PADDING)) - len(END_OF_CODESTREAM):
            raise FileFault("UNDECODABLE_PIXELS")
        yield frame


def _starts(value: bytes, fragments: Sequence[bytes], count: int) -> list[int]:
    """Give the number of the fragment with which each frame begins."""
    table = np.frombuffer(value[8 : 8 + int.from_bytes(value[4:8], "little")], "<u4").tolist()
    places = list(accumulate((8 + len(one) for one in fragments), initial=0))[:-1]
    if table:
        numbers = {place: number for number, place in enumerate(places)}
        starts = [numbers.get(place, -1) for place in table]
        if len(table) != count or starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
            raise FileFault("UNDECODABLE_PIXELS")
        return starts
    if len(fragments) != count:
        raise FileFault("UNDECODABLE_PIXELS")
    return list(range(count))


def _tiles(source: Source, found: Dataset, instances: Sequence[Instance]) -> Iterator[tuple[Instance, Single]]:
    """Cut the tiles out of a mosaic."""
    form, stored = stored_pixels(source, found, decoded_bytes(instances[0]) + INFLATION_ROOM_BYTES)
    count = instances[0].frames
    behind = range(count + 1, tiles_to_a_side(count) ** 2 + 1)
    if any(tile(stored, count, number).any() for number in behind):
        raise FileFault("UNDECODABLE_PIXELS")  # the private header hides a slice
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
        place = PixelElement(representation, 0, len(pixels))
        yield one, _single(one, header, ExplicitVRLittleEndian, place, pixels)
