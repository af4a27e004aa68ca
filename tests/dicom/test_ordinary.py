"""The fast reading of whole headers, held against pydicom: equal, or declined."""

import io

import numpy as np
import pydicom
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence

from pipeline.dicom.deidentification.leaks import identity_tokens
from pipeline.dicom.reading.ordinary import ordinary_elements
from pipeline.dicom.reading.quiet import quiet
from tests.dicom.samples import ct, with_pixels, write


def nested(depth):
    item = Dataset()
    item.PatientName = "Mustermann"
    item.private_block(0x0029, "MAKER", create=True).add_new(1, "OB", b"\1\2")
    if depth:
        item.ReferencedSeriesSequence = Sequence([nested(depth - 1), Dataset()])
    return item


def encoded(folder, *, undefined):
    names = {"OtherPatientNames": ["A^B", "C^D"], "PatientName": "Люкс^Анна"}
    dataset = with_pixels(ct(SpecificCharacterSet="ISO_IR 144", **names))
    dataset.RequestAttributesSequence = Sequence([nested(3), nested(0)])
    dataset.ReferencedStudySequence = Sequence()
    dataset.add_new(0x00191001, "UT", "long text")
    for sequence in (dataset["RequestAttributesSequence"], dataset["ReferencedStudySequence"]):
        sequence.is_undefined_length = undefined
        for item in sequence.value:
            item.is_undefined_length_sequence_item = undefined
    path = write(folder / "a.dcm", dataset)
    with path.open("rb") as stream:
        pydicom.dcmread(stream, specific_tags=[], stop_before_pixels=True)
        whole = path.read_bytes()
    start = 132 + 12 + int.from_bytes(whole[140:144], "little")
    return whole[start:]


def plain(dataset):
    """Give what a data set holds, whatever has been converted."""
    return {
        tag: [plain(item) for item in one.value] if isinstance(one.value, Sequence) else (one.VR, repr(one.value))
        for tag in [element_tag for element_tag, _ in dataset.items()]
        for one in [dataset[tag]]
    }


def by_pydicom(data):
    stream = io.BytesIO(data)
    found = read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag >= 0x7FE00008)
    return found, stream.tell()


@pytest.mark.parametrize("undefined", [False, True])
def test_elements_are_those_of_pydicom(tmp_path, undefined):
    data = encoded(tmp_path, undefined=undefined)
    found = ordinary_elements(data, is_whole=True)
    assert found is not None
    wanted, at = by_pydicom(data)
    assert found[1] == at
    assert plain(found[0]) == plain(wanted)
    assert found[0].PatientName == "Люкс^Анна"


@pytest.mark.parametrize("undefined", [False, True])
def test_cut_headers_are_declined(tmp_path, undefined):
    data = encoded(tmp_path, undefined=undefined)
    end = ordinary_elements(data, is_whole=True)[1]
    assert all(ordinary_elements(data[:length], is_whole=False) is None for length in range(end))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.booleans())
@example(97344, 4, False)  # a character set that is no text
def test_damaged_headers_are_read_alike_or_declined(tmp_path_factory, seed, flips, undefined):
    data = bytearray(encoded(tmp_path_factory.getbasetemp(), undefined=undefined))
    generator = np.random.default_rng(seed)
    for at in generator.integers(0, 900, flips):
        data[at] ^= 1 << int(generator.integers(8))
    with quiet():
        found = ordinary_elements(bytes(data), is_whole=True)
        if found is None:
            return
        try:
            wanted, at = by_pydicom(bytes(data))
        except Exception:  # noqa: BLE001  pydicom raises nearly anything; then values cannot be compared
            return
        assert found[1] == at
        assert set(found[0].keys()) == set(wanted.keys())
        for tag in list(wanted.keys()):
            ours, theirs = found[0].get_item(tag), wanted.get_item(tag)
            if isinstance(theirs, type(ours)):
                assert (ours.VR, ours.value) == (theirs.VR, theirs.value)


def test_names_in_other_letters_are_known(tmp_path):
    """What is searched for must be decoded as the file says."""
    found = ordinary_elements(encoded(tmp_path, undefined=False), is_whole=True)[0]
    assert {"люкс", "анна"} <= identity_tokens(found).words
