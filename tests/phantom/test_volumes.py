"""Volumes: geometry to the last digit, Hounsfield units where they belong."""

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.phantom.volumes import TOMOGRAPHS, Nodule, Stack, chest, scan


def series(cohort, volume):
    """Slices of a series in the order of the manifest: along the cross product of row and column direction."""
    files = [file for file in cohort.manifest.accepted() if file.series_uid == volume.series_uid]
    slices = [pydicom.dcmread(cohort.dicom / file.path) for file in files]
    first = slices[0].ImageOrientationPatient
    normal = np.cross(first[:3], first[3:])
    return sorted(slices, key=lambda data: float(np.dot(normal, data.ImagePositionPatient)))


@pytest.fixture(scope="module")
def read_volumes(volume_cohort):
    return [(volume, series(volume_cohort, volume)) for volume in volume_cohort.manifest.volumes]


def test_the_affine_gives_the_corners_that_each_slice_claims(read_volumes):
    """PS3.3 C.7.6.2.1.1, written out here independently; LPS becomes RAS by two signs."""
    for volume, slices in read_volumes:
        affine = np.array(volume.affine)
        for index, data in enumerate(slices):
            position = np.array(data.ImagePositionPatient, float)
            along_row, down_column = np.array(data.ImageOrientationPatient, float).reshape(2, 3)
            between_rows, between_columns = map(float, data.PixelSpacing)
            for column, row in ((0, 0), (data.Columns - 1, 0), (0, data.Rows - 1), (data.Columns - 1, data.Rows - 1)):
                lps = position + along_row * between_columns * column + down_column * between_rows * row
                assert affine @ [column, row, index, 1] == pytest.approx([-lps[0], -lps[1], lps[2], 1], abs=1e-4)


def test_series_are_complete_oblique_and_anisotropic(read_volumes):
    tilts = []
    for volume, slices in read_volumes:
        assert volume.shape == (slices[0].Columns, slices[0].Rows, len(slices))
        assert len(slices) >= 24
        assert volume.shape[0] != volume.shape[1]
        spacings = [*volume.pixel_spacing_mm, volume.slice_distance_mm]
        assert len({round(spacing, 2) for spacing in spacings}) == 3
        axes = np.array(volume.affine)[:3, :3] / np.array([spacings[1], spacings[0], spacings[2]])
        assert axes.T @ axes == pytest.approx(np.eye(3), abs=1e-6)
        tilts.append(np.degrees(np.arccos(np.abs(axes).max(axis=0).min())))
    assert max(tilts) > 8
    assert {volume.is_signed for volume, _ in read_volumes} == {True, False}


def test_names_and_instance_numbers_tell_nothing_certain(volume_cohort, read_volumes):
    directions = set()
    for volume, slices in read_volumes:
        files = {file.sop_uid: file.path for file in volume_cohort.manifest.accepted()}
        paths = [files[data.SOPInstanceUID] for data in slices]
        assert paths != sorted(paths)
        assert paths != sorted(paths, reverse=True)
        numbers = [data.InstanceNumber for data in slices]
        directions.add(np.sign(numbers[1] - numbers[0]))
        assert sorted(numbers) == list(range(1, volume.shape[2] + 1))
    assert directions == {-1, 1}


def test_hounsfield_units_are_those_of_air_lung_and_flesh(read_volumes):
    for _, slices in read_volumes:
        middle = slices[len(slices) // 2]
        units = middle.pixel_array * float(middle.RescaleSlope) + float(middle.RescaleIntercept)
        rows, columns = units.shape
        assert np.median(units[:3, :3]) == pytest.approx(-1000, abs=30)
        lung = units[rows // 2 - 3 : rows // 2 + 3, int(0.29 * columns) : int(0.33 * columns)]
        assert -930 < np.median(lung) < -700
        assert 0 < np.median(units[rows // 2 - 2 : rows // 2 + 4, columns // 2 - 1 : columns // 2 + 2]) < 100
        assert units.max() > 250


def test_the_lesion_is_where_the_manifest_says(volume_cohort, read_volumes):
    """There it is denser than lung by a good part of the contrast; blur takes the rest."""
    studies = {study.study_uid: study for study in volume_cohort.manifest.studies}
    checked = 0
    for volume, slices in read_volumes:
        lesion = studies[volume.study_uid].lesion
        if lesion is None:
            continue
        units = np.stack([data.pixel_array.astype(float) for data in slices])
        place = [
            int(lesion.slice * len(slices)),
            int(lesion.row * volume.shape[1]),
            int(lesion.column * volume.shape[0]),
        ]
        near = units[tuple(slice(max(at - 1, 0), at + 2) for at in place)]
        assert np.median(near) - 1024 > -860 + 0.3 * lesion.contrast
        checked += 1
    assert checked == 3


@settings(max_examples=20)
@given(st.integers(0, 100_000))
def test_a_nodule_is_a_ball_of_its_size_inside_the_volume(seed):
    rng = np.random.default_rng(seed)
    stack, nodule = Stack.draw(rng, 128), Nodule.draw(rng)
    added = nodule.density(stack.chest_coordinates())
    voxel = np.prod(stack.spacing)
    volume = (added > 0).sum() * voxel
    ball = 4 / 3 * np.pi * (nodule.diameter_mm / 2) ** 3
    # The chest's axes are the mean of two frames, so slightly shorter than one.
    assert volume == pytest.approx(ball, rel=0.6, abs=3 * voxel)
    assert added.min() >= 0
    assert added.max() <= nodule.contrast_hu * (1 + 1e-5)


@pytest.mark.parametrize("tomograph", TOMOGRAPHS, ids=lambda tomograph: tomograph.model)
def test_stored_values_fit(tomograph):
    rng = np.random.default_rng(0)
    stored = scan(tomograph, chest(Stack.draw(rng, 128), rng), rng)
    if tomograph.is_signed:
        assert -(2**15) <= stored.min() < 0
    else:
        assert stored.min() == 0
    assert stored.max() < 2 ** (tomograph.bits_stored - tomograph.is_signed)
