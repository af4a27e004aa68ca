"""The bitmap font."""

import numpy as np
import pytest

from pipeline.phantom.lettering import letters


def test_every_letter_is_drawn_and_differs_from_the_others():
    drawn = {character: letters(character).tobytes() for character in "ACLNRY0123456789 "}
    assert len(set(drawn.values())) == len(drawn)
    assert not letters(" ").any()


@pytest.mark.parametrize("text", ["R", "CANARY 17", "0123456789"])
def test_the_shape_follows_the_length(text):
    assert letters(text).shape == (7, 6 * len(text) - 1)


def test_letters_stand_side_by_side():
    assert np.array_equal(letters("RL")[:, :5], letters("R"))
    assert np.array_equal(letters("RL")[:, 6:], letters("L"))
    assert not letters("RL")[:, 5].any()


def test_an_unknown_letter_is_an_error():
    with pytest.raises(KeyError):
        letters("q")
