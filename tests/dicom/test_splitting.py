"""De-identification of objects with several slices: one clean file for each, or none."""

import itertools
import os

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence as Items

from pipeline.core.errors import ArtefactError
from pipeline.dicom.decoding.pixels import read_pixels
from pipeline.dicom.deidentification import burned_in
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms
from pipeline.dicom.deidentification.rewriting import Rewriter
from pipeline.dicom.deidentification.splitting import needs_decoder
from pipeline.dicom.slices.headers import read_header
from tests.acceptance.convert import oblique_ct
from tests.dicom.multiframe import csa_header, enhanced, item, mosaic
from tests.dicom.samples import write

NAMES = Pseudonyms(bytes(range(32)))
COUNT = 5


def rewrite(tmp_path, dataset, *, frames=None, **options):
    """Write a file, scan it, de-identify some of its frames; give these, the result, and the new files."""
    root = tmp_path / "source"
    path = write(root / "a.dcm", dataset, **options)
    found = read_header(path, path.name, modalities=("CT", "MR"), largest_bytes=10_000_000)
    wanted = [one for one in found.expanded() if frames is None or one.frame in frames]
    result = Rewriter(root, tmp_path / "target", NAMES, 3650)(wanted)
    return wanted, result, sorted(one for one in (tmp_path / "target").rglob("*") if one.is_file())


@pytest.mark.parametrize("make", [enhanced, mosaic])
@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian", "deflated", "RLE", "JPEG 2000"])
def test_every_frame_becomes_a_file_of_its_own(tmp_path, make, syntax):
    slices = oblique_ct(COUNT)
    frames, written, files = rewrite(tmp_path, make(slices), syntax=syntax)
    assert len(written) == len(files) == len({one.sop_uid for one in written}) == COUNT
    for frame, one, source in zip(frames, written, slices, strict=True):
        assert one.sop_uid == NAMES.uid(frame.unit_uid)
        pixels = read_pixels(tmp_path / "target" / one.series_uid / f"{one.sop_uid}.dcm")
        stored = np.frombuffer(source.PixelData, "<u2").reshape(source.Rows, source.Columns)
        assert np.array_equal(pixels.values, stored.astype(int) - 1024)
        assert pixels.image_position_mm == pytest.approx(np.array(source.ImagePositionPatient, float), abs=1e-5)
        assert one.is_compressed == (make is enhanced and syntax in {"RLE", "JPEG 2000"})


@pytest.mark.parametrize(
    ("make", "syntax", "expected"),
    [(mosaic, "RLE", True), (mosaic, "explicit", False), (mosaic, "deflated", False), (enhanced, "RLE", True)],
)
def test_whatever_is_compressed_takes_a_decoder(tmp_path, make, syntax, expected):
    path = write(tmp_path / "a.dcm", make(oblique_ct(COUNT)), syntax=syntax)
    found = read_header(path, path.name, modalities=("CT", "MR"), largest_bytes=10_000_000)
    assert needs_decoder(found.expanded()[0]) == expected


def test_only_the_frames_wanted_are_written(tmp_path):
    _, written, files = rewrite(tmp_path, enhanced(oblique_ct(COUNT)), frames={2, 5})
    assert len(written) == len(files) == 2


def token():
    numbers = itertools.count(1)
    return lambda: f"Kana{next(numbers):05d}Vogl"


@pytest.mark.parametrize("make", [enhanced, mosaic])
def test_no_word_of_any_frame_leaves(tmp_path, make):
    """Comments, names and private elements in functional groups and in the private header of mosaics."""
    word = token()
    whole = make(oblique_ct(COUNT))
    whole.PatientName = word()
    whole.StudyDescription = word()
    for group in [*whole.get("PerFrameFunctionalGroupsSequence", []), *whole.get("SharedFunctionalGroupsSequence", [])]:
        group.FrameContentSequence = item(FrameComments=word(), FrameLabel=word(), StackID=word()[:16])
        group.MRReceiveCoilSequence = item(ReceiveCoilName=word())
        group.PatientOrientationInFrameSequence = item(CommentsOnThePerformedProcedureStep=word())
        group.private_block(0x2005, "MAKER OF SCANNERS", create=True).add_new(1, "LO", word())
    if make is mosaic:
        block = whole.private_block(0x0029, "SIEMENS CSA HEADER")
        block[0x20].value += b"tPatientName = " + word().encode()
        block[0x10].value += word().encode() + b"\0"
    _, written, files = rewrite(tmp_path, whole)
    assert len(written) == len(files) == COUNT
    for path in files:
        assert b"kana" not in path.read_bytes().lower()
        assert "kana" not in str(path).lower()
    assert "kana" not in repr(written).lower()


