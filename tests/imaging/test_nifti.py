import gzip
import os
import struct

import nibabel as nib
import numpy as np
import pytest

from pipeline.core.errors import ArtefactError
from pipeline.core.volume import Volume
from pipeline.imaging.nifti import compact, compress, read_volume, write_volume


def _volume(dtype=np.int16) -> Volume:
    generator = np.random.default_rng(1)
    affine = np.diag([0.6, 0.8, 2.5, 1.0])
    axes, _ = np.linalg.qr(np.eye(3) + 0.2 * generator.normal(size=(3, 3)))
    affine[:3, :3] = axes @ affine[:3, :3]
    affine[:3, 3] = (-101.5, 20.25, 3)
    return Volume(generator.integers(-1024, 3000, (4, 5, 6)).astype(dtype), affine, "HU")


@pytest.mark.parametrize(
    ("dtype", "offset", "stored"),
    [
        (np.int16, 0, "int16"),
        (np.int64, 0, "int16"),
        (np.float32, 0.5, "float32"),
        (np.int32, 40000, "int32"),
        (np.int32, 20_000_001, "int32"),
    ],
)
def test_values_and_affine_come_back(tmp_path, dtype, offset, stored):
    given = _volume(dtype)
    given = Volume(given.array + np.asarray(offset, given.array.dtype), given.affine_mm, "HU")
    write_volume(tmp_path / "a.nii", given)
    back = read_volume(tmp_path / "a.nii", unit="HU")
    assert back.array.dtype == stored
    np.testing.assert_array_equal(back.array, given.array)
    np.testing.assert_allclose(back.affine_mm, given.affine_mm, atol=1e-5)
    assert back.unit == "HU"


def test_the_header_as_nibabel_sees_it(tmp_path):
    write_volume(tmp_path / "a.nii", _volume())
    image = nib.load(tmp_path / "a.nii")
    header = image.header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    np.testing.assert_allclose(image.get_sform(), _volume().affine_mm, atol=1e-5)
    np.testing.assert_allclose(image.get_qform(), _volume().affine_mm, atol=1e-4)
    assert header.get_xyzt_units()[0] == "mm"
    assert (image.dataobj.slope, image.dataobj.inter) == (1, 0)
    for text in ("descrip", "aux_file", "intent_name", "db_name"):
        assert bytes(header[text]).strip(b"\0") == b"", text


def test_the_layout_of_the_file(tmp_path):
    """Header, four bytes, then the values with the first axis fastest (NIfTI-1, nifti1.h)."""
    given = _volume()
    write_volume(tmp_path / "a.nii", given)
    content = (tmp_path / "a.nii").read_bytes()
    assert struct.unpack_from("<i", content)[0] == 348
    assert content[344:348] == b"n+1\0"
    assert content[352:] == given.array.astype("<i2").tobytes(order="F")


def test_the_same_volume_gives_the_same_bytes(tmp_path):
    write_volume(tmp_path / "a.nii", _volume())
    turned = _volume()
    write_volume(tmp_path / "b.nii", Volume(np.asfortranarray(turned.array), turned.affine_mm, "HU"))
    assert (tmp_path / "a.nii").read_bytes() == (tmp_path / "b.nii").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii", "b.nii"]


def test_a_sheared_affine_stands_in_the_sform_only(tmp_path):
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[1, 2] = 0.9
    write_volume(tmp_path / "a.nii", Volume(_volume().array, affine))
    image = nib.load(tmp_path / "a.nii")
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)


def test_compact_keeps_what_is_compact():
    values = _volume().array
    assert compact(values) is values
    floats = values + np.float32(0.5)
    assert compact(floats) is floats


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "longer", "text"])
def test_a_damaged_file_is_an_error(tmp_path, damage):
    path = tmp_path / "a.nii"
    write_volume(path, _volume())
    if damage == "missing":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(
            {"empty": b"", "cut": content[:-10], "longer": content + b"\0", "text": b"no volume" * 100}[damage]
        )
    with pytest.raises(ArtefactError, match="again"):
        read_volume(path)


@pytest.mark.parametrize("length", [0, 1000, (1 << 20) - 1, 1 << 20, 5_000_000])
def test_compressed_bytes_do_not_depend_on_time_or_processors(tmp_path, monkeypatch, length):
    source = tmp_path / "plain.nii"
    source.write_bytes(np.random.default_rng(1).integers(0, 50, length, dtype=np.uint8).tobytes())
    found = set()
    for count in (1, 2, 3, 64):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, count=count: set(range(count)))
        target = tmp_path / f"{count}.nii.gz"
        compress(source, target)
        found.add(target.read_bytes())
    (packed,) = found
    assert gzip.decompress(packed) == source.read_bytes()
    assert packed[4:8] == bytes(4)  # no time in the header
