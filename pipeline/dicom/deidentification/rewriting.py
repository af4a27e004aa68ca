"""Rewriting: a file of the archive becomes de-identified files of one image each, or a reason code.

Pixels stay as they are, but for mosaics, whose tiles become slices, and for what a rule blanks.
"""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from pipeline.core.artefacts import replacing
from pipeline.core.errors import ArtefactError, PipelineError
from pipeline.core.records import Instance
from pipeline.dicom.deidentification.burned_in import FIXED_WORDS, REFUSALS, SCREENING_TAGS, Screen, declare, screened
from pipeline.dicom.deidentification.confidentiality import Identity, deidentified, fixed_words, profile
from pipeline.dicom.deidentification.encoding import encoded_file, encoded_header
from pipeline.dicom.deidentification.leaks import CODE_KEYWORDS, NAME_KEYWORDS, UID_KEYWORDS, Tokens, identity_tokens
from pipeline.dicom.deidentification.pixel_rules import Rectangle
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms
from pipeline.dicom.deidentification.splitting import Single, decoded_bytes, singles
from pipeline.dicom.reading import elements
from pipeline.dicom.reading.files import (
    INFLATION_ROOM_BYTES,
    FileFault,
    Source,
    head_sha256,
    opened,
    quiet,
    read_elements,
)
from pipeline.dicom.reading.paths import from_text
from pipeline.dicom.slices.frames import GROUP_TAGS, LARGEST_GROUPS_BYTES, set_element

_IDENTITY_KEYWORDS = (*NAME_KEYWORDS, *CODE_KEYWORDS, *UID_KEYWORDS, "PatientBirthDate")
WORTH_PROCESSES = 400  # fewest instances for which starting worker processes pays
_NO_RULES = Screen()
FAILED = "DEIDENTIFICATION_FAILED"
# Elements that are in no list are never even read.
_TAGS = (
    *(rule.tag for rule in profile() if "." not in rule.attribute and rule.action != "pixels"),
    *(tag for keyword in _IDENTITY_KEYWORDS if (tag := tag_for_keyword(keyword)) is not None),
    *SCREENING_TAGS,
)
# Comments of a compressed image stand in front of its data or behind them. Short words turn up there by chance.
_CODESTREAM_ENDS_BYTES = 1 << 16
_SHORTEST_WORD_IN_CODESTREAM = 6


@dataclass(frozen=True)
class Rewritten:
    """What later stages may know about a de-identified instance; every identifier is a pseudonym."""

    source_sha256: str  # of the whole file, and the number of the frame
    patient: str
    study_uid: str
    series_uid: str
    part: int
    part_axis: str
    sop_uid: str
    site: str
    modality: str
    kind: str
    rows: int
    columns: int
    photometric_interpretation: str
    is_compressed: bool
    scanner: str
    body_part: str
    view_position: str
    study_date: str  # YYYYMMDD, shifted
    patient_age: str
    patient_sex: str
    rule: str = ""  # by which pixels were blanked
    blanked: tuple[Rectangle, ...] = ()


