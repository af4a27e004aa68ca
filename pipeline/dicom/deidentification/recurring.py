"""Recurring elements: what the files of one study have in common is treated, searched and encoded once.

Slice after slice repeats nine elements of ten, byte for byte. What becomes of an element depends on its bytes, on the
patient, on the options and on the kind of object, and (with exceptions that are declined here) on nothing else: so
bytes that stood in a file of the study before are replaced by what they became then. Whatever is not remembered is
treated, encoded and searched by the same functions as any other header (`confidentiality`, `encoding`, `leaks`);
nothing is decided here. Headers out of the ordinary, and every suspicion, go the other way (`new_headers`), which has
the last word.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from pipeline.dicom.deidentification.confidentiality import Element, Walk, required, texts_to_search, walk_of
from pipeline.dicom.deidentification.decisions import Place
from pipeline.dicom.deidentification.encoding import encoded_elements, encoded_meta
from pipeline.dicom.deidentification.leaks import IDENTITY_TAGS, UID_TAGS, identity_tokens, is_worth_a_search
from pipeline.dicom.deidentification.new_headers import NAMING_UIDS, STUDY_UID, NewHeader, words_written
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms
from pipeline.dicom.deidentification.raw import text_of
from pipeline.dicom.deidentification.values import Identity
from pipeline.dicom.reading import elements
from pipeline.dicom.reading.files import FileFault
from pipeline.dicom.reading.ordinary import dataset_of, raw_of

_SOP_CLASS, _PATIENT_ID = 0x00080016, 0x00100020
_PLAIN_UIDS = {_SOP_CLASS, *NAMING_UIDS, *map(int, UID_TAGS)}
# What tells one study from another, for the purpose of remembering.
_OF_A_STUDY = (
    *(tag for word in ("PatientBirthDate", "PatientAge", "StudyDate") if (tag := tag_for_keyword(word)) is not None),
    *(_SOP_CLASS, STUDY_UID),
    *map(int, IDENTITY_TAGS),
)
_SHORT_HEADER_BYTES = 8
_MOST_STUDIES = 32  # that are remembered at a time
_MOST_BYTES = 2_000_000  # of one study's elements; some memory around them comes on top
_LONGEST_BYTES = 1 << 17


class _Passed(NamedTuple):
    """What an element became."""

    written: bytes  # empty if it went
    counts: tuple[tuple[int, str], ...]


@dataclass
class _Study:
    """What is the same in all files of a study and of one kind of object."""

    walk: Walk
    place: Place
    identity: Identity
    source: Dataset  # of the first file, without elements: for its character set
    transfer_syntax_uid: str
    is_implicit: bool
    required: dict[int, bytes]
    fixed_words: str
    known: dict[bytes, _Passed] = field(default_factory=dict)
    bytes: int = 0


@lru_cache(maxsize=2)
def recurring(pseudonyms: Pseudonyms, largest_date_shift_days: int, options: frozenset[str]) -> "Recurring":
    """Give the memory for a key and options."""
    return Recurring(pseudonyms, largest_date_shift_days, options)


@dataclass
class Recurring:
    """Remembers what became of elements."""

    pseudonyms: Pseudonyms
    largest_date_shift_days: int
    options: frozenset[str]
    _studies: dict[tuple[object, ...], _Study | None] = field(default_factory=dict)

    def header(
        self, pieces: Mapping[int, bytes], transfer_syntax_uid: str, *, is_implicit: bool
    ) -> tuple[NewHeader, Identity] | None:
        """Give a new header, or nothing if the file is to go the other way.

        Parameters
        ----------
        pieces
            The elements of the data set as they stand (`reading.ordinary.ordinary_pieces`), little endian.
        transfer_syntax_uid, is_implicit
            How the data set is encoded, and will be.

        Raises
        ------
        FileFault
            As `new_headers.new_header`.
        """
        key = (transfer_syntax_uid, *map(pieces.get, _OF_A_STUDY))
        if key in self._studies:
            study = self._studies[key]
        else:
            study = self._study(pieces, transfer_syntax_uid, is_implicit)
            if len(self._studies) >= _MOST_STUDIES:
                del self._studies[next(iter(self._studies))]
            self._studies[key] = study
        if not are_plain_uids(pieces, is_implicit):
            return None
        passed = _passed(study, pieces) if study else None
        if study is None or passed is None:
            return None
        written = {tag: one.written for tag, one in zip(pieces, passed, strict=True)}
        written |= study.required
        body = b"".join([written[tag] for tag in sorted(written)])
        if "retain_uids" not in self.options:
            folded = body.lower()
            uids = filter(is_worth_a_search, {uid_of(pieces.get(tag)) for tag in UID_TAGS})
            if any(uid.encode() in folded for uid in uids):
                return None
        counts = Counter(chain.from_iterable([one.counts for one in passed]))
        uids_after = tuple([uid_of(written.get(tag)) for tag in NAMING_UIDS])
        meta = encoded_meta(uid_of(written.get(_SOP_CLASS)), uids_after[-1], transfer_syntax_uid)
        return NewHeader(
            (meta, body), uids_after, tuple([(*key, number) for key, number in counts.items()])
        ), study.identity

    def _study(self, pieces: Mapping[int, bytes], transfer_syntax_uid: str, is_implicit: bool) -> _Study | None:
        source = dataset_of(pieces, is_implicit=is_implicit)
        tokens = identity_tokens(source, self.options)
        patient_id = patient_id_of(source)
        identity = Identity(self.pseudonyms, patient_id, self.largest_date_shift_days, tokens)
        walk = walk_of(identity, is_little_endian=True)
        ours = required(source, walk.values.pseudonym, self.options)
        empty = Dataset()
        empty.set_original_encoding(is_implicit, True, source.original_character_set)
        study = _Study(
            walk,
            Place(self.options, text_of(source, _SOP_CLASS)),
            identity,
            empty,
            transfer_syntax_uid,
            is_implicit,
            {int(tag): encoded_elements(Dataset({tag: one}), transfer_syntax_uid) for tag, one in ours.items()},
            words_written(self.options),
        )
        return study if _is_clean(study, ours, set()) else None


def _passed(study: _Study, pieces: Mapping[int, bytes]) -> list[_Passed] | None:
    """Give what became of each element; None if one of them takes more than its own bytes to decide."""
    recall = study.known.get
    found = list(map(recall, pieces.values()))
    if None not in found:
        return found  # type: ignore[return-value]  # asked just now
    new: dict[BaseTag, Element] = {}
    made: set[str] = set()
    learned: list[tuple[bytes, _Passed]] = []
    for index, ((tag, piece), known) in enumerate(zip(pieces.items(), found, strict=True)):
        if known is not None:
            continue
        raw = raw_of(tag, piece, is_implicit=study.is_implicit)
        treated = study.walk.element(raw, study.place, study.source)
        if treated is None:
            return None
        written = b""
        if treated.element is not None:
            new[raw.tag] = treated.element
            made |= treated.made
            written = encoded_elements(Dataset({raw.tag: treated.element}), study.transfer_syntax_uid)
        passed = _Passed(written, treated.counts)
        found[index] = passed
        learned.append((piece, passed))
    if not _is_clean(study, new, made):
        return None
    for piece, known in learned:
        if len(piece) <= _LONGEST_BYTES:
            study.bytes += len(piece) + len(known.written)
            study.known[piece] = known
    if study.bytes > _MOST_BYTES:
        study.known.clear()
        study.bytes = 0
    return found  # type: ignore[return-value]  # what was None is not any more


def _is_clean(study: _Study, new: dict[BaseTag, Element], made: set[str]) -> bool:
    """Tell whether elements hold none of the patient's words, by themselves.

    This search finds whatever that of a whole header finds: less of what was made up is left out of it.
    """
    texts, numbers = texts_to_search(new)
    tokens = study.walk.values.identity.tokens  # the words; UIDs are searched for in every file
    generated = [one for one in (*made, study.walk.values.pseudonym) if one]
    is_found = tokens.are_in_bytes(texts, generated=generated, fixed_words=study.fixed_words)
    return not is_found and not tokens.long_in_bytes(numbers)


def patient_id_of(source: Dataset) -> str:
    """Give the patient's number. Without one the patient is nobody, but not everybody: the study's.

    Raises
    ------
    FileFault
        ``MISSING_IDENTITY`` if characters of it cannot be read: patients who differ in them would become one.
    """
    found = text_of(source, _PATIENT_ID)
    if elements.is_garbled(found):
        raise FileFault("MISSING_IDENTITY")
    return found or f"study {text_of(source, STUDY_UID)}"


def uid_of(piece: bytes | None) -> str:
    """Give a UID as text; both encodings of it begin with eight bytes."""
    return (piece or b"")[_SHORT_HEADER_BYTES:].decode("ascii").strip(" \0")


def are_plain_uids(pieces: Mapping[int, bytes], is_implicit: bool) -> bool:
    """Tell whether `uid_of` can read the UIDs of a header."""
    return all(_is_plain_uid(pieces.get(tag), is_implicit) for tag in _PLAIN_UIDS)


def _is_plain_uid(piece: bytes | None, is_implicit: bool) -> bool:
    """Tell whether an element is a single UID in the form in which `uid_of` reads it, or is not there."""
    if piece is None:
        return True
    value = piece[_SHORT_HEADER_BYTES:]
    return (is_implicit or piece[4:6] == b"UI") and value.isascii() and b"\\" not in value
