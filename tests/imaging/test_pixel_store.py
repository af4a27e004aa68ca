import errno

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import ArtefactError
from pipeline.imaging.pixel_store import PixelStoreWriter, open_pixels


def _pictures(count: int, dtype: str = "uint8") -> np.ndarray:
    values = np.random.default_rng(1).integers(0, 255, (count, 6, 6))
    return (values / (1 if dtype == "uint8" else 255)).astype(dtype)


def _write(path, pictures, order, dtype="uint8"):
    with PixelStoreWriter(path, size=6, dtype=dtype) as writer:
        places = [writer.append(picture) for picture in pictures]
        writer.store(order)
    return places


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_rows_stand_in_the_order_asked_for(tmp_path, dtype):
    pictures = _pictures(5, dtype)
    assert _write(tmp_path / "p.npy", pictures, [3, 0, 4], dtype) == [0, 1, 2, 3, 4]
    stored = open_pixels(tmp_path / "p.npy", 3)
    assert stored.dtype == dtype
    np.testing.assert_array_equal(stored, pictures[[3, 0, 4]])


@given(st.permutations(range(7)))
def test_the_file_is_that_of_numpy(tmp_path_factory, order):
    folder = tmp_path_factory.mktemp("store")
    pictures = _pictures(7)
    _write(folder / "ours.npy", pictures, order)
    np.save(folder / "numpy.npy", pictures[order])
    assert (folder / "ours.npy").read_bytes() == (folder / "numpy.npy").read_bytes()


def test_a_store_without_images(tmp_path):
    _write(tmp_path / "p.npy", [], [])
    assert open_pixels(tmp_path / "p.npy", 0).shape == (0, 6, 6)


def test_a_stored_image_cannot_be_changed(tmp_path):
    _write(tmp_path / "p.npy", _pictures(1), [0])
    with pytest.raises(ValueError, match="read-only"):
        open_pixels(tmp_path / "p.npy")[0, 0, 0] = 1


def test_nothing_is_left_beside_the_store_not_even_after_a_failure(tmp_path):
    writer = PixelStoreWriter(tmp_path / "p.npy", size=6, dtype="uint8")
    writer.append(_pictures(1)[0])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError), writer:
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [np.zeros((6, 5), "uint8"), np.zeros((6, 6), "float16"), np.zeros((6, 6), "int8")])
def test_an_image_of_another_form_is_refused(tmp_path, wrong):
    with (
        PixelStoreWriter(tmp_path / "p.npy", size=6, dtype="uint8") as writer,
        pytest.raises(ValueError, match="expected"),
    ):
        writer.append(wrong)


def test_a_full_disk_is_an_error_with_a_message(tmp_path):
    class FullDisk:
        def seek(self, place): ...

        def close(self): ...

        def write(self, row):
            raise OSError(errno.ENOSPC, "No space left on device")

    with PixelStoreWriter(tmp_path / "p.npy", size=6, dtype="uint8") as writer:
        writer._waiting.close()
        writer._waiting = FullDisk()
        with pytest.raises(ArtefactError, match="No space left"):
            writer.append(_pictures(1)[0])


@pytest.mark.parametrize(
    "damage", ["missing", "empty", "cut", "longer", "text", "float64", "flat", "fortran", "pickle"]
)
def test_a_damaged_store_is_an_error(tmp_path, damage):
    path = tmp_path / "p.npy"
    _write(path, _pictures(5), range(5))
    content = path.read_bytes()
    others = {
        "float64": np.zeros((5, 6, 6)),
        "flat": np.zeros((5, 6), "uint8"),
        "fortran": np.asfortranarray(np.zeros((5, 6, 6), "uint8")),
        "pickle": np.array([{"a": 1}]),
    }
    if damage == "missing":
        path.unlink()
    elif damage in others:
        np.save(path, others[damage])
    else:
        path.write_bytes({"empty": b"", "cut": content[:-1], "longer": content + b"\0", "text": b"text"}[damage])
    with pytest.raises(ArtefactError, match="run `preprocess` again"):
        open_pixels(path)


def test_a_store_of_another_study_is_an_error(tmp_path):
    _write(tmp_path / "p.npy", _pictures(5), range(5))
    with pytest.raises(ArtefactError, match="holds 5 images where 6"):
        open_pixels(tmp_path / "p.npy", 6)
