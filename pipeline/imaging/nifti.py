"""NIfTI files: volumes on disk, uncompressed, without anything that identifies or changes from run to run."""

import math
import mmap
import os
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.artefacts import replacing
from pipeline.core.errors import ArtefactError
from pipeline.core.volume import Volume
from pipeline.imaging.stacking import narrowest

# NIfTI-1 qform_code and sform_code NIFTI_XFORM_SCANNER_ANAT: coordinates of the scanner.
_SCANNER = 1
_HEADER_BYTES = 348
_VALUES_BEGIN = 352
# DT_INT16, DT_INT32, DT_FLOAT32
_TYPES: dict[int, np.dtype[Any]] = {4: np.dtype("<i2"), 8: np.dtype("<i4"), 16: np.dtype("<f4")}
_ISAL_LEVEL = 3  # smaller files than with levels 1 and 2, and on noisy images faster
_COPY_BYTES = 1 << 20
_MOST_THREADS = 4


def write_volume(path: Path, volume: Volume) -> None:
    """Write a volume as NIfTI-1: int16 or int32 if its values are whole numbers that fit, else float32.

    The affine stands in sform and qform (a sheared one in sform only, because a quaternion cannot hold it).
    The unit of the values has no field in NIfTI and stays with the record of the image. The file is whole when it
    gets its name, but may still be on its way to the disk: see `flush`.

    Raises
    ------
    ArtefactError
        If the file cannot be written.
    """
    values = compact(volume.array)
    with replacing(path, flush=False) as temporary, temporary.open("wb") as stream:
        stream.write(_header(volume, values.dtype))
        stream.write(_first_axis_fastest(values).data)


def flush(paths: Iterable[Path]) -> None:
    """Wait until files that were written are on the disk.

    Raises
    ------
    ArtefactError
        If one of them cannot be read or flushed.
    """
    for path in paths:
        try:
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
        except OSError as error:
            what = f"cannot write the volume ({error.strerror})"
            raise ArtefactError(what, where=str(path), remedy="check the free space and the permissions") from error


def compress(source: Path, target: Path) -> None:
    """Write a compressed copy of a file; the same bytes in give the same bytes out, on any number of processors.

    Intel's ISA-L compresses many times as fast as zlib at its default level, to a file a tenth larger. Blocks are
    compressed by threads of their own, and are the same whoever compresses them.

    Raises
    ------
    ArtefactError
        If one of the two cannot be read or written.
    """
    from isal import igzip, igzip_threaded

    threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    try:
        with source.open("rb") as plain, replacing(target) as temporary, temporary.open("wb") as raw:
            first = plain.read(_COPY_BYTES)
            if len(first) < _COPY_BYTES:  # all of it; threads would cost more than they save
                raw.write(igzip.compress(first, _ISAL_LEVEL, mtime=0))
                return
            with igzip_threaded.open(  # type: ignore[no-untyped-call]
                raw, "wb", compresslevel=_ISAL_LEVEL, threads=threads, block_size=_COPY_BYTES
            ) as packed:
                packed.write(first)
                shutil.copyfileobj(plain, packed, _COPY_BYTES)
    except OSError as error:
        what = f"cannot compress the volume ({error.strerror})"
        raise ArtefactError(what, where=str(target), remedy="check the free space and the permissions") from error


def read_volume(path: Path, *, unit: str = "") -> Volume:
    """Read a volume written by `write_volume`; its values are mapped from the file, not copied.

    Raises
    ------
    ArtefactError
        If the file is missing, cut short or no such volume.
    """
    try:
        with path.open("rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        values, affine = _parsed(content)
        return Volume(values, affine, unit)
    except (OSError, ValueError, struct.error) as error:
        what = f"cannot read the volume ({type(error).__name__})"
        raise ArtefactError(what, where=str(path), remedy="run the stage that writes it again") from error


def compact(values: NDArray[Any]) -> NDArray[Any]:
    """Give the same values as int16, or as int32, if that loses nothing, else as float32."""
    if values.dtype == np.int16:
        return values
    return values.astype(narrowest(values), copy=False)


def _header(volume: Volume, dtype: np.dtype[Any]) -> bytes:
    """Write the header as nibabel does, and the four bytes that say that there are no extensions."""
    import nibabel as nib

    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(volume.array.shape)
    header.set_xyzt_units("mm")
    header.set_sform(volume.affine_mm, code=_SCANNER)
    header.set_qform(volume.affine_mm, code=0 if volume.is_sheared else _SCANNER)
    header["vox_offset"] = _VALUES_BEGIN
    return bytes(header.binaryblock) + bytes(_VALUES_BEGIN - len(header.binaryblock))


def _first_axis_fastest(values: NDArray[Any]) -> NDArray[Any]:
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little.T)


def _parsed(content: mmap.mmap) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Take apart a file of `write_volume`: values, shape (I, J, K), and affine; any other file is an error."""
    (size,) = struct.unpack_from("<i", content, 0)
    axes, *shape = struct.unpack_from("<4h", content, 40)
    (code,) = struct.unpack_from("<h", content, 70)
    (begin,) = struct.unpack_from("<f", content, 108)
    (sform,) = struct.unpack_from("<h", content, 254)
    rows = np.array(struct.unpack_from("<12f", content, 280), dtype=np.float64).reshape(3, 4)
    magic = struct.unpack_from("4s", content, 344)
    dtype = _TYPES.get(code)
    facts = (size, axes, begin, sform, *magic)
    if facts != (_HEADER_BYTES, 3, _VALUES_BEGIN, _SCANNER, b"n+1\0") or dtype is None or min(shape) < 1:
        message = "not a volume of this program"
        raise ValueError(message)
    if len(content) != _VALUES_BEGIN + math.prod(shape) * dtype.itemsize:
        message = "cut short, or too long"
        raise ValueError(message)
    values: NDArray[Any] = np.ndarray(shape, dtype, content, _VALUES_BEGIN, order="F")
    return values, np.vstack([rows, (0, 0, 0, 1)])
