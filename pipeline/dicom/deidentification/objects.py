"""Objects: any DICOM file, with or without pixels, becomes a de-identified one, whole as it is.

For those who need de-identification alone: reports and presentation states go through as well as slices, radiographs
and objects with many frames, and nothing is cut apart. Pixels are screened as they are in a study (`burned_in`): what
may show a name stays behind, unless a rule covers it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from pipeline.core.reasons import REASONS
from pipeline.dicom.decoding.pixel_format import NATIVE, PixelElement, pixel_element
from pipeline.dicom.deidentification.burned_in import (
    NEEDS_DECODER,
    REFUSALS,
    SCREENING_TAGS,
    Screened,
    declare,
    is_looked_at,
    screened,
)
from pipeline.dicom.deidentification.file_rewriting import LARGEST_HEADER_VALUE_BYTES, FileRewriter
from pipeline.dicom.deidentification.found_headers import FoundHeader, found_header
from pipeline.dicom.deidentification.hazards import HAZARD_TAGS, SOUND_CLASSES, SOUND_MODALITY
from pipeline.dicom.deidentification.leaks import Tokens, identity_tokens
from pipeline.dicom.deidentification.new_headers import FAILED, NAMING_UIDS, NewHeader
from pipeline.dicom.deidentification.options import MODIFIED_DATES
from pipeline.dicom.deidentification.pixel_rules import Rectangle
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms
from pipeline.dicom.deidentification.raw import copied, text_of
from pipeline.dicom.deidentification.recurring import patient_id_of, recurring
from pipeline.dicom.deidentification.splitting import Single
from pipeline.dicom.reading import elements
from pipeline.dicom.reading.files import INFLATION_ROOM_BYTES, LARGEST_PIXEL_BYTES, FileFault, Slot, Source, opened
from pipeline.dicom.reading.paths import from_text
from pipeline.dicom.slices.frames import CLASSIC
from pipeline.dicom.slices.headers import SLICE_MODALITIES, parsed_date

_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_SOP_CLASS = 0x00080016
_SHORTEST_ELEMENT_BYTES = 8
_SIZES = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "NumberOfFrames")
_SUBJECT = ("Manufacturer", "ManufacturerModelName", "PhotometricInterpretation")
_HARMLESS_TAGS = (*map(Tag, HAZARD_TAGS), *map(Tag, _SIZES), *map(Tag, _SUBJECT))  # all that `screened` decides by
_MODALITY, _IMAGE_TYPE, _NUMBER, _POSITION = 0x00080060, 0x00080008, 0x00200013, 0x00200032
_WHOLE_NUMBER = re.compile(r"\d{1,9}")
_NO_SLICES = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SECONDARY"})  # of Image Type: look at them all
_MOST_REMEMBERED = 10_000
_HARMLESS: set[tuple[object, ...]] = set()
_PERSON_TAGS = (Tag(0x00080005), Tag(0x00100021), Tag(0x00100030), Tag(0x00100040))  # with the character set
_SEXES = frozenset({"M", "F"})
_PEOPLE: dict[tuple[object, ...], "Person"] = {}


class Original(NamedTuple):
    """What a pseudonym stands for; it identifies."""

    kind: str  # "PatientID", or the keyword of a UID
    original: str
    pseudonym: str


class Person(NamedTuple):
    """What tells two people under one Patient ID apart; empty where the file does not say; it identifies."""

    issuer: str  # letters and digits of it, in lower case: spellings vary
    birth_date: str
    sex: str


_NOBODY = Person("", "", "")


@dataclass(frozen=True)
class WrittenObject:
    """One file that was written."""

    file: str  # below the target: <series>/<sop_uid>.dcm
    patient_id: str
    originals: tuple[Original, ...]
    counts: tuple[tuple[int, str, int], ...]
    sop_uid: str
    series_uid: str
    volume: str = ""  # keyed UID of the series if it is a slice, so that only some of its neighbours are looked at
    slice_number: int | None = None  # of a slice
    rule: str = ""  # by which pixels were blanked
    blanked: tuple[Rectangle, ...] = ()
    characters: int = 0  # about how many are suspected in the pixels
    person: Person = _NOBODY


@dataclass(frozen=True)
class ObjectRewriter(FileRewriter):
    """Rewrites files of one folder into another, whole as they are.

    Parameters
    ----------
    may_decode
        Whether compressed pixels are decoded where they must be looked at; without it such a file is refused with
        `NEEDS_DECODER`. What a decoder does with a hostile file should cost no more than the process it is in.
    looks_at_all
        Whether slices of volumes are looked at whatever their numbers.
    """

    may_decode: bool = False
    looks_at_all: bool = False

    def __call__(self, path: str) -> WrittenObject | str:
        """De-identify one file, named by its path below the source (as `reading.paths.as_text` writes it).

        Returns
        -------
        WrittenObject | str
            What was written, or the reason code why nothing was: a `Refusal` that names the volume (as in
            `WrittenObject.volume`) if it is a slice that its pixels keep out.

        Raises
        ------
        ArtefactError
            If the target cannot be written.
        """
        return self.guarded(self._rewrite, self.source / from_text(path), {*REASONS, NEEDS_DECODER})

    def _rewrite(self, path: Path) -> WrittenObject:
        with opened(path, LARGEST_PIXEL_BYTES + INFLATION_ROOM_BYTES, with_pixels=True) as file:
            found = found_header(file, LARGEST_HEADER_VALUE_BYTES)
            place = _pixels(file)
            *before, sop_class = found.uids((*NAMING_UIDS, _SOP_CLASS))
            if sop_class in SOUND_CLASSES or found.text(_MODALITY) == SOUND_MODALITY:
                raise FileFault("SOUND_RECORDING")
            if place is None:
                return replace(self._write(found, file, None, None, before, sop_class), person=person_of(found))
            number = slice_number(found)
            try:
                image = self._screened(found, file, place, None if self.looks_at_all else number)
            except FileFault as fault:
                if number is not None and fault.code in {*REFUSALS, NEEDS_DECODER}:
                    raise FileFault(fault.code, Slot(self._volume(before), "")) from None
                raise
            written = self._write(found, file, place, image, before, sop_class)
            written = replace(written, person=person_of(found))
            return written if number is None else replace(written, volume=self._volume(before), slice_number=number)

    def _screened(self, found: FoundHeader, file: Source, place: PixelElement, number: int | None) -> Screened | None:
        """Look at pixels, or clean them; None if those of a slice like others that passed need no look."""
        syntax = file.transfer_syntax_uid
        key = (self.screen, *found.values(_HARMLESS_TAGS), syntax, place.is_encapsulated, place.length)
        if key in _HARMLESS and not is_looked_at(number):
            return None
        # Without rules nothing of the image is written from here: what screening looks at is enough.
        header = copied(found.dataset) if self.screen.rules else found.part(SCREENING_TAGS)
        _check_size(header, file, place)
        pixels = bytes(file.value(place.start, place.length))
        frames_are_slices = elements.text(header, _SOP_CLASS) in CLASSIC
        single = Single(header, syntax, place, pixels, LARGEST_PIXEL_BYTES, number, frames_are_slices)
        image = screened(single, self.screen, may_decode=self.may_decode or syntax in NATIVE)
        if image.rule is None and len(_HARMLESS) < _MOST_REMEMBERED:
            _HARMLESS.add(key)
        return image

    def _write(
        self,
        found: FoundHeader,
        file: Source,
        place: PixelElement | None,
        image: Screened | None,
        before: list[str],
        sop_class: str,
    ) -> WrittenObject:
        if not all(before) or not sop_class:
            raise FileFault("MISSING_IDENTITY")
        syntax = file.transfer_syntax_uid
        if image is not None and image.rule is not None:
            pixels: bytes | memoryview = image.single.pixels
            syntax, place = image.single.transfer_syntax_uid, image.single.place
            owner = self._owner(found.dataset)
            declared = partial(declare, screened_image=image)
            header, _ = self.new_header(image.single.header, syntax, owner, declared)
        else:
            pixels = file.value(place.start, place.length) if place else b""
            header, owner = self._header(found, syntax)
        if not all(header.uids):
            raise FileFault(FAILED)
        _, series, sop = header.uids
        name = f"{series}/{sop}.dcm"
        self.write(self.target / name, header, syntax, owner[1], place, pixels)
        originals = self._originals(owner[0], before, header.uids)
        if image is None:
            return WrittenObject(name, owner[0], originals, header.counts, sop, series)
        marks = image.rule_name, image.rectangles, image.characters
        return WrittenObject(name, owner[0], originals, header.counts, sop, series, "", None, *marks)

    def _header(self, found: FoundHeader, syntax: str) -> tuple[NewHeader, tuple[str, Tokens]]:
        """Make a new header, out of what recurs if there is that."""
        if found.pieces is not None:
            memory = recurring(self.pseudonyms, self.largest_date_shift_days, self.options)
            new = memory.header(found.pieces, syntax, is_implicit=found.is_implicit)
            if new is not None:
                header, identity = new
                return header, (identity.patient_id, identity.tokens)
        owner = self._owner(found.dataset)
        return self.new_header(found.dataset, syntax, owner)[0], owner

    def _owner(self, found: Dataset) -> tuple[str, Tokens]:
        return patient_id_of(found), identity_tokens(found, self.options)

    def _volume(self, before: Sequence[str]) -> str:
        """Name the series of a slice by the key, whatever becomes of its UID under the options."""
        return self.pseudonyms.uid(before[1])

    def _originals(self, patient_id: str, before: Sequence[str], after: Sequence[str]) -> tuple[Original, ...]:
        patient = Original("PatientID", patient_id, _patient(self.pseudonyms, patient_id))
        return (patient, *map(Original, _UIDS, before, after))

    def shift_days(self, patient_id: str) -> int:
        """Give the number of days by which a patient's dates moved back."""
        is_moved = MODIFIED_DATES in self.options
        return self.pseudonyms.date_shift_days(patient_id, self.largest_date_shift_days) if is_moved else 0


