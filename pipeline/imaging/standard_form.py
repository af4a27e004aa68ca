"""Standard form: an image as it is stored, with the record of how its values came to be."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from pipeline.imaging.digest import pixel_sha256
from pipeline.imaging.hashing import difference_hash
from pipeline.imaging.steps import AnyStep, PlanarImage, ReflectMonochrome1, apply


@dataclass(frozen=True, eq=False)
class StandardForm:
    """An image after all steps.

    Attributes
    ----------
    pixels
        Stored values, shape (size, size).
    was_inverted
        Whether MONOCHROME1 was turned into MONOCHROME2.
    intensity
        The modality values, as the file gives them, at the lowest and at the highest stored value; the first
        is the larger one if the picture was inverted.
    pixel_sha256
        Digest of the modality values (after inversion) at full size.
    perceptual_hash
        Hash of the stored values, alike for pictures that look alike.
    """

    pixels: NDArray[Any]
    was_inverted: bool
    intensity: tuple[float, float]
    pixel_sha256: str
    perceptual_hash: str


def standardise(image: PlanarImage, steps: Iterable[AnyStep]) -> StandardForm:
    """Run the steps on an image.

    Raises
    ------
    ValueError
        If no step scales the intensities.
    """
    upright = ReflectMonochrome1()(image)
    done = apply(steps, upright)
    if done.intensity is None:
        message = "one of the steps must scale the intensities"
        raise ValueError(message)
    return StandardForm(
        pixels=done.values,
        was_inverted=image.is_monochrome1,
        intensity=done.intensity,
        pixel_sha256=pixel_sha256(upright.values),
        perceptual_hash=difference_hash(done.values),
    )
