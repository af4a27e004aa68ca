"""Files: data sets as bytes on disk, the same bytes every time, under names that name somebody."""

import hashlib
import io
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from pipeline.phantom.canaries import Aviary, Numbers
from pipeline.phantom.headers import make_uid
from pipeline.phantom.manifest import CohortFile, LeavingStage
from pipeline.phantom.plan import Encoding


class LeftOut(NamedTuple):
    """Which stage must leave a file out, and its reason code."""

    stage: LeavingStage
    reason: str


STAYS = LeftOut("", "")
_SYNTAXES: dict[Encoding, tuple[UID, str]] = {
    "rle": (RLELossless, "pydicom"),
    "jpeg2000": (JPEG2000Lossless, "pylibjpeg"),
}


def to_bytes(data: Dataset, *, preamble: bytes, encoding: Encoding = "native") -> bytes:
    """Encode a data set as a DICOM file.

    Parameters
    ----------
    data
        With uncompressed pixels, if any; changed in place where `encoding` compresses them.
    preamble
        The 128 bytes before the marker.
    encoding
        Of the pixels: as they are, RLE (PS3.5 8.2.2) or lossless JPEG 2000 (PS3.5 8.2.4).
    """
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    # Named here because pydicom would put its version in, and the bytes would change with it.
    data.file_meta.ImplementationClassUID = UID(make_uid(0, "implementation"))
    data.file_meta.ImplementationVersionName = "PHANTOM_1"
    data.preamble = preamble
    if encoding in _SYNTAXES:
        syntax, plugin = _SYNTAXES[encoding]
        data.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    stream = io.BytesIO()
    dcmwrite(stream, data, enforce_file_format=True)
    return stream.getvalue()


class Archive:
    """The folder being filled, and the list of what lies in it.

    Parameters
    ----------
    folder
        Where files go; it exists and is empty.
    aviary
        Notes the tokens in file and folder names.
    """

    def __init__(self, folder: Path, aviary: Aviary) -> None:
        self._folder = folder
        self._aviary = aviary
        self.files: list[CohortFile] = []

    def place(self, numbers: Numbers, name: str, *, folder: str = "") -> str:
        """Name a file: site, patient and study folders with tokens, one more folder if asked for."""
        site = self._aviary.token("SITE", numbers.site, "folder name")
        patient = self._aviary.token("NAME", numbers.patient, "folder name")
        study = self._aviary.token("ACC", numbers.study, "folder name")
        file = self._aviary.token("FILE", numbers.study, "file name")
        # One site exports names without a suffix, as many archives do.
        suffix = ".dcm" if numbers.site else ""
        return str(PurePosixPath(site, patient, study, folder, f"{file}_{name}{suffix}"))

    def add_dataset(
        self,
        path: str,
        data: Dataset,
        *,
        preamble: bytes,
        encoding: Encoding = "native",
        left_out: LeftOut = STAYS,
    ) -> CohortFile:
        """Write a data set and list it with what its header says."""
        pixels = data.get("PixelData")
        found = CohortFile(
            path=path,
            sha256="",
            patient_id=str(data.PatientID),
            study_uid=str(data.StudyInstanceUID),
            series_uid=str(data.SeriesInstanceUID),
            sop_uid=str(data.SOPInstanceUID),
            photometric_interpretation=str(data.get("PhotometricInterpretation", "")),
            pixel_sha256=hashlib.sha256(pixels).hexdigest() if pixels is not None else "",
            stage=left_out.stage,
            reason=left_out.reason,
        )
        content = to_bytes(data, preamble=preamble, encoding=encoding)
        found = found.model_copy(update={"transfer_syntax_uid": str(data.file_meta.TransferSyntaxUID)})
        return self.add_bytes(content, found)

    def add_bytes(self, content: bytes, truth: CohortFile) -> CohortFile:
        """Write bytes where `truth` says, and list them."""
        target = self._folder / truth.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        listed = truth.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
        self.files.append(listed)
        return listed

    def add_link(self, truth: CohortFile, to: str) -> CohortFile:
        """Make a symbolic link to another file of the archive, and list it."""
        target = self._folder / truth.path
        target.parent.mkdir(parents=True, exist_ok=True)
        climb = "../" * (len(PurePosixPath(truth.path).parts) - 1)
        target.symlink_to(f"{climb}{to}")
        self.files.append(truth)
        return truth

    def read(self, path: str) -> bytes:
        """Read back what was written."""
        return (self._folder / path).read_bytes()
