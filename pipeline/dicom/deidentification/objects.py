"""Objects: any DICOM file, with or without pixels, becomes a de-identified one, whole as it is.

For those who need de-identification alone: reports, presentation states, segmentations and enhanced images go through
as well as slices and radiographs, and nothing is cut apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian

from pipeline.core.artefacts import replacing
from pipeline.core.errors import PipelineError
from pipeline.core.reasons import REASONS
from pipeline.dicom.decoding.pixel_format import NATIVE, PixelElement, pixel_element
from pipeline.dicom.deidentification.confidentiality import deidentify_dataset
from pipeline.dicom.deidentification.encoding import encoded_file, encoded_header
from pipeline.dicom.deidentification.hazards import HAZARD_TAGS, hazard
from pipeline.dicom.deidentification.leaks import identity_tokens
from pipeline.dicom.deidentification.options import MODIFIED_DATES
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms
from pipeline.dicom.deidentification.raw import copied, text_of
from pipeline.dicom.deidentification.receipt import counted
from pipeline.dicom.deidentification.rewriting import FAILED, refuse_leaks
from pipeline.dicom.deidentification.values import Identity
from pipeline.dicom.reading import elements
from pipeline.dicom.reading.files import (
    INFLATION_ROOM_BYTES,
    LARGEST_PIXEL_BYTES,
    MEGABYTE,
    FileFault,
    Source,
    opened,
    quiet,
    read_elements,
)
from pipeline.dicom.reading.paths import from_text

_LARGEST_HEADER_VALUE_BYTES = 16 * MEGABYTE
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_UID_TAGS = (0x0020000D, 0x0020000E, 0x00080018)
_SOP_CLASS = 0x00080016
_PATIENT_ID = 0x00100020
_SHORTEST_ELEMENT_BYTES = 8
_SIZES = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "NumberOfFrames")
_HARMLESS_TAGS = (*map(Tag, HAZARD_TAGS), *(Tag(keyword) for keyword in _SIZES))
_HARMLESS: set[tuple[object, ...]] = set()
_MOST_HARMLESS = 10_000


@dataclass(frozen=True)
class Original:
    """What a pseudonym stands for; it identifies."""

    kind: str  # "patient", or the keyword of a UID
    original: str
    pseudonym: str


@dataclass(frozen=True)
class WrittenObject:
    """One file that was written."""

    file: str  # below the target: <series>/<sop_uid>.dcm
    patient_id: str
    originals: tuple[Original, ...]
    counts: tuple[tuple[int, str, int], ...]


@dataclass(frozen=True)
class ObjectRewriter:
    """Rewrites files of one folder into another.

    Parameters
    ----------
    source
        The folder with the files; it is only read.
    target
        Where ``<series>/<sop_uid>.dcm`` are written.
    pseudonyms
        The keyed names.
    largest_date_shift_days
        Dates of a patient move back by one to this many days.
    options
        Words of `pipeline.dicom.deidentification.options.OPTIONS`.
    """

    source: Path
    target: Path
    pseudonyms: Pseudonyms
    largest_date_shift_days: int
    options: frozenset[str]

    def __call__(self, path: str) -> WrittenObject | str:
        """De-identify one file, named by its path below the source (as `reading.paths.as_text` writes it).

        Returns
        -------
        WrittenObject | str
            What was written, or the reason code why nothing was.

        Raises
        ------
        ArtefactError
            If the target cannot be written.
        """
        try:
            with quiet():
                return self._rewrite(self.source / from_text(path))
        except PipelineError:
            raise
        except FileFault as fault:
            return fault.code if fault.code in REASONS else FAILED
        except Exception:  # noqa: BLE001  whatever goes wrong with one file, the file stays behind and is counted
            return FAILED

    def _rewrite(self, path: Path) -> WrittenObject:
        with opened(path, LARGEST_PIXEL_BYTES + INFLATION_ROOM_BYTES) as file:
            found = read_elements(file, None, largest_value_bytes=_LARGEST_HEADER_VALUE_BYTES)
            facts = copied(found)
            place = _pixels(file)
            if place is not None:
                key = _harmless_key(found, file, place)
                if key not in _HARMLESS:
                    _require_harmless(facts, file, place)
                    if len(_HARMLESS) < _MOST_HARMLESS:
                        _HARMLESS.add(key)
            pixels = _value(file, place)
            return self._write(found, facts, file.transfer_syntax_uid, place, pixels)

    def _write(
        self, found: Dataset, facts: Dataset, syntax: str, place: PixelElement | None, pixels: bytes
    ) -> WrittenObject:
        before = [text_of(found, tag) for tag in _UID_TAGS]
        if not all(before) or not text_of(found, _SOP_CLASS):
            raise FileFault("MISSING_IDENTITY")
        patient_id = elements.text(facts, _PATIENT_ID) or f"study {before[0]}"  # nobody's, but not everybody's
        tokens = identity_tokens(found, self.options)
        identity = Identity(self.pseudonyms, patient_id, self.largest_date_shift_days, tokens)
        order = syntax != ExplicitVRBigEndian
        outcome = deidentify_dataset(found, identity, self.options, is_little_endian=order)
        header = encoded_header(outcome.dataset, syntax)
        refuse_leaks(outcome, tokens, self.options, pixels if place is not None and place.is_encapsulated else b"")
        after = [text_of(outcome.dataset, tag) for tag in _UID_TAGS]
        if not all(after):
            raise FileFault(FAILED)
        name = f"{after[1]}/{after[2]}.dcm"
        with replacing(self.target / name, flush=False) as temporary, temporary.open("wb") as stream:
            stream.writelines(encoded_file(header, syntax, place, pixels))
        return WrittenObject(name, patient_id, self._originals(patient_id, before, after), counted(outcome.counts))

    def _originals(self, patient_id: str, before: Sequence[str], after: Sequence[str]) -> tuple[Original, ...]:
        patient = Original("PatientID", patient_id, self.pseudonyms.patient(patient_id))
        return (patient, *map(Original, _UIDS, before, after))

    def shift_days(self, patient_id: str) -> int:
        """Give the number of days by which a patient's dates moved back."""
        is_moved = MODIFIED_DATES in self.options
        return self.pseudonyms.date_shift_days(patient_id, self.largest_date_shift_days) if is_moved else 0


