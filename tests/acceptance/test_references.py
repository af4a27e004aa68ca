"""Protocol B: our volumes equal those of others, voxel by voxel and corner by corner.

References are the NIfTI files that come with public data, and dcm2niix where it is installed. Volumes are matched by
what they hold and not by their names. dcm2niix is no reference for tilted gantries.
"""

import importlib.util
import itertools
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import JPEGLosslessSV1, JPEGLSLossless

from pipeline.dicom.decoding.pixels import is_decodable
from tests.acceptance.convert import Conversion, convert, oblique_axes, oblique_ct, save
from tests.acceptance.oracle import RELATIVE_TOLERANCE
from tests.real_data import data_set

CORNERS_MM = 0.02
HAS_DCM2NIIX = importlib.util.find_spec("dcm2niix") is not None
needs_dcm2niix = pytest.mark.skipif(not HAS_DCM2NIIX, reason="dcm2niix, of the test dependencies, is not installed")
ICOMETRIX = [
    "anatomical/001",
    "anatomical/001_implicit",
    "ge/anatomical/001",
    "ge/anatomical/001_implicit",
    "generic/anatomical/001",
    "generic/anatomical/001_implicit",
    "generic/anatomical/002_non_isotropic",
    "generic/compressed/001",
    "generic/compressed_j2k/001",
    "generic/compressed_rle/001",
    "failing/slicecount/001",
    "hitachi/anatomical/001",
    "hitachi/anatomical/001_implicit",
    "siemens/anatomical/001",
    "siemens/anatomical/001_implicit",
    "philips_enhanced/fmri/001",
    "philips_enhanced/fmri/001_implicit",
    "siemens_multiframe/anatomical/001",
    "hyperfine/anatomical/001",
]
NEEDS_DECODER = {
    "generic/compressed_jpeg/001": JPEGLosslessSV1,
    "generic/compressed_jpegls/001": JPEGLSLossless,
}


class Scan(NamedTuple):
    """An image in canonical orientation: shape (x, y, z), or (x, y, z, t)."""

    values: np.ndarray
    affine: np.ndarray

    def corners(self) -> np.ndarray:
        ends = [(0, length - 1) for length in self.values.shape[:3]]
        return np.array(list(itertools.product(*ends))) @ self.affine[:3, :3].T + self.affine[:3, 3]


def load(path: Path) -> Scan:
    nifti = nib.as_closest_canonical(nib.load(path))
    return Scan(np.squeeze(np.asarray(nifti.dataobj)), nifti.affine)


def scans(conversion: Conversion) -> list[Scan]:
    """Give our volumes, and those of one series that lie in one place stacked in their order as well."""
    series: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for image in conversion.images:
        part = image.image_id.removeprefix(image.series_uid).removeprefix("-")
        series[image.series_uid].append((int(part or 0), conversion.volumes / image.volume_file))
    found = []
    for parts in series.values():
        volumes = [load(path) for _, path in sorted(parts)]
        if len({volume.values.shape for volume in volumes}) == 1:
            first = volumes[0]
            assert all(np.allclose(one.affine, first.affine, atol=1e-4) for one in volumes)
            found.append(Scan(np.squeeze(np.stack([one.values for one in volumes], axis=-1)), first.affine))
        if len(volumes) > 1:
            found += volumes
    return found


def difference(ours: np.ndarray, reference: np.ndarray) -> float:
    """Give the largest difference; fractions that agree in the six digits that float32 surely holds are equal."""
    away = np.abs(ours - reference)
    if not (reference == np.rint(reference)).all():
        away[away <= RELATIVE_TOLERANCE * np.abs(reference)] = 0
    return float(away.max())


def assert_equal_to_one(reference: Scan, ours: list[Scan], name: str) -> None:
    """Find the one volume with the values of the reference; it must lie in the same place."""
    candidates = [scan for scan in ours if scan.values.shape == reference.values.shape]
    assert candidates, f"{name}: no volume of the shape {reference.values.shape}"
    differences = [difference(scan.values.astype(float), reference.values.astype(float)) for scan in candidates]
    best = int(np.argmin(differences))
    assert differences[best] == 0, f"{name}: the nearest volume differs by {differences[best]}"
    away = np.linalg.norm(candidates[best].corners() - reference.corners(), axis=1).max()
    assert away < CORNERS_MM, f"{name}: corners are {away:.4f} mm apart"


# --- references that come with the data


@pytest.fixture(scope="module")
def nih(tmp_path_factory) -> list[Scan]:
    return scans(convert(data_set("dcm_qa_nih"), tmp_path_factory.mktemp("nih") / "results"))


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *(f"DCM2NIIX_regression_test_{number}" for number in range(4, 8)),
        *("EPI_PE=AP_3", "EPI_PE=PA_4", "EPI_PE=RL_5", "EPI_PE=LR_6"),
    ],
)
def test_series_of_the_nih_equal_their_references(nih, name):
    reference = load(data_set("dcm_qa_nih") / "Ref" / f"{name}.nii")
    assert_equal_to_one(reference, nih, name)


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 10))
def test_one_mosaic_in_seven_transfer_syntaxes_equals_its_references(number, tmp_path):
    (tmp_path / "raw").mkdir()
    shutil.copy(data_set("dcm_qa_ts") / "In" / f"{number}.dcm", tmp_path / "raw")
    ours = scans(convert(tmp_path / "raw", tmp_path / "results"))
    assert_equal_to_one(load(data_set("dcm_qa_ts") / "Ref" / f"{number}.nii"), ours, str(number))


