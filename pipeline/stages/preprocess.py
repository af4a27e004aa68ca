"""Bring every image and volume to one size and range, and every volume also to a file with its place in the patient."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from pipeline.config import PercentileScaling, PreprocessSettings
from pipeline.core.artefacts import list_files, read_table, write_table
from pipeline.core.errors import PipelineError
from pipeline.core.parallel import map_series
from pipeline.core.progress import Progress, say
from pipeline.core.records import Finding, FlowStep, Image, Series
from pipeline.core.volume import Volume
from pipeline.dicom.decoding.pixels import PixelData, PixelReadError, read_pixels
from pipeline.dicom.slices.volumes import read_slices, slices_geometry
from pipeline.imaging.digest import pixel_sha256
from pipeline.imaging.grid import Grid, plane_of, put_on_grid
from pipeline.imaging.nifti import flush, read_volume, write_volume
from pipeline.imaging.pixel_store import PixelStoreWriter
from pipeline.imaging.stacking import Slice, prove, stacked
from pipeline.imaging.standard_form import standardise
from pipeline.imaging.steps import (
    AnyStep,
    PlanarImage,
    ScalePercentiles,
    ScaleWindow,
    Scaling,
    padding_mask,
    standard_steps,
)

STAGE = "preprocess"


@dataclass(frozen=True)
class _Outcome:
    """What became of one series: records with their stored pixels, and findings."""

    images: Sequence[tuple[Image, NDArray[Any]]]
    findings: Sequence[Finding]


@dataclass(frozen=True)
class _Form:
    """What values and shape the stored pixels get."""

    steps: tuple[AnyStep, ...]
    scaling: Scaling
    grid: Grid
    dtype: Literal["uint8", "float16"]


def preprocess(
    *,
    settings: PreprocessSettings,
    series: Path,
    quality: Path,
    dicom: Path,
    images: Path,
    pixels: Path,
    volumes: Path,
    unreadable: Path,
    flow: Path,
    threads: int = 1,
) -> None:
    """Process the series that passed the quality check.

    Images stand in `pixels` in the order of their pixel digests, which does not depend on the secret key, nor
    on the names or the order of the files. Those of volumes are stored on their grid if there are no images beside
    them: an array has one shape, and a network takes one of the two.

    Parameters
    ----------
    settings
        Size, range of values, type, and the grid of volumes.
    series
        Table of `Series`.
    quality
        Table of `Finding`, from `check_quality`.
    dicom
        Folder of the de-identified files.
    images
        Table of `Image` written, in the order of the stored pixels.
    pixels
        The stored pixels written, a ``.npy`` array.
    volumes
        Folder for the volumes, with their own voxels, as NIfTI.
    unreadable
        Table of `Finding` written: what could not be processed, and remarks.
    flow
        Table with one `FlowStep`.
    threads
        Processes to use.
    """
    checked = read_table(quality, Finding)
    left_out = frozenset(one.unit_id for one in checked if one.severity == "excluded" or one.unit == "image")
    listed = [one for one in read_table(series, Series) if one.name not in left_out]
    size = sum(one.instances * one.rows * one.columns for one in listed)
    volumes.mkdir(parents=True, exist_ok=True)
    work = partial(_process, folder=dicom, left_out=left_out, form=_form(settings), volumes=volumes)
    needs_decoder = attrgetter("is_compressed")
    progress = Progress("preprocess: series", len(listed))
    flat: list[Image] = []
    stacked: list[Image] = []
    findings: list[Finding] = []
    with (
        PixelStoreWriter(pixels, size=settings.size, dtype=settings.dtype) as store,
        PixelStoreWriter(pixels, size=settings.size, dtype=settings.dtype, slices=settings.volume.slices) as grids,
    ):
        for outcome in map_series(
            work, listed, pixels=size, threads=threads, on_crash=_failed, needs_decoder=needs_decoder
        ):
            for image, stored in outcome.images:
                found, writer = (stacked, grids) if image.volume_file else (flat, store)
                found.append(image.model_copy(update={"row": writer.append(stored)}))
            findings += outcome.findings
            progress.advance()
        flat.sort(key=_content)
        stacked.sort(key=_content)
        chosen, writer = (flat, store) if flat or not stacked else (stacked, grids)
        writer.store([image.row for image in chosen])
    flush(volumes / image.volume_file for image in stacked)
    write_table(images, Image, [*_numbered(flat), *_numbered(stacked)])
    write_table(unreadable, Finding, findings)
    excluded = sum(finding.severity == "excluded" for finding in findings)
    step = FlowStep(
        stage=STAGE,
        unit="series",
        entered=len(listed),
        excluded=excluded,
        left=len(listed) - excluded,
        produced_unit="image",
        produced=len(flat) + len(stacked),
    )
    write_table(flow, FlowStep, [step])
    say(f"preprocess: {len(flat)} images and {len(stacked)} volumes from {step.left} of {step.entered} series")


def _form(settings: PreprocessSettings) -> _Form:
    chosen = settings.intensity
    scaling: Scaling = (
        ScalePercentiles(chosen.low, chosen.high)
        if isinstance(chosen, PercentileScaling)
        else ScaleWindow(chosen.centre, chosen.width)
    )
    steps = standard_steps(scaling=scaling, size=settings.size, dtype=settings.dtype)
    return _Form(steps, scaling, Grid(size=settings.size, **settings.volume.model_dump()), settings.dtype)


def _content(image: Image) -> tuple[str, str]:
    return image.pixel_sha256, image.image_id


def _numbered(images: Sequence[Image]) -> list[Image]:
    return [image.model_copy(update={"row": row}) for row, image in enumerate(images)]


def _process(series: Series, *, folder: Path, left_out: frozenset[str], form: _Form, volumes: Path) -> _Outcome:
    """Process one series; whatever goes wrong with it is a finding, unless it is the disk or our own files."""
    try:
        paths = list_files(folder / series.name, ".dcm", series.instances)
        if series.kind == "volume":
            return _volume(series, paths, form, volumes)
        return _images(series, [path for path in paths if path.stem not in left_out], form.steps)
    except PixelReadError as error:
        return _failed(series, error.code)
    except PipelineError:
        raise
    except Exception:  # noqa: BLE001  one series must not stop the others
        return _failed(series)


def _failed(series: Series, code: str = "PREPROCESSING_FAILED") -> _Outcome:
    return _Outcome([], [_finding(series, code)])


def _finding(series: Series, code: str, *, image: str = "") -> Finding:
    return Finding(
        stage=STAGE,
        unit="image" if image else "series",
        unit_id=image or series.name,
        code=code,
        severity="noted" if image else "excluded",
    )


def _images(series: Series, paths: Sequence[Path], steps: tuple[AnyStep, ...]) -> _Outcome:
    """Process images that stand alone; the series is left out if all of them fail."""
    done: list[tuple[Image, NDArray[Any]]] = []
    failed: dict[str, str] = {}
    for path in paths:
        try:
            done.append(_image(series, path, steps))
        except PixelReadError as error:
            failed[path.stem] = error.code
        except Exception:  # noqa: BLE001  one image must not stop the others
            failed[path.stem] = "PREPROCESSING_FAILED"
    if not done:
        return _failed(series, next(iter(failed.values())))
    return _Outcome(done, [_finding(series, code, image=uid) for uid, code in failed.items()])


def _image(series: Series, path: Path, steps: tuple[AnyStep, ...]) -> tuple[Image, NDArray[Any]]:
    pixels = read_pixels(path)
    form = standardise(_planar(pixels), steps)
    image = _record(
        series,
        pixels,
        image_id=path.stem,
        sop_uid=path.stem,
        was_inverted=form.was_inverted,
        intensity_low=form.intensity[0],
        intensity_high=form.intensity[1],
        pixel_sha256=form.pixel_sha256,
        perceptual_hash=form.perceptual_hash,
    )
    return image, form.pixels


def write_proved(paths: Sequence[Path], file: Path) -> tuple[Volume, PixelData]:
    """Stack the slices in some files, write the volume, and prove what was written by every slice's own place.

    Parameters
    ----------
    paths
        DICOM files of one slice each, in any order.
    file
        Where the volume goes (NIfTI). It is left only if it is proved.

    Returns
    -------
    tuple
        The volume, and the first slice as it was read.

    Raises
    ------
    PixelReadError
        With the reason why they are no volume.
    """
    slices = read_slices(paths)
    geometry = slices_geometry(slices)
    if isinstance(geometry, str):
        raise PixelReadError(geometry)
    planes = [_placed(slices[index]) for index in geometry.order]
    try:
        volume, probes = stacked(planes, count=len(planes), affine_mm=geometry.affine_mm, unit=slices[0].unit)
        write_volume(file, volume)
        # What was written is what counts: it is read back and proved once more.
        prove(read_volume(file), probes)
    except ValueError:
        file.unlink(missing_ok=True)
        raise PixelReadError("GEOMETRY_NOT_PROVED") from None
    return volume, slices[0]


def _volume(series: Series, paths: Sequence[Path], form: _Form, volumes: Path) -> _Outcome:
    file = f"{series.name}.nii"
    volume, first = write_proved(paths, volumes / file)
    stored = put_on_grid(volume, form.grid, form.scaling, form.dtype, padding=first.padding)
    image = _record(
        series,
        first,
        image_id=series.name,
        volume_file=file,
        source_slices=len(paths),
        grid_spacing_mm=stored.spacing_mm,
        intensity_low=stored.intensity[0],
        intensity_high=stored.intensity[1],
        pixel_sha256=pixel_sha256(volume.array),
    )
    notes: dict[str, float | None] = {"GEOMETRY_PROVED": None}
    if stored.cut_off > 0:
        notes["VOLUME_CUT_OFF"] = stored.cut_off
    if first.image_orientation is not None and plane_of(first.image_orientation) != form.grid.plane:
        notes["VOLUME_OTHER_PLANE"] = None
    return _Outcome([(image, stored.pixels)], [_note(series, code, value) for code, value in notes.items()])


def _note(series: Series, code: str, value: float | None) -> Finding:
    return _finding(series, code).model_copy(update={"severity": "noted", "value": value})


def _record(series: Series, pixels: PixelData, **own: Any) -> Image:
    """Fill in what an image takes over from its series and its source; the row is given later."""
    rows, columns = pixels.values.shape
    inherited = {name: value for name, value in series if name in Image.model_fields}
    facts = {
        **inherited,
        "row": 0,
        "view_position": pixels.view_position or series.view_position,
        "source_rows": rows,
        "source_columns": columns,
        "pixel_spacing_mm": pixels.pixel_spacing_mm,
        "pixel_spacing_source": pixels.pixel_spacing_source,
    }
    return Image.model_validate({**facts, **own})


def _planar(pixels: PixelData) -> PlanarImage:
    return PlanarImage(
        values=pixels.values,
        is_monochrome1=pixels.is_monochrome1,
        value_range=(pixels.lowest_possible, pixels.highest_possible),
        spacing=pixels.pixel_spacing_mm or pixels.pixel_aspect_ratio,
        padding=padding_mask(pixels.values, pixels.padding),
    )


def _placed(pixels: PixelData) -> Slice:
    if pixels.image_position_mm is None or pixels.image_orientation is None or pixels.pixel_spacing_mm is None:
        raise PixelReadError("BAD_GEOMETRY")
    # MONOCHROME1 says how to show values, not what they are: a volume keeps its unit.
    return Slice(pixels.values, pixels.image_position_mm, pixels.image_orientation, pixels.pixel_spacing_mm)
