import io
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture
from scipy.ndimage import gaussian_filter

from pipeline.imaging.hashing import HASH_BITS, difference_hash, fine_structure, structural_correlation

FEW = settings(max_examples=10)
SAME = 0.7  # pipeline.cohort.duplicates.SAME_PICTURE
CLOSE = 32  # default of split.max_hash_distance
seeds = st.integers(0, 11)


def bits(value):
    return np.unpackbits(np.frombuffer(bytes.fromhex(value), dtype=np.uint8))


def distance(one, other):
    return int((bits(difference_hash(one)) != bits(difference_hash(other))).sum())


def correlation(one, other):
    return structural_correlation(fine_structure(one), fine_structure(other))


@lru_cache
def radiograph(seed, size=256):
    """Something between a chest and a cloud: shared anatomy, own structure at every scale, noise; 0 to 255."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    anatomy = 100 + 60 * np.cos(2 * x) - 70 * np.exp(-(((abs(x) - 0.45) / 0.3) ** 2) - (y / 0.7) ** 2)
    own = sum(
        strength * blurred / blurred.std()
        for strength, sigma in ((14, 24), (8, 8), (5, 2.5))
        for blurred in [gaussian_filter(generator.normal(size=(size, size)), sigma * size / 256)]
    )
    return np.clip(anatomy + own + generator.normal(0, 2, (size, size)), 0, 255).round().astype(np.uint8)


def resized(image, rows, columns):
    return np.asarray(Picture.fromarray(image).resize((columns, rows), Picture.Resampling.BILINEAR))


def recompressed(image):
    stream = io.BytesIO()
    Picture.fromarray(image).save(stream, "JPEG", quality=30)
    return np.asarray(Picture.open(stream))


def marked(image):
    copy = image.copy()
    copy[6:26, 6:40] = 255
    return copy


def noisy(image):
    noise = np.random.default_rng(7).normal(0, 5, image.shape)
    return np.clip(image + noise, 0, 255).round().astype(np.uint8)


COPIES = {
    "half the size": lambda image: resized(image, image.shape[0] // 2, image.shape[1] // 2),
    "an odd size": lambda image: resized(image, 181, 181),
    "recompressed": recompressed,
    "marked in a corner": marked,
    "noisy": noisy,
    "another gamma": lambda image: 255 * (image / 255.0) ** 0.7,
    "another range": lambda image: image.astype(np.float64) * 16 - 1024,
    "as float16": lambda image: (image / 255).astype(np.float16),
    "one row less": lambda image: image[1:],
}


@pytest.mark.parametrize("name", COPIES)
@FEW
@given(seed=seeds)
def test_copies_of_a_picture_are_found(name, seed):
    image = radiograph(seed)
    copy = COPIES[name](image)
    assert distance(image, copy) <= CLOSE
    assert correlation(image, copy) >= SAME


@FEW
@given(seed=seeds)
def test_other_pictures_are_not_taken_for_copies(seed):
    one, other = radiograph(seed), radiograph(seed + 1)
    assert abs(correlation(one, other)) < SAME / 2


def test_alike_pictures_that_fool_the_hash_do_not_fool_the_fine_structure():
    base = gaussian_filter(radiograph(0).astype(np.float64), 10)
    one, other = (base + np.random.default_rng(seed).normal(0, 3, base.shape) for seed in (1, 2))
    assert distance(one, other) <= CLOSE
    assert correlation(one, other) < SAME - 0.2


def test_a_shared_border_is_no_likeness():
    one, other = (np.pad(radiograph(seed), ((0, 0), (64, 64))) for seed in (1, 2))
    assert correlation(one, other) < SAME / 2
    assert correlation(one, noisy(one)) >= SAME


@FEW
@given(seed=seeds, gain=st.floats(0.1, 100), offset=st.floats(-1e4, 1e4))
def test_gain_and_offset_do_not_matter(seed, gain, offset):
    image = radiograph(seed, 64).astype(np.float64)
    other = gain * image + offset
    assert distance(image, other) <= 2  # steps exactly at the smallest one that counts may round either way
    assert correlation(image, other) > 0.999


@FEW
@given(seed=seeds)
def test_the_comparison_is_symmetric_and_bounded(seed):
    one, other = (fine_structure(radiograph(seed + number, 64)) for number in (0, 1))
    there, back = structural_correlation(one, other), structural_correlation(other, one)
    assert there == pytest.approx(back, abs=1e-12)
    assert -1 <= there <= 1
    assert structural_correlation(one, one) == pytest.approx(1, abs=1e-6)


@FEW
@given(seed=seeds, rows=st.integers(1, 70), columns=st.integers(1, 70))
def test_any_shape_gives_a_hash_of_one_length(seed, rows, columns):
    pixels = np.random.default_rng(seed).integers(0, 4096, (rows, columns)).astype(np.uint16)
    assert len(bits(difference_hash(pixels))) == HASH_BITS
    tiles = fine_structure(pixels)
    lengths = np.linalg.norm(tiles, axis=1)
    assert np.all((abs(lengths - 1) < 1e-4) | (lengths == 0))


def plain_hash(pixels):
    """The definition, pixel by pixel, for images whose sides are multiples of 17."""
    rows, columns = (side // 17 for side in pixels.shape)
    cells = [
        [pixels[rows * i : rows * (i + 1), columns * j : columns * (j + 1)].mean() for j in range(17)]
        for i in range(17)
    ]
    step = 0.0025 * (max(map(max, cells)) - min(map(min, cells)))
    right = [cells[i][j + 1] - cells[i][j] > step for i in range(16) for j in range(16)]
    below = [cells[i + 1][j] - cells[i][j] > step for i in range(16) for j in range(16)]
    return f"{int(''.join(str(int(bit)) for bit in right + below), 2):0128x}"


@FEW
@given(seed=seeds)
def test_the_hash_equals_its_definition(seed):
    pixels = radiograph(seed, 255)[: 17 * 8, : 17 * 5]
    assert difference_hash(pixels) == plain_hash(pixels)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.arange(34.0) * np.ones((34, 1)), "f" * 64 + "0" * 64),
        (np.arange(34.0)[:, None] * np.ones((1, 34)), "0" * 64 + "f" * 64),
        (np.arange(34.0)[::-1] * np.ones((34, 1)), "0" * 128),
        (np.full((300, 200), 1e6), "0" * 128),
        (np.zeros((40, 40), np.uint8), "0" * 128),
    ],
)
def test_known_hashes(pixels, expected):
    assert difference_hash(pixels) == expected


def test_noise_in_a_black_border_gives_no_bits():
    image = np.pad(radiograph(3), ((0, 0), (128, 128)))
    assert distance(image, noisy(image)) <= CLOSE


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_even_pictures_hold_nothing_to_compare(value):
    structure = fine_structure(np.full((256, 256), value))
    assert not structure.any()
    assert structural_correlation(structure, structure) == 0


@pytest.mark.parametrize("shape", [(4,), (4, 4, 3), (0, 5)])
def test_other_arrays_are_refused(shape):
    for function in (difference_hash, fine_structure):
        with pytest.raises(ValueError, match="grey image"):
            function(np.zeros(shape))


@pytest.mark.real_data
@pytest.mark.slow
def test_chest_radiographs_of_different_patients_are_kept_apart(cxr_nih):
    """The measurement behind the limits: see the docstring of pipeline.imaging.hashing."""
    import pydicom

    files = sorted((cxr_nih / "dicom").rglob("*.dcm"))[:400]
    read = [pydicom.dcmread(file) for file in files]
    patients = [one.PatientID for one in read]
    structures = [fine_structure(one.pixel_array) for one in read]
    hashes = np.stack([bits(difference_hash(one.pixel_array)) for one in read]).astype(np.float32)
    distances = hashes @ (1 - hashes).T + (1 - hashes) @ hashes.T
    distances[np.equal.outer(patients, patients)] = HASH_BITS
    assert distances.min() > CLOSE
    nearest = np.argsort(distances, axis=None)[:2000]
    pairs = zip(*np.unravel_index(nearest, distances.shape), strict=True)
    assert max(structural_correlation(structures[i], structures[j]) for i, j in pairs) < SAME - 0.2
    some = [one.pixel_array for one in read[::20]]
    for name, copy in COPIES.items():
        found = [distance(one, copy(one)) <= CLOSE and correlation(one, copy(one)) >= SAME for one in some]
        assert np.mean(found) >= 0.95, name
