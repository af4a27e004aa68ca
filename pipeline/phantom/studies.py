"""Studies: the pictures of each planned study, drawn, wrapped as DICOM and put into the archive."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from pipeline.core.seeding import derive_seed
from pipeline.phantom import radiograph, volumes
from pipeline.phantom.anatomy import Anatomy, Pose
from pipeline.phantom.canaries import Aviary
from pipeline.phantom.files import STAYS, Archive, LeftOut
from pipeline.phantom.headers import Occasion, add_overlay, add_radiograph, add_slice, general, make_uid
from pipeline.phantom.lesion import Finding, Lesion
from pipeline.phantom.manifest import CohortLesion, CohortStudy, CohortVolume, Hazard
from pipeline.phantom.scanners import SCANNERS, Stored, expose

_GROWTH = 1.12  # of a lesion's diameter from one study to the next
_OVERLAY_CYCLE = 12  # every so many studies of the second site have an overlay


@dataclass(frozen=True)
class Drawing:
    """Pixels of a study with the truth about its lesion."""

    pixels: Stored
    finding: Finding
    lesion: CohortLesion | None


class Studies(Protocol):
    """Writes the studies of one kind of cohort."""

    volumes: list[CohortVolume]
    hazards: list[Hazard]

    def write(self, occasion: Occasion) -> tuple[CohortStudy, str]:
        """Write a study; give its truth and the path of one of its files."""
        ...

    def another(self, occasion: Occasion) -> Callable[[str, str], Dataset]:
        """Give a function that draws one more object of a study, in a series of its own."""
        ...


class Radiographs:
    """Studies of one projection image each.

    Parameters
    ----------
    archive, aviary
        Where files go, and where tokens are noted.
    size
        Rows and columns.
    occasions
        Every study by its number, for those that show another's picture.
    """

    def __init__(self, archive: Archive, aviary: Aviary, size: int, occasions: Mapping[int, Occasion]) -> None:
        self._archive, self._aviary, self._size, self._occasions = archive, aviary, size, occasions
        self.volumes: list[CohortVolume] = []
        self.hazards: list[Hazard] = []

    def write(self, occasion: Occasion) -> tuple[CohortStudy, str]:
        """Write one image."""
        study, numbers = occasion.study, occasion.numbers
        drawing = self._draw(occasion, "main")
        data = self._dataset(occasion, drawing.pixels, "main", "main")
        has_overlay = numbers.site == 1 and numbers.study % _OVERLAY_CYCLE == 0
        if has_overlay:
            add_overlay(data, self._aviary, numbers)
        path = self._archive.place(numbers, "1", folder="main")
        preamble = self._aviary.preamble(numbers)
        file = self._archive.add_dataset(path, data, preamble=preamble, encoding=study.encoding)
        if has_overlay:
            hazard = Hazard(kind="overlay", stage="", reason="", unit="instance", excluded=False, paths=(path,))
            self.hazards.append(hazard.model_copy(update={"sop_uids": (file.sop_uid,)}))
        return _truth(occasion, data, drawing), path

    def another(self, occasion: Occasion) -> Callable[[str, str], Dataset]:
        """Give a function that repeats the exposure."""

        def draw(series: str, instance: str) -> Dataset:
            return self._dataset(occasion, self._draw(occasion, instance).pixels, series, instance)

        return draw

    def _dataset(self, occasion: Occasion, pixels: Stored, series: str, instance: str) -> Dataset:
        data = general(occasion, self._aviary, series=series, instance=instance)
        scanner = SCANNERS[occasion.patient.site]
        add_radiograph(data, scanner, pixels, is_inverted=occasion.study.is_inverted)
        return data

    def _draw(self, occasion: Occasion, exposure: str) -> Drawing:
        if occasion.study.shows is None:
            return drawn_radiograph(occasion, self._size, exposure)
        shown = drawn_radiograph(self._occasions[occasion.study.shows], self._size, exposure)
        if occasion.study.is_exact_copy:
            return shown
        # As if sent through another archive: the last bit differs here and there.
        rng = np.random.default_rng(derive_seed(occasion.seed, "phantom", "resent", occasion.study.number))
        largest = 2 ** SCANNERS[occasion.patient.site].bits_stored - 1
        resent = shown.pixels.astype(np.int32) + rng.integers(-1, 2, shown.pixels.shape)
        return replace(shown, pixels=np.clip(resent, 0, largest).astype(np.uint16))


class Volumes:
    """Studies of one CT series each.

    Parameters
    ----------
    archive, aviary, size
        As for `Radiographs`; slices are smaller (see `pipeline.phantom.volumes.Stack`).
    """

    def __init__(self, archive: Archive, aviary: Aviary, size: int) -> None:
        self._archive, self._aviary, self._size = archive, aviary, size
        self.volumes: list[CohortVolume] = []
        self.hazards: list[Hazard] = []

    def write(self, occasion: Occasion) -> tuple[CohortStudy, str]:
        """Write one complete series; the first study also gets one with a slice missing."""
        stack, stored, drawing = self._draw(occasion)
        data, paths = self._write_series(occasion, stack, stored, "main")
        if not self.hazards:
            self._write_gap(occasion, stack, stored)
        affine = tuple((row[0], row[1], row[2], row[3]) for row in stack.affine().tolist())
        self.volumes.append(
            CohortVolume.model_validate(
                {
                    "series_uid": occasion.series_uid("main"),
                    "study_uid": occasion.study_uid,
                    "shape": stack.shape,
                    "affine": affine,
                    "pixel_spacing_mm": stack.spacing[:2],
                    "slice_distance_mm": stack.spacing[2],
                    "orientation": tuple(stack.orientation.tolist()),
                    "first_position_mm": tuple(stack.first.tolist()),
                    "is_signed": volumes.TOMOGRAPHS[occasion.patient.site].is_signed,
                }
            )
        )
        return _truth(occasion, data, drawing), paths[0]

    def another(self, occasion: Occasion) -> Callable[[str, str], Dataset]:
        """Give a function that draws one more slice."""

        def draw(series: str, instance: str) -> Dataset:
            stack, stored, _ = self._draw(occasion)
            data = general(occasion, self._aviary, series=series, instance=instance)
            self._fill(data, occasion, stack, stored, 0)
            return data

        return draw

    def _write_series(
        self,
        occasion: Occasion,
        stack: volumes.Stack,
        stored: npt.NDArray[np.int32],
        series: str,
        *,
        without: int | None = None,
        left_out: LeftOut = STAYS,
    ) -> tuple[Dataset, list[str]]:
        """Write slices under shuffled names; every other study counts its instances from the head."""
        numbers, count = occasion.numbers, stack.shape[2]
        rng = np.random.default_rng(derive_seed(occasion.seed, "phantom", "names", numbers.study, series))
        names = rng.permutation(count)
        preamble = self._aviary.preamble(numbers)
        data = general(occasion, self._aviary, series=series, instance=series)
        paths = []
        for index in range(count):
            if index == without:
                continue
            data.SOPInstanceUID = occasion.sop_uid(f"{series}-{index}")
            data.InstanceNumber = count - index if numbers.study % 2 else index + 1
            self._fill(data, occasion, stack, stored, index)
            path = self._archive.place(numbers, f"{names[index]:03d}", folder=series)
            self._archive.add_dataset(
                path, data, preamble=preamble, encoding=occasion.study.encoding, left_out=left_out
            )
            paths.append(path)
        return data, paths

    def _write_gap(self, occasion: Occasion, stack: volumes.Stack, stored: npt.NDArray[np.int32]) -> None:
        left_out = LeftOut("check_quality", "INSTANCES_MISSING")
        middle = stack.shape[2] // 2
        _, paths = self._write_series(occasion, stack, stored, "gap", without=middle, left_out=left_out)
        self.hazards.append(
            Hazard(
                kind="missing_slice",
                stage=left_out.stage,
                reason=left_out.reason,
                unit="series",
                excluded=True,
                paths=tuple(paths),
                study_uids=(occasion.study_uid,),
                series_uids=(occasion.series_uid("gap"),),
            )
        )

    def _fill(
        self, data: Dataset, occasion: Occasion, stack: volumes.Stack, stored: npt.NDArray[np.int32], index: int
    ) -> None:
        tomograph = volumes.TOMOGRAPHS[occasion.patient.site]
        frame_uid = make_uid(occasion.seed, "frame", occasion.study.number)
        self._aviary.uids.add(frame_uid)
        add_slice(
            data,
            stored[index],
            equipment=(tomograph.manufacturer, tomograph.model, tomograph.software),
            bits=tomograph.bits_stored,
            is_signed=tomograph.is_signed,
            position=stack.position(index),
            orientation=stack.orientation,
            spacing=stack.spacing,
            frame_uid=frame_uid,
        )

    def _draw(self, occasion: Occasion) -> tuple[volumes.Stack, npt.NDArray[np.int32], Drawing]:
        rng = _generator(occasion.seed, "volume", occasion.study.number)
        stack = volumes.Stack.draw(rng, self._size)
        density = volumes.chest(stack, rng)
        finding: Finding = "none"
        truth = None
        if occasion.study.has_lesion:
            nodule = volumes.Nodule.draw(_generator(occasion.seed, "lesion", occasion.patient.number))
            added = nodule.density(stack.chest_coordinates())
            density = density + added
            finding = nodule.finding
            centre = _centroid(added)
            truth = CohortLesion(
                slice=centre[0],
                row=centre[1],
                column=centre[2],
                diameter=nodule.diameter_mm,
                contrast=nodule.contrast_hu,
            )
        stored = volumes.scan(volumes.TOMOGRAPHS[occasion.patient.site], density, rng)
        return stack, stored, Drawing(np.zeros((0, 0), np.uint16), finding, truth)


def drawn_radiograph(occasion: Occasion, size: int, exposure: str) -> Drawing:
    """Draw one exposure of a study; the lesion takes part in nothing but the attenuation."""
    patient, study, seed = occasion.patient, occasion.study, occasion.seed
    anatomy = Anatomy.draw(
        _generator(seed, "anatomy", patient.number),
        is_female=patient.sex == "F",
        seed=derive_seed(seed, "phantom", "structure", patient.number),
    )
    pose = Pose.draw(_generator(seed, "pose", study.number))
    attenuation, plane = radiograph.chest(anatomy, pose, size)
    finding: Finding = "none"
    truth = None
    if study.has_lesion:
        lesion = Lesion.draw(_generator(seed, "lesion", patient.number), anatomy)
        lesion = replace(lesion, diameter=lesion.diameter * _GROWTH**study.visit)
        added = lesion.attenuation(plane)
        attenuation = attenuation + added
        finding = lesion.finding
        row, column = _centroid(added)
        truth = CohortLesion(row=row, column=column, diameter=lesion.diameter / 2, contrast=lesion.contrast)
    pixels = expose(SCANNERS[patient.site], attenuation, _generator(seed, "exposure", study.number, exposure))
    return Drawing(pixels, finding, truth)


def _truth(occasion: Occasion, data: Dataset, drawing: Drawing) -> CohortStudy:
    return CohortStudy(
        patient_id=str(data.PatientID),
        study_uid=occasion.study_uid,
        site=occasion.patient.site,
        study_date=f"{occasion.study.day:%Y%m%d}",
        label="lesion" if occasion.study.has_lesion else "normal",
        finding=drawing.finding,
        is_in_table=occasion.study.is_in_table,
        has_images=True,
        lesion=drawing.lesion,
    )


def _centroid(weight: npt.NDArray[np.float32]) -> list[float]:
    """Centre of mass along every axis, as fractions of the lengths (pixel centres at (i + 0.5) / n)."""
    total = float(weight.sum(dtype=np.float64))
    centres = []
    for axis, length in enumerate(weight.shape):
        others = tuple(other for other in range(weight.ndim) if other != axis)
        profile = weight.sum(axis=others, dtype=np.float64)
        centres.append(float((profile * (np.arange(length) + 0.5)).sum() / total / length))
    return centres


def _generator(seed: int, *names: str | int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, "phantom", *names))
