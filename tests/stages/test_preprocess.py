import hashlib
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.config import PercentileScaling, PreprocessSettings, WindowScaling
from pipeline.core import parallel
from pipeline.core.artefacts import read_table, write_table
from pipeline.core.errors import ArtefactError
from pipeline.core.reasons import REASONS
from pipeline.core.records import Finding, FlowStep, Image
from pipeline.imaging.nifti import write_volume
from pipeline.imaging.pixel_store import open_pixels
from pipeline.stages import preprocess as stage
from pipeline.stages.preprocess import preprocess
from tests.stages.series_files import SYNTAXES, Study, oblique_stack, radiograph

SHUFFLED = [7, 3, 9, 1, 5, 0, 8, 2, 6, 4]


@pytest.fixture
def study(tmp_path) -> Study:
    return Study(tmp_path)


def _preprocess(study: Study, *, threads: int = 1, quality: tuple[Finding, ...] = (), **settings) -> list[Image]:
    study.save()
    folder = study.folder
    write_table(folder / "quality.tsv", Finding, quality)
    preprocess(
        settings=PreprocessSettings(**{"size": 32, **settings}),
        series=folder / "series.tsv",
        quality=folder / "quality.tsv",
        dicom=study.dicom,
        images=folder / "images.tsv",
        pixels=folder / "images" / "pixels.npy",
        volumes=folder / "images" / "volumes",
        unreadable=folder / "unreadable.tsv",
        flow=folder / "flow" / "preprocess.tsv",
        threads=threads,
    )
    images = read_table(folder / "images.tsv", Image)
    findings = study.findings("unreadable")
    (step,) = read_table(folder / "flow" / "preprocess.tsv", FlowStep)
    excluded = [one for one in findings if one.severity == "excluded"]
    assert (step.unit, step.produced_unit, step.produced) == ("series", "image", len(images))
    assert step.entered == len(study.listed) - sum(one.severity == "excluded" for one in quality)
    assert step.excluded == len(excluded) == len({one.unit_id for one in excluded})
    assert {one.code for one in findings} <= set(REASONS)
    return images


def _pixels(study: Study) -> np.ndarray:
    return open_pixels(study.folder / "images" / "pixels.npy")


def _outputs(folder: Path) -> dict[str, bytes]:
    names = ["images.tsv", "unreadable.tsv", "flow/preprocess.tsv", "images/pixels.npy"]
    volumes = sorted((folder / "images" / "volumes").iterdir())
    return {str(path.relative_to(folder)): path.read_bytes() for path in [*(folder / name for name in names), *volumes]}


# --- images


def test_the_record_says_how_the_values_came_to_be(study):
    picture = radiograph(1, (80, 100))
    series = study.add_images(
        picture,
        ImagerPixelSpacing=["0.2", "0.2"],
        ViewPosition="LL",
        RescaleSlope="2",
        RescaleIntercept="-100",
        RescaleType="US",
    )
    (image,) = _preprocess(study)
    values = picture.astype(float) * 2 - 100
    low, high = np.percentile(values, [0.5, 99.5])
    assert (image.image_id, image.sop_uid, image.series_uid) == (f"{series.series_uid}.1",) * 2 + (series.series_uid,)
    assert (image.row, image.source_rows, image.source_columns, image.source_slices) == (0, 80, 100, 1)
    assert (image.pixel_spacing_mm, image.view_position, image.volume_file) == ((0.2, 0.2), "LL", "")
    assert image.pixel_spacing_source == "ImagerPixelSpacing"
    assert (image.patient, image.site, image.patient_sex, image.patient_age_years) == ("P1", "site-1", "F", 50)
    assert (image.intensity_low, image.intensity_high) == pytest.approx((low, high), rel=1e-6)
    assert not image.was_inverted
    assert len(image.perceptual_hash) >= 16
    digest = hashlib.sha256(np.array([80, 100], "<i8").tobytes() + values.astype("<f4").tobytes())
    assert image.pixel_sha256 == digest.hexdigest()