def _pixels(file: Source) -> PixelElement | None:
    """Find the pixel data; None if the object ends without."""
    at = file.body.tell()
    return pixel_element(file) if file.end - at >= _SHORTEST_ELEMENT_BYTES else None


def _harmless_key(found: Dataset, file: Source, place: PixelElement) -> tuple[object, ...]:
    """Give all that `_require_harmless` looks at, as bytes: what was harmless once, is."""
    own = dict(found.items())
    values = (getattr(own.get(tag), "value", None) for tag in _HARMLESS_TAGS)
    return (*map(_comparable, values), file.transfer_syntax_uid, place.is_encapsulated, place.length)


def _comparable(value: object) -> object:
    """Give a value that can be held against others."""
    return value if value is None or isinstance(value, bytes) else repr(value)


def _require_harmless(facts: Dataset, file: Source, place: PixelElement) -> None:
    """Refuse pixels that may identify, and bytes that are no pixels."""
    code = hazard(facts)
    if code:
        raise FileFault(code)
    if place.is_encapsulated == (file.transfer_syntax_uid in NATIVE):
        raise FileFault("UNREADABLE_HEADER")
    numbers = [elements.integer(facts, word) or 0 for word in _SIZES[:4]]
    bits = (elements.integer(facts, "NumberOfFrames") or 1) * numbers[0] * numbers[1] * numbers[2] * numbers[3]
    wanted = (bits + 7) // 8
    if bits <= 0 or (not place.is_encapsulated and place.length != wanted + wanted % 2):
        raise FileFault("BAD_DIMENSIONS")


def _value(file: Source, place: PixelElement | None) -> bytes:
    if place is None:
        return b""
    file.body.seek(place.start)
    return file.body.read(place.length)
