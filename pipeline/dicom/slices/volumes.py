"""Volumes: the slices of a series, whether they form one, and how."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.dicom.decoding.pixels import PixelData, read_pixels
from pipeline.dicom.reading.quiet import quiet
from pipeline.dicom.slices.geometry import FEWEST_SLICES, StackGeometry, stack_geometry


def read_slices(paths: Iterable[Path]) -> list[PixelData]:
    """Read slices, and sort them by their positions: their names may depend on a secret key.

    Raises
    ------
    PixelReadError
        With the reason why one of them cannot be read.
    """
    with quiet():
        slices = [read_pixels(path) for path in paths]
    return sorted(slices, key=lambda one: one.image_position_mm or ())


def slices_geometry(slices: Sequence[PixelData]) -> StackGeometry | str:
    """Prove that slices which were read form a volume, or give the reason code why they do not."""
    if len(slices) < FEWEST_SLICES:
        return "TOO_FEW_SLICES"
    if len({(one.values.shape, one.unit, one.is_monochrome1, one.was_colour) for one in slices}) > 1:
        return "MIXED_SERIES"
    places = [(one.image_position_mm, one.image_orientation, one.pixel_spacing_mm) for one in slices]
    positions, orientations, spacings = (
        [value for value in column if value is not None] for column in zip(*places, strict=True)
    )
    if not len(positions) == len(orientations) == len(spacings) == len(slices):
        return "BAD_GEOMETRY"
    return stack_geometry(positions, orientations, spacings)
