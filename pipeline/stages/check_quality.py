"""Check the pixels and the geometry of every series; series that fail are left out with a reason."""

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline.config import CheckQualitySettings
from pipeline.core.artefacts import list_files, read_table, write_table
from pipeline.core.errors import PipelineError
from pipeline.core.parallel import map_series
from pipeline.core.progress import Progress, say
from pipeline.core.records import Finding, FlowStep, Series
from pipeline.dicom.decoding.pixels import PixelData, PixelReadError, read_pixels
from pipeline.dicom.slices.volumes import read_slices, slices_geometry
from pipeline.imaging.quality import Limits, Shortcoming, check_matrix, check_pixel_shape, check_values
from pipeline.imaging.steps import padding_mask, without_padding

STAGE = "check_quality"


def check_quality(
    *, settings: CheckQualitySettings, series: Path, dicom: Path, quality: Path, flow: Path, threads: int = 1
) -> None:
    """Decode every series, check it, and write the findings.

    A finding about a series with the severity ``excluded`` removes the series. A finding about an image (which
    stays ``noted``) names one that is left out while others of its series stay.

    Parameters
    ----------
    settings
        The limits.
    series
        Table of `Series`.
    dicom
        Folder of the de-identified files.
    quality
        Table of `Finding` written: series and images left out, and remarks.
    flow
        Table with one `FlowStep`.
    threads
        Processes to use.
    """
    listed = read_table(series, Series)
    size = sum(one.instances * one.rows * one.columns for one in listed)
    limits = Limits(
        min_size=settings.min_size,
        min_contrast=settings.min_contrast,
        max_saturated_fraction=settings.max_saturated_fraction,
    )
    check = partial(_check, folder=dicom, limits=limits, min_slices=settings.min_slices)
    needs_decoder = attrgetter("is_compressed")
    progress = Progress("check_quality: series", len(listed))
    findings: list[Finding] = []
    for found in map_series(check, listed, pixels=size, threads=threads, on_crash=_failed, needs_decoder=needs_decoder):
        findings += found
        progress.advance()
    excluded = sum(finding.severity == "excluded" for finding in findings)
    left = len(listed) - excluded
    step = FlowStep(
        stage=STAGE,
        unit="series",
        entered=len(listed),
        excluded=excluded,
        left=left,
        produced_unit="series",
        produced=left,
    )
    write_table(quality, Finding, findings)
    write_table(flow, FlowStep, [step])
    say(f"check_quality: {left} of {len(listed)} series are kept")


def _check(series: Series, *, folder: Path, limits: Limits, min_slices: int) -> list[Finding]:
    """Check one series; whatever goes wrong with it is a finding, unless it is the disk or our own files."""
    try:
        paths = list_files(folder / series.name, ".dcm", series.instances)
        if series.kind == "volume":
            return [_finding(series, one) for one in _most_serious(_check_volume(paths, limits, min_slices))]
        return _check_images(series, paths, limits)
    except PipelineError:
        raise
    except Exception:  # noqa: BLE001  one series must not stop the others
        return _failed(series)


def _failed(series: Series) -> list[Finding]:
    return [_finding(series, Shortcoming("CHECK_FAILED", "excluded"))]


def _check_images(series: Series, paths: Sequence[Path], limits: Limits) -> list[Finding]:
    """Check images that stand alone; the series is left out if all of them are."""
    checked = {path.stem: _most_serious(_check_image(path, limits)) for path in paths}
    failed = {uid: found[0] for uid, found in checked.items() if found and found[0].severity == "excluded"}
    if len(failed) == len(checked):
        return [_finding(series, next(iter(failed.values())))]
    remarks = {one.code: one for uid, found in checked.items() if uid not in failed for one in found}
    return [
        *(_finding(series, one, image=uid) for uid, one in failed.items()),
        *(_finding(series, one) for one in remarks.values()),
    ]


def _most_serious(found: Sequence[Shortcoming]) -> Sequence[Shortcoming]:
    """Give the first reason to leave something out, or else all remarks."""
    return [one for one in found if one.severity == "excluded"][:1] or found


def _check_image(path: Path, limits: Limits) -> list[Shortcoming]:
    try:
        pixels = read_pixels(path)
    except PixelReadError as error:
        return [Shortcoming(error.code, "excluded")]
    return (
        check_matrix(pixels.values.shape, limits)
        or check_pixel_shape(pixels.pixel_spacing_mm or pixels.pixel_aspect_ratio)
        or _colour(pixels) + check_values([_picture(pixels)], limits)
    )


def _check_volume(paths: Sequence[Path], limits: Limits, min_slices: int) -> list[Shortcoming]:
    """Check slices that form a volume; the first fault is enough."""
    if len(paths) < min_slices:
        return [Shortcoming("TOO_FEW_SLICES", "excluded", len(paths))]
    try:
        slices = read_slices(paths)
    except PixelReadError as error:
        return [Shortcoming(error.code, "excluded")]
    geometry = slices_geometry(slices)
    if isinstance(geometry, str):
        return [Shortcoming(geometry, "excluded")]
    tilt = [Shortcoming("TILTED_GANTRY", "noted", geometry.tilt_degrees)] if geometry.tilt_degrees else []
    remarks = tilt + _colour(slices[0])
    return check_matrix(slices[0].values.shape, limits) or remarks + check_values(map(_picture, slices), limits)


def _colour(pixels: PixelData) -> list[Shortcoming]:
    return [Shortcoming("COLOUR_TO_GREY", "noted")] if pixels.was_colour else []


def _picture(pixels: PixelData) -> NDArray[Any]:
    """Give the values that are no padding."""
    return without_padding(pixels.values, padding_mask(pixels.values, pixels.padding))


def _finding(series: Series, shortcoming: Shortcoming, *, image: str = "") -> Finding:
    return Finding(
        stage=STAGE,
        unit="image" if image else "series",
        unit_id=image or series.name,
        code=shortcoming.code,
        severity="noted" if image else shortcoming.severity,
        value=shortcoming.value,
    )
