"""Codestreams: comments, EXIF data and thumbnails inside of compressed pixels are overwritten where they stand.

A JPEG or JPEG 2000 frame is a file format of its own, with room for texts that no rule about attributes reaches. What
is not needed for decoding is filled with zeros, and lengths stay: fragments, offset tables, tile-part lengths and
pointers remain right, and decoded pixels the same.

References
----------
ITU-T T.81 (ISO/IEC 10918-1), annex B, and T.871 (JFIF); ITU-T T.87 (ISO/IEC 14495-1), annex C; ITU-T T.800
(ISO/IEC 15444-1), annexes A and I; DICOM PS3.5, section A.4 (encapsulated pixel data).
"""

import re
import struct
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEG2000MC,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEG2000MCLossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from pipeline.dicom.decoding.pixel_format import CODESTREAM_PADDING
from pipeline.dicom.reading.files import FileFault

_JPEG_LS = frozenset({JPEGLSLossless, JPEGLSNearLossless})
_JPEG = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1}) | _JPEG_LS
_JPEG_2000 = frozenset(
    {JPEG2000, JPEG2000Lossless, JPEG2000MC, JPEG2000MCLossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL}
)
_ITEM = 0xFFFEE000
_ITEM_HEADER_BYTES = 8
_SOI, _EOI, _SOS, _COM, _APP0, _APP8, _APP14 = 0xD8, 0xD9, 0xDA, 0xFE, 0xE0, 0xE8, 0xEE
# Tables, frames and scans: DHT, DAC, DQT, DNL, DRI; frames of JPEG-LS and its parameters.
_JPEG_SEGMENTS = frozenset({*range(0xC0, 0xD0), _SOS, 0xDB, 0xDC, 0xDD, 0xF7, 0xF8} - {0xC8})
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
# What follows 255 inside of a scan: a stuffed zero (in JPEG-LS a bit), or a restart. All else is a marker.
_END_OF_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_END_OF_SCAN_LS = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_JFIF = b"JFIF\0"
_JFIF_PLAIN = _JFIF + b"\1\1\0\0\1\0\1"  # version, and pixels without a size; two bytes follow
_ADOBE = b"Adobe"
_ADOBE_PLAIN = _ADOBE + b"\0\x64\0\0\0\0"  # version and no flags; the colour transform follows
_HP_COLOURS = b"mrfx"  # the colour transform of JPEG-LS, one byte behind it
_J2K_START = b"\xff\x4f\xff\x51"
_JP2_START = b"\0\0\0\x0cjP  \r\n\x87\n"
_SOT, _SOD, _EOC, _J2K_COM = 0xFF90, 0xFF93, 0xFFD9, 0xFF64
_SOT_BYTES = 12
# CAP, SIZ, COD, COC, TLM, PRF, PLM, PLT, CPF, QCD, QCC, RGN, POC, PPM, PPT, CRG, and the extensions of part 2.
_J2K_SEGMENTS = frozenset(
    0xFF00 | one for one in (*range(0x50, 0x54), *range(0x55, 0x5A), *range(0x5C, 0x62), 0x63, *range(0x70, 0x7A))
)
_HEADER_BOXES = frozenset({b"ihdr", b"bpcc", b"pclr", b"cmap", b"cdef"})
_DISPENSABLE_BOXES = frozenset({b"res ", b"free"})
_FREE = b"free"  # a box without meaning (ISO/IEC 15444-2, annex M)
_BRAND = b"jp2 "
_BRANDS = frozenset({_BRAND, b"jpx ", b"jpxb", b"jph "})
_WORD_BYTES = 4
_ENUMERATED = 1  # colours by a number, not by a profile
_ENUMERATED_BYTES = 7


def without_comments(pixels: bytes | memoryview, transfer_syntax_uid: str) -> bytes | memoryview:
    """Overwrite what compressed frames hold beside the picture.

    Parameters
    ----------
    pixels
        Value of an encapsulated pixel data element: the items of offset table and fragments.
    transfer_syntax_uid
        Its encoding.

    Returns
    -------
    bytes | memoryview
        Of the same length; `pixels` itself if there was nothing to overwrite.

    Raises
    ------
    FileFault
        ``DEIDENTIFICATION_FAILED`` if a codestream cannot be followed to its end, if nothing is known of its kind, or
        if the offset table of several frames leads elsewhere than to fragments.
    """
    if transfer_syntax_uid not in _JPEG | _JPEG_2000 | {RLELossless}:
        raise FileFault("DEIDENTIFICATION_FAILED")
    places = list(_fragments(pixels))
    pixels = _with_plain_table(pixels, places)
    if transfer_syntax_uid == RLELossless:  # has no room for texts
        return pixels
    starts = [0, *accumulate(end - start for start, end in places)]
    stream = _Stream(b"".join([pixels[start:end] for start, end in places]), starts, transfer_syntax_uid)
    try:
        stream.walk()
    except (IndexError, struct.error):
        raise FileFault("DEIDENTIFICATION_FAILED") from None
    if not stream.patches:
        return pixels
    cleaned = bytearray(stream.data)
    for at, written in stream.patches:
        cleaned[at : at + len(written)] = written
    made = bytearray(pixels)
    for (start, end), at in zip(places, starts, strict=False):
        made[start:end] = cleaned[at : at + end - start]
    return bytes(made)


