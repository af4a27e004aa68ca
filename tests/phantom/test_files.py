"""What is on disk decodes to what was drawn, whatever the compression."""

import hashlib

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

SYNTAXES = {ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless}


def test_every_accepted_file_decodes_to_the_pixels_of_the_manifest(cohort):
    seen = set()
    for file in cohort.manifest.accepted():
        data = pydicom.dcmread(cohort.dicom / file.path)
        stored = data.pixel_array
        assert hashlib.sha256(stored.astype("<u2").tobytes()).hexdigest() == file.pixel_sha256
        assert stored.max() < 2**data.BitsStored
        seen.add(data.file_meta.TransferSyntaxUID)
    assert seen == SYNTAXES


def test_signed_and_unsigned_slices_decode_too(volume_cohort):
    seen = set()
    for file in volume_cohort.manifest.accepted():
        data = pydicom.dcmread(volume_cohort.dicom / file.path)
        kind = "<i2" if data.PixelRepresentation else "<u2"
        assert hashlib.sha256(data.pixel_array.astype(kind).tobytes()).hexdigest() == file.pixel_sha256
        seen.add((data.PixelRepresentation, data.file_meta.TransferSyntaxUID))
    assert {sign for sign, _ in seen} == {0, 1}
    assert {syntax for _, syntax in seen} == SYNTAXES


def test_negative_values_are_stored_where_they_can_be(volume_cohort):
    lowest = {0: 0, 1: 0}
    for file in volume_cohort.manifest.accepted():
        data = pydicom.dcmread(volume_cohort.dicom / file.path)
        lowest[data.PixelRepresentation] = min(lowest[data.PixelRepresentation], int(np.min(data.pixel_array)))
    assert lowest[0] == 0
    assert lowest[1] < 0


def test_the_manifest_lists_every_entry_with_its_digest(cohort):
    on_disk = {
        str(path.relative_to(cohort.dicom)): path
        for path in cohort.dicom.rglob("*")
        if path.is_symlink() or path.is_file()
    }
    assert {file.path for file in cohort.manifest.files} == set(on_disk)
    for file in cohort.manifest.files:
        path = on_disk[file.path]
        digest = "" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest == file.sha256


def test_files_lie_in_nested_folders_and_one_site_uses_no_suffix(cohort):
    accepted = cohort.manifest.accepted()
    assert min(len(file.path.split("/")) for file in accepted) >= 4
    assert {file.path.endswith(".dcm") for file in accepted} == {True, False}


def test_bytes_name_no_version_of_a_library(cohort):
    """Or they would change with it."""
    data = pydicom.dcmread(cohort.dicom / cohort.manifest.accepted()[0].path)
    assert "PYDICOM" not in data.file_meta.ImplementationVersionName
    assert data.file_meta.MediaStorageSOPInstanceUID == data.SOPInstanceUID
