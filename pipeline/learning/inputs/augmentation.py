"""Augmentation of whole batches on the device: one affine resampling, contrast, brightness, noise."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.learning.inputs.transfer import on_device

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Ranges of random changes; zero everywhere changes nothing.

    Attributes
    ----------
    rotation_degrees
        Largest rotation.
    translation
        Largest shift as a fraction of the image's side.
    scale
        Largest relative change of size.
    flip
        Mirror left and right half of the time.
    contrast
        Largest relative change of contrast around the image's mean.
    brightness
        Largest shift of the values, which lie in [0, 1].
    noise
        Standard deviation of Gaussian noise.
    """

    rotation_degrees: float
    translation: float
    scale: float
    flip: bool
    contrast: float
    brightness: float
    noise: float


NO_CHANGE = Augmentation(
    rotation_degrees=0.0, translation=0.0, scale=0.0, flip=False, contrast=0.0, brightness=0.0, noise=0.0
)


def augment(
    images: "Tensor",
    ranges: Augmentation,
    seed: int,
    *,
    first: int = 0,
    of: int | None = None,
    keeps_background: bool = False,
) -> "Tensor":
    """Change every image of a batch at random.

    The parameters are drawn on the processor, so that they do not depend on the device; only noise is drawn
    where the images are.

    Parameters
    ----------
    images
        Shape (batch, 1, height, width), values in [0, 1].
    ranges
        How far to go.
    seed
        Seed of this batch.
    first, of
        The images may be a part of a batch of so many, from its image `first` on. They are changed as they would be
        in the whole batch, so that the number of devices changes nothing.
    keeps_background
        Whether what is 0 is no picture: it is moved with the rest, and stays 0.

    Returns
    -------
    Tensor
        Same shape and range.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    batch = images.shape[0] if of is None else of
    part = slice(first, first + images.shape[0])
    changed = images
    if ranges.rotation_degrees or ranges.translation or ranges.scale or ranges.flip:
        matrices = on_device(_affine_matrices(batch, ranges, generator)[part], images.device)
        grid = torch.nn.functional.affine_grid(matrices, list(images.shape), align_corners=False)
        changed = torch.nn.functional.grid_sample(changed, grid, mode="bilinear", align_corners=False)
    is_picture = changed > 0 if keeps_background else None
    if ranges.contrast or ranges.brightness:
        gain = 1 + ranges.contrast * on_device(_symmetric(batch, generator)[part], images.device)
        shift = ranges.brightness * on_device(_symmetric(batch, generator)[part], images.device)
        mean = changed.mean(dim=(1, 2, 3), keepdim=True)
        changed = (changed - mean) * gain.view(-1, 1, 1, 1) + mean + shift.view(-1, 1, 1, 1)
    if ranges.noise:
        local = torch.Generator(images.device).manual_seed(seed)
        noise = torch.randn((batch, *changed.shape[1:]), generator=local, device=images.device)
        changed = changed + ranges.noise * noise[part]
    changed = changed.clamp(0, 1)
    return changed if is_picture is None else changed * is_picture


def _symmetric(batch: int, generator: "Generator") -> "Tensor":
    import torch

    return 2 * torch.rand(batch, generator=generator) - 1


def _affine_matrices(batch: int, ranges: Augmentation, generator: "Generator") -> "Tensor":
    """Draw matrices of shape (batch, 2, 3) in the normalised coordinates of ``affine_grid`` (output to input)."""
    import torch

    angle = math.radians(ranges.rotation_degrees) * _symmetric(batch, generator)
    size = 1 + ranges.scale * _symmetric(batch, generator)
    # The side is 2 in normalised coordinates.
    shift = 2 * ranges.translation * torch.stack([_symmetric(batch, generator), _symmetric(batch, generator)], dim=1)
    mirror = torch.ones(batch)
    if ranges.flip:
        mirror = torch.where(torch.rand(batch, generator=generator) < 0.5, -1.0, 1.0)
    cosine, sine = torch.cos(angle) / size, torch.sin(angle) / size
    rows = torch.stack([mirror * cosine, -sine, mirror * sine, cosine], dim=1).view(batch, 2, 2)
    return torch.cat([rows, shift.unsqueeze(2)], dim=2)
