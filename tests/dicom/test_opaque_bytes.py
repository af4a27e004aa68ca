"""Bytes whose meaning nobody declares do not leave; arrays of numbers do, if nothing was written into them."""

import struct

import numpy as np
import pydicom
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import BasicVoiceAudioWaveformStorage, ExplicitVRLittleEndian, GeneralAudioWaveformStorage

from pipeline.deidentify_folder import deidentify_folder
from pipeline.dicom.deidentification.confidentiality import deidentified
from pipeline.dicom.deidentification.decisions import Place, decision
from pipeline.dicom.deidentification.leaks import identity_tokens
from pipeline.dicom.deidentification.options import DEFAULT_OPTIONS, OPTIONS
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms
from pipeline.dicom.deidentification.values import Identity
from pipeline.dicom.reading.files import FileFault
from tests.dicom.samples import ct, radiograph

NAMES = Pseudonyms(b"k" * 32)
TEXT = b"desc SMITH JOHN St Marys hospital 1926-05-08 MRN 1234567"
TABLES = ("RedPaletteColorLookupTableData", "LUTData")


def cleaned(dataset, options=DEFAULT_OPTIONS):
    return deidentified(dataset, Identity(NAMES, "1", 3650, identity_tokens(dataset)), options)


@pytest.mark.parametrize("options", [(), DEFAULT_OPTIONS, OPTIONS])
@pytest.mark.parametrize(
    "keyword",
    ["ICCProfile", "MACParametersSequence", "EncryptedContent", "CoordinateSystemAxisValues", "ThreatROIBitmap"],
)
def test_bytes_of_no_known_form_go(keyword, options):
    dataset = ct()
    if dictionary_VR(keyword) == "SQ":
        item = Dataset()
        item.add_new(tag_for_keyword("Signature"), "OB", TEXT)
        setattr(dataset, keyword, Sequence([item]))
    else:
        setattr(dataset, keyword, TEXT)
    assert tag_for_keyword(keyword) not in cleaned(dataset, tuple(options))


@pytest.mark.parametrize("representation", ["OB", "OD", "OF", "OL", "OV", "OW", "UN", "OB or OW"])
def test_only_listed_arrays_stay(representation):
    """Whatever the dictionary adds one day goes until somebody has looked at it."""
    tags = [tag for tag in pydicom.datadict.DicomDictionary if dictionary_VR(tag) == representation]
    stays = {keyword_for_tag(tag) for tag in tags if decision(tag, Place(frozenset(), "")).action == "binary"}
    assert not stays & {"ICCProfile", "EncapsulatedDocument", "MakerNote", "EncryptedContent", "HPGLDocument"}
    if representation in {"OB", "UN"}:
        assert not stays


@pytest.mark.parametrize("keyword", TABLES)
@pytest.mark.parametrize("text", [b"SMITH JOHN 1234567..", b"seen by Dr Kowalski on 8 May 2024", b"ab\0\0Smith\0"])
def test_a_table_with_a_text_in_it_keeps_the_file_out(keyword, text):
    dataset = ct(PatientName="SMITH^JOHN", PatientID="1234567")
    table = np.arange(512, dtype="<u2").tobytes()
    dataset.add_new(tag_for_keyword(keyword), "OW", table + text + bytes(len(text) % 2))
    with pytest.raises(FileFault, match="DEIDENTIFICATION_FAILED"):
        cleaned(dataset)


@pytest.mark.parametrize("keyword", TABLES)
@settings(max_examples=200)
@example(knots=[67, 65, 68, 0], width="u1", scale=1, entries=256)
@given(
    knots=st.lists(st.integers(0, 255), min_size=2, max_size=5),
    width=st.sampled_from(["u1", "<u2"]),
    scale=st.sampled_from([1, 16, 256, 257]),
    entries=st.sampled_from([256, 4096, 65536]),
)
def test_tables_that_are_tables_stay(keyword, knots, width, scale, entries):
    """Palettes are straight lines from colour to colour, and look like the alphabet on the way."""
    values = np.interp(np.linspace(0, len(knots) - 1, entries), range(len(knots)), knots)
    table = (values * (scale if width == "<u2" else 1)).astype(int).astype(width).tobytes()
    dataset = ct(PatientName="SMITH^JOHN")
    dataset.add_new(tag_for_keyword(keyword), "OW", table)
    assert cleaned(dataset)[keyword].value == table


