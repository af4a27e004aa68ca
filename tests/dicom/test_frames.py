import struct

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from pipeline.core.records import MultiFrameInstance
from pipeline.dicom.slices import frames
from pipeline.dicom.slices.frames import EnhancedObject
from pipeline.dicom.slices.headers import read_header
from pipeline.dicom.slices.triage import triage
from tests.acceptance.convert import oblique_ct
from tests.dicom.multiframe import enhanced, groups, item
from tests.dicom.samples import write


def read(path):
    return read_header(path, path.name, modalities=("CT", "MR"), largest_bytes=10_000_000)


def read_object(tmp_path, dataset, **options):
    return read(write(tmp_path / "a.dcm", dataset, **options))


@pytest.mark.parametrize("shared", [(), ("PlaneOrientationSequence",), tuple(groups(oblique_ct(1)[0]))[1:4]])
@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian", "deflated", "RLE", "JPEG 2000"])
def test_each_frame_says_what_its_slice_said(tmp_path, shared, syntax):
    slices = oblique_ct(6)
    found = read_object(tmp_path, enhanced(slices, shared=shared), syntax=syntax)
    assert isinstance(found, MultiFrameInstance)
    frames = found.expanded()
    assert [one.frame for one in frames] == [1, 2, 3, 4, 5, 6]
    assert len({one.unit_uid for one in frames}) == 6
    for frame, one in zip(frames, slices, strict=True):
        assert frame.image_position_mm == tuple(map(float, one.ImagePositionPatient))
        assert frame.image_orientation == tuple(map(float, one.ImageOrientationPatient))
        assert frame.pixel_spacing_mm == tuple(map(float, one.PixelSpacing))
        assert (frame.rows, frame.columns, frame.frames) == (one.Rows, one.Columns, 6)


def test_an_enhanced_object_of_one_frame_is_read_by_its_groups(tmp_path):
    found = read_object(tmp_path, enhanced(oblique_ct(1)))
    assert isinstance(found, MultiFrameInstance)
    assert len(found.planes) == 1


def test_header_of_a_frame_is_that_of_a_single_slice():
    slices = oblique_ct(3, EchoTime="4.5", Modality="MR")
    slices[1].RescaleSlope = "2.5"
    whole = enhanced(slices)
    whole.PerFrameFunctionalGroupsSequence[1].FrameVOILUTSequence = item(WindowCenter="40", WindowWidth="400")
    whole.PerFrameFunctionalGroupsSequence[1].MRImageFrameTypeSequence = item(FrameType=["ORIGINAL", "PRIMARY", "M"])
    before = whole.to_json()
    flat = EnhancedObject(whole).header(2)
    assert flat.ImagePositionPatient == slices[1].ImagePositionPatient
    assert (flat.RescaleSlope, flat.EchoTime, flat.WindowCenter, flat.InstanceNumber) == (2.5, 4.5, 40, 2)
    assert flat.ImageType == ["ORIGINAL", "PRIMARY", "M"]
    assert flat.SOPClassUID == slices[0].SOPClassUID or flat.SOPClassUID.name == "MR Image Storage"
    assert not {"NumberOfFrames", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"} & set(
        flat.dir()
    )
    assert EnhancedObject(whole).header(1).RescaleSlope == 1
    assert whole.to_json() == before


def without_position(whole):
    del whole.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence


def with_two_positions(whole):
    frame = whole.PerFrameFunctionalGroupsSequence[2]
    frame.PlanePositionSequence = Items([*frame.PlanePositionSequence, Dataset()])


def with_a_frame_too_few(whole):
    del whole.PerFrameFunctionalGroupsSequence[2]


def without_groups(whole):
    del whole.PerFrameFunctionalGroupsSequence


def with_two_shared_items(whole):
    whole.SharedFunctionalGroupsSequence = Items([*whole.SharedFunctionalGroupsSequence, Dataset()])


def with_skewed_axes(whole):
    shared = whole.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=[1, 0, 0, 1, 0, 0])


def with_no_spacing(whole):
    whole.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = item(PixelSpacing=[0, 1])


def with_more_frames_than_pixels(whole):
    whole.NumberOfFrames = 5


def with_a_group_in_both_places(whole):
    whole.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = item(
        RescaleSlope=3, RescaleIntercept=5, RescaleType="US"
    )


def with_half_a_transformation(whole):
    whole.PerFrameFunctionalGroupsSequence[2].PixelValueTransformationSequence = item(RescaleIntercept=-7)


