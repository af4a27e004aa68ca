"""Text detection: floors of what is seen, ceilings of what is seen by mistake, and what must not matter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from pipeline.dicom.decoding.pixels import read_pixels
from pipeline.dicom.deidentification.burned_in import FEWEST_CHARACTERS
from pipeline.dicom.deidentification.text_detection import _extreme, _percentiles, displayed, text_lines
from pipeline.phantom.captions import Caption, written
from pipeline.phantom.lettering import letters

TEXT = "MILLER ANN 48213"


def characters(picture):
    return sum(line.characters for line in text_lines(picture))


def landscape(seed, size=256):
    """Draw anatomy of a kind: large smooth shapes, curved ribs, noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    shapes = np.zeros((size, size))
    for height, left, width, top, depth in random.uniform([0.3, 0, 0.1, 0, 0.1], [1, 1, 0.4, 1, 0.4], (6, 5)):
        shapes += height * np.exp(-(((x - left) / width) ** 2) - ((y - top) / depth) ** 2)
    ribs = 0.15 * np.maximum(np.sin(40 * (y + 0.4 * (x - random.uniform(0.3, 0.7)) ** 2)), 0.5)
    return (1000 * (shapes + ribs) + random.normal(0, 8, x.shape)).astype(np.int16)


BACKGROUNDS = [landscape(seed) for seed in range(8)]


def seen(height, contrast, **options):
    """Share of captions of which enough is seen to call it text."""
    found = []
    for number, background in enumerate(BACKGROUNDS):
        place = np.random.default_rng([height, number]).random(2)
        picture, _ = written(
            background,
            Caption(TEXT, height, contrast, is_bright=number % 2 == 0, place=(place[0], place[1]), **options),
        )
        found.append(characters(picture) >= FEWEST_CHARACTERS)
    return np.mean(found)


@pytest.mark.parametrize(
    ("height", "contrast", "least"),
    [(6, 0.5, 0.7), (8, 0.5, 0.85), (8, 0.8, 0.85), (10, 0.5, 1), (12, 0.3, 0.7), (16, 0.5, 1), (20, 0.8, 1)],
)
def test_text_is_seen(height, contrast, least):
    assert seen(height, contrast) >= least


@pytest.mark.parametrize("height", [10, 16])
def test_text_that_runs_upwards_is_seen(height):
    assert seen(height, 0.6, is_turned=True) >= 0.85


@pytest.mark.parametrize(("height", "blur"), [(10, 0.5), (12, 0.7), (16, 1.0)])
def test_blurred_text_is_seen(height, blur):
    assert seen(height, 0.6, blur=blur) >= 0.75


def test_large_letters_are_seen():
    for height in (32, 40):
        found = [
            characters(written(landscape(seed, 512), Caption("MILLER 48", height, 0.7))[0]) >= FEWEST_CHARACTERS
            for seed in range(4)
        ]
        assert np.mean(found) >= 0.75


def test_a_line_is_found_where_it_is():
    picture, box = written(BACKGROUNDS[0], Caption(TEXT, 12, 0.7, place=(0.3, 0.4)))
    found = max(text_lines(picture), key=lambda line: line.characters)
    assert box.top <= found.top
    assert found.top + found.rows <= box.bottom
    assert box.left <= found.left
    assert found.left + found.columns <= box.right
    assert 10 <= found.characters <= 18


def test_anatomy_is_no_text():
    assert sum(characters(background) >= FEWEST_CHARACTERS for background in BACKGROUNDS) == 0


def test_phantoms_bear_no_text_but_that_which_was_planted(cohort, volume_cohort):
    for one, step in ((cohort, 1), (volume_cohort, 8)):
        files = one.manifest.accepted()[::step]
        mistaken = [
            file.path for file in files if characters(read_pixels(one.dicom / file.path).values) >= FEWEST_CHARACTERS
        ]
        assert len(mistaken) <= 0.02 * len(files)


@pytest.mark.parametrize("letter", ["L", "R"])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_side_marker_is_no_text(letter, scale):
    picture = BACKGROUNDS[1].copy()
    glyph = np.kron(letters(letter), np.ones((scale, scale), bool))
    picture[20 : 20 + glyph.shape[0], 30 : 30 + glyph.shape[1]][glyph] = 4000
    assert characters(picture) < FEWEST_CHARACTERS


def test_neither_sign_nor_scale_of_the_values_matters():
    picture, _ = written(BACKGROUNDS[2], Caption(TEXT, 12, 0.6, place=(0.5, 0.5)))
    first = text_lines(picture)
    assert first
    assert text_lines(picture.astype(np.float32) * 2 - 3000) == first
    assert text_lines(picture.astype(np.int32) * 16) == first
    assert abs(characters(4095 - picture) - characters(picture)) <= 2  # rounding of the display


def test_pictures_without_anything_in_them():
    for picture in (np.zeros((40, 50)), np.full((40, 50), 7), np.eye(8), np.arange(9).reshape(3, 3), np.ones((1, 600))):
        assert text_lines(picture) == []


def test_text_alone_on_an_empty_picture_is_seen():
    """Hardly any pixel is not background: percentiles show nothing."""
    picture = np.zeros((512, 512), np.uint16)
    ink = letters("CANARY 123")
    picture[100 : 100 + ink.shape[0], 60 : 60 + ink.shape[1]][ink] = 4095
    assert characters(picture) >= 6


@given(arrays(np.int16, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_whatever_the_picture_lines_lie_inside_of_it(picture):
    for line in text_lines(picture):
        assert 0 <= line.top < line.top + line.rows <= picture.shape[0]
        assert 0 <= line.left < line.left + line.columns <= picture.shape[1]
        assert line.characters >= 3
    assert displayed(picture).shape == picture.shape


def test_noise_is_no_text():
    random = np.random.default_rng(9)
    for spread in (1, 30, 300):
        assert characters(random.normal(1000, spread, (256, 256)).astype(np.int16)) < FEWEST_CHARACTERS


@pytest.mark.real_data
@pytest.mark.slow
def test_real_radiographs_keep_their_markers(cxr_nih):
    """In 52 a word is seen (PORTABLE, SUPINE); a person who looked at all of these saw it too."""
    counts = [characters(read_pixels(path).values) for path in sorted((cxr_nih / "dicom").glob("*.dcm"))]
    assert len(counts) == 400
    assert 30 <= sum(count >= FEWEST_CHARACTERS for count in counts) <= 60
    assert sum(count > 8 for count in counts) <= 4


@given(
    arrays(st.sampled_from([np.uint8, np.int16, np.uint16]), st.tuples(st.integers(1, 9), st.integers(1, 9))),
    st.floats(0, 100),
)
def test_percentiles_by_counting_are_those_of_numpy(values, percent):
    wanted = np.percentile(values.astype(np.float64), percent)  # of 16 bits it overflows
    assert _percentiles(values, (percent,)) == pytest.approx([wanted], abs=1e-6)


@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12))), st.sampled_from([2, 5, 9]))
def test_extremes_are_those_of_a_window(picture, width):
    for choose, filtered in ((np.minimum, ndimage.minimum_filter), (np.maximum, ndimage.maximum_filter)):
        wanted = filtered(picture, width, mode="nearest")
        assert np.array_equal(_extreme(picture, width, choose), wanted)
