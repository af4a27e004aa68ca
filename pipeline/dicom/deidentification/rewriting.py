"""Rewriting: a file of the archive becomes de-identified files of one image each, or a reason code.

Pixels stay as they are, but for mosaics, whose tiles become slices, and for what a rule blanks.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from pipeline.core.records import Instance
from pipeline.dicom.deidentification.burned_in import REFUSALS, SCREENING_TAGS, declare, screened
from pipeline.dicom.deidentification.file_rewriting import LARGEST_HEADER_VALUE_BYTES, FileRewriter
from pipeline.dicom.deidentification.leaks import CODE_KEYWORDS, NAME_KEYWORDS, UID_KEYWORDS, Tokens, identity_tokens
from pipeline.dicom.deidentification.new_headers import FAILED
from pipeline.dicom.deidentification.pixel_rules import Rectangle
from pipeline.dicom.deidentification.profile import read_rows
from pipeline.dicom.deidentification.raw import copied
from pipeline.dicom.deidentification.splitting import Single, decoded_bytes, singles
from pipeline.dicom.reading import elements
from pipeline.dicom.reading.files import INFLATION_ROOM_BYTES, FileFault, head_sha256, opened, read_elements
from pipeline.dicom.reading.paths import from_text
from pipeline.dicom.slices.frames import GROUP_TAGS, LARGEST_GROUPS_BYTES, set_element

_IDENTITY_KEYWORDS = (*NAME_KEYWORDS, *CODE_KEYWORDS, *UID_KEYWORDS, "PatientBirthDate")
# What a slice cut out of an object with several takes along; the rest is about the whole object.
_SLICE_TAGS = (
    *(tag for row in read_rows("slice_attributes.tsv") if (tag := tag_for_keyword(row["attribute"])) is not None),
    *(tag for keyword in _IDENTITY_KEYWORDS if (tag := tag_for_keyword(keyword)) is not None),
    *SCREENING_TAGS,
)


@dataclass(frozen=True)
class Rewritten:
    """What later stages may know about a de-identified instance; every identifier is a pseudonym."""

    source_sha256: str  # of the file's length and first 16 KiB, and the number of the frame
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
    characters: int = 0  # about how many are suspected in the pixels
    counts: tuple[tuple[int, str, int], ...] = ()  # tag, outcome and how often, for the receipt


class Rewriter(FileRewriter):
    """Rewrites instances of one archive into one folder; series are named like `pipeline.core.records.Series.name`."""

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
        return self.guarded(self._rewrite, instances, REFUSALS)

    def take_back(self, written: Rewritten) -> None:
        """Remove a file that was written.

        Raises
        ------
        ArtefactError
            If it cannot be removed.
        """
        self.remove(self._target(written))

    def _target(self, written: Rewritten) -> Path:
        series = f"{written.series_uid}-{written.part}" if written.part else written.series_uid
        return self.target / series / f"{written.sop_uid}.dcm"

    def _rewrite(self, instances: Sequence[Instance]) -> list[Rewritten]:
        first = instances[0]
        with opened(self._inside_source(first), decoded_bytes(first) + INFLATION_ROOM_BYTES) as file:
            now = (file.size_bytes, file.modified_ns, head_sha256(file))
            if now != (first.size_bytes, first.modified_ns, first.head_sha256):
                raise FileFault(FAILED)  # not the file that was scanned
            if first.frame:
                found = read_elements(file, (*_SLICE_TAGS, *GROUP_TAGS), largest_value_bytes=LARGEST_GROUPS_BYTES)
            else:
                found = read_elements(file, None, largest_value_bytes=LARGEST_HEADER_VALUE_BYTES)
            tokens = identity_tokens(copied(found), self.options)
            written: list[tuple[Path, Rewritten]] = []
            try:
                for instance, single in singles(file, found, instances):
                    written.append(self._write(instance, single, tokens))
            except BaseException:
                for path, _ in written:  # a part of a file is no file
                    with suppress(OSError):
                        path.unlink()
                raise
        return [one for _, one in written]

    def _write(self, instance: Instance, single: Single, tokens: Tokens) -> tuple[Path, Rewritten]:
        image = screened(replace(single, header=copied(single.header)), self.screen)
        single = image.single if image.rule else single
        if instance.frame:
            set_element(single.header, "SOPInstanceUID", instance.unit_uid)
        owner = instance.patient_id, tokens
        syntax = single.transfer_syntax_uid
        header, result = self.new_header(single.header, syntax, owner, partial(declare, screened_image=image))
        written = replace(
            self._describe(result, instance, single),
            rule=image.rule_name,
            blanked=image.rectangles,
            characters=image.characters,
            counts=header.counts,
        )
        target = self._target(written)
        self.write(target, header, syntax, tokens, single.place, single.pixels)
        return target, written

    def _inside_source(self, instance: Instance) -> Path:
        """Refuse a path that has come to lead out of the folder (a folder replaced by a link since the scan)."""
        path = Path(self.source, from_text(instance.path))
        root = os.path.realpath(self.source)
        if os.path.commonpath([root, os.path.realpath(path)]) != root:
            raise FileFault(FAILED)
        return path

    def _describe(self, result: Dataset, instance: Instance, single: Single) -> Rewritten:
        scanner = " ".join(filter(None, (elements.text(result, k) for k in ("Manufacturer", "ManufacturerModelName"))))
        return Rewritten(
            source_sha256=f"{instance.head_sha256}-{instance.frame:06d}",
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
