"""Four families of pictures made by formulas, drawn a batch at a time on any device: see `fractal_renderers.py`.

References
----------
Iterated function systems as classes: Kataoka et al. (2020), arXiv:2101.08515; by singular values: Anderson and Farrell
(2022), arXiv:2110.03091. Dead leaves: Lee, Mumford and Huang (2001), Int. J. Computer Vision 41, 35-59; dead leaves and
spectra for training: Baradad et al. (2021), arXiv:2106.05963. Visual atoms: Takashima et al. (2023), arXiv:2303.01112.
"""

import math
from typing import Protocol

import torch
from fractal_numbers import keys_for, mixed, uniform
from torch import Tensor

_NOTHING = 2**31 - 1  # a height above that of every leaf


class Family(Protocol):
    """A family of classes."""

    def numbers(self, size: int) -> int:
        """How many numbers the largest table of a picture takes."""

    def render(self, classes: Tensor, keys: Tensor, size: int) -> Tensor:
        """Draw pictures, shape (batch, size, size), of any range of grey."""


def _between(values: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * values


def _turned(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    return x * torch.cos(angle) + y * torch.sin(angle), y * torch.cos(angle) - x * torch.sin(angle)


def _grid(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places of the pixels, each of shape (1, size, size), from -1 to 1."""
    line = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x[None], y[None]


class IteratedFunctions:
    """Attractors of two to four contractions, by the chaos game: grey is the logarithm of the density.

    Singular values are drawn so that their sum, the second counted twice, lies in the band in which Anderson and
    Farrell (arXiv:2110.03091, section 3) found attractors that are neither dust nor a blot. Systems that fill less than
    a tenth of a coarse grid are drawn again, as in FractalDB (arXiv:2101.08515).
    """

    MAPS, WALKERS, UNSEEN, SEEN = 4, 1024, 16, 24
    _GRID, _LEAST, _TRIES = 24, 0.1, 40

    def __init__(self, seed: int, classes: int, device: torch.device) -> None:
        keys = keys_for(seed, torch.arange(classes))
        self.maps, self.centre, self.radius = self._drawn(keys, torch.zeros(classes, dtype=torch.int64))
        tries = torch.zeros(classes, dtype=torch.int64)
        for _ in range(self._TRIES):
            thin = self._filled() < self._LEAST
            if not bool(thin.any()):
                break
            tries[thin] += 1
            found = self._drawn(keys[thin], tries[thin])
            self.maps[thin], self.centre[thin], self.radius[thin] = found
        self.maps, self.centre = self.maps.to(device), self.centre.to(device)
        self.radius = self.radius.to(device)

    def numbers(self, size: int) -> int:
        """Count the random numbers of the walk."""
        return max(size * size, self.WALKERS * (self.UNSEEN + self.SEEN))

    def _drawn(self, keys: Tensor, tries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw maps (classes, 4, 7), each a matrix, a shift and a probability; centre and radius of the attractors."""
        count = len(keys)
        keys = mixed(keys + tries)
        some = uniform(keys, 0, 1)
        used = torch.arange(self.MAPS) < 2 + (some * (self.MAPS - 1)).long()  # two to four
        own = uniform(keys, 1, self.MAPS, 7)
        angles, turns = own[..., 0] * 2 * math.pi, own[..., 1] * 2 * math.pi
        first = _between(own[..., 2], 0.3, 1.0) * used
        second = first * _between(own[..., 3], 0.1, 1.0)
        number = used.sum(1)
        wanted = 0.5 * (5 + number + uniform(keys, 2, 1)[:, 0])
        factor = wanted / (first + 2 * second).sum(1)
        for _ in range(8):  # those cut off at their limit leave their part to the others
            first_cut = (first * factor[:, None]).clamp(max=0.92)
            second_cut = (second * factor[:, None]).clamp(max=0.92)
            factor = factor * wanted / (first_cut + 2 * second_cut).sum(1).clamp_min(1e-3)
        signs = torch.where(own[..., 4] < 0.5, -1.0, 1.0)
        c, s, d, e = torch.cos(angles), torch.sin(angles), torch.cos(turns), torch.sin(turns)
        a = c * first_cut * d - s * second_cut * signs * e
        b = -c * first_cut * e - s * second_cut * signs * d
        f = s * first_cut * d + c * second_cut * signs * e
        g = -s * first_cut * e + c * second_cut * signs * d
        shift = _between(own[..., 5:7], -1, 1)
        chance = ((first_cut * second_cut).clamp_min(0.02) * used).cumsum(1)
        chance = chance / chance[:, -1:]
        maps = torch.stack([a, b, f, g, shift[..., 0], shift[..., 1], chance], dim=2)
        points = self._walk(maps, keys)
        centre = points.mean(1)
        radius = (points - centre[:, None]).abs().amax(2).quantile(0.98, dim=1).reshape(count).clamp_min(1e-3)
        return maps, centre, radius

    def _walk(self, maps: Tensor, keys: Tensor) -> Tensor:
        """Let walkers choose maps at random, all at once; places seen, shape (batch, seen * walkers, 2)."""
        batch, steps = len(maps), self.UNSEEN + self.SEEN
        table, chance = maps[..., :6].reshape(-1, 6), maps[..., 6].contiguous()
        offset = (torch.arange(batch, device=maps.device) * self.MAPS)[:, None]
        luck = uniform(keys, 3, steps, self.WALKERS)
        x, y = torch.zeros_like(luck[:, 0]), torch.zeros_like(luck[:, 0])
        seen = []
        for step in range(steps):
            taken = sum((luck[:, step] >= chance[:, one, None]).long() for one in range(self.MAPS - 1))
            a, b, c, d, e, f = table.index_select(0, (taken + offset).reshape(-1)).view(batch, -1, 6).unbind(2)
            x, y = a * x + b * y + e, c * x + d * y + f
            if step >= self.UNSEEN:
                seen.append(torch.stack([x, y], dim=2))
        return torch.cat(seen, dim=1)

    def _filled(self) -> Tensor:
        """Share of the cells of a coarse grid that each attractor touches."""
        keys = keys_for(0, torch.arange(len(self.maps)))
        points = (self._walk(self.maps, keys) - self.centre[:, None]) / self.radius[:, None, None]
        cell = ((points + 1) * self._GRID / 2).long().clamp(0, self._GRID - 1)
        place = cell[..., 1] * self._GRID + cell[..., 0]
        found = torch.zeros(len(self.maps), self._GRID**2).scatter_(1, place, 1.0)
        return found.mean(1)

    def render(self, classes: Tensor, keys: Tensor, size: int) -> Tensor:
        """Play the chaos game with maps that are slightly the variant's own, and count points in pixels."""
        view = uniform(keys, 4, 8)
        maps = self.maps[classes].clone()
        maps[..., :6] *= _between(uniform(keys, 5, self.MAPS, 6), 0.9, 1.06)
        points = self._walk(maps, mixed(keys))
        scale = _between(view[:, 0], 0.6, 1.25) / self.radius[classes]
        points = (points - self.centre[classes][:, None]) * scale[:, None, None]
        x, y = _turned(points[..., 0], points[..., 1], (view[:, 1] * 2 * math.pi)[:, None])
        x = x + _between(view[:, 2:3], -0.35, 0.35)
        y = y + _between(view[:, 3:4], -0.35, 0.35)
        column, row = torch.floor((x + 1) * size / 2), torch.floor((y + 1) * size / 2)
        inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
        bins = size * size + 1  # the last one is for what lies outside
        place = torch.where(inside, row * size + column, torch.full_like(row, bins - 1)).long()
        place += (torch.arange(len(keys), device=keys.device) * bins)[:, None]
        counts = torch.bincount(place.reshape(-1), minlength=len(keys) * bins).view(-1, bins)[:, :-1].float()
        grey = torch.log1p(counts) / torch.log1p(counts.amax(1, keepdim=True)).clamp_min(1e-6)
        return (grey ** _between(view[:, 4:5], 0.5, 1.0)).view(-1, size, size)


class DeadLeaves:
    """Opaque leaves that fell on each other; sizes are spread over octaves, so that there is something at every scale.

    A class has an outline (polygon, star, or round with harmonics), an elongation, a palette, a share of each octave of
    sizes, a pattern inside the leaves, and a liking for one direction or none. Lee, Mumford and Huang (2001);
    Baradad et al., arXiv:2106.05963, section 3.
    """

    ANGLES, GREYS, LEVELS, COVER = 128, 5, 5, 4

    def __init__(self, seed: int, classes: int, device: torch.device) -> None:
        keys = keys_for(seed, torch.arange(classes))
        own = uniform(keys, 0, 12)
        self.outline = self._outlines(keys, own).to(device)
        self.palette = uniform(keys, 2, self.GREYS).to(device)
        slope = _between(own[:, 3:4], -2, 2) * torch.linspace(-1, 1, self.LEVELS)
        self.share = (torch.exp(slope) / torch.exp(slope).amax(1, keepdim=True)).clamp_min(0.15).to(device)
        self.stretch = _between(own[:, 4], 0.35, 1.0).to(device)
        self.freedom = torch.where(own[:, 5] < 0.4, 0.06, 1.0).to(device)
        self.shade = _between(own[:, 6:8], -0.3, 0.3).to(device)  # across the leaf, and towards its rim
        stripes = torch.where(own[:, 8] < 0.5, 0.0, 1.0) * _between(own[:, 9], 0.1, 0.25)
        self.stripes = torch.stack([stripes, _between(own[:, 10], 4, 14)], dim=1).to(device)

    def _outlines(self, keys: Tensor, own: Tensor) -> Tensor:
        """Radius by direction, shape (classes, angles), at most 1."""
        angle = torch.arange(self.ANGLES) * (2 * math.pi / self.ANGLES)
        corners = 3 + (own[:, 1:2] * 5).floor()
        sector = 2 * math.pi / corners
        within = torch.remainder(angle[None], sector) - sector / 2
        polygon = torch.cos(sector / 2) / torch.cos(within)
        star = 1 - _between(own[:, 2:3], 0.3, 0.65) * (1 - (within.abs() / (sector / 2)))
        parts = uniform(keys, 1, 4, 2)
        order = torch.arange(2, 6)
        waves = torch.cos(order[None, :, None] * angle + 2 * math.pi * parts[..., :1]) * parts[..., 1:]
        round_one = 1 + 0.7 * (waves / order[None, :, None]).sum(1)
        kind = own[:, :1]
        found = torch.where(kind < 0.3, polygon, torch.where(kind < 0.5, star, round_one))
        return found / found.amax(1, keepdim=True)

    def numbers(self, size: int) -> int:
        """Count the pixels of all leaves of one octave."""
        return self.COVER * size * size * 2

    def render(self, classes: Tensor, keys: Tensor, size: int) -> Tensor:
        """Find the uppermost leaf of each pixel, octave by octave, then give every pixel its leaf's grey."""
        view = uniform(keys, 3, 4)
        top = torch.full((len(keys), size * size), _NOTHING, dtype=torch.int32, device=keys.device)
        leaves, first = [], 0
        for level in range(self.LEVELS):
            side = max(4, size >> level)
            count = min(2**11 - 1 - first, self.COVER * (1 << (2 * level)))
            leaf = self._scattered(classes, mixed(keys + level), (count, side, size, level), view)
            self._fall(top, leaf, self.outline[classes], (first, side, size))
            leaves.append(leaf[:, :, :6])
            first += count
        return self._coloured(top.long(), torch.cat(leaves, dim=1), classes, view, size)

    def _scattered(self, classes: Tensor, keys: Tensor, shape: tuple[int, int, int, int], view: Tensor) -> Tensor:
        """Give x, y, radius, angle, stretch, grey, height and presence of each leaf: (batch, count, 8)."""
        count, side, size, level = shape
        luck = uniform(keys, 4, count, 8)
        centre = _between(luck[..., :2], -side / 4, size + side / 4)
        radius = _between(luck[..., 2], 0.26, 0.5) * side * _between(view[:, :1], 0.75, 1.0)
        angle = 2 * math.pi * (view[:, 1:2] + self.freedom[classes][:, None] * luck[..., 3])
        stretch = (self.stretch[classes][:, None] * _between(luck[..., 4], 0.85, 1.15)).clamp(max=1.0)
        choice = (luck[..., 5] * self.GREYS).long().clamp(max=self.GREYS - 1)
        grey = self.palette[classes].gather(1, choice) + _between(luck[..., 6], -0.08, 0.08)
        is_there = (luck[..., 7] < self.share[classes][:, level, None]).float()
        height = uniform(keys, 5, count)
        return torch.stack([*centre.unbind(2), radius, angle, stretch, grey, height, is_there], dim=2)

    def _fall(self, top: Tensor, leaf: Tensor, outline: Tensor, shape: tuple[int, int, int]) -> None:
        """Keep in `top` the lowest of (height, number) of the leaves over each pixel; the order does not matter."""
        first, side, size = shape
        batch, count = leaf.shape[:2]
        x, y, radius, angle, stretch = (leaf[..., one, None, None] for one in range(5))
        line = torch.arange(side, device=leaf.device, dtype=torch.float32)
        column = torch.floor(x - side / 2) + line
        row = torch.floor(y - side / 2) + line[:, None]
        along, across = _turned(column + 0.5 - x, row + 0.5 - y, angle)
        across = across / stretch
        direction = torch.atan2(across, along) * (self.ANGLES / (2 * math.pi))
        bin_ = torch.remainder(torch.round(direction).long(), self.ANGLES).view(batch, -1)
        reach = outline.gather(1, bin_).view_as(along) * radius
        inside = (along**2 + across**2 < reach**2) & (leaf[..., 7, None, None] > 0)
        inside &= (column >= 0) & (column < size) & (row >= 0) & (row < size)
        # What is nothing asks for its own pixel: one place for all of it would be a queue on a GPU.
        place = (row.clamp(0, size - 1) * size + column.clamp(0, size - 1)).long()
        number = torch.arange(first, first + count, device=leaf.device, dtype=torch.int64)
        rank = ((leaf[..., 6] * 2**20).long() * 2**11 + number).to(torch.int32)
        rank = torch.where(inside, rank[..., None, None], _NOTHING)
        top.scatter_reduce_(1, place.view(batch, -1), rank.view(batch, -1), "amin")

    def _coloured(self, top: Tensor, leaf: Tensor, classes: Tensor, view: Tensor, size: int) -> Tensor:
        number = (top % 2**11).clamp(max=leaf.shape[1] - 1)
        taken = leaf.gather(1, number[..., None].expand(-1, -1, 6))
        x, y, radius, angle, stretch, grey = taken.unbind(2)
        place = torch.arange(size * size, device=top.device)
        along, across = _turned(place % size + 0.5 - x, place // size + 0.5 - y, angle)
        along, across = along / radius, across / stretch / radius
        shade, stripes = self.shade[classes], self.stripes[classes]
        pattern = stripes[:, :1] * torch.sin(stripes[:, 1:] * along)
        found = grey + shade[:, :1] * along + shade[:, 1:] * (along**2 + across**2) + pattern
        bare = top == _NOTHING
        return torch.where(bare, view[:, 2:3].expand_as(found), found).view(-1, size, size)


class VisualAtoms:
    """Nested closed contours, each a circle whose radius is a sum of two waves; lines and what they enclose.

    A class has two frequencies, their amplitudes, the number of orbits and their spacing, thickness of the lines, and
    the grey between them. Takashima et al., arXiv:2303.01112, section 3.
    """

    ORBITS = 10

    def __init__(self, seed: int, classes: int, device: torch.device) -> None:
        own = uniform(keys_for(seed, torch.arange(classes)), 0, 10)
        low = 2 + (own[:, 0] * 7).floor()
        high = low + 1 + (own[:, 1] ** 2 * 24).floor()
        sizes = [_between(own[:, 2], 0.03, 0.22), _between(own[:, 3], 0.01, 0.12)]
        self.waves = torch.stack([low, high, *sizes], dim=1).to(device)
        self.count = (2 + own[:, 4] * (self.ORBITS - 1)).floor().to(device)
        self.spacing = _between(own[:, 5], -0.5, 0.7).to(device)  # from wide outside to wide inside
        self.thick = _between(own[:, 6], 0.006, 0.03).to(device)
        self.fill = _between(own[:, 7:9], -0.6, 0.6).to(device)  # of even and odd orbits
        self.twist = _between(own[:, 9], -0.5, 0.5).to(device)

    def numbers(self, size: int) -> int:
        """Count pixels, of which there are several tables."""
        return 4 * size * size

    def render(self, classes: Tensor, keys: Tensor, size: int) -> Tensor:
        """Add up the orbits, from the innermost."""
        view = uniform(keys, 1, 8)[..., None, None]
        luck = uniform(keys, 2, self.ORBITS, 3)[..., None, None]
        x, y = _grid(size, keys.device)
        x, y = x - _between(view[:, 0], -0.3, 0.3), y - _between(view[:, 1], -0.3, 0.3)
        x, y = _turned(x, y, 2 * math.pi * view[:, 2])
        scale = _between(view[:, 3], 0.6, 1.2)
        x, y = x / scale, y / scale * _between(view[:, 4], 1.0, 1.4)
        distance, angle = torch.sqrt(x**2 + y**2), torch.atan2(y, x)
        low, high, large, small = self.waves[classes][..., None, None].unbind(1)
        count, spacing = (one[classes][:, None, None] for one in (self.count, self.spacing))
        thick, twist = (one[classes][:, None, None] for one in (self.thick, self.twist))
        fill = self.fill[classes][..., None, None]
        found = torch.zeros_like(distance)
        lines = torch.zeros_like(distance)
        pixel = 2 / size
        for orbit in range(self.ORBITS):
            share = (orbit + 1) / count
            is_there = (share < 1.0001).float()
            radius = 0.8 * share ** torch.exp(spacing) * _between(luck[:, orbit, 0], 0.96, 1.04)
            phase = twist * orbit + _between(luck[:, orbit, 1], -0.15, 0.15)
            waves = large * torch.sin(low * (angle + phase)) + small * torch.sin(high * (angle - phase))
            gap = distance - radius * (1 + waves * _between(luck[:, orbit, 2], 0.8, 1.2))
            found = found + is_there * fill[:, orbit % 2] * torch.sigmoid(-4 * gap / pixel)
            lines = torch.maximum(lines, is_there * torch.exp(-((gap / (thick + 0.35 * pixel)) ** 2)))
        return found * (1 - lines) + 1.2 * lines


class SpectralTextures:
    """Noise with a class's own spectrum: a power law and bands, in one direction or all; bands come and go in patches.

    Baradad et al., arXiv:2106.05963, section 3 (spectrum and statistics of wavelets as a model of images).
    """

    BANDS = 2

    def __init__(self, seed: int, classes: int, device: torch.device) -> None:
        keys = keys_for(seed, torch.arange(classes))
        own, bands = uniform(keys, 0, 6), uniform(keys, 1, self.BANDS, 4)
        self.power = _between(own[:, 0], 0.7, 2.3).to(device)
        self.stretch = torch.exp(_between(own[:, 1], -1.2, 1.2)).to(device)
        self.form = (own[:, 2] * 4).long().to(device)  # as it is, ridges, plateaus, peaks
        self.share = _between(own[:, 3], 0.25, 0.8).to(device)
        self.edge = _between(own[:, 4], 1, 6).to(device)
        centre = torch.exp(_between(bands[..., 0], math.log(5), math.log(28)))  # waves in the picture
        width = _between(bands[..., 1], 0.08, 0.3)
        direction, focus = math.pi * bands[..., 2], 12 * bands[..., 3] ** 2
        self.bands = torch.stack([centre, width, direction, focus], dim=2).to(device)

    def numbers(self, size: int) -> int:
        """Count the pixels of noise and spectra."""
        return 4 * size * size

    def render(self, classes: Tensor, keys: Tensor, size: int) -> Tensor:
        """Filter white noise."""
        view = uniform(keys, 2, 4)[..., None, None]
        # Waves in the picture: row frequencies to both sides, column frequencies from 0.
        row = torch.fft.fftfreq(size, 1 / size, device=keys.device)[:, None]
        column = torch.fft.rfftfreq(size, 1 / size, device=keys.device)[None]
        angle = 2 * math.pi * view[:, 0]
        scale = torch.exp(_between(view[:, 1], -0.35, 0.35))
        u, v = _turned(column[None] * scale, row[None] * scale, angle)
        stretch, power = self.stretch[classes][:, None, None], self.power[classes][:, None, None]
        law = (u**2 * stretch + v**2 / stretch).clamp_min(0.25) ** (-power / 2)
        law[:, 0, 0] = 0
        base = self._filtered(law, uniform(keys, 3, size, size))
        frequency, direction = torch.sqrt(u**2 + v**2).clamp_min(0.25), torch.atan2(v, u)
        total = torch.zeros_like(law)
        for band in range(self.BANDS):
            centre, width, turn, focus = self.bands[classes][:, band, :, None, None].unbind(1)
            ring = torch.exp(-((torch.log(frequency / centre) / width) ** 2))
            total = total + ring * torch.exp(focus * (torch.cos(2 * (direction - turn)) - 1)) / centre
        detail = self._filtered(total, uniform(keys, 4, size, size))
        edge, share = self.edge[classes][:, None, None], self.share[classes][:, None, None]
        formed = self._formed(base, self.form[classes][:, None, None], edge)
        return (1 - share) * formed + share * detail * torch.sigmoid(
            2 * edge * (base - _between(view[:, 2], -0.7, 0.7))
        )

    @staticmethod
    def _filtered(spectrum: Tensor, noise: Tensor) -> Tensor:
        size = noise.shape[-1]
        found: Tensor = torch.fft.irfft2(torch.fft.rfft2(noise - 0.5) * spectrum, s=(size, size))
        found -= found.mean(dim=(1, 2), keepdim=True)
        return found / torch.sqrt((found**2).mean(dim=(1, 2), keepdim=True)).clamp_min(1e-9)

    @staticmethod
    def _formed(base: Tensor, form: Tensor, edge: Tensor) -> Tensor:
        ridges, plateaus, peaks = 1 - 1.5 * base.abs(), torch.tanh(edge * base), torch.exp(base.clamp(max=1.5)) - 1
        found = torch.where(form == 1, ridges, base)
        return torch.where(form == 2, plateaus, torch.where(form == 3, peaks, found))
