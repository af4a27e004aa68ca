"""DICOM files as hostile input: opening, preamble and file meta information, bounded inflation, bounded headers.

What is wrong with one file is a `FileFault` with a reason code; it never carries a value of the file.
"""

import hashlib
import io
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, cast

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from pipeline.dicom.reading.ordinary import read_ordinary
from pipeline.dicom.reading.walker import Header, HeadTooShortError, SequenceTooDeepError, data_set_place, walk

PIXEL_DATA = 0x7FE00010
_FLOAT_PIXEL_DATA = frozenset({0x7FE00008, 0x7FE00009})
_PREAMBLE_BYTES = 128
_MAGIC = b"DICM"
_META_GROUP = 0x0002
# Far above any real header; each bounds the time and the memory that a made-up file can cost.
_MOST_ELEMENTS = 100_000
_LARGEST_VALUE_BYTES = 1 << 20  # longer values are skipped; no header element read here comes near
_INFLATION_STEP_BYTES = 1 << 20
_DIGEST_BYTES = 1 << 14
_HEAD_BYTES = 1 << 16  # the headers of images are shorter, nearly all
_LONGEST_HEAD_BYTES = 1 << 19  # of the fast way; too short for `_MOST_ELEMENTS`
_SMALL_FILE_BYTES = 1 << 22  # one of this size is read at once by whoever wants its pixels
MEGABYTE = 1_000_000
LARGEST_PIXEL_BYTES = 512 * MEGABYTE
INFLATION_ROOM_BYTES = 16 * MEGABYTE  # what a deflated data set may hold beside its pixels


class Slot(NamedTuple):
    """The place in a series that a refused slice leaves empty."""

    series_uid: str
    sop_uid: str


class FileFault(Exception):  # noqa: N818  a fault of the file; its code is the whole message
    """One file cannot be used.

    Parameters
    ----------
    code
        A key of `pipeline.core.reasons.REASONS`.
    slot
        Where the file would have belonged, if it is a slice and says so.
    """

    def __init__(self, code: str, slot: Slot | None = None) -> None:
        self.code = code
        self.slot = slot
        super().__init__(code)


class Refusal(str):
    """A reason code that knows which slice it is about."""

    slot: Slot

    def __new__(cls, code: str, slot: Slot) -> "Refusal":
        """Make a code with its slot."""
        made = super().__new__(cls, code)
        made.slot = slot
        return made

    def __getnewargs__(self) -> tuple[str, Slot]:  # type: ignore[override]
        """Give what a copy is made of, for the way between processes."""
        return str(self), self.slot


@dataclass(frozen=True)
class Source:
    """An open DICOM file behind its file meta information.

    Attributes
    ----------
    meta
        File meta information (group 0002).
    transfer_syntax_uid
        From the meta information, never empty.
    body
        The data set, positioned at its first element; inflated if the file is deflated.
    end
        Position in `body` behind its last byte.
    is_implicit, is_little_endian
        How the data set is encoded.
    stream
        The file itself.
    size_bytes
        Length of the file.
    modified_ns
        Time of its last change, in nanoseconds since 1970.
    header
        The elements asked for, if the fast way could read them: then the body stands at the pixel data.
    head
        The first bytes of the file, if they have been read; else empty. All of them if the file is small.
    """

    meta: Dataset
    transfer_syntax_uid: str
    body: BinaryIO
    end: int
    is_implicit: bool
    is_little_endian: bool
    stream: io.BufferedReader
    size_bytes: int
    modified_ns: int
    header: Dataset | None = None
    head: bytes = b""

    def value(self, start: int, length: int) -> bytes | memoryview:
        """Give bytes of the body by their position: a view if they are in memory already, else read now."""
        if self.head and start + length <= len(self.head):
            return memoryview(self.head)[start : start + length]
        self.body.seek(start)
        return self.body.read(length)


