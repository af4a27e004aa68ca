import hashlib

import numpy as np
import pytest

from pipeline.imaging.hashing import difference_hash
from pipeline.imaging.standard_form import standardise
from pipeline.imaging.steps import PlanarImage, Quantise, ScalePercentiles, standard_steps

STEPS = standard_steps(scaling=ScalePercentiles(0, 100), size=16, dtype="uint8")
VALUES = np.add.outer(np.arange(20) * 7, np.arange(30) * 11)


def test_the_digest_is_that_of_the_source_and_the_hash_that_of_the_stored_image():
    form = standardise(PlanarImage(VALUES, False, (0.0, 4095.0)), STEPS)
    plain = np.array([20, 30], "<i8").tobytes() + VALUES.astype("<f4").tobytes()
    assert form.pixel_sha256 == hashlib.sha256(plain).hexdigest()
    assert form.perceptual_hash == difference_hash(form.pixels)
    assert (form.pixels.shape, form.pixels.dtype) == ((16, 16), np.uint8)
    assert (form.was_inverted, form.intensity) == (False, (VALUES.min(), VALUES.max()))


def test_a_negative_has_the_same_form_and_says_so():
    positive = standardise(PlanarImage(VALUES, False, (0.0, 4095.0)), STEPS)
    negative = standardise(PlanarImage(4095 - VALUES, True, (0.0, 4095.0)), STEPS)
    assert negative.was_inverted
    assert negative.pixel_sha256 == positive.pixel_sha256
    assert negative.intensity == tuple(4095 - value for value in positive.intensity)
    np.testing.assert_array_equal(negative.pixels, positive.pixels)


def test_a_form_without_scaling_is_refused():
    with pytest.raises(ValueError, match="scale"):
        standardise(PlanarImage(VALUES, False, (0.0, 4095.0)), (Quantise("uint8"),))