def test_the_stored_row_equals_an_independent_computation(study):
    """Scale, shrink by four with a triangle filter written as a loop, pad, round."""
    picture = radiograph(1, (96, 128))
    study.add_images(picture)
    _preprocess(study, intensity=PercentileScaling(low=1, high=99))
    low, high = np.percentile(picture, [1, 99])
    scaled = np.clip((picture - low) / (high - low), 0, 1)
    weights = np.zeros((32, 128))
    for new in range(32):
        for old in range(128):
            weights[new, old] = max(0.0, 1 - abs(old + 0.5 - 4 * (new + 0.5)) / 4)
    weights /= weights.sum(axis=1, keepdims=True)
    rows = weights[:24, :96] / weights[:24, :96].sum(axis=1, keepdims=True)
    expected = np.zeros((32, 32))
    expected[4:28] = rows @ scaled @ weights.T
    np.testing.assert_allclose(_pixels(study)[0], expected * 255, atol=0.51)
    assert not _pixels(study)[0, [0, 3, 28, 31]].any()


def test_a_window_is_taken_in_modality_values(study):
    study.add_images(radiograph(1), RescaleSlope="1", RescaleIntercept="-1024", RescaleType="HU")
    (image,) = _preprocess(study, intensity=WindowScaling(kind="window", centre=900, width=800), dtype="float16")
    assert (image.intensity_low, image.intensity_high) == (500, 1300)
    assert _pixels(study).dtype == np.float16
    assert (_pixels(study).min(), _pixels(study).max()) == (0, 1)


def test_an_encoding_does_not_change_the_picture(study):
    """Native, big-endian, deflated, RLE, JPEG 2000, garbage in the unused bits, negative: one picture."""
    picture = radiograph(5)
    for syntax in SYNTAXES:
        study.add_images(picture, syntax=syntax)
    garbage = np.random.default_rng(1).integers(0, 16, picture.shape).astype(np.uint16) << 12
    study.add_images(picture | garbage)
    study.add_images(picture | garbage, syntax="RLE")
    negative = study.add_images(4095 - picture, PhotometricInterpretation="MONOCHROME1")
    other = study.add_images(radiograph(6))
    images = _preprocess(study)
    same = [image for image in images if image.series_uid != other.series_uid]
    assert len(same) == len(SYNTAXES) + 3
    assert len({(image.pixel_sha256, image.perceptual_hash) for image in same}) == 1
    assert len({_pixels(study)[image.row].tobytes() for image in same}) == 1
    assert len({image.pixel_sha256 for image in images}) == 2
    assert [image.series_uid for image in images if image.was_inverted] == [negative.series_uid]


def test_a_negative_gives_the_same_row_with_uneven_percentiles(study):
    picture = radiograph(5)
    study.add_images(picture, PixelPaddingValue=17)
    study.add_images(4095 - picture, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=4095 - 17)
    positive, negative = sorted(
        _preprocess(study, intensity=PercentileScaling(low=0, high=90)), key=lambda image: image.was_inverted
    )
    np.testing.assert_array_equal(*_pixels(study))
    assert negative.intensity_low == pytest.approx(4095 - positive.intensity_low)
    assert negative.intensity_high == pytest.approx(4095 - positive.intensity_high)


def test_a_window_means_modality_values_and_is_then_inverted(study):
    """PS3.3 C.11.2: the window acts on modality values; only its result is turned for MONOCHROME1."""
    picture = radiograph(5, (64, 64))
    window = WindowScaling(kind="window", centre=1100, width=900)
    unit = {"RescaleSlope": "1", "RescaleIntercept": "-1024", "RescaleType": "HU"}
    study.add_images(picture, **unit)
    study.add_images(picture, PhotometricInterpretation="MONOCHROME1", **unit)
    images = _preprocess(study, intensity=window, dtype="float16", size=64)
    positive, negative = sorted(images, key=lambda image: image.was_inverted)
    expected = np.clip((picture - 1024.0 - 650) / 900, 0, 1)
    np.testing.assert_allclose(_pixels(study)[positive.row], expected, atol=1e-3)
    np.testing.assert_allclose(_pixels(study)[negative.row], 1 - expected, atol=1e-3)
    assert (positive.intensity_low, positive.intensity_high) == (650, 1550)
    assert (negative.intensity_low, negative.intensity_high) == (1550, 650)