@contextmanager
def opened(
    path: Path | str, largest_inflated_bytes: int, tags: tuple[int, ...] = (), *, with_pixels: bool = False
) -> Iterator[Source]:
    """Open a DICOM file without following a link and without waiting for a pipe.

    Parameters
    ----------
    path
        The file.
    largest_inflated_bytes
        A deflated data set that inflates to more is refused; no more is ever held in memory.
    tags
        Elements to read at once, the fast way, if the header is an ordinary one (see `pipeline.dicom.reading.walker`).
    with_pixels
        Whether the pixels will be read too: then a small file is read as a whole, once.

    Yields
    ------
    Source
        With `tags`, its body may stand at the pixel data already (see `Source.header`); else at the first element.

    Raises
    ------
    FileFault
        ``NOT_A_REGULAR_FILE``, ``UNREADABLE_FILE``, ``EMPTY_FILE``, ``NOT_DICOM``, ``UNREADABLE_HEADER`` or, for
        a deflated file that is too large, ``BAD_DIMENSIONS``.

    References
    ----------
    DICOM PS3.10, section 7.1 (preamble and file meta information); PS3.5, section A.5 (deflated).
    """
    with _open_regular(path) as stream:
        facts = _facts(stream)
        if facts.st_size == 0:
            raise FileFault("EMPTY_FILE")
        if tags:
            found = _walked(stream, facts, tags, with_pixels=with_pixels)
        else:
            found = _at_data_set(stream, facts) if with_pixels else None
        yield found or _parsed(stream, facts, largest_inflated_bytes)


def _walked(
    stream: io.BufferedReader, facts: os.stat_result, tags: tuple[int, ...], *, with_pixels: bool
) -> Source | None:
    """Go the fast way; None, with the stream at its start, if the header is not an ordinary one."""
    size = facts.st_size
    is_read_at_once = size <= (_SMALL_FILE_BYTES if with_pixels else _HEAD_BYTES)
    head = os.pread(stream.fileno(), size if is_read_at_once else _HEAD_BYTES, 0)
    header = _walked_head(head, tags)
    while header is False and len(head) < min(size, _LONGEST_HEAD_BYTES):
        more = os.pread(stream.fileno(), min(3 * len(head), _LONGEST_HEAD_BYTES - len(head)), len(head))
        head += more
        header = _walked_head(head, tags) if more else None
    if not header or header.end > _LONGEST_HEAD_BYTES:
        return None
    answers = cast("Dataset", header)  # to the questions that `pipeline.dicom.reading.elements` asks
    return _source(stream, facts, head, (header.transfer_syntax_uid, answers, header.end), answers)


def _at_data_set(stream: io.BufferedReader, facts: os.stat_result) -> Source | None:
    """Read ordinary file meta information; None, with the stream at its start, if it is not ordinary, or deflated."""
    is_small = facts.st_size <= _SMALL_FILE_BYTES
    head = os.pread(stream.fileno(), facts.st_size if is_small else _LONGEST_HEAD_BYTES, 0)
    found = data_set_place(head)
    if found is None or found[0] == DeflatedExplicitVRLittleEndian:
        return None
    return _source(stream, facts, head, (found[0], cast("Dataset", found[1]), found[2]))


def _source(
    stream: io.BufferedReader,
    facts: os.stat_result,
    head: bytes,
    found: tuple[str, Dataset, int],
    header: Dataset | None = None,
) -> Source:
    """Give the file with its body at a position, in memory if all of it has been read."""
    syntax, meta, at = found
    body: BinaryIO = io.BytesIO(head) if len(head) == facts.st_size else stream
    body.seek(at)
    return Source(
        meta=meta,
        transfer_syntax_uid=syntax,
        body=body,
        end=facts.st_size,
        is_implicit=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
        stream=stream,
        size_bytes=facts.st_size,
        modified_ns=facts.st_mtime_ns,
        header=header,
        head=head,
    )


def _walked_head(head: bytes, tags: tuple[int, ...]) -> Header | Literal[False] | None:
    """Walk through what has been read: None if it is not an ordinary header, False if it is too little."""
    try:
        return walk(head, tags)
    except HeadTooShortError:
        return False
    except SequenceTooDeepError:
        raise FileFault("UNREADABLE_HEADER") from None


def _facts(stream: io.BufferedReader) -> os.stat_result:
    return os.fstat(stream.fileno())


def _parsed(stream: io.BufferedReader, facts: os.stat_result, largest_inflated_bytes: int) -> Source:
    """Read the file meta information with pydicom."""
    if stream.read(_PREAMBLE_BYTES + len(_MAGIC))[_PREAMBLE_BYTES:] != _MAGIC:
        raise FileFault("NOT_DICOM")
    meta = _read_elements(stream, False, True, stop=lambda tag: tag.group != _META_GROUP)
    syntax = str(meta.get("TransferSyntaxUID", "") or "")
    if not syntax:
        raise FileFault("UNREADABLE_HEADER")
    body: BinaryIO = stream
    end = facts.st_size
    if syntax == DeflatedExplicitVRLittleEndian:
        body, end = _inflated(stream, largest_inflated_bytes)
    return Source(
        meta=meta,
        transfer_syntax_uid=syntax,
        body=body,
        end=end,
        is_implicit=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
        stream=stream,
        size_bytes=facts.st_size,
        modified_ns=facts.st_mtime_ns,
    )