@lru_cache(maxsize=1000)
def _patient(pseudonyms: Pseudonyms, patient_id: str) -> str:
    return pseudonyms.patient(patient_id)


def person_of(found: FoundHeader) -> Person:
    """Read what tells two people under one Patient ID apart; an odd value is as good as none."""
    key = found.values(_PERSON_TAGS)
    if key not in _PEOPLE:
        if len(_PEOPLE) >= _MOST_REMEMBERED:
            _PEOPLE.clear()
        issuer, born, sex = (text_of(found.part(_PERSON_TAGS), tag) for tag in _PERSON_TAGS[1:])
        letters = "".join(filter(str.isalnum, issuer.casefold()))
        _PEOPLE[key] = Person(letters, born if parsed_date(born) else "", sex.upper() if sex.upper() in _SEXES else "")
    return _PEOPLE[key]


def slice_number(found: FoundHeader) -> int | None:
    """Give the number of a slice of a volume; None for anything else, and for slices without a number."""
    if found.text(_MODALITY) not in SLICE_MODALITIES or not found.text(_POSITION):
        return None
    if not _NO_SLICES.isdisjoint(found.text(_IMAGE_TYPE).upper().split("\\")):
        return None
    number = found.text(_NUMBER)
    return int(number) if _WHOLE_NUMBER.fullmatch(number) else None


def _pixels(file: Source) -> PixelElement | None:
    """Find the pixel data; None if the object ends without."""
    at = file.body.tell()
    return pixel_element(file) if file.end - at >= _SHORTEST_ELEMENT_BYTES else None


def _check_size(header: Dataset, file: Source, place: PixelElement) -> None:
    """Refuse bytes that are no pixels."""
    if place.is_encapsulated == (file.transfer_syntax_uid in NATIVE):
        raise FileFault("UNREADABLE_HEADER")
    numbers = [elements.integer(header, word) or 0 for word in _SIZES[:4]]
    bits = (elements.integer(header, "NumberOfFrames") or 1) * numbers[0] * numbers[1] * numbers[2] * numbers[3]
    wanted = (bits + 7) // 8
    if bits <= 0 or (not place.is_encapsulated and place.length != wanted + wanted % 2):
        raise FileFault("BAD_DIMENSIONS")