def test_pixels_that_are_not_square_become_so_even_if_only_their_ratio_is_known(study):
    picture = radiograph(5, (40, 80))
    square, narrow = (
        study.add_images(picture, **elements)
        for elements in ({"PixelSpacing": [0.4, 0.2]}, {"PixelAspectRatio": [2, 1]})
    )
    by_series = {image.series_uid: image for image in _preprocess(study, size=64)}
    assert by_series[narrow.series_uid].pixel_spacing_mm is None
    rows = [_pixels(study)[by_series[one.series_uid].row] for one in (square, narrow)]
    np.testing.assert_array_equal(*rows)
    assert rows[0].any(axis=1).all()  # 40 rows of 2 by 80 columns of 1 fill the square


def test_padding_is_dark_and_does_not_count(study):
    picture = radiograph(5)
    framed = np.full((120, 140), 4000, np.uint16)
    framed[20:100, 20:120] = np.minimum(picture, 3900)
    study.add_images(framed, PixelPaddingValue=4000)
    (image,) = _preprocess(study, size=140)
    expected = np.percentile(np.minimum(picture, 3900), [0.5, 99.5])
    assert (image.intensity_low, image.intensity_high) == pytest.approx(expected.tolist(), rel=1e-6)
    assert not _pixels(study)[0, :28].any()


def test_rows_follow_the_content_and_not_the_names(study, tmp_path_factory):
    pictures = [radiograph(seed) for seed in range(6)]
    other = Study(tmp_path_factory.mktemp("other"))
    for number, picture in enumerate(pictures):
        study.add_images(picture, uid=f"2.25.5{number}")
    for number, picture in enumerate(reversed(pictures)):
        other.add_images(picture, uid=f"2.25.9{number * 7 % 5}{number}")
    images, renamed = _preprocess(study), _preprocess(other)
    assert [image.pixel_sha256 for image in images] == [image.pixel_sha256 for image in renamed]
    assert [image.pixel_sha256 for image in images] == sorted(image.pixel_sha256 for image in images)
    assert [image.row for image in images] == list(range(6))
    np.testing.assert_array_equal(_pixels(study), _pixels(other))
    for image in images:
        number = int(image.series_uid[-1])
        assert image.pixel_sha256 == _digest_of(pictures[number])


def _digest_of(picture: np.ndarray) -> str:
    return hashlib.sha256(np.array(picture.shape, "<i8").tobytes() + picture.astype("<f4").tobytes()).hexdigest()


# --- what is left out, what fails


def _finding(unit: str, uid: str, code: str, severity: str) -> Finding:
    return Finding(stage="check_quality", unit=unit, unit_id=uid, code=code, severity=severity)


def test_what_the_quality_check_left_out_stays_out(study):
    gone, noted = study.add_images(radiograph(1)), study.add_images(radiograph(2))
    partly = study.add_images(radiograph(3), radiograph(4))
    images = _preprocess(
        study,
        quality=(
            _finding("series", gone.series_uid, "LOW_CONTRAST", "excluded"),
            _finding("series", noted.series_uid, "SATURATED", "noted"),
            _finding("image", f"{partly.series_uid}.1", "SMALL_MATRIX", "noted"),
        ),
    )
    assert sorted(image.image_id for image in images) == [f"{noted.series_uid}.1", f"{partly.series_uid}.2"]
    assert study.findings("unreadable") == []


def _damage(study: Study, uid: str, number: int) -> None:
    path = study.dicom / uid / f"{uid}.{number}.dcm"
    path.write_bytes(path.read_bytes()[:-500])


