import logging
import os
import warnings

import pydicom.config
import pytest

from pipeline.dicom.reading.files import FileFault, head_sha256, opened, read_elements
from pipeline.dicom.reading.quiet import quiet
from tests.dicom.samples import LIMIT, SYNTAXES, radiograph, with_pixels, write

PATIENT_ID = 0x00100020


def test_quiet_silences_and_restores():
    settings = pydicom.config.settings
    before = (settings.reading_validation_mode, settings.writing_validation_mode, logging.getLogger("pydicom").disabled)
    with pytest.raises(RuntimeError), quiet():  # noqa: PT012
        warnings.warn("would be an error in these tests", stacklevel=1)
        assert logging.getLogger("pydicom").disabled
        raise RuntimeError
    after = (settings.reading_validation_mode, settings.writing_validation_mode, logging.getLogger("pydicom").disabled)
    assert after == before


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_only_the_elements_asked_for_are_read(tmp_path, syntax):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()), syntax=syntax)
    with quiet(), opened(path, LIMIT) as source:
        found = read_elements(source, (PATIENT_ID,))
        assert [element.tag for element in found] == [PATIENT_ID]
        assert source.transfer_syntax_uid == SYNTAXES[syntax]
        assert source.size_bytes == path.stat().st_size


def test_digests_leave_positions_alone(tmp_path):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()))
    with quiet(), opened(path, LIMIT) as source:
        before = source.body.tell()
        assert len(head_sha256(source)) == 64
        assert source.body.tell() == before


def test_descriptors_are_closed(tmp_path):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()))
    (tmp_path / "folder").mkdir()
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH112, PTH208
    for _ in range(20):
        with quiet(), opened(path, LIMIT):
            pass
        with pytest.raises(FileFault), opened(tmp_path / "folder", LIMIT):
            pass
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH112, PTH208
    assert after == descriptors


@pytest.mark.parametrize("room", [-1, 0])
def test_the_limit_of_inflation_is_exact(tmp_path, room):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph()), syntax="deflated")
    with quiet(), opened(path, LIMIT) as source:
        length = source.end
    if room < 0:
        with pytest.raises(FileFault, match="BAD_DIMENSIONS"), quiet(), opened(path, length + room):
            pass
    else:
        with quiet(), opened(path, length + room) as source:
            assert source.end == length
