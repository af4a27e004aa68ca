"""Protocol C: every structural fault of a series ends right, or refused with its own reason; never silently wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.acceptance.convert import SPACING_MM, Conversion, convert, moved, oblique_axes, oblique_ct, save
from tests.acceptance.oracle import accounting_violations, volume_violations

AXES = oblique_axes()
STEP = SPACING_MM[2] * AXES[:, 2]
UNIT = "series"


class Case(NamedTuple):
    """What is written, and what must become of it."""

    make: Callable[[Path], object]
    slices: tuple[int, ...]  # of each volume that must come out; oracle A proves it right
    excluded: dict[tuple[str, str], int]  # findings by unit and code: these and no others
    noted: frozenset[str] = frozenset()


def right(make: Callable[[Path], object], *slices: int, files: dict[str, int] | None = None, noted: str = "") -> Case:
    """Ask for volumes of these numbers of slices; `files` counts files that are left out by reason."""
    refused = {("file", code): count for code, count in (files or {}).items()}
    return Case(make, tuple(sorted(slices)), refused, frozenset(noted.split()))


def refused(make: Callable[[Path], object], code: str, *, files: dict[str, int] | None = None) -> Case:
    """Ask that no volume comes out and that the series bears this reason."""
    return Case(make, (), {(UNIT, code): 1, **{("file", word): count for word, count in (files or {}).items()}})


def changed(change: Callable[[list[Dataset]], list[Dataset]], **options) -> Callable[[Path], object]:
    return lambda folder: save(folder, change(oblique_ct(**options)))


def each(**elements: Callable[[int], object]) -> Callable[[Path], object]:
    """Give every slice attributes that depend on its number."""

    def change(slices: list[Dataset]) -> list[Dataset]:
        for index, one in enumerate(slices):
            for keyword, value in elements.items():
                setattr(one, keyword, value(index))
        return slices

    return changed(change)


def several(*groups: list[Dataset]) -> Callable[[Path], object]:
    """Put slices into one series and number them on."""
    together = [one for group in groups for one in group]
    for number, one in enumerate(together, start=1):
        one.SeriesInstanceUID = "1.2.3.3"
        one.SOPInstanceUID = f"1.2.3.3.{number}"
        one.InstanceNumber = number
    return lambda folder: save(folder, together)


# --- the faults


def missing(slices: list[Dataset]) -> list[Dataset]:
    return slices[:7] + slices[8:]


def uneven(slices: list[Dataset]) -> list[Dataset]:
    return slices[:10] + [moved(one, 0.3 * STEP * (index + 1)) for index, one in enumerate(slices[10:])]


def copied(folder: Path) -> None:
    paths = save(folder, oblique_ct())
    (folder / "copy").write_bytes(paths[5].read_bytes())


def conflicting(index: int) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        slices = oblique_ct()
        save(folder, slices)
        other = oblique_ct(seed=2)[index]
        save(folder / "other", [other])

    return make


def same_position(slices: list[Dataset]) -> list[Dataset]:
    return [*slices, moved(slices[5], np.zeros(3))]


def same_position_other_acquisition(slices: list[Dataset]) -> list[Dataset]:
    for one in slices:
        one.AcquisitionNumber = 1
    again = moved(slices[5], np.zeros(3))
    again.AcquisitionNumber = 2
    return [*slices, again]


def two_series(folder: Path) -> None:
    save(folder, [*oblique_ct(), *oblique_ct(12, seed=2, series="1.2.3.4")])


def localizer(image_type: list[str], axes: np.ndarray, **elements) -> Callable[[Path], object]:
    def change(slices: list[Dataset]) -> list[Dataset]:
        (scout,) = oblique_ct(1, seed=9, axes=axes, shape=(96, 80), **elements)
        scout.ImageType, scout.SOPInstanceUID = image_type, "1.2.3.3.99"
        return [*slices, scout]

    return changed(change)


def other_rows(slices: list[Dataset]) -> list[Dataset]:
    (taller,) = oblique_ct(1, shape=(52, 64))
    taller.ImagePositionPatient, taller.SOPInstanceUID = slices[9].ImagePositionPatient, slices[9].SOPInstanceUID
    return [*slices[:9], taller, *slices[10:]]


def truncated(index: int) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        path = save(folder, oblique_ct())[index]
        path.write_bytes(path.read_bytes()[:-1000])

    return make


def irregular_tilt(slices: list[Dataset]) -> list[Dataset]:
    return [moved(one, 0.02 * index**2 * AXES[:, 1]) for index, one in enumerate(slices)]


def garbage_bits(slices: list[Dataset]) -> list[Dataset]:
    generator = np.random.default_rng(3)
    for one in slices:
        words = np.frombuffer(one.PixelData, "<u2") | generator.integers(0, 16, 48 * 64).astype("<u2") << 12
        one.PixelData = words.astype("<u2").tobytes()
    return slices


def one_of(index: int, **elements: object) -> Callable[[Path], object]:
    """Change elements of one slice."""

    def change(slices: list[Dataset]) -> list[Dataset]:
        for keyword, value in elements.items():
            setattr(slices[index], keyword, value)
        return slices

    return changed(change)


def last(**elements: object) -> Callable[[Path], object]:
    return one_of(19, **elements)


def first(**elements: object) -> Callable[[Path], object]:
    return one_of(0, **elements)


def alternating(slices: list[Dataset], *, first: int) -> list[Dataset]:
    for number, one in enumerate(slices, start=first):
        one.AcquisitionNumber = 1 + number % 2
    return slices


def other_axes() -> np.ndarray:
    """The same frame, turned: columns run where the normal did."""
    turned = np.column_stack([AXES[:, 1], AXES[:, 2], AXES[:, 0]])
    turned[:, 2] = np.cross(turned[:, 0], turned[:, 1])
    return turned


def interleaved(first: dict, second: dict) -> Callable[[Path], object]:
    """Make two stacks of one series, the second half a slice further on: together they look even."""
    later = [moved(one, STEP / 2) for one in oblique_ct(10, seed=2, **second)]
    return several(oblique_ct(10, **first), later)


def repeated(keyword: str, *values: object, count: int = 20) -> Callable[[Path], object]:
    """Make one stack after the other in the same place; an attribute tells them apart."""
    return several(*(oblique_ct(count, seed=seed, **{keyword: value}) for seed, value in enumerate(values)))


def turn(first: int, second: int, sign: float = 1.0) -> np.ndarray:
    """Swap two axes of the frame, so that other ones change fastest; the frame stays right-handed."""
    turned = AXES.copy()
    turned[:, [first, second]] = sign * turned[:, [second, first]]
    turned[:, 2] = np.cross(turned[:, 0], turned[:, 1])
    return turned


def tilted(degrees: float) -> np.ndarray:
    return STEP + SPACING_MM[2] * np.tan(np.radians(degrees)) * AXES[:, 1]


PROOF = "GEOMETRY_PROVED"
CASES = {
    # rows of the fault matrix
    "clean": right(changed(list), 20),
    "one missing slice": refused(changed(missing), "INSTANCES_MISSING"),
    "variable spacing": refused(changed(uneven), "INSTANCES_MISSING"),
    "duplicate file, same bytes": right(copied, 20, files={"DUPLICATE_FILE": 1}),
    "duplicate file, other bytes": right(conflicting(9), files={"CONFLICTING_INSTANCES": 2, "SERIES_INCOMPLETE": 19}),
    "duplicate position, new SOP UID": refused(changed(same_position), "DUPLICATE_POSITION"),
    "two series in one folder": right(two_series, 20, 12),
    "localizer in the series": right(
        localizer(["ORIGINAL", "PRIMARY", "LOCALIZER"], other_axes()), 20, files={"LOCALIZER": 1}
    ),
    "one slice with other Rows": refused(changed(other_rows), "MIXED_SERIES"),
    "a slice in the middle truncated": right(truncated(9), files={"TRUNCATED_FILE": 1, "SERIES_INCOMPLETE": 19}),
    "regular tilt": right(changed(list, step_mm=tilted(18.5)), 20, noted="TILTED_GANTRY"),
    "regular tilt, other sign": right(changed(list, step_mm=tilted(-16.5)), 20, noted="TILTED_GANTRY"),
    "irregular tilt": refused(changed(irregular_tilt), "INSTANCES_MISSING"),
    "MONOCHROME1": right(changed(list, PhotometricInterpretation="MONOCHROME1"), 20),
    "signed 12 bits under garbage": right(changed(garbage_bits, PixelRepresentation=1), 20),
    "unsigned 12 bits under garbage": right(changed(garbage_bits), 20),
    # what every reader gets right
    "reversed InstanceNumber": right(each(InstanceNumber=lambda index: 20 - index), 20),
    "slopes from slice to slice": right(
        each(RescaleSlope=lambda index: 1 + index % 4, RescaleIntercept=lambda index: -1024 - index), 20
    ),
    "fractional slopes from slice to slice": right(each(RescaleSlope=lambda index: f"{0.37 + index / 64:.6f}"), 20),
    "a fractional slope in one slice": right(each(RescaleSlope=lambda index: "0.5" if index == 7 else "1"), 20),
    "lying SliceThickness": right(changed(list, SpacingBetweenSlices=9.9), 20),
    "SliceThickness that varies": right(each(SliceThickness=lambda index: 1.0 + index), 20),
    "alternating AcquisitionNumber": right(each(AcquisitionNumber=lambda index: 1 + index % 2), 20),
    "an AcquisitionNumber for each slice": right(each(AcquisitionNumber=lambda index: index + 1), 20),
    "an AcquisitionTime for each slice": right(each(AcquisitionTime=lambda index: f"1200{index:02d}"), 20),
    "whole numbers beyond what float32 holds": right(each(RescaleIntercept=lambda _: 20_000_000), 20),
    "an odd slope": right(each(RescaleSlope=lambda _: 1001), 20),
    # several volumes in one series
    "four time points": right(repeated("TemporalPositionIdentifier", 1, 2, 3, 4), 20, 20, 20, 20),
    "four time points by acquisition number": right(repeated("AcquisitionNumber", 1, 2, 3, 4), 20, 20, 20, 20),
    "four time points by the order of numbers": right(repeated("StationName", "A", "A", "A", "A"), 20, 20, 20, 20),
    "two echoes": right(repeated("EchoTime", 10, 20), 20, 20),
    "two orientations": right(
        several(oblique_ct(), oblique_ct(12, seed=2, axes=other_axes())), 20, 12, noted="VOLUME_OTHER_PLANE"
    ),
    "an aborted last time point": Case(
        several(
            *(oblique_ct(20, seed=seed, TemporalPositionIdentifier=seed) for seed in range(3)),
            missing(oblique_ct(12, seed=4, TemporalPositionIdentifier=4)),
        ),
        (20, 20, 20),
        {("file", "SERIES_INCOMPLETE"): 11},
    ),
    "a time point without its first slice": Case(
        several(
            *(oblique_ct(20, seed=seed, TemporalPositionIdentifier=seed) for seed in (1, 2)),
            oblique_ct(20, seed=3, TemporalPositionIdentifier=3)[1:],
        ),
        (20, 20),
        {("file", "SERIES_INCOMPLETE"): 19},
    ),
    "acquisition numbers that alternate through two time points": refused(
        several(*(alternating(oblique_ct(7, seed=seed), first=7 * seed) for seed in (0, 1))), "DUPLICATE_POSITION"
    ),
    "two echoes, half a slice apart": right(interleaved({"EchoTime": 10}, {"EchoTime": 20}), 10, 10),
    # further ways to be wrong
    "a second acquisition of one slice": refused(changed(same_position_other_acquisition), "DUPLICATE_POSITION"),
    "a survey of other orientation without a word for it": Case(
        localizer(["ORIGINAL", "PRIMARY", "AXIAL"], other_axes()), (20,), {(UNIT, "TOO_FEW_SLICES"): 1}
    ),
    "half of the slices with other spacing": refused(
        each(PixelSpacing=lambda index: [0.8, 0.6] if index < 10 else [0.8, 0.7]), "MIXED_SERIES"
    ),
    "two frames of reference": right(
        each(FrameOfReferenceUID=lambda index: "1.2.3.5" if index < 10 else "1.2.3.6"), 10, 10
    ),
    "rows and columns swapped": right(changed(list, axes=turn(0, 1)), 20),
    "coronal": right(changed(list, axes=turn(1, 2, -1)), 20, noted="VOLUME_OTHER_PLANE"),
    "feet first": right(changed(list, step_mm=-STEP), 20),
    "a tilt beyond any gantry": refused(changed(list, step_mm=tilted(60)), "BAD_GEOMETRY"),
    "a stack of two": right(changed(list, count=2), 2),
}
# An end that is cut off leaves an even stack: geometry cannot tell that it was longer.
SHORTENED = {
    "last slice truncated": (truncated(19), {"TRUNCATED_FILE": 1}),
    "first slice truncated": (truncated(0), {"TRUNCATED_FILE": 1}),
    "last slice twice, other bytes": (conflicting(19), {"CONFLICTING_INSTANCES": 2}),
    "last slice of another kind of pixels": (last(PhotometricInterpretation="MONOCHROME7"), {"UNSUPPORTED_IMAGE": 1}),
    "last slice of one bit": (last(BitsStored=1, HighBit=0), {"UNSUPPORTED_IMAGE": 1}),
    "last slice without a study": (last(StudyInstanceUID=""), {"MISSING_IDENTITY": 1}),
    "last slice of another modality": (last(Modality="XX"), {"UNWANTED_MODALITY": 1}),
}
# De-identification keeps these out, and the volume with them.
KEPT_OUT = {
    "last slice with a burned-in name": last(BurnedInAnnotation="YES"),
    "first slice with a recognisable face": first(RecognizableVisualFeatures="YES"),
}


def violations(conversion: Conversion) -> list[str]:
    found = accounting_violations(conversion.fates())
    for image in conversion.images:
        nifti = conversion.volume(image)
        originals = conversion.originals(image)
        found += volume_violations(np.asarray(nifti.dataobj), nifti.affine, originals)
        if len(originals) != image.source_slices:
            found.append(f"{image.source_slices} slices from {len(originals)}")
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_fault_ends_right_or_refused_with_its_reason(name, tmp_path):
    case = CASES[name]
    case.make(tmp_path / "raw")
    conversion = convert(tmp_path / "raw", tmp_path / "results")
    assert violations(conversion) == []
    assert sorted(image.source_slices for image in conversion.images) == list(case.slices)
    assert dict(conversion.counts()) == case.excluded
    noted = {code for _, code in conversion.counts("noted")}
    assert noted - {PROOF} == case.noted
    assert not any(image.was_inverted for image in conversion.images)


@pytest.mark.parametrize("name", SHORTENED)
def test_a_series_that_lost_its_end_is_refused(name, tmp_path):
    make, files = SHORTENED[name]
    make(tmp_path / "raw")
    conversion = convert(tmp_path / "raw", tmp_path / "results")
    assert violations(conversion) == []
    assert dict(conversion.counts()) == {
        ("file", code): count for code, count in {**files, "SERIES_INCOMPLETE": 19}.items()
    }
    assert not conversion.images


@pytest.mark.parametrize("name", KEPT_OUT)
def test_a_series_that_lost_its_end_for_a_name_is_kept_out_as_a_whole(name, tmp_path):
    KEPT_OUT[name](tmp_path / "raw")
    conversion = convert(tmp_path / "raw", tmp_path / "results")
    assert violations(conversion) == []
    assert conversion.images == []
    counts = conversion.counts()
    assert counts["instance", "SERIES_INCOMPLETE"] == 19
    assert counts.total() == 20
    assert list((tmp_path / "results" / "dicom").rglob("*.dcm")) == []


def test_a_damaged_copy_of_a_slice_that_is_there_is_no_loss(tmp_path):
    paths = save(tmp_path / "raw", oblique_ct())
    (tmp_path / "raw" / "copy.dcm").write_bytes(paths[19].read_bytes()[:-1000])
    conversion = convert(tmp_path / "raw", tmp_path / "results")
    assert violations(conversion) == []
    assert dict(conversion.counts()) == {("file", "TRUNCATED_FILE"): 1}
    assert [image.source_slices for image in conversion.images] == [20]


@pytest.mark.parametrize("degrees", [18.5, -18.5, 5.0])
def test_a_tilted_volume_is_sheared_by_the_tilt_and_says_so_in_its_header(degrees, tmp_path):
    save(tmp_path / "raw", oblique_ct(step_mm=tilted(degrees)))
    conversion = convert(tmp_path / "raw", tmp_path / "results")
    (image,) = conversion.images
    nifti = conversion.volume(image)
    columns = nifti.affine[:3, :3] / np.linalg.norm(nifti.affine[:3, :3], axis=0)
    gram = np.abs(columns.T @ columns - np.eye(3))
    assert np.degrees(np.arcsin(gram.max())) == pytest.approx(abs(degrees), abs=0.01)
    assert (int(nifti.header["sform_code"]), int(nifti.header["qform_code"])) == (1, 0)
    (finding,) = [one for one in conversion.findings if one.code == "TILTED_GANTRY"]
    assert finding.severity == "noted"
    assert finding.value == pytest.approx(abs(degrees), abs=0.01)


def test_parts_are_numbered_in_the_order_of_time(tmp_path):
    """Slices are constant in value here, so that each volume tells which time point it is."""
    groups = [oblique_ct(6, TemporalPositionIdentifier=time) for time in (3, 1, 2)]
    for time, group in zip((3, 1, 2), groups, strict=True):
        for one in group:
            one.PixelData = np.full(48 * 64, 1000 + time, "<u2").tobytes()
            one.PixelData = np.where(np.arange(48 * 64) % 2, 0, np.frombuffer(one.PixelData, "<u2")).tobytes()
    several(*groups)(tmp_path / "raw")
    conversion = convert(tmp_path / "raw", tmp_path / "results")
    names = sorted(image.volume_file for image in conversion.images)
    assert [name.removesuffix(".nii").rpartition("-")[2] for name in names] == ["1", "2", "3"]
    highest = [int(np.asarray(nib.load(conversion.volumes / name).dataobj).max()) for name in names]
    assert highest == [1001 - 1024, 1002 - 1024, 1003 - 1024]