def test_a_corrupt_file_costs_one_finding_and_nothing_else(study, tmp_path_factory):
    for seed in range(4):
        study.add_images(radiograph(seed), syntax="RLE")
    whole = _preprocess(study)
    rows = {image.image_id: _pixels(study)[image.row].copy() for image in whole}
    bad = study.listed[2].series_uid
    _damage(study, bad, 1)
    left = _preprocess(study)
    assert [(one.unit, one.unit_id, one.severity) for one in study.findings("unreadable")] == [
        ("series", bad, "excluded")
    ]
    assert {image.image_id for image in left} == set(rows) - {f"{bad}.1"}
    assert len(_pixels(study)) == 3
    for image in left:
        np.testing.assert_array_equal(_pixels(study)[image.row], rows[image.image_id])


def test_one_bad_image_leaves_its_series(study):
    series = study.add_images(radiograph(1), radiograph(2), radiograph(3))
    _damage(study, series.series_uid, 2)
    assert len(_preprocess(study)) == 2
    (found,) = study.findings("unreadable")
    assert (found.unit, found.unit_id, found.severity) == ("image", f"{series.series_uid}.2", "noted")


def test_an_unexpected_failure_is_a_finding(study, monkeypatch):
    study.add_images(np.full((40, 40), 123, np.uint16))
    good = study.add_images(radiograph(2))
    genuine = stage.standardise

    def standardise_or_fail(image, steps):
        if image.values.max() == 123:
            message = "a bug"
            raise ZeroDivisionError(message)
        return genuine(image, steps)

    monkeypatch.setattr(stage, "standardise", standardise_or_fail)
    (image,) = _preprocess(study)
    assert image.series_uid == good.series_uid
    assert [one.code for one in study.findings("unreadable")] == ["PREPROCESSING_FAILED"]


def test_a_full_disk_stops_the_stage(study, monkeypatch):
    values, places, _ = oblique_stack()
    study.add_volume(values, places, SHUFFLED)

    def no_space(path, volume):
        raise ArtefactError("cannot write (No space left on device)")

    monkeypatch.setattr(stage, "write_volume", no_space)
    with pytest.raises(ArtefactError, match="No space"):
        _preprocess(study)
    assert not (study.folder / "images.tsv").exists()
    assert not (study.folder / "images" / "pixels.npy").exists()


def test_a_file_that_vanished_stops_the_stage(study):
    series = study.add_images(radiograph(1), radiograph(2))
    (study.dicom / series.series_uid / f"{series.series_uid}.2.dcm").unlink()
    with pytest.raises(ArtefactError, match="1 files where 2 are listed"):
        _preprocess(study)


def test_no_series_at_all(study):
    assert _preprocess(study) == []
    assert _pixels(study).shape == (0, 32, 32)
    assert (study.folder / "images" / "volumes").is_dir()


# --- volumes


def test_a_volume_holds_every_voxel_where_it_belongs(study):
    """An oblique, anisotropic stack under shuffled names, with a rescale, against an affine computed by hand."""
    values, places, affine = oblique_stack()
    series = study.add_volume(values, places, SHUFFLED, RescaleSlope="1", RescaleIntercept="-24")
    (image,) = _preprocess(study)
    assert (image.image_id, image.volume_file, image.row) == (series.series_uid, f"{series.series_uid}.nii", 0)
    assert (image.source_rows, image.source_columns, image.source_slices) == (64, 72, 10)
    assert image.pixel_spacing_mm == (0.8, 0.6)
    assert (image.sop_uid, image.perceptual_hash) == ("", "")
    assert _pixels(study).shape == (1, 32, 32, 32)
    nifti = nib.load(study.folder / "images" / "volumes" / image.volume_file)
    stored = np.asarray(nifti.dataobj)
    assert stored.dtype == np.int16
    assert nib.aff2axcodes(nifti.affine) == ("R", "A", "S")
    grid = np.stack(np.meshgrid(np.arange(72), np.arange(64), np.arange(10), indexing="ij"), axis=-1)
    places_mm = grid @ affine[:3, :3].T + affine[:3, 3]
    found = (places_mm - nifti.affine[:3, 3]) @ np.linalg.inv(nifti.affine[:3, :3]).T
    assert np.abs(found - found.round()).max() < 0.01
    expected = np.stack([plane.T.astype(int) - 24 for plane in values], axis=-1)
    np.testing.assert_array_equal(stored[tuple(np.moveaxis(found.round().astype(int), -1, 0))], expected)
    assert (image.intensity_low, image.intensity_high) == tuple(np.percentile(expected, [0.5, 99.5]))