@dataclass(frozen=True)
class Rewriter:
    """Rewrites instances of one archive into one folder.

    Parameters
    ----------
    source
        The folder that was scanned; it is only read.
    target
        Where ``<series>/<sop_uid>.dcm`` are written; series are named like `pipeline.core.records.Series.name`.
    pseudonyms
        The keyed names.
    largest_date_shift_days
        Dates of a patient move back by one to this many days.
    screen
        Which images may leave although their pixels may identify somebody.
    """

    source: Path
    target: Path
    pseudonyms: Pseudonyms
    largest_date_shift_days: int
    screen: Screen = _NO_RULES

    def __call__(self, instances: Sequence[Instance]) -> list[Rewritten] | str:
        """De-identify one file.

        Parameters
        ----------
        instances
            The file, or those of its frames that are wanted.

        Returns
        -------
        list | str
            What was written for each, or ``DEIDENTIFICATION_FAILED`` or one of `burned_in.REFUSALS`, in which case
            nothing was.

        Raises
        ------
        ArtefactError
            If the target cannot be written.
        """
        try:
            with quiet():
                return self._rewrite(instances)
        except PipelineError:
            raise
        except FileFault as fault:
            return fault.code if fault.code in REFUSALS else FAILED
        except Exception:  # noqa: BLE001  whatever goes wrong with one file, the file stays behind and is counted
            return FAILED

    def take_back(self, written: Rewritten) -> None:
        """Remove a file that was written.

        Raises
        ------
        ArtefactError
            If it cannot be removed.
        """
        path = self._target(written)
        try:
            path.unlink()
        except OSError as error:
            what = f"cannot remove a file ({error.strerror})"
            raise ArtefactError(what, where=str(path), remedy="check the permissions") from error

    def _target(self, written: Rewritten) -> Path:
        series = f"{written.series_uid}-{written.part}" if written.part else written.series_uid
        return self.target / series / f"{written.sop_uid}.dcm"

    def _rewrite(self, instances: Sequence[Instance]) -> list[Rewritten]:
        first = instances[0]
        with opened(self._inside_source(first), decoded_bytes(first) + INFLATION_ROOM_BYTES) as file:
            now = (file.size_bytes, file.modified_ns, head_sha256(file))
            if now != (first.size_bytes, first.modified_ns, first.head_sha256):
                raise FileFault(FAILED)  # not the file that was scanned
            digest = _whole_sha256(file)
            if first.frame:
                found = read_elements(file, (*_TAGS, *GROUP_TAGS), largest_value_bytes=LARGEST_GROUPS_BYTES)
            else:
                found = read_elements(file, _TAGS)
            tokens = identity_tokens(found)
            written: list[tuple[Path, Rewritten]] = []
            try:
                for single in singles(file, found, instances):
                    written.append(self._write(single, tokens, digest))
            except BaseException:
                for path, _ in written:  # a part of a file is no file
                    with suppress(OSError):
                        path.unlink()
                raise
        return [one for _, one in written]

    def _write(self, single: Single, tokens: Tokens, digest: str) -> tuple[Path, Rewritten]:
        image = screened(single, self.screen)
        single = image.single
        instance, syntax, pixels = single.instance, single.transfer_syntax_uid, single.pixels
        if instance.frame:
            set_element(single.header, "SOPInstanceUID", instance.unit_uid)
        identity = Identity(self.pseudonyms, instance.patient_id, self.largest_date_shift_days, tokens)
        result = deidentified(single.header, identity)
        declare(result, image)
        header = encoded_header(result, syntax)
        _refuse_leaks(result, b"".join(header), tokens, pixels if single.place.is_encapsulated else b"")
        written = replace(self._describe(result, single, digest), blanked=image.rectangles, rule=image.rule_name)
        target = self._target(written)
        with replacing(target, flush=False) as temporary, temporary.open("wb") as stream:
            stream.writelines(encoded_file(header, syntax, single.place, pixels))
        return target, written

    def _inside_source(self, instance: Instance) -> Path:
        """Refuse a path that has come to lead out of the folder (a folder replaced by a link since the scan)."""
        path = Path(self.source, from_text(instance.path))
        root = os.path.realpath(self.source)
        if os.path.commonpath([root, os.path.realpath(path)]) != root:
            raise FileFault(FAILED)
        return path

    def _describe(self, result: Dataset, single: Single, digest: str) -> Rewritten:
        instance = single.instance
        scanner = " ".join(filter(None, (elements.text(result, k) for k in ("Manufacturer", "ManufacturerModelName"))))
        return Rewritten(
            source_sha256=f"{digest}-{instance.frame:06d}",
            patient=elements.text(result, "PatientID"),
            study_uid=elements.text(result, "StudyInstanceUID"),
            series_uid=elements.text(result, "SeriesInstanceUID"),
            part=instance.part,
            part_axis=instance.part_axis,
            sop_uid=elements.text(result, "SOPInstanceUID"),
            site=self.pseudonyms.site(instance.institution),
            modality=elements.text(result, "Modality"),
            kind=instance.kind,
            rows=instance.rows,
            columns=instance.columns,
            photometric_interpretation=elements.text(single.header, "PhotometricInterpretation"),
            is_compressed=single.place.is_encapsulated,
            scanner=scanner,
            body_part=elements.text(result, "BodyPartExamined"),
            view_position=elements.text(result, "ViewPosition"),
            study_date=elements.text(result, "StudyDate"),
            patient_age=elements.text(result, "PatientAge"),
            patient_sex=elements.text(result, "PatientSex"),
        )


def _whole_sha256(file: Source) -> str:
    """Digest every byte of the file and leave its position as it was."""
    position = file.stream.tell()
    file.stream.seek(0)
    digest = hashlib.file_digest(file.stream, "sha256").hexdigest()
    file.stream.seek(position)
    return digest


def _refuse_leaks(result: Dataset, header: bytes, tokens: Tokens, codestream: bytes) -> None:
    """Search what is about to be written for the source's identity; the rules should leave nothing to be found."""
    generated = [
        elements.text(result, rule.attribute)
        for rule in profile()
        if rule.action in {"uid", "date", "pseudonym", "age"} and rule.attribute in result
    ]
    ends = codestream[:_CODESTREAM_ENDS_BYTES] + codestream[-_CODESTREAM_ENDS_BYTES:]
    long_words = Tokens(frozenset(word for word in tokens.words if len(word) >= _SHORTEST_WORD_IN_CODESTREAM))
    if tokens.are_in_bytes(header, generated=filter(None, generated), fixed_words=f"{fixed_words()}\n{FIXED_WORDS}"):
        raise FileFault(FAILED)
    if long_words.are_in_bytes(ends):
        raise FileFault(FAILED)
