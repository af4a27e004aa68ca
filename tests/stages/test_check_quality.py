import multiprocessing
import os
import time

import numpy as np
import pytest

from pipeline.config import CheckQualitySettings
from pipeline.core import parallel
from pipeline.core.artefacts import read_table
from pipeline.core.errors import ArtefactError
from pipeline.core.reasons import REASONS
from pipeline.core.records import FlowStep
from pipeline.dicom.decoding import codecs as decoding
from pipeline.stages import check_quality as stage
from pipeline.stages.check_quality import check_quality
from tests.stages.series_files import Study, oblique_stack, radiograph

SHUFFLED = [7, 3, 9, 1, 5, 0, 8, 2, 6, 4]


def _check(study: Study, *, threads: int = 1, **settings) -> list[tuple[str, str, str, str]]:
    study.save()
    check_quality(
        settings=CheckQualitySettings(**settings),
        series=study.folder / "series.tsv",
        dicom=study.dicom,
        quality=study.folder / "quality.tsv",
        flow=study.folder / "flow" / "check_quality.tsv",
        threads=threads,
    )
    found = study.findings("quality")
    (step,) = read_table(study.folder / "flow" / "check_quality.tsv", FlowStep)
    excluded = [one for one in found if one.severity == "excluded"]
    assert (step.stage, step.unit, step.produced_unit) == ("check_quality", "series", "series")
    assert (step.entered, step.excluded, step.produced) == (len(study.listed), len(excluded), step.left)
    assert len({one.unit_id for one in excluded}) == len(excluded), "a series is counted once"
    assert {one.unit for one in excluded} <= {"series"}
    assert {one.code for one in found} <= set(REASONS)
    return [(one.unit, one.unit_id, one.code, one.severity) for one in found]


@pytest.fixture
def study(tmp_path) -> Study:
    return Study(tmp_path)


_genuine = stage._check


def _die(*_arguments):
    os.abort()


def _hang(*_arguments):
    time.sleep(600)


def _check_with_bad_decoders(series, **options):
    """Check series with a decoder that kills its process on pictures of 81 rows, and hangs on those of 82."""
    assert multiprocessing.parent_process() is not None or not series.is_compressed
    genuine = decoding._decoded
    decoding._decoded = {81: _die, 82: _hang}.get(series.rows, genuine)
    try:
        return _genuine(series, **options)
    finally:
        decoding._decoded = genuine


@pytest.mark.parametrize("threads", [1, 2])
def test_a_decoder_that_dies_or_hangs_costs_one_series(study, monkeypatch, threads):
    monkeypatch.setattr(parallel, "_SERIES_SECONDS", 6.0)
    monkeypatch.setattr(stage, "_check", _check_with_bad_decoders)
    study.add_images(radiograph(1))
    for number, rows in enumerate((80, 81, 82, 83), start=2):
        study.add_images(radiograph(number, (rows, 100)), syntax="RLE")
        study.listed[-1] = study.listed[-1].model_copy(update={"is_compressed": True})
    lost = [("series", one.series_uid, "CHECK_FAILED", "excluded") for one in study.listed[2:4]]
    assert _check(study, threads=threads) == lost


def _damage(study: Study, series, content: bytes | None, number: int = 1) -> None:
    path = study.dicom / series.series_uid / f"{series.series_uid}.{number}.dcm"
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)


def test_good_series_have_no_findings(study):
    study.add_images(radiograph(1))
    study.add_images(radiograph(2), radiograph(3), syntax="RLE")
    values, places, _ = oblique_stack()
    study.add_volume(values, places, SHUFFLED)
    assert _check(study) == []


@pytest.mark.parametrize(
    ("picture", "code", "value"),
    [
        (radiograph(1, (63, 200)), "SMALL_MATRIX", 63),
        (np.full((80, 80), 1000, np.uint16), "LOW_CONTRAST", 0),
    ],
)
def test_a_bad_image_removes_its_series(study, picture, code, value):
    study.add_images(radiograph(1))
    bad = study.add_images(picture)
    study.add_images(radiograph(2))
    assert _check(study) == [("series", bad.series_uid, code, "excluded")]
    assert study.findings("quality")[0].value == pytest.approx(value)


@pytest.mark.parametrize(
    ("elements", "ratio"),
    [
        ({"PixelAspectRatio": [100, 1]}, 100),
        ({"PixelSpacing": [0.2, 1.0]}, 5),
        ({"PixelSpacing": [0.2, 0.8]}, None),
        ({"PixelAspectRatio": [1, 2]}, None),
    ],
)
def test_pixels_far_from_square_are_a_mistake_of_the_header(study, elements, ratio):
    odd = study.add_images(radiograph(1), **elements)
    expected = [("series", odd.series_uid, "UNEVEN_PIXELS", "excluded")] if ratio else []
    assert _check(study) == expected
    assert [one.value for one in study.findings("quality")] == pytest.approx([ratio] if ratio else [])


def test_a_saturated_image_is_noted_and_stays(study):
    picture = radiograph(1)
    picture[:50] = 4095
    noted = study.add_images(picture)
    assert _check(study) == [("series", noted.series_uid, "SATURATED", "noted")]
    assert study.findings("quality")[0].value == pytest.approx(50 / 80, abs=0.02)


def test_limits_come_from_the_settings(study):
    study.add_images(radiograph(1))
    assert [code for _, _, code, _ in _check(study, min_size=90)] == ["SMALL_MATRIX"]
    assert [code for _, _, code, _ in _check(study, min_contrast=0.99)] == ["LOW_CONTRAST"]
    assert [code for _, _, code, _ in _check(study, max_saturated_fraction=1e-9)] == ["SATURATED"]


