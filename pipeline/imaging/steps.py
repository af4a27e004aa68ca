"""Steps: pure functions that bring one projection image to the size and range a network takes.

Each step is a frozen value that maps an image to a new one; `apply` runs them in order. The order of
`standard_steps` matters: values are reflected before they are scaled (so that percentiles count from the same
end for both photometric interpretations; a window is reflected with them), scaled before they are resized (so
that averages are taken of displayed intensities and padding does not bleed), padded after the percentiles
were taken, rounded once, at the end.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class PlanarImage:
    """One image on its way from modality values to stored values.

    Parameters
    ----------
    values
        Shape (rows, columns); float32 until quantised.
    is_monochrome1
        Whether low values are meant to be bright (PS3.3 C.7.6.3.1.2).
    value_range
        Lowest and highest modality value that the file's format can represent.
    spacing
        Distances between rows and between columns, in mm or, where a file gives their ratio only, in a unit of
        its own; None if unknown.
    padding
        Shape (rows, columns), True where a pixel is no part of the picture (Pixel Padding Value, PS3.3
        C.7.5.1.1.2); None if there are none.
    intensity
        The modality values that stand at 0 and 1 (the first is the larger one if the values were reflected);
        None before scaling.
    mirror
        What a value and its reflection add up to; None if the values were not reflected.
    """

    values: NDArray[Any]
    is_monochrome1: bool
    value_range: tuple[float, float]
    spacing: tuple[float, float] | None = None
    padding: NDArray[np.bool_] | None = None
    intensity: tuple[float, float] | None = None
    mirror: float | None = None


@dataclass(frozen=True)
class ReflectMonochrome1:
    """Turn MONOCHROME1 into MONOCHROME2 by reflecting the values within their representable range.

    A stored value ``s`` of ``n`` bits becomes ``2**n - 1 - s`` (unsigned), so that a file and its negative
    hold the same values afterwards, and doing it twice would give the first image back.
    """

    name: Literal["reflect_monochrome1"] = "reflect_monochrome1"

    def __call__(self, image: PlanarImage) -> PlanarImage:
        """Reflect, or return a MONOCHROME2 image unchanged."""
        if not image.is_monochrome1:
            return image
        mirror = sum(image.value_range)
        values = (mirror - image.values.astype(np.float64)).astype(np.float32)
        return replace(image, values=values, is_monochrome1=False, mirror=mirror)


@dataclass(frozen=True)
class ScalePercentiles:
    """Map two percentiles of the image's own values to 0 and 1 and clip the rest.

    Padding is left out of the percentiles. If both percentiles coincide (a nearly empty image), the lowest
    and highest value take their place; an image of one value becomes 0 everywhere.
    """

    low: float  # percent
    high: float  # percent
    name: Literal["scale_percentiles"] = "scale_percentiles"

    def __call__(self, image: PlanarImage) -> PlanarImage:
        """Scale to [0, 1]."""
        return _scaled(image, *self.ends(without_padding(image.values, image.padding)))

    def ends(self, values: NDArray[Any]) -> tuple[float, float]:
        """Give the values that become 0 and 1."""
        low, high = (float(value) for value in np.percentile(values, [self.low, self.high]))
        return (low, high) if low < high else (float(values.min()), float(values.max()))


@dataclass(frozen=True)
class ScaleWindow:
    """Map a fixed window of modality values to 0 and 1 and clip the rest.

    The window is DICOM's LINEAR_EXACT function (PS3.3 C.11.2.1.3.2): from ``centre - width / 2`` to
    ``centre + width / 2``. It means modality values as the file gives them (HU, for example), also where the
    photometric interpretation then turns dark into bright.
    """

    centre: float  # modality units
    width: float  # modality units
    name: Literal["scale_window"] = "scale_window"

    def __call__(self, image: PlanarImage) -> PlanarImage:
        """Scale to [0, 1]."""
        centre = self.centre if image.mirror is None else image.mirror - self.centre
        return _scaled(image, centre - self.width / 2, centre + self.width / 2)

    def ends(self, _values: NDArray[Any]) -> tuple[float, float]:
        """Give the values that become 0 and 1, whatever the picture holds."""
        return self.centre - self.width / 2, self.centre + self.width / 2


@dataclass(frozen=True)
class ResizeKeepingAspect:
    """Resize so that the longer side, as it is in the patient, has `size` pixels.

    A triangle filter as wide as the reduction averages over all source pixels when shrinking (no aliasing)
    and interpolates linearly when enlarging. Values stay within the range of the source. Unequal pixel
    spacings are evened out, so that a circle in the patient stays a circle.
    """

    size: int  # pixels
    name: Literal["resize_keeping_aspect"] = "resize_keeping_aspect"

    def __call__(self, image: PlanarImage) -> PlanarImage:
        """Resize; an image that has the right shape already is returned unchanged."""
        shape = self.shape_of(image)
        if shape == image.values.shape:
            return image
        values = np.clip(resample(image.values, shape), image.values.min(), image.values.max())
        spacing = None
        if image.spacing is not None:
            lengths = zip(image.spacing, image.values.shape, shape, strict=True)
            between_rows, between_columns = (space * old / new for space, old, new in lengths)
            spacing = (between_rows, between_columns)
        return replace(image, values=values, spacing=spacing, padding=None)

    def shape_of(self, image: PlanarImage) -> tuple[int, int]:
        """Rows and columns after resizing: at least 1, at most `size`."""
        spacing = image.spacing or (1.0, 1.0)
        height, width = (count * space for count, space in zip(image.values.shape, spacing, strict=True))
        longest = max(height, width)
        return max(1, round(self.size * height / longest)), max(1, round(self.size * width / longest))


@dataclass(frozen=True)
class PadToSquare:
    """Add rows or columns of 0 on both sides until the image is square; an odd one goes below or right."""

    name: Literal["pad_to_square"] = "pad_to_square"

    def __call__(self, image: PlanarImage) -> PlanarImage:
        """Pad; the picture stays in the middle."""
        side = max(image.values.shape)
        missing = [side - count for count in image.values.shape]
        if not any(missing):
            return image
        margins = [(count // 2, count - count // 2) for count in missing]
        return replace(image, values=np.pad(image.values, margins), padding=None)


@dataclass(frozen=True)
class Quantise:
    """Turn [0, 1] into the stored type: uint8 0 to 255, rounded to the nearest, or float16 0 to 1."""

    dtype: Literal["uint8", "float16"]
    name: Literal["quantise"] = "quantise"

    def __call__(self, image: PlanarImage) -> PlanarImage:
        """Quantise; an image of that type already is returned unchanged."""
        if image.values.dtype == np.dtype(self.dtype):
            return image
        return replace(image, values=quantised(image.values, self.dtype))


AnyStep = ReflectMonochrome1 | ScalePercentiles | ScaleWindow | ResizeKeepingAspect | PadToSquare | Quantise
Scaling = ScalePercentiles | ScaleWindow


def standard_steps(*, scaling: Scaling, size: int, dtype: Literal["uint8", "float16"]) -> tuple[AnyStep, ...]:
    """List the steps from modality values to a square stored image of `size` pixels."""
    return (ReflectMonochrome1(), scaling, ResizeKeepingAspect(size), PadToSquare(), Quantise(dtype))


def apply(steps: Iterable[AnyStep], image: PlanarImage) -> PlanarImage:
    """Run steps one after the other."""
    for step in steps:
        image = step(image)
    return image


def quantised(values: NDArray[Any], dtype: Literal["uint8", "float16"]) -> NDArray[Any]:
    """Turn values in [0, 1] into the stored type; see `Quantise`."""
    clipped = np.clip(values, 0, 1)
    stored: NDArray[Any] = (np.rint(clipped * 255) if dtype == "uint8" else clipped).astype(dtype)
    return stored


def padding_mask(values: NDArray[Any], ends: tuple[float, float] | None) -> NDArray[np.bool_] | None:
    """Mark the pixels whose values lie between the two ends, both included; None if there are none."""
    if ends is None:
        return None
    mask: NDArray[np.bool_] = (values >= ends[0]) & (values <= ends[1])
    return mask if mask.any() else None


def without_padding(values: NDArray[Any], mask: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Give the values outside the mask, one-dimensional; all of them if everything is padding."""
    if mask is None or mask.all():
        return values.ravel()
    picked: NDArray[Any] = values[~mask]
    return picked


def resample(values: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Resample an image to `shape` with a triangle filter in 32-bit floating point.

    Parameters
    ----------
    values
        Shape (rows, columns).
    shape
        Rows and columns of the result.

    Notes
    -----
    The filter is Pillow's ``BILINEAR``: its half-width in source pixels is the reduction factor, at least 1.
    Sizes refer to the outer edges of the pixels, so that the picture does not shift.
    """
    from PIL import Image

    source = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.array(source.resize((shape[1], shape[0]), Image.Resampling.BILINEAR), dtype=np.float32)


def _scaled(image: PlanarImage, low: float, high: float) -> PlanarImage:
    offset = image.values.astype(np.float64) - low
    values = np.clip(offset / (high - low), 0, 1).astype(np.float32) if low < high else np.zeros(offset.shape, "f4")
    if image.padding is not None:
        values[image.padding] = 0
    ends = (low, high) if image.mirror is None else (image.mirror - low, image.mirror - high)
    return replace(image, values=values, intensity=ends)