def test_pixels_of_one_frame_do_not_stay_with_another(tmp_path):
    """A file holds its own frame and nothing else."""
    _, _, files = rewrite(tmp_path, enhanced(oblique_ct(COUNT)))
    for path in files:
        dataset = pydicom.dcmread(path)
        assert len(dataset.PixelData) == dataset.Rows * dataset.Columns * 2
        assert "PerFrameFunctionalGroupsSequence" not in dataset


def test_what_was_written_is_taken_back_if_a_later_frame_fails(tmp_path, monkeypatch):
    calls = itertools.count()

    def hazard(_dataset):
        return "BURNED_IN_ANNOTATION" if next(calls) == 3 else ""

    monkeypatch.setattr(burned_in, "hazard", hazard)
    _, result, files = rewrite(tmp_path, enhanced(oblique_ct(COUNT)))
    assert result == "BURNED_IN_ANNOTATION"
    assert files == []
    assert next(calls) == 4


def test_a_full_disk_takes_back_what_was_written(tmp_path, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    whole = enhanced(oblique_ct(COUNT))
    before = os.writev
    calls = itertools.count()
    monkeypatch.setattr(os, "writev", lambda *a: full() if next(calls) == 3 else before(*a))
    root = tmp_path / "source"
    path = write(root / "a.dcm", whole)
    found = read_header(path, path.name, modalities=("CT",), largest_bytes=10_000_000)
    with pytest.raises(ArtefactError):
        Rewriter(root, tmp_path / "target", NAMES, 3650)(found.expanded())
    assert next(calls) == 4
    assert [one for one in (tmp_path / "target").rglob("*") if one.is_file()] == []


@pytest.mark.parametrize("flag", ["BurnedInAnnotation", "RecognizableVisualFeatures"])
def test_a_flag_of_the_whole_object_counts_for_every_frame(tmp_path, flag):
    whole = enhanced(oblique_ct(COUNT))
    setattr(whole, flag, "YES")
    _, result, files = rewrite(tmp_path, whole)
    assert result in {"BURNED_IN_ANNOTATION", "PIXELS_MAY_IDENTIFY"}
    assert files == []


def test_eight_bit_frames_of_odd_length_keep_their_places(tmp_path):
    slices = oblique_ct(COUNT, shape=(7, 9))
    for number, one in enumerate(slices):
        one.BitsAllocated = one.BitsStored = 8
        one.HighBit = 7
        one.PixelData = bytes((np.arange(63) + number).astype(np.uint8))
    whole = enhanced(slices)
    whole.PixelData += b"\0"
    _, written, _ = rewrite(tmp_path, whole)
    for number, one in enumerate(written):
        pixels = read_pixels(tmp_path / "target" / one.series_uid / f"{one.sop_uid}.dcm")
        assert np.array_equal(pixels.values.ravel(), np.arange(63) + number - 1024)


def test_a_slice_that_the_private_header_hides_is_noticed(tmp_path):
    slices = oblique_ct(7)
    normal = np.cross(*np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3))
    _, result, files = rewrite(tmp_path, mosaic(slices, csa=csa_header(6, normal), protocol=6))
    assert (result, files) == ("UNDECODABLE_PIXELS", [])


def with_fragments(path, change):
    """Change the list of codestreams of a file, under an empty offset table."""
    dataset = pydicom.dcmread(path)
    frames = change(list(generate_frames(dataset.PixelData, number_of_frames=int(dataset.NumberOfFrames))))
    dataset.PixelData = encapsulate(frames, has_bot=False)
    dataset.save_as(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda frames: [*frames[:2], frames[1], *frames[2:]],
        lambda frames: [*frames, frames[0]],
        lambda frames: [frames[0], frames[1].rstrip(b"\0") + frames[2], *frames[3:], frames[-1]],
    ],
    ids=["one twice", "one behind", "two in one"],
)
def test_frames_that_may_have_moved_are_refused(tmp_path, change):
    root = tmp_path / "source"
    path = write(root / "a.dcm", enhanced(oblique_ct(COUNT)), syntax="JPEG 2000")
    with_fragments(path, change)
    found = read_header(path, path.name, modalities=("CT",), largest_bytes=10_000_000)
    assert Rewriter(root, tmp_path / "target", NAMES, 3650)(found.expanded()) == "UNDECODABLE_PIXELS"
    assert [one for one in (tmp_path / "target").rglob("*") if one.is_file()] == []


def test_deeply_nested_groups_end_in_a_reason_code(tmp_path):
    inner = Dataset()
    for _ in range(200):
        outer = Dataset()
        outer.MRReceiveCoilSequence = Items([inner])
        inner = outer
    whole = enhanced(oblique_ct(COUNT))
    whole.PerFrameFunctionalGroupsSequence[1].MRReceiveCoilSequence = Items([inner])
    path = write(tmp_path / "a.dcm", whole)
    found = read_header(path, path.name, modalities=("CT",), largest_bytes=10_000_000)
    assert found == "UNREADABLE_HEADER" or len(found.expanded()) == COUNT
