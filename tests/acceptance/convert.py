"""From raw series to volumes: synthetic CT series to start from, and the stages run as functions on a folder."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

from pipeline.config import (
    CheckQualitySettings,
    DeidentifySettings,
    IngestSettings,
    PercentileScaling,
    PreprocessSettings,
)
from pipeline.core.artefacts import read_parquet, read_table
from pipeline.core.errors import DicomError
from pipeline.core.records import Finding, FlowStep, Image, Instance, RejectedFile
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms, read_or_create_key
from pipeline.stages.check_quality import check_quality
from pipeline.stages.deidentify import deidentify
from pipeline.stages.ingest import ingest
from pipeline.stages.preprocess import preprocess
from tests.acceptance.oracle import Original
from tests.dicom.samples import ct, with_pixels, write

SHAPE = (48, 64)  # rows, columns
SPACING_MM = (0.8, 0.6, 2.5)  # between rows, columns, slices
ENCODINGS = ("RLE", "JPEG 2000", "deflated", "implicit", "big endian", "JPEG-LS")


# --- raw series


def oblique_axes(seed: int = 1) -> np.ndarray:
    """Give a right-handed frame that stands obliquely: the columns follow a row, a column and the normal."""
    axes, _ = np.linalg.qr(np.eye(3) + 0.25 * np.random.default_rng(seed).normal(size=(3, 3)))
    axes *= np.sign(np.diag(axes))
    axes = axes.round(6)
    axes[:, 2] = np.cross(axes[:, 0], axes[:, 1])
    return axes


def oblique_ct(
    count: int = 20,
    *,
    seed: int = 1,
    shape: tuple[int, int] = SHAPE,
    axes: np.ndarray | None = None,
    step_mm: Sequence[float] | None = None,
    series: str = "1.2.3.3",
    **elements: Any,
) -> list[Dataset]:
    """Make the slices of an oblique, anisotropic CT in the order of the stack, 12 bits unsigned, in HU + 1024.

    `step_mm` is the way from slice to slice (a sheared stack); by default 2.5 mm along the normal.
    """
    generator = np.random.default_rng(seed)
    axes = oblique_axes() if axes is None else axes
    step = np.asarray(step_mm if step_mm is not None else SPACING_MM[2] * axes[:, 2])
    corner = np.array([-120.5, -80.25, 33.0])
    slices = []
    for index in range(count):
        stored = generator.integers(0, 4096, shape).astype(np.uint16)
        dataset = ct(
            SeriesInstanceUID=series,
            SOPInstanceUID=f"{series}.{index + 1}",
            InstanceNumber=index + 1,
            ImagePositionPatient=decimals(corner + index * step),
            ImageOrientationPatient=decimals(axes[:, :2].T.ravel()),
            PixelSpacing=list(SPACING_MM[:2]),
            SliceThickness=SPACING_MM[2],
            RescaleSlope=1,
            RescaleIntercept=-1024,
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            **elements,
        )
        slices.append(with_pixels(dataset, stored))
    return slices


def decimals(values: Iterable[float]) -> list[str]:
    """Write numbers as decimal strings of at most 16 characters."""
    return [f"{value:.8f}" for value in values]


def moved(dataset: Dataset, offset_mm: Sequence[float]) -> Dataset:
    """Copy a slice to another place, under another name."""
    copy = deepcopy(dataset)
    copy.ImagePositionPatient = decimals(np.array(dataset.ImagePositionPatient, float) + offset_mm)
    copy.SOPInstanceUID += ".9"
    return copy


def save(folder: Path, slices: Iterable[Dataset], *, syntax: str = "explicit", seed: int | None = 5) -> list[Path]:
    """Write slices under shuffled names; give their paths in the order of the slices."""
    datasets = list(slices)
    numbers = list(range(len(datasets)))
    if seed is not None:
        np.random.default_rng(seed).shuffle(numbers)
    return [
        _write(folder / f"IM{number:04d}.dcm", deepcopy(dataset), syntax)
        for number, dataset in zip(numbers, datasets, strict=True)
    ]


def _write(path: Path, dataset: Dataset, syntax: str) -> Path:
    if syntax != "JPEG-LS":
        return write(path, dataset, syntax=syntax)
    write(path, dataset)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
    return path


# --- the stages


@dataclass(frozen=True)
class Conversion:
    """What the stages made of a folder: tables, volumes, and the way back from each to the original files."""

    source: Path
    results: Path

    @property
    def volumes(self) -> Path:
        return self.results / "images" / "volumes"

    @cached_property
    def names(self) -> Pseudonyms:
        return Pseudonyms(read_or_create_key(self.results / "restricted" / "key"))

    @cached_property
    def images(self) -> list[Image]:
        """The volumes; none if a stage found nothing to hand on."""
        table = self.results / "images.tsv"
        return [image for image in read_table(table, Image) if image.volume_file] if table.exists() else []

    @cached_property
    def instances(self) -> list[Instance]:
        return list(read_parquet(self.results / "restricted" / "instances.parquet", Instance))

    @cached_property
    def rejected(self) -> list[RejectedFile]:
        return read_table(self.results / "restricted" / "rejected.tsv", RejectedFile)

    @cached_property
    def findings(self) -> list[Finding]:
        tables = ("rejections", "quarantine", "quality", "unreadable")
        paths = [self.results / f"{table}.tsv" for table in tables]
        return [finding for path in paths if path.exists() for finding in read_table(path, Finding)]

    @cached_property
    def flow(self) -> list[FlowStep]:
        return [step for path in sorted((self.results / "flow").glob("*.tsv")) for step in read_table(path, FlowStep)]

    def counts(self, severity: str = "excluded") -> Counter[tuple[str, str]]:
        """Count the findings by unit and code."""
        return Counter((one.unit, one.code) for one in self.findings if one.severity == severity)

    def volume(self, image: Image) -> nib.Nifti1Image:
        return nib.load(self.volumes / image.volume_file)

    def originals(self, image: Image) -> list[Original]:
        """Find the original slices of a volume: instances of its series and part that no stage left out."""
        kept = (one for one in self._kept() if self._volume(one) == image.image_id)
        return [Original(self.source / one.path, one.frame) for one in kept]

    def fates(self) -> dict[str, list[str]]:
        """Say for every file below the source what became of it: reason codes, or ``accepted``.

        A file with no fate, or with two, is one that the tables lost or counted twice. One of several frames has
        the fates of its frames; it is accepted if one of these is.
        """
        paths = (path for path in self.source.rglob("*") if path.is_symlink() or path.is_file())
        fates: dict[str, list[str]] = {str(path.relative_to(self.source)): [] for path in paths}
        for file in self.rejected:
            fates.setdefault(file.path, []).append(file.reason)
        left_out = {one.unit_id: one.code for one in self.findings if one.severity == "excluded"}
        accepted = {image.image_id: "accepted" for image in self.images}
        for one in self.instances:
            gone = left_out.get(self.names.uid(one.unit_uid))
            volume = self._volume(one)
            codes = [gone] if gone else [found[volume] for found in (left_out, accepted) if volume in found]
            known = fates.setdefault(one.path, [])
            if not one.frame:
                known += codes
            elif "accepted" not in known:
                known[:] = codes
        return fates

    def _kept(self) -> list[Instance]:
        gone = {one.unit_id for one in self.findings if one.unit == "instance"}
        return [one for one in self.instances if self.names.uid(one.unit_uid) not in gone]

    def _volume(self, instance: Instance) -> str:
        series = self.names.uid(instance.series_uid)
        return f"{series}-{instance.part}" if instance.part else series


def ingested(source: Path, results: Path, **settings: Any) -> list[Any]:
    """Run `ingest` alone, in a folder that may have seen it before; give its tables, without keyed names."""
    restricted = results / "restricted"
    restricted.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = {"source": source.resolve(), "modalities": ("CT", "MR"), "on_shared_patient_id": "note", **settings}
    paths = {"instances": restricted / "instances.parquet", "rejected": restricted / "rejected.tsv"}
    paths |= {"rejections": results / "rejections.tsv", "flow": results / "flow" / "ingest.tsv"}
    with suppress(DicomError):  # nothing is left: an answer as well
        ingest(settings=IngestSettings(**options), key=restricted / "key", **paths)
    return [
        list(read_parquet(paths["instances"], Instance)),
        [(one.path, one.reason) for one in read_table(paths["rejected"], RejectedFile)],
        read_table(paths["flow"], FlowStep),
    ]


def convert(source: Path, results: Path, *, key: Path | None = None, **ingest_settings: Any) -> Conversion:
    """Run the stages from raw files to volumes; a stage that finds nothing to hand on ends the run.

    Parameters
    ----------
    source
        The raw files.
    results
        Where everything goes.
    key
        The secret key of another run, to be used again.
    ingest_settings
        Replace those of the tests.
    """
    restricted = results / "restricted"
    restricted.mkdir(parents=True, mode=0o700)
    if key is not None:
        shutil.copy(key, restricted / "key")
    settings = {
        "source": source.resolve(),
        "modalities": ("CT", "MR"),
        "on_shared_patient_id": "note",
        **ingest_settings,
    }
    steps: tuple[Callable[[], None], ...] = (
        lambda: ingest(
            settings=IngestSettings(**settings),
            key=restricted / "key",
            instances=restricted / "instances.parquet",
            rejected=restricted / "rejected.tsv",
            rejections=results / "rejections.tsv",
            flow=results / "flow" / "ingest.tsv",
        ),
        lambda: deidentify(
            settings=DeidentifySettings(),
            source=source.resolve(),
            key=restricted / "key",
            instances=restricted / "instances.parquet",
            dicom=results / "dicom",
            series=results / "series.tsv",
            pseudonyms=restricted / "pseudonyms.tsv",
            quarantine=results / "quarantine.tsv",
            blanked=results / "blanked.tsv",
            receipt=results / "receipt.tsv",
            flow=results / "flow" / "deidentify.tsv",
        ),
        lambda: check_quality(
            settings=CheckQualitySettings(min_size=8, min_slices=2, min_contrast=0),
            series=results / "series.tsv",
            dicom=results / "dicom",
            quality=results / "quality.tsv",
            flow=results / "flow" / "check_quality.tsv",
        ),
        lambda: preprocess(
            settings=PreprocessSettings(size=32, intensity=PercentileScaling()),
            series=results / "series.tsv",
            quality=results / "quality.tsv",
            dicom=results / "dicom",
            images=results / "images.tsv",
            pixels=results / "images" / "pixels.npy",
            volumes=results / "images" / "volumes",
            unreadable=results / "unreadable.tsv",
            flow=results / "flow" / "preprocess.tsv",
        ),
    )
    try:
        for step in steps:
            step()
    except DicomError as error:
        # "nothing is left" is an answer; the tables that were written until then say why
        if "no usable image" not in str(error) and "no instance could be" not in str(error):
            raise
    return Conversion(source.resolve(), results)
