"""Flipped bytes: whatever one damaged file says, nothing crashes or hangs, and no volume is wrong.

A damaged file may still be a valid one with other pixels or another place. So a volume that is accepted is held
against the files as plain pydicom reads them, the damaged one included. Where plain pydicom cannot read the damaged
file at all (an element it wants and we do not need), the volume must be that of the undamaged file.
"""

import shutil
import signal
import struct
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword

from pipeline.core.reasons import REASONS
from pipeline.core.volume import Volume
from pipeline.dicom.decoding.pixels import PixelReadError, read_pixels
from pipeline.dicom.indexing.scan import scan
from pipeline.dicom.slices.triage import triage
from pipeline.dicom.slices.volumes import slices_geometry
from pipeline.imaging.nifti import compact
from pipeline.imaging.stacking import Slice, stack
from tests.acceptance.convert import convert, oblique_ct, save
from tests.acceptance.oracle import Original, accounting_violations, volume_violations
from tests.dicom.multiframe import enhanced, mosaic

SEEDS = ("explicit", "RLE", "JPEG 2000", "implicit", "deflated")
SHORT, LONG, THROUGH_STAGES = 40, 450, 4  # cases for each of the five
HEADER_BYTES = 1600  # where most of what can go wrong stands
MOST_FLIPS = 64
SECONDS = 20.0
KEYWORDS = (
    *("RescaleIntercept", "RescaleSlope", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("BitsStored", "BitsAllocated", "HighBit", "PixelRepresentation", "Rows", "Columns", "SamplesPerPixel"),
    "PhotometricInterpretation",
)


class Hang(BaseException):
    """Raised by the clock; no handler of exceptions in the product may swallow it."""


@contextmanager
def limited() -> Iterator[None]:
    def stop(_signal: int, _frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def flip(content: bytes, generator: np.random.Generator, header_bytes: int = HEADER_BYTES) -> bytes:
    """Change 1 to 64 bytes: single ones more often than many, the header more often than pixels."""
    damaged = bytearray(content)
    end = len(damaged) if generator.random() < 0.3 else min(header_bytes, len(damaged))
    for _ in range(int(2 ** generator.uniform(0, np.log2(MOST_FLIPS)))):
        place = int(generator.integers(128, end))
        change = 1 << generator.integers(0, 8) if generator.random() < 0.5 else generator.integers(1, 256)
        damaged[place] ^= int(change)
    return bytes(damaged)


def stacked(folder: Path) -> tuple[list[tuple[Volume, list[Original]]], set[str]]:
    """Do what the stages do, in this process: volumes with their files, and the reason codes of the rest."""
    found = scan(folder, modalities=("CT",), largest_bytes=10_000_000, keep_shared_ids=True)
    chosen = triage(found.instances)
    codes = {one.code for one in found.rejections} | {code for _, code in chosen.refused}
    assert len(chosen.kept) + len(chosen.refused) + len(found.rejections) == len(list(folder.iterdir()))
    series: dict[tuple[str, int], list[Original]] = defaultdict(list)
    for one in chosen.kept:
        assert one.kind == "slice"
        series[one.series_uid, one.part].append(Original(folder / one.path))
    volumes = []
    for originals in series.values():
        try:
            found_pixels = [read_pixels(one.path) for one in originals]
            slices = [replace(pixels, values=compact(pixels.values)) for pixels in found_pixels]
        except PixelReadError as error:
            codes.add(error.code)
            continue
        geometry = slices_geometry(slices)
        if isinstance(geometry, str):
            codes.add(geometry)
            continue
        planes = [
            Slice(one.values, one.image_position_mm, one.image_orientation, one.pixel_spacing_mm)
            for one in (slices[index] for index in geometry.order)
        ]
        try:
            volume = stack(planes, count=len(planes), affine_mm=geometry.affine_mm, unit="")
        except ValueError:
            codes.add("GEOMETRY_NOT_PROVED")
            continue
        volumes.append((volume, originals))
    return volumes, codes


@pytest.fixture(scope="module", params=SEEDS)
def seed_series(request, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("seed") / "raw"
    save(folder, oblique_ct(5, shape=(48, 56)), syntax=request.param)
    return folder, request.param


def violations(
    array: np.ndarray, affine: np.ndarray, originals: list[Original], whole: Path, seed: int = 0
) -> list[str]:
    """Hold a volume against its files, or against the undamaged ones of the folder `whole`."""
    try:
        return volume_violations(array, affine, originals, seed=seed)
    except Exception as error:  # noqa: BLE001  plain pydicom raises nearly anything
        reason = f"plain pydicom cannot read a file ({type(error).__name__}: {error}), and it is not the undamaged one"
        undamaged = [Original(whole / one.path.name, one.frame) for one in originals]
        wrong = volume_violations(array, affine, undamaged, seed=seed)
        return [reason, *wrong] if wrong else []


def run(seed_series: tuple[Path, str], cases: int, start: int) -> dict[str, int]:
    """Flip, stack and check; tell how often volumes came out and files were refused."""
    whole, syntax = seed_series
    fates = {"accepted": 0, "refused": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "raw"
        shutil.copytree(whole, folder)
        paths = sorted(folder.iterdir())
        for case in range(start, start + cases):
            generator = np.random.default_rng([SEEDS.index(syntax), case])
            path = paths[case % len(paths)]
            original = (whole / path.name).read_bytes()
            path.write_bytes(flip(original, generator))
            try:
                with limited():
                    volumes, codes = stacked(folder)
            except (Exception, Hang) as error:  # noqa: BLE001  whatever it is, the case must be known
                pytest.fail(f"{syntax}, case {case}: {type(error).__name__}: {error}")
            assert codes <= set(REASONS), f"{syntax}, case {case}"
            for volume, files in volumes:
                wrong = violations(volume.array, volume.affine_mm, files, whole, seed=case)
                assert wrong == [], f"{syntax}, case {case}: {wrong}"
            fates["accepted"] += bool(volumes)
            fates["refused"] += bool(codes)
            path.write_bytes(original)
    return fates


def test_flipped_bytes_never_make_a_wrong_volume(seed_series):
    fates = run(seed_series, SHORT, 0)
    assert fates["accepted"] > 0 < fates["refused"]


def other_types() -> Iterator[object]:
    """Pair elements with types that they do not have."""
    for keyword in KEYWORDS:
        for representation in (b"XX", b"UN", b"LO", b"FD"):
            yield pytest.param(keyword, representation, id=f"{keyword}-{representation.decode()}")


@pytest.mark.parametrize(("keyword", "representation"), list(other_types()))
def test_an_element_of_another_type_never_makes_a_wrong_volume(keyword, representation, tmp_path):
    """In one slice the two letters of an element's type are others; a default must not take its place."""
    (tmp_path / "whole").mkdir()
    slices = oblique_ct(5)
    for one in slices:
        one.RescaleSlope = 2  # not the default
    for path in save(tmp_path / "raw", slices):
        shutil.copy(path, tmp_path / "whole")
    tag = tag_for_keyword(keyword)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    content = path.read_bytes()
    assert content.count(head + dictionary_VR(tag).encode()) == 1
    path.write_bytes(content.replace(head + dictionary_VR(tag).encode(), head + representation))
    with limited():
        volumes, _ = stacked(tmp_path / "raw")
    for volume, files in volumes:
        assert violations(volume.array, volume.affine_mm, files, tmp_path / "whole") == []


@pytest.mark.slow
def test_flipped_bytes_never_make_a_wrong_volume_in_many_cases(seed_series):
    fates = run(seed_series, LONG, SHORT)
    assert fates["accepted"] > 0 < fates["refused"]


SEVERAL = {
    "enhanced": lambda: enhanced(oblique_ct(5, shape=(24, 28))),
    "mosaic": lambda: mosaic(oblique_ct(5, shape=(24, 28))),
}


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("syntax", ["explicit", "RLE"])
@pytest.mark.parametrize(
    "cases", [range(20), pytest.param(range(20, 150), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_flipped_bytes_of_several_slices_never_make_a_wrong_volume(name, syntax, cases, tmp_path):
    (path,) = save(tmp_path / "whole", [SEVERAL[name]()], syntax=syntax)
    content = path.read_bytes()
    header = content.rindex(b"\xe0\x7f\x10\x00")
    accepted = 0
    for case in cases:
        generator = np.random.default_rng([len(name), case])
        raw = tmp_path / str(case) / "raw"
        raw.mkdir(parents=True)
        (raw / path.name).write_bytes(flip(content[:header], generator, header_bytes=header) + content[header:])
        with limited():
            conversion = convert(raw, tmp_path / str(case) / "results")
        assert accounting_violations(conversion.fates()) == []
        for image in conversion.images:
            nifti = conversion.volume(image)
            originals = conversion.originals(image)
            wrong = violations(np.asarray(nifti.dataobj), nifti.affine, originals, tmp_path / "whole", seed=case)
            assert wrong == [], case
            accepted += 1
    assert accepted


def test_flipped_bytes_leave_no_stage_by_an_exception(seed_series, tmp_path):
    folder, syntax = seed_series
    whole = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    for case in range(THROUGH_STAGES):
        generator = np.random.default_rng([SEEDS.index(syntax), 10_000 + case])
        raw = tmp_path / str(case) / "raw"
        raw.mkdir(parents=True)
        for number, (name, content) in enumerate(whole.items()):
            (raw / name).write_bytes(flip(content, generator) if number == case % len(whole) else content)
        with limited():
            conversion = convert(raw, tmp_path / str(case) / "results")
        assert accounting_violations(conversion.fates()) == []
        for image in conversion.images:
            nifti = conversion.volume(image)
            assert violations(np.asarray(nifti.dataobj), nifti.affine, conversion.originals(image), folder) == []