def with_a_table_for_all(whole):
    whole.ModalityLUTSequence = item(LUTDescriptor=[1, 0, 16], LUTData=b"\0\0", ModalityLUTType="US")


def with_a_spacing_of_the_detector(whole):
    shared = whole.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence = item(SliceThickness=1)
    whole.ImagerPixelSpacing = [0.4, 0.4]


def in_colour(whole):
    whole.SamplesPerPixel, whole.PhotometricInterpretation, whole.PlanarConfiguration = 3, "RGB", 0
    whole.BitsAllocated, whole.BitsStored, whole.HighBit = 8, 8, 7
    whole.PixelData = bytes(48 * 64 * 3 * 4)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (with_a_group_in_both_places, "UNSUPPORTED_IMAGE"),
        (with_half_a_transformation, "UNSUPPORTED_IMAGE"),
        (with_a_table_for_all, "UNSUPPORTED_IMAGE"),
        (with_a_spacing_of_the_detector, "BAD_GEOMETRY"),
        (in_colour, "UNSUPPORTED_IMAGE"),
        (without_position, "BAD_GEOMETRY"),
        (with_two_positions, "UNSUPPORTED_IMAGE"),
        (with_a_frame_too_few, "BAD_DIMENSIONS"),
        (without_groups, "BAD_DIMENSIONS"),
        (with_two_shared_items, "BAD_DIMENSIONS"),
        (with_skewed_axes, "BAD_GEOMETRY"),
        (with_no_spacing, "BAD_GEOMETRY"),
        (with_more_frames_than_pixels, "BAD_DIMENSIONS"),
    ],
)
def test_objects_that_contradict_themselves_are_refused(tmp_path, fault, code):
    whole = enhanced(oblique_ct(4))
    fault(whole)
    found = read_object(tmp_path, whole)
    assert found == code
    assert found.slot.series_uid == "1.2.3.3"  # the series is incomplete without them


def test_several_frames_without_groups_are_refused(tmp_path):
    whole = enhanced(oblique_ct(4))
    whole.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    assert read_object(tmp_path, whole) == "UNSUPPORTED_IMAGE"


def test_a_codestream_too_few_is_a_truncated_file(tmp_path):
    path = write(tmp_path / "a.dcm", enhanced(oblique_ct(4)), syntax="JPEG 2000")
    data = path.read_bytes()
    last = data.rindex(b"\xfe\xff\x00\xe0")
    path.write_bytes(data[:last] + data[-8:])
    assert read(path) == "TRUNCATED_FILE"


@pytest.mark.parametrize("order", [1, -1])
def test_time_points_of_one_object_are_parts_of_their_own(tmp_path, order):
    slices = [*oblique_ct(5), *oblique_ct(5, seed=2)][::order]
    times = [1] * 5 + [2] * 5
    found = read_object(tmp_path, enhanced(slices, times=times))
    kept = triage(found.expanded()).kept
    assert [one.part for one in kept] == times
    assert {one.part_axis for one in kept} == {"temporal position"}


def test_diffusion_directions_tell_volumes_apart(tmp_path):
    slices = [one for seed in range(3) for one in oblique_ct(4, seed=seed, Modality="MR")]
    whole = enhanced(slices)
    directions = [None, [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    for number, frame in enumerate(whole.PerFrameFunctionalGroupsSequence):
        del frame.FrameContentSequence
        direction = directions[number // 4]
        frame.MRDiffusionSequence = item(DiffusionBValue=1000.0 if direction else 0.0)
        if direction:
            frame.MRDiffusionSequence[0].DiffusionGradientDirectionSequence = item(
                DiffusionGradientOrientation=direction
            )
    kept = triage(read_object(tmp_path, whole).expanded()).kept
    assert sorted(np.unique([one.part for one in kept], return_counts=True)[1]) == [4, 4, 4]
    assert {one.part_axis for one in kept} == {"diffusion direction"}


def test_a_file_full_of_empty_items_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    whole = enhanced(oblique_ct(4))
    path = write(tmp_path / "a.dcm", whole)
    content = path.read_bytes()
    head = struct.pack("<HH2sH", 0x5200, 0x9230, b"SQ", 0)
    at = content.index(head)
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 100_000
    (length,) = struct.unpack_from("<L", content, at + 8)
    path.write_bytes(content[: at + 8] + struct.pack("<L", len(items)) + items + content[at + 12 + length :])
    monkeypatch.setattr(frames, "read_elements", pytest.fail)  # parsing them takes seconds, and 70 MB
    assert read(path) == "UNREADABLE_HEADER"
