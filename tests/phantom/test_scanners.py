"""Scanners: range, monotony, and that the two machines differ."""

import numpy as np
import pytest

from pipeline.phantom.scanners import SCANNERS, expose

scanners = pytest.mark.parametrize("scanner", SCANNERS, ids=lambda scanner: scanner.model)


def wedge(size=128):
    return np.broadcast_to(np.linspace(0, 1.6, size, dtype=np.float32), (size, size)).copy()


@scanners
def test_values_fit_the_bits_and_use_them(scanner):
    stored = expose(scanner, wedge(), np.random.default_rng(0))
    largest = 2**scanner.bits_stored - 1
    assert stored.dtype == np.uint16
    assert stored.max() <= largest
    assert np.percentile(stored, 98) > 0.8 * largest
    assert np.percentile(stored, 2) < 0.2 * largest


@scanners
def test_denser_is_brighter(scanner):
    profile = np.median(expose(scanner, wedge(), np.random.default_rng(0))[30:100, 10:-10], axis=0)
    smooth = np.convolve(profile, np.ones(9) / 9, mode="valid")
    assert (np.diff(smooth) > 0).mean() > 0.95


@scanners
def test_dense_parts_are_noisier_in_attenuation(scanner):
    """Fewer photons arrive behind more tissue."""
    flat = [np.full((128, 128), level, np.float32) for level in (0.4, 1.1)]
    noise = []
    for field in flat:
        value = expose(scanner, field, np.random.default_rng(1))[40:90, 40:90] / (2**scanner.bits_stored - 1)
        value = np.clip(value, 1e-4, 1 - 1e-4)
        noise.append(np.log(value / (1 - value)).std())  # undoes the film's curve
    assert noise[1] > 1.1 * noise[0]


@scanners
def test_the_same_generator_gives_the_same_picture(scanner):
    one, again, other = (expose(scanner, wedge(), np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_the_sites_differ_in_machine_bits_and_noise():
    first, second = SCANNERS
    assert {first.modality, second.modality} == {"CR", "DX"}
    assert (first.bits_stored, second.bits_stored) == (10, 12)
    assert first.manufacturer != second.manufacturer
    assert first.noise > second.noise


@scanners
def test_the_side_marker_is_on_its_side(scanner):
    stored = expose(scanner, np.zeros((128, 128), np.float32), np.random.default_rng(0))
    bright = np.argwhere(stored > 0.9 * 2**scanner.bits_stored)
    assert len(bright) > 8
    assert (bright[:, 1] < 64).all() == (scanner.marker == "R")