def read_elements(
    source: Source, tags: Sequence[int] | None, *, largest_value_bytes: int = _LARGEST_VALUE_BYTES
) -> Dataset:
    """Read some elements, or all (None), up to the pixel data, and leave the body at the pixel data (or at its end).

    Longer values than `largest_value_bytes` are skipped, not read.

    Raises
    ------
    FileFault
        ``UNREADABLE_HEADER``.
    """
    if tags is None and not source.is_implicit and source.is_little_endian:
        ordinary = read_ordinary(source.body, source.end, (_HEAD_BYTES, _LONGEST_HEAD_BYTES))
        if ordinary is not None:
            return ordinary
    return _read_elements(
        source.body,
        source.is_implicit,
        source.is_little_endian,
        stop=lambda tag: tag == PIXEL_DATA or tag in _FLOAT_PIXEL_DATA,
        tags=tags,
        largest_value_bytes=largest_value_bytes,
    )


def head_sha256(source: Source) -> str:
    """Digest what tells one file from another: its length and its first 16 KiB; every position stays as it was.

    The head of an image file holds its own UID, so no two instances share one. Whether two files with one UID
    are the same to the last byte is asked of `whole_sha256`, which costs as much as reading all of it.
    """
    head = source.head
    if not head:
        position = source.stream.tell()
        source.stream.seek(0)
        head = source.stream.read(_DIGEST_BYTES)
        source.stream.seek(position)
    return hashlib.sha256(source.size_bytes.to_bytes(8, "big") + head[:_DIGEST_BYTES]).hexdigest()


def whole_sha256(path: Path | str) -> str:
    """Digest all bytes of a file.

    Raises
    ------
    FileFault
        ``NOT_A_REGULAR_FILE`` or ``UNREADABLE_FILE``.
    """
    try:
        with _open_regular(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        raise FileFault("UNREADABLE_FILE") from None


def _open_regular(path: Path | str) -> io.BufferedReader:
    try:
        # O_NONBLOCK: opening a pipe must not wait for a writer; it changes nothing for a regular file.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        code = "UNREADABLE_FILE" if _is_regular(path) else "NOT_A_REGULAR_FILE"
        raise FileFault(code) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileFault("NOT_A_REGULAR_FILE")
    return os.fdopen(descriptor, "rb")


def _is_regular(path: Path | str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return True  # it is gone or out of reach: unreadable, of whatever type it is


def _read_elements(
    stream: BinaryIO,
    is_implicit: bool,
    is_little_endian: bool,
    *,
    stop: Callable[[BaseTag], bool],
    tags: Sequence[int] | None = None,
    largest_value_bytes: int = _LARGEST_VALUE_BYTES,
) -> Dataset:
    seen = 0

    def stop_when(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal seen
        seen += 1
        return stop(tag) or seen > _MOST_ELEMENTS

    try:
        found = read_dataset(
            stream,
            is_implicit,
            is_little_endian,
            stop_when=stop_when,
            defer_size=largest_value_bytes,
            specific_tags=list(tags) if tags is not None else None,
        )
    except Exception:  # noqa: BLE001  a damaged header makes pydicom raise nearly anything; its texts repeat values
        raise FileFault("UNREADABLE_HEADER") from None
    if seen > _MOST_ELEMENTS or found.original_encoding[0] not in {is_implicit, None}:
        raise FileFault("UNREADABLE_HEADER")
    return found


def _inflated(stream: BinaryIO, largest_bytes: int) -> tuple[BinaryIO, int]:
    body = io.BytesIO()
    inflator = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        while not inflator.eof:
            packed = inflator.unconsumed_tail or stream.read(_INFLATION_STEP_BYTES)
            plain = inflator.decompress(packed, _INFLATION_STEP_BYTES)
            if not packed and not plain:
                raise FileFault("TRUNCATED_FILE")
            body.write(plain)
            if body.tell() > largest_bytes:
                raise FileFault("BAD_DIMENSIONS")
    except zlib.error:
        raise FileFault("UNREADABLE_HEADER") from None
    end = body.tell()
    body.seek(0)
    return body, end