def with_bytes(keyword, representation, value):
    dataset = ct()
    tag = Tag(tag_for_keyword(keyword))
    dataset[tag] = RawDataElement(tag, representation, len(value), value, 0, False, True)
    return dataset


@pytest.mark.parametrize("is_implicit", [False, True])
@pytest.mark.parametrize(
    ("keyword", "size", "most"),
    [
        ("SmallestImagePixelValue", 2, 1),
        ("RegionFlags", 4, 1),
        ("SpiralPitchFactor", 8, 1),
        ("DiffusionGradientOrientation", 8, 3),
        ("FrameIncrementPointer", 4, None),
        ("ReferencedFrameNumbers", 2, None),
    ],
)
def test_numbers_take_the_room_of_numbers(keyword, size, most, is_implicit):
    """What is more than the standard lets an attribute have may be anything, of anybody."""
    representation = None if is_implicit else dictionary_VR(keyword).split(" or ")[0]
    numbers = bytes(range(40))
    for count in range(6):
        value = numbers[: size * count]
        kept = keyword in cleaned(with_bytes(keyword, representation, value))
        assert kept == (most is None or count <= most)
        if value:
            assert keyword not in cleaned(with_bytes(keyword, representation, value + b"x"))


@pytest.mark.parametrize("keyword", ["ReferencedFrameNumbers", "SelectorFDValue", "SelectorULValue", "WaveformData"])
def test_a_list_of_numbers_that_is_a_text_goes(keyword):
    """However long: where the standard sets no bound, all of it may be anything."""
    representation = dictionary_VR(keyword).split(" or ")[0]
    for text in (b"seen by Dr Kowalski, St Marys...", b"KOWALSKI BARBARA" + bytes(8)):
        assert keyword not in cleaned(with_bytes(keyword, representation, text))
    for numbers in (struct.pack("<8H", *range(65, 73)), struct.pack("<4d", 0.1, 2.5, -3, 1e9), b"1234567890123456"):
        assert keyword in cleaned(with_bytes(keyword, representation, numbers))


@pytest.mark.parametrize("value", [b"Kowalski", b"\0\1\0"])
def test_a_dimension_that_is_no_number_keeps_the_file_out(value):
    with pytest.raises(FileFault, match="DEIDENTIFICATION_FAILED"):
        cleaned(with_bytes("Rows", "US", value))


def test_arrays_of_numbers_stay():
    dataset = ct()
    dataset.add_new(tag_for_keyword("SpectroscopyData"), "OF", struct.pack("<4f", 1, 2, 3, 4))
    dataset.add_new(tag_for_keyword("SegmentedRedPaletteColorLookupTableData"), "OW", struct.pack("<4H", 0, 2, 3, 4))
    after = cleaned(dataset)
    assert after.SpectroscopyData == dataset.SpectroscopyData
    assert "SegmentedRedPaletteColorLookupTableData" in after


@pytest.mark.parametrize(
    ("sop_class", "modality"),
    [
        (BasicVoiceAudioWaveformStorage, "AU"),
        (GeneralAudioWaveformStorage, "OT"),
        ("1.2.840.10008.5.1.4.1.1.9.1", "AU"),
    ],
)
def test_voices_are_kept_out(tmp_path, sop_class, modality):
    dataset = radiograph(SOPClassUID=sop_class, Modality=modality)
    wave = Dataset()
    wave.WaveformBitsAllocated, wave.WaveformSampleInterpretation = 8, "UB"
    wave.add_new(tag_for_keyword("WaveformData"), "OB", b"VOICE-OF" * 100)
    dataset.WaveformSequence = Sequence([wave])
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    (tmp_path / "in").mkdir()
    dataset.save_as(tmp_path / "in" / "a.dcm", enforce_file_format=True)
    assert deidentify_folder(input=tmp_path / "in", output=tmp_path / "out") == 1
    assert "SOUND_RECORDING" in (tmp_path / "out" / "quarantine.tsv").read_text()
    assert not list((tmp_path / "out").rglob("*.dcm"))