@pytest.mark.real_data
@pytest.mark.slow
def test_time_points_in_enhanced_objects_equal_their_reference(tmp_path):
    ours = scans(convert(data_set("dcm_qa_enh") / "In" / "Siemens", tmp_path / "results"))
    assert_equal_to_one(load(data_set("dcm_qa_enh") / "Ref" / "Siemens_REST1_w_SMS_PF7-8_6.nii"), ours, "Siemens")


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["Philips_WIP_B0_NS_801_e1", "Philips_WIP_B0_NS_801_e2_fieldmaphz"])
def test_two_kinds_of_image_in_one_enhanced_object_equal_their_references(name, tmp_path):
    """The references keep the stored numbers, and scale them by the maker's private factors, not by the rescale."""
    folder = data_set("dcm_qa_enh")
    reference = nib.as_closest_canonical(nib.load(folder / "Ref" / f"{name}.nii"))
    stored = np.asarray(reference.dataobj.get_unscaled(), float)
    (path,) = (folder / "In" / "Philips").iterdir()
    frames = dcmread(path, stop_before_pixels=True).PerFrameFunctionalGroupsSequence
    rescales = {
        (float(item.RescaleSlope), float(item.RescaleIntercept))
        for frame in frames
        for item in frame.PixelValueTransformationSequence
    }
    ours = scans(convert(path.parent, tmp_path / "results"))
    assert len(rescales) == 2
    fitting = [
        scan
        for scan in ours
        for slope, intercept in rescales
        if scan.values.shape == stored.shape and np.abs((scan.values - intercept) / slope - stored).max() < 1e-3
    ]
    assert len(fitting) == 1
    assert np.abs(fitting[0].corners() - Scan(stored, reference.affine).corners()).max() < CORNERS_MM


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *ICOMETRIX,
        *(
            pytest.param(
                name,
                marks=pytest.mark.xfail(
                    not is_decodable(syntax),
                    strict=True,
                    raises=AssertionError,
                    reason=f"no decoder for {syntax.name} is installed",
                ),
            )
            for name, syntax in NEEDS_DECODER.items()
        ),
    ],
)
def test_series_of_icometrix_equal_their_references(name, tmp_path):
    root = data_set("icometrix")
    ours = scans(convert(root / name, tmp_path / "results"))
    assert_equal_to_one(load(root / f"{name}_ground_truth.nii.gz"), ours, name)


@pytest.mark.real_data
@pytest.mark.slow
def test_what_icometrix_calls_a_failing_tilt_is_a_sheared_volume(tmp_path):
    """The oracle proves it right (test_oracle); no reference exists."""
    conversion = convert(data_set("icometrix") / "failing/gantrytilting/001", tmp_path / "results")
    assert len(conversion.images) == 1
    assert ("series", "TILTED_GANTRY") in conversion.counts("noted")


@pytest.mark.real_data
@pytest.mark.slow
def test_screen_captures_that_icometrix_stacks_in_colour_are_refused(tmp_path):
    """They are secondary captures: what they show is not measured, and may be anything (decision 0014)."""
    conversion = convert(data_set("icometrix") / "generic/rgb/001", tmp_path / "results")
    assert conversion.images == []
    assert set(conversion.counts()) == {("file", "SECONDARY_CAPTURE")}


@pytest.mark.real_data
@pytest.mark.slow
def test_what_icometrix_calls_no_volume_is_refused(tmp_path):
    conversion = convert(data_set("icometrix") / "failing/notavolume/001", tmp_path / "results")
    assert conversion.images == []
    assert conversion.counts()


# --- dcm2niix


def by_dcm2niix(folder: Path, target: Path) -> dict[str, Scan]:
    import dcm2niix

    target.mkdir()
    command = [dcm2niix.bin, "-z", "n", "-b", "n", "-f", "%j-%s", "-o", str(target), str(folder)]
    # Not zero where a folder holds a damaged file; what it wrote is compared, and must be there.
    subprocess.run(command, capture_output=True, check=False, timeout=120)
    return {path.name: load(path) for path in sorted(target.glob("*.nii"))}


def agree(folder: Path, results: Path, *, volumes: int) -> None:
    ours = scans(convert(folder, results / "ours"))
    assert len(ours) == volumes
    theirs = by_dcm2niix(folder, results / "theirs")
    for number, scan in enumerate(ours):
        assert_equal_to_one(scan, list(theirs.values()), f"our volume {number}")


@needs_dcm2niix
@pytest.mark.slow
def test_volumes_of_the_phantom_equal_those_of_dcm2niix(volume_cohort, tmp_path):
    agree(volume_cohort.dicom, tmp_path, volumes=len(volume_cohort.manifest.volumes))


@needs_dcm2niix
@pytest.mark.parametrize("seed", range(4))
def test_oblique_series_equal_those_of_dcm2niix(seed, tmp_path):
    """Oblique, anisotropic, in three main orientations, with and without reversed numbers and a slope."""
    generator = np.random.default_rng(seed)
    axes = oblique_axes(seed)[:, np.roll([0, 1, 2], seed)]
    axes[:, 2] = np.cross(axes[:, 0], axes[:, 1])
    shape = tuple(generator.integers(32, 70, 2))
    slices = oblique_ct(int(generator.integers(5, 15)), seed=seed, axes=axes, shape=shape)
    for number, one in enumerate(slices if seed % 2 else reversed(slices), start=1):
        one.InstanceNumber, one.RescaleSlope = number, 1 + seed % 3
    save(tmp_path / "raw", slices)
    agree(tmp_path / "raw", tmp_path, volumes=1)


@needs_dcm2niix
@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["generic/anatomical/002_non_isotropic", "ge/anatomical/001", "siemens/anatomical/001"]
)
def test_real_series_equal_those_of_dcm2niix(name, tmp_path):
    agree(data_set("icometrix") / name, tmp_path, volumes=1)