def test_padding_is_no_picture(study):
    flat = radiograph(1)
    flat[20:60, 20:80] = 1000
    flat[:20], flat[60:], flat[:, :20], flat[:, 80:] = 0, 0, 0, 0
    padded = study.add_images(flat, PixelPaddingValue=0)
    study.add_images(flat)
    assert ("series", padded.series_uid, "LOW_CONTRAST", "excluded") in _check(study)
    assert len([one for one in study.findings("quality") if one.severity == "excluded"]) == 1


@pytest.mark.parametrize("content", [None, b"", b"no DICOM" * 100])
def test_a_corrupt_file_costs_one_finding(study, content):
    study.add_images(radiograph(1))
    bad = study.add_images(radiograph(2))
    _damage(study, bad, content)
    ((unit, uid, _, severity),) = _check(study)
    assert (unit, uid, severity) == ("series", bad.series_uid, "excluded")


def test_one_bad_image_leaves_its_series(study):
    series = study.add_images(radiograph(1), np.full((80, 100), 7, np.uint16), radiograph(2))
    _damage(study, series, None, number=3)
    found = _check(study)
    assert [(unit, uid, severity) for unit, uid, _, severity in found] == [
        ("image", f"{series.series_uid}.2", "noted"),
        ("image", f"{series.series_uid}.3", "noted"),
    ]
    assert found[0][2] == "LOW_CONTRAST"


def test_a_series_of_bad_images_is_counted_once(study):
    flat = np.full((80, 100), 7, np.uint16)
    series = study.add_images(flat, flat)
    assert _check(study) == [("series", series.series_uid, "LOW_CONTRAST", "excluded")]


def _spoil(fault: str, values: list, places: list) -> tuple[list, list]:
    if fault == "TOO_FEW_SLICES":
        return values[:7], places[:7]
    if fault == "INSTANCES_MISSING":
        return values[:4] + values[5:], places[:4] + places[5:]
    if fault == "DUPLICATE_POSITION":
        return values, [*places[:-1], places[4]]
    if fault == "MIXED_SERIES":
        return values, [*places[:-1], places[-1] | {"PixelSpacing": ["0.9", "0.6"]}]
    if fault == "LOW_CONTRAST":
        return [np.full_like(plane, 3) for plane in values], places
    return [plane[:, :60] for plane in values], places


@pytest.mark.parametrize(
    "fault",
    ["TOO_FEW_SLICES", "INSTANCES_MISSING", "DUPLICATE_POSITION", "MIXED_SERIES", "LOW_CONTRAST", "SMALL_MATRIX"],
)
def test_a_faulty_volume_is_left_out_with_its_reason(study, fault):
    values, places, _ = oblique_stack()
    values, places = _spoil(fault, values, places)
    series = study.add_volume(values, places, SHUFFLED[: len(values)])
    assert _check(study) == [("series", series.series_uid, fault, "excluded")]


def test_a_tilted_gantry_is_noted_and_stays(study):
    values, places, _ = oblique_stack()
    down = np.array(places[0]["ImageOrientationPatient"][3:], dtype=float)
    for number, place in enumerate(places):
        position = np.array(place["ImagePositionPatient"], dtype=float)
        place["ImagePositionPatient"] = [f"{value:.9g}" for value in position + 0.5 * number * down]
    series = study.add_volume(values, places, SHUFFLED)
    assert _check(study) == [("series", series.series_uid, "TILTED_GANTRY", "noted")]


def test_slices_of_two_sizes_are_mixed(study):
    values, places, _ = oblique_stack()
    values[3] = values[3][:-1]
    series = study.add_volume(values, places, SHUFFLED)
    assert _check(study) == [("series", series.series_uid, "MIXED_SERIES", "excluded")]


def test_an_undecodable_slice_removes_the_volume(study):
    values, places, _ = oblique_stack()
    series = study.add_volume(values, places, SHUFFLED)
    _damage(study, series, None, number=4)
    ((unit, uid, code, severity),) = _check(study)
    assert (unit, uid, severity) == ("series", series.series_uid, "excluded")
    assert code in {"TRUNCATED_FILE", "UNDECODABLE_PIXELS"}


def test_an_unexpected_failure_is_a_finding(study, monkeypatch):
    first, second = study.add_images(radiograph(1)), study.add_images(radiograph(2))
    genuine = stage.read_pixels

    def read_or_fail(path):
        if first.series_uid in path.parts:
            message = "a bug"
            raise RuntimeError(message)
        return genuine(path)

    monkeypatch.setattr(stage, "read_pixels", read_or_fail)
    assert second.series_uid != first.series_uid
    assert _check(study) == [("series", first.series_uid, "CHECK_FAILED", "excluded")]


def test_a_file_that_vanished_stops_the_stage(study):
    series = study.add_images(radiograph(1), radiograph(2))
    (study.dicom / series.series_uid / f"{series.series_uid}.2.dcm").unlink()
    with pytest.raises(ArtefactError, match="1 files where 2 are listed"):
        _check(study)


def test_no_series_at_all(study):
    assert _check(study) == []


def test_processes_find_the_same(study, monkeypatch):
    monkeypatch.setattr(parallel, "FEW_PIXELS", 1)
    study.add_images(radiograph(1))
    study.add_images(np.full((80, 80), 1000, np.uint16))
    study.add_images(radiograph(2, (30, 80)))
    alone = _check(study)
    assert _check(study, threads=2) == alone
    assert len(alone) == 2
