import hashlib
import struct

import numpy as np
import pytest

from pipeline.imaging.digest import pixel_sha256

VALUES = np.random.default_rng(1).integers(-1024, 3000, (5, 7))


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<i4", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_type_and_memory_order_do_not_matter(dtype, order):
    assert pixel_sha256(VALUES.astype(dtype, order=order)) == pixel_sha256(VALUES)


def test_the_definition_spelled_out():
    plain = struct.pack("<2q", 5, 7) + struct.pack("<35f", *VALUES.ravel().tolist())
    assert pixel_sha256(VALUES) == hashlib.sha256(plain).hexdigest()


def test_a_volume_is_digested_in_the_order_of_its_file():
    volume = np.random.default_rng(2).integers(-1024, 3000, (3, 4, 5)).astype(np.int16)
    plain = struct.pack("<3q", 3, 4, 5) + volume.astype("<f4").tobytes(order="F")
    expected = hashlib.sha256(plain).hexdigest()
    assert pixel_sha256(volume) == pixel_sha256(np.asfortranarray(volume)) == expected


def test_shape_and_every_value_matter():
    changed = VALUES.copy()
    changed[4, 6] += 1
    assert len({pixel_sha256(array) for array in (VALUES, changed, VALUES.reshape(7, 5), VALUES[None])}) == 4


def test_negative_zero_is_zero():
    assert pixel_sha256(np.float32([[-0.0, 1]])) == pixel_sha256(np.float32([[0.0, 1]]))