def _fragments(pixels: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """Give where the fragments behind the offset table lie."""
    at, is_table = 0, True
    while at < len(pixels):
        if at + _ITEM_HEADER_BYTES > len(pixels):
            raise FileFault("DEIDENTIFICATION_FAILED")
        group, element, length = struct.unpack_from("<HHL", pixels, at)
        start, at = at + _ITEM_HEADER_BYTES, at + _ITEM_HEADER_BYTES + length
        if group << 16 | element != _ITEM or at > len(pixels):
            raise FileFault("DEIDENTIFICATION_FAILED")
        if not is_table:
            yield start, at
        is_table = False


def _with_plain_table(pixels: bytes | memoryview, places: list[tuple[int, int]]) -> bytes | memoryview:
    """Make sure that the offset table holds the places of fragments and nothing else: readers of one frame skip it."""
    begin = _ITEM_HEADER_BYTES
    end = begin + struct.unpack_from("<L", pixels, 4)[0] if len(pixels) else begin
    known = {start - _ITEM_HEADER_BYTES - end for start, _ in places}
    if (end - begin) % _WORD_BYTES == 0 and known.issuperset(
        struct.unpack(f"<{(end - begin) // 4}L", pixels[begin:end])
    ):
        return pixels
    if end - begin != _WORD_BYTES:
        raise FileFault("DEIDENTIFICATION_FAILED")
    return b"".join([pixels[:begin], bytes(_WORD_BYTES), pixels[end:]])  # the one frame begins with the first fragment


@dataclass
class _Stream:
    """All fragments, end to end; every frame begins where a fragment does.

    Attributes
    ----------
    data
        As found.
    starts
        Where fragments begin, and the end of the last.
    patches
        Where something else is to be written, and what.
    """

    data: bytes
    starts: list[int]
    transfer_syntax_uid: str
    patches: list[tuple[int, bytes]] = field(default_factory=list)

    def walk(self) -> None:
        """Go from frame to frame."""
        is_jpeg = self.transfer_syntax_uid in _JPEG
        at = 0
        while at < len(self.data):
            if self.data.startswith(b"\xff\xd8" if is_jpeg else _J2K_START, at):
                end = self._jpeg(at + 2) if is_jpeg else self._jpeg_2000(at + 2)
            elif not is_jpeg and self.data.startswith(_JP2_START, at):
                end = self._boxes(at)
            else:
                end = at
                if not self._is_padding(at):
                    self._refuse()
            at = self._behind(end, at)

    def _behind(self, end: int, start: int) -> int:
        """Empty what stands behind a frame in its last fragment, and give where the next begins."""
        following = self._next_start(max(end, start + 1))
        rest = self.data[end:following]
        text = rest.lstrip(CODESTREAM_PADDING)
        if b"\xff\xd8\xff" in rest or _J2K_START in rest:  # a second picture, which may be the next frame
            self._refuse()
        if text:
            self._write(end, bytes(len(rest)))
        return following

    def _next_start(self, at: int) -> int:
        index = bisect_left(self.starts, at)
        return self.starts[index] if index < len(self.starts) else len(self.data)

    def _is_padding(self, at: int) -> bool:
        return not self.data[at : self._next_start(at + 1)].strip(CODESTREAM_PADDING)

    def _write(self, at: int, written: bytes) -> None:
        if self.data[at : at + len(written)] != written:
            self.patches.append((at, written))

    def _refuse(self) -> None:
        raise FileFault("DEIDENTIFICATION_FAILED")

    def _segment_end(self, at: int, limit: int) -> int:
        """Give where the segment ends whose marker stands at a place."""
        length = struct.unpack_from(">H", self.data, at + 2)[0]
        end = int(at + 2 + length)
        if length < 2 or end > limit:
            self._refuse()
        return end

    def _jpeg(self, at: int) -> int:
        """Follow a JPEG or JPEG-LS codestream from behind its start; give its end."""
        end_of_scan = _END_OF_SCAN_LS if self.transfer_syntax_uid in _JPEG_LS else _END_OF_SCAN
        while at < len(self.data):
            marker = self.data[at + 1]
            if self.data[at] != 0xFF:
                self._refuse()
            if marker == _EOI:
                return at + 2
            if marker == _SOI and at in self.starts:
                return at  # the frame broke off, and the next begins
            if marker == 0xFF or marker in _ALONE:
                at += 1 if marker == 0xFF else 2
                continue
            end = self._segment_end(at, len(self.data))
            if marker & 0xF0 == _APP0 or marker == _COM:
                self._application(marker, at + 4, end)
            elif marker not in _JPEG_SEGMENTS:
                self._refuse()
            at = end
            if marker == _SOS:
                found = end_of_scan.search(self.data, at)
                at = found.start() if found else len(self.data)
        return at

    def _application(self, marker: int, start: int, end: int) -> None:
        """Empty a comment or the data of an application, but for what decoders go by: which colours these are."""
        found = self.data[start:end]
        kept = b""
        if marker == _APP0 and found.startswith(_JFIF):
            kept = _JFIF_PLAIN + found[len(_JFIF_PLAIN) : len(_JFIF_PLAIN) + 2]
        elif marker == _APP14 and found.startswith(_ADOBE):
            kept = _ADOBE_PLAIN + found[len(_ADOBE_PLAIN) : len(_ADOBE_PLAIN) + 1]
        elif marker == _APP8 and found.startswith(_HP_COLOURS):
            kept = found[: len(_HP_COLOURS) + 1]
        self._write(start, kept[: len(found)].ljust(len(found), b"\0"))

    def _jpeg_2000(self, at: int) -> int:
        """Follow a JPEG 2000 codestream from behind its start; give its end."""
        at = self._header(at, _SOT)
        while struct.unpack_from(">H", self.data, at)[0] == _SOT:
            length = struct.unpack_from(">L", self.data, at + 6)[0]
            body = self._header(at + _SOT_BYTES, _SOD) + 2
            end = at + length if length else self.data.find(b"\xff\xd9", body)
            if end < body:
                self._refuse()
            index = bisect_left(self.starts, body)
            while index < len(self.starts) and self.starts[index] < end:
                if self.data.startswith((_J2K_START, _JP2_START), self.starts[index]):
                    self._refuse()  # the tile breaks off, and the next frame begins
                index += 1
            at = end
            if at >= len(self.data) or (self.data.startswith(_J2K_START, at) and at in self.starts):
                return min(at, len(self.data))
            if self._is_padding(at):
                return at
        if struct.unpack_from(">H", self.data, at)[0] != _EOC:
            self._refuse()
        return at + 2

    def _header(self, at: int, last: int) -> int:
        """Empty the comments among the segments of a header; give where the marker behind it stands."""
        while (marker := struct.unpack_from(">H", self.data, at)[0]) != last:
            end = self._segment_end(at, len(self.data))
            if marker == _J2K_COM:
                self._write(at + 4, bytes(end - at - 4))
            elif marker not in _J2K_SEGMENTS:
                self._refuse()
            at = end
        return at

    def _boxes(self, at: int) -> int:
        """Follow the boxes of a JP2 file, which some devices write instead of a codestream; give the end of that."""
        first, is_typed = at, False
        while True:
            kind, start, end = self._box(at)
            if kind == b"jp2c":
                if not self.data.startswith(_J2K_START, start):
                    self._refuse()
                return self._jpeg_2000(start + 2)
            if kind == b"jp2h":
                self._header_boxes(start, end)
            elif kind == b"ftyp" and not is_typed:
                is_typed = True
                self._write(start, _plain_brands(self.data[start:end]))
            elif at != first:  # the signature
                self._empty_box(at, start, end)
            at = end

    def _empty_box(self, at: int, start: int, end: int) -> None:
        self._write(at + _WORD_BYTES, _FREE)
        self._write(start, bytes(end - start))

    def _header_boxes(self, at: int, end: int) -> None:
        while at < end:
            begin = at
            kind, start, at = self._box(at)
            is_plain = kind == b"colr" and at - start == _ENUMERATED_BYTES and self.data[start] == _ENUMERATED
            if at > end or not (is_plain or kind in _HEADER_BOXES | _DISPENSABLE_BOXES):
                self._refuse()  # a profile of colours may hold texts, and cannot go
            if kind in _DISPENSABLE_BOXES:
                self._empty_box(begin, start, at)

    def _box(self, at: int) -> tuple[bytes, int, int]:
        """Give kind, begin of contents, and end of a box."""
        length, kind = struct.unpack_from(">L4s", self.data, at)
        start = at + 8
        if length == 1:
            length, start = struct.unpack_from(">Q", self.data, at + 8)[0], at + 16
        end = at + length if length else len(self.data)
        if end < start or end > len(self.data) or (length == 0 and kind != b"jp2c"):
            self._refuse()
        return kind, start, end


def _plain_brands(found: bytes) -> bytes:
    """Give the contents of a file type box with known brands only (ISO/IEC 15444-1, I.5.2)."""
    words = [found[at : at + _WORD_BYTES] for at in range(0, len(found), _WORD_BYTES)]
    plain = [word if word in _BRANDS else _BRAND for word in words]
    plain[1:2] = [bytes(_WORD_BYTES)]  # the version
    return b"".join(plain)[: len(found)]