@pytest.mark.parametrize(("slope", "intercept"), [(1001, 20_000_000), (1, 20_000_000), (100_003, 0)])
def test_large_whole_numbers_reach_the_file_exactly(study, slope, intercept):
    values, places, _ = oblique_stack()
    study.add_volume(values, places, SHUFFLED, RescaleSlope=f"{slope}", RescaleIntercept=f"{intercept}")
    (image,) = _preprocess(study)
    stored = np.asarray(nib.load(study.folder / "images" / "volumes" / image.volume_file).dataobj)
    assert stored.dtype == np.int32
    expected = np.stack(values).astype(np.int64) * slope + intercept
    np.testing.assert_array_equal(np.sort(stored, axis=None), np.sort(expected, axis=None))


def test_large_whole_numbers_beside_fractions_are_no_volume(study):
    values, places, _ = oblique_stack()
    scales = [{"RescaleIntercept": "20000001", "RescaleSlope": "0.5" if number == 4 else "1"} for number in range(10)]
    study.add_volume(values, [{**place, **scale} for place, scale in zip(places, scales, strict=True)], SHUFFLED)
    assert _preprocess(study) == []
    assert [(one.code, one.severity) for one in study.findings("unreadable")] == [("GEOMETRY_NOT_PROVED", "excluded")]


def test_names_and_encodings_do_not_change_a_volume(study):
    values, places, _ = oblique_stack()
    for names, syntax in [(range(10), "explicit"), (SHUFFLED, "implicit"), (SHUFFLED[::-1], "RLE")]:
        study.add_volume(values, places, list(names), syntax=syntax)
    images = _preprocess(study)
    assert [image.row for image in images] == [0, 1, 2]
    assert len({image.pixel_sha256 for image in images}) == 1
    volumes = study.folder / "images" / "volumes"
    assert len({(volumes / image.volume_file).read_bytes() for image in images}) == 1


def test_names_do_not_choose_among_slightly_different_orientations(study):
    """Direction cosines differ in the last digits from slice to slice; the affine must not follow the names."""
    values, places, _ = oblique_stack()
    generator = np.random.default_rng(1)
    for place in places:
        exact = np.array(place["ImageOrientationPatient"], dtype=float)
        place["ImageOrientationPatient"] = [f"{value:.8f}" for value in exact + generator.normal(0, 1e-5, 6)]
    for names in (range(10), SHUFFLED, SHUFFLED[::-1]):
        study.add_volume(values, places, list(names))
    volumes = study.folder / "images" / "volumes"
    assert len({(volumes / image.volume_file).read_bytes() for image in _preprocess(study)}) == 1


def test_a_volume_keeps_its_values_whatever_the_photometric_interpretation(study):
    """Values with a unit stay what they are; MONOCHROME1 only says how to show them."""
    values, places, _ = oblique_stack()
    study.add_volume(values, places, SHUFFLED)
    study.add_volume(values, places, SHUFFLED, PhotometricInterpretation="MONOCHROME1")
    images = _preprocess(study)
    assert [image.was_inverted for image in images] == [False, False]
    assert len({image.pixel_sha256 for image in images}) == 1
    volumes = study.folder / "images" / "volumes"
    assert len({(volumes / image.volume_file).read_bytes() for image in images}) == 1


def test_images_and_volumes_have_ranks_of_their_own(study):
    values, places, _ = oblique_stack()
    study.add_volume(values, places, SHUFFLED)
    study.add_images(radiograph(1))
    study.add_images(radiograph(2))
    images = _preprocess(study)
    assert [(image.row, bool(image.volume_file)) for image in images] == [(0, False), (1, False), (0, True)]
    assert len(_pixels(study)) == 2


