"""Volumes: whether the slices of a series that were read form one, and how."""

from collections.abc import Sequence

from pipeline.dicom.geometry import FEWEST_SLICES, StackGeometry, stack_geometry
from pipeline.dicom.pixels import PixelData


def slices_geometry(slices: Sequence[PixelData]) -> StackGeometry | str:
    """Prove that slices which were read form a volume, or give the reason code why they do not."""
    if len(slices) < FEWEST_SLICES:
        return "TOO_FEW_SLICES"
    if len({(one.values.shape, one.unit, one.is_monochrome1) for one in slices}) > 1:
        return "MIXED_SERIES"
    places = [(one.image_position_mm, one.image_orientation, one.pixel_spacing_mm) for one in slices]
    positions, orientations, spacings = (
        [value for value in column if value is not None] for column in zip(*places, strict=True)
    )
    if not len(positions) == len(orientations) == len(spacings) == len(slices):
        return "BAD_GEOMETRY"
    return stack_geometry(positions, orientations, spacings)
