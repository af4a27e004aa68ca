"""Pictures of a thousand classes and more, rendered on a device, a batch at a time: what `fractal_gpu.py` trains on.

``python benchmarks/fractal_renderers.py FOLDER [--size 128] [--device cpu]`` writes a sheet of pictures of each family
(a row is a class) and prints how many pictures a second each gives.

Every random number is a digest of the seed, the class, the variant and a counter, so that equal arguments give equal
pictures, whatever else is in the batch (but for the last bits of sums and Fourier transforms, which depend on the size
of the batch: a pixel in some thousands is a grey of 256 lighter or darker).

Families take turns: class c is of family c mod 4 (`fractal_families.py`). Parameters of a class are drawn once; the
variant draws its view (rotation, scale, shift, contrast, inversion, noise, blur) and all that a family leaves to
chance.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from fractal_families import DeadLeaves, Family, IteratedFunctions, SpectralTextures, VisualAtoms
from fractal_numbers import keys_for, mixed, uniform
from PIL import Image
from torch import Tensor

from pipeline.core.seeding import derive_seed

FAMILIES: dict[str, Callable[[int, int, torch.device], Family]] = {
    "iterated functions": IteratedFunctions,
    "dead leaves": DeadLeaves,
    "visual atoms": VisualAtoms,
    "spectral textures": SpectralTextures,
}
MOST_AT_ONCE = 2**25  # numbers of the largest table, which has 64 bits each
_SHEET_CLASSES, _SHEET_VARIANTS = 8, 10


class Renderer:
    """Draws pictures of any classes and variants.

    Parameters
    ----------
    seed
        Of all classes.
    classes
        How many there are; class c is the same whatever their number.
    size
        Rows and columns of a picture in pixels.
    device
        Where pictures are drawn.
    """

    def __init__(self, seed: int, classes: int, size: int, device: str) -> None:
        self.size, self.device, self.classes = size, torch.device(device), classes
        counts = [len(range(number, classes, len(FAMILIES))) for number in range(len(FAMILIES))]
        self._seeds = [derive_seed(seed, "fractal", name) for name in FAMILIES]
        self.families: list[Family | None] = [
            kind(one, count, self.device) if count else None
            for kind, one, count in zip(FAMILIES.values(), self._seeds, counts, strict=True)
        ]

    def draw(self, classes: Tensor, variants: Tensor) -> Tensor:
        """Draw pictures.

        Parameters
        ----------
        classes
            Class indices, shape (batch,).
        variants
            Any 64-bit integers, shape (batch,).

        Returns
        -------
        Tensor
            float32 in multiples of 1/255 from 0 to 1, shape (batch, size, size), on the device.
        """
        found = torch.empty(len(classes), self.size, self.size, device=self.device)
        for number, family in enumerate(self.families):
            places = torch.nonzero(classes % len(FAMILIES) == number)[:, 0]
            if family is None or not len(places):
                continue
            at_once = max(1, MOST_AT_ONCE // family.numbers(self.size))
            for part in torch.split(places, at_once):
                own = classes[part] // len(FAMILIES)
                keys = mixed(keys_for(self._seeds[number] ^ 1, own) + variants[part]).to(self.device)
                grey = family.render(own.to(self.device), keys, self.size)
                found[part.to(self.device)] = _seen(grey, keys)
        return found


def _seen(grey: Tensor, keys: Tensor) -> Tensor:
    """Look at a picture through an instrument of its own: contrast, inversion, blur, noise, 256 greys."""
    luck = uniform(keys, 100, 6)[..., None, None]
    low, high = grey.amin(dim=(1, 2), keepdim=True), grey.amax(dim=(1, 2), keepdim=True)
    found = ((grey - low) / (high - low).clamp_min(1e-6)) ** (2.0 ** (2 * luck[:, 0] - 1))
    found = torch.where(luck[:, 1] < 0.5, found, 1 - found)
    contrast = 0.4 + 0.6 * luck[:, 2]
    found = found * contrast + (1 - contrast) * luck[:, 3]
    for step in (1, 2):
        found = _blurred(found, (luck[:, 4] * 2 - step).clamp(0, 1) * 0.28, step)  # half of the pictures stay sharp
    noise = (uniform(keys, 101, *grey.shape[1:]) + uniform(keys, 102, *grey.shape[1:]) - 1) * 2.45
    found = found + noise * 0.08 * luck[:, 5] ** 2
    return (found.clamp(0, 1) * 255).round() / 255


def _blurred(picture: Tensor, weight: Tensor, step: int) -> Tensor:
    """Mix each pixel with its neighbours at a distance, with a weight for each picture; edges are repeated."""
    for axis in (1, 2):
        size = picture.shape[axis]
        place = torch.arange(size, device=picture.device)
        before = picture.index_select(axis, (place - step).clamp_min(0))
        after = picture.index_select(axis, (place + step).clamp_max(size - 1))
        picture = (1 - 2 * weight) * picture + weight * (before + after)
    return picture


def speeds(renderer: Renderer, count: int) -> dict[str, float]:
    """Measure how many pictures a second each family gives, in batches of so many; the faster of two tries."""
    found = {}
    for number, name in enumerate(FAMILIES):
        own = torch.arange(number, renderer.classes, len(FAMILIES))
        if not len(own):
            continue
        seconds = []
        for attempt in range(3):  # the first one is a warm-up
            began = time.perf_counter()
            renderer.draw(own[torch.arange(count) % len(own)], torch.arange(count) + count * attempt)
            if renderer.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        found[name] = count / min(seconds[1:])
    return found


def write_sheets(renderer: Renderer, folder: Path) -> None:
    """Write a picture of each family: a row for each of some classes, in it variants."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(FAMILIES):
        own = torch.arange(number, renderer.classes, len(FAMILIES))[:_SHEET_CLASSES]
        drawn = renderer.draw(own.repeat_interleave(_SHEET_VARIANTS), torch.arange(len(own) * _SHEET_VARIANTS))
        tiles = drawn.view(len(own), _SHEET_VARIANTS, renderer.size, renderer.size)
        sheet = tiles.permute(0, 2, 1, 3).reshape(len(own) * renderer.size, -1)
        pixels = (sheet * 255).round().to(torch.uint8).cpu().numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{name.replace(' ', '-')}.png")


def main() -> None:
    """Write the sheets and print the speeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--count", type=int, default=64, help="pictures of a batch whose time is taken")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    renderer = Renderer(options.seed, _SHEET_CLASSES * len(FAMILIES), options.size, options.device)
    write_sheets(renderer, options.folder)
    for name, speed in speeds(renderer, options.count).items():
        print(f"{name}: {speed:.0f} pictures of {options.size} pixels a second")


if __name__ == "__main__":
    main()
