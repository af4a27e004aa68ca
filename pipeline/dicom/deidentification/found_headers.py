"""Found headers: what a file says, in pieces if it is ordinary, and as a data set when that is asked for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from pipeline.dicom.deidentification.raw import copied, text_of
from pipeline.dicom.deidentification.recurring import are_plain_uids, uid_of
from pipeline.dicom.reading.files import Source, read_elements
from pipeline.dicom.reading.ordinary import dataset_of, ordinary_pieces

_CHARACTER_SET = 0x00080005
_SHORT_HEADER_BYTES = 8
_TEXTS = frozenset({b"CS", b"DS", b"IS"})


@dataclass
class FoundHeader:
    """All elements in front of the pixel data.

    Attributes
    ----------
    pieces
        As they stand, by tag; None if the header is out of the ordinary.
    is_implicit
        How they are encoded.
    """

    pieces: dict[int, bytes] | None
    is_implicit: bool
    _dataset: Dataset | None = None

    @property
    def dataset(self) -> Dataset:
        """The same as a data set of pydicom's."""
        if self._dataset is None:
            self._dataset = dataset_of(self.pieces or {}, is_implicit=self.is_implicit)
        return self._dataset

    def part(self, tags: Iterable[int]) -> Dataset:
        """Give some elements as a data set of their own (all of them, if the header is out of the ordinary)."""
        if self.pieces is None:
            return copied(self.dataset)
        wanted = {tag: piece for tag in (_CHARACTER_SET, *sorted(set(tags))) if (piece := self.pieces.get(tag))}
        return dataset_of(wanted, is_implicit=self.is_implicit)

    def uids(self, tags: Sequence[int]) -> list[str]:
        """Give UIDs as text; empty where there is none."""
        if self.pieces is not None and are_plain_uids(self.pieces, self.is_implicit):
            return [uid_of(self.pieces.get(tag)) for tag in tags]
        return [text_of(self.dataset, tag) for tag in tags]

    def text(self, tag: int) -> str:
        """Give a text in ASCII letters; empty if it is not there, or is written in others."""
        if self.pieces is None:
            found = text_of(self.dataset, tag) if tag in self.dataset else ""
            return found if found.isascii() else ""
        piece = self.pieces.get(tag, b"")
        value = piece[_SHORT_HEADER_BYTES:]
        is_plain = value.isascii() and (self.is_implicit or piece[4:6] in _TEXTS)
        return value.decode("ascii").strip(" \0") if is_plain else ""

    def values(self, tags: Sequence[BaseTag]) -> tuple[object, ...]:
        """Give elements in a form that can be held against that of others: equal forms, equal elements."""
        if self.pieces is not None:
            return (self.is_implicit, *map(self.pieces.get, tags))
        return (None, *[_comparable(getattr(self.dataset.get_item(tag), "value", None)) for tag in tags])


def found_header(file: Source, largest_value_bytes: int) -> FoundHeader:
    """Read a header and leave the body at the pixel data.

    Raises
    ------
    FileFault
        ``UNREADABLE_HEADER``.
    """
    if file.head and file.is_little_endian:
        is_whole = len(file.head) == file.end
        cut = ordinary_pieces(file.head, file.body.tell(), is_implicit=file.is_implicit, is_whole=is_whole)
        if cut is not None:
            file.body.seek(cut[1])
            return FoundHeader(cut[0], file.is_implicit)
    return FoundHeader(None, file.is_implicit, read_elements(file, None, largest_value_bytes=largest_value_bytes))


def _comparable(value: object) -> object:
    return value if value is None or isinstance(value, bytes) else repr(value)