def test_a_volume_that_is_cut_off_or_lies_in_another_plane_is_noted(study):
    """Ten slices of some millimetres on two that are 1 mm apart; asked for in a plane that was not acquired."""
    values, places, _ = oblique_stack()
    series = study.add_volume(values, places, SHUFFLED)

    def notes(**grid) -> dict[str, float | None]:
        _preprocess(study, volume={"slices": 2, **grid})
        found = study.findings("unreadable")
        assert {(one.unit_id, one.severity) for one in found} == {(series.series_uid, "noted")}
        return {one.code: one.value for one in found if one.code != "GEOMETRY_PROVED"}

    told = {plane: notes(plane=plane) for plane in ("axial", "coronal", "sagittal")}
    assert sorted(map(len, told.values())) == [0, 1, 1]  # nothing is cut off; one plane is that of the slices
    assert {code for one in told.values() for code in one} == {"VOLUME_OTHER_PLANE"}
    own = next(plane for plane, codes in told.items() if not codes)
    cut = notes(plane=own, slice_spacing_mm=1.0)
    assert list(cut) == ["VOLUME_CUT_OFF"]
    assert 0.5 < cut["VOLUME_CUT_OFF"] < 1


def test_a_volume_whose_slices_do_not_fit_is_a_finding(study):
    values, places, _ = oblique_stack()
    good = study.add_volume(values, places, SHUFFLED)
    bad = study.add_volume(values[:5] + values[6:], places[:5] + places[6:], list(range(9)))
    (image,) = _preprocess(study)
    assert image.series_uid == good.series_uid
    assert {(one.unit_id, one.code, one.severity) for one in study.findings("unreadable")} == {
        (good.series_uid, "GEOMETRY_PROVED", "noted"),
        (bad.series_uid, "INSTANCES_MISSING", "excluded"),
    }
    assert [path.name for path in (study.folder / "images" / "volumes").iterdir()] == [image.volume_file]


def test_a_tilted_gantry_gives_a_sheared_volume_that_is_right(study):
    values, places, _ = oblique_stack()
    down = np.array(places[0]["ImageOrientationPatient"][3:], dtype=float)
    positions = []
    for number, place in enumerate(places):
        positions.append(np.array(place["ImagePositionPatient"], dtype=float) + 0.9 * number * down)
        place["ImagePositionPatient"] = [f"{value:.9g}" for value in positions[-1]]
    study.add_volume(values, places, SHUFFLED)
    (image,) = _preprocess(study)
    written = nib.load(study.folder / "images" / "volumes" / image.volume_file)
    assert written.header["qform_code"] == 0  # a quaternion cannot hold a shear
    inverse = np.linalg.inv(written.affine)
    for position, plane in zip(positions, values, strict=True):
        voxel = inverse @ [*(position * [-1, -1, 1]), 1]
        index = tuple(np.rint(voxel[:3]).astype(int))
        assert np.abs(voxel[:3] - index).max() < 0.02
        assert written.dataobj[index] == plane[0, 0]


def test_a_volume_that_was_written_wrongly_is_no_volume(study, monkeypatch):
    values, places, _ = oblique_stack()
    bad = study.add_volume(values, places, SHUFFLED)

    def write_mirrored(path, volume):
        write_volume(path, replace(volume, array=volume.array[::-1]))

    monkeypatch.setattr(stage, "write_volume", write_mirrored)
    assert _preprocess(study) == []
    assert [(one.unit_id, one.code, one.severity) for one in study.findings("unreadable")] == [
        (bad.series_uid, "GEOMETRY_NOT_PROVED", "excluded")
    ]
    assert not list((study.folder / "images" / "volumes").iterdir())


def test_processes_write_the_same_bytes(study, monkeypatch):
    for seed in range(6):
        study.add_images(radiograph(seed), syntax="RLE")
    bad = study.listed[3].series_uid
    _damage(study, bad, 1)
    values, places, _ = oblique_stack()
    study.add_volume(values, places, SHUFFLED)
    _preprocess(study)
    alone = _outputs(study.folder)
    monkeypatch.setattr(parallel, "FEW_PIXELS", 1)
    _preprocess(study, threads=2)
    assert _outputs(study.folder) == alone
    assert len(alone) == 5
