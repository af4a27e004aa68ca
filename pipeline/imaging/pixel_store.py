"""The pixel store: all images of a study in one ``.npy`` array, (images, rows, columns), or all volumes.

Volumes have one axis more: (volumes, slices, rows, columns).
"""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from pipeline.core.artefacts import replacing
from pipeline.core.errors import ArtefactError

PixelType = Literal["uint8", "float16"]


class PixelStoreWriter:
    """Collect images in any order, then store them in the one wanted.

    The images wait in a nameless file beside the store, which vanishes with the process; memory holds one
    image at a time. Plain writes are used and no memory map, because a full disk is then an error with a
    message, where a map would end the process by a signal.

    Parameters
    ----------
    path
        Where the store is to stand.
    size
        Rows and columns of every image.
    dtype
        Type of the values.
    slices
        Of every volume; None for images.

    Raises
    ------
    ArtefactError
        If nothing can be written there.
    """

    def __init__(self, path: Path, *, size: int, dtype: PixelType, slices: int | None = None) -> None:
        self.path = path
        self.count = 0
        self._shape = (size, size) if slices is None else (slices, size, size)
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._row_bytes = math.prod(self._shape) * self._dtype.itemsize
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._waiting = tempfile.TemporaryFile(dir=path.parent, buffering=0)  # noqa: SIM115  closed by __exit__
        except OSError as error:
            raise self._cannot_write(error) from error

    def __enter__(self) -> "PixelStoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.close()

    def append(self, pixels: NDArray[Any]) -> int:
        """Take one image and return its place in the order of arrival, from 0.

        Raises
        ------
        ValueError
            If it has another shape or type than the store.
        ArtefactError
            If the disk is full.
        """
        if pixels.shape != self._shape or pixels.dtype.newbyteorder("<") != self._dtype:
            message = f"expected {self._dtype} {self._shape}, got {pixels.dtype} {pixels.shape}"
            raise ValueError(message)
        row = memoryview(np.ascontiguousarray(pixels, dtype=self._dtype).tobytes())
        try:
            self._waiting.seek(self.count * self._row_bytes)
            while row:
                row = row[self._waiting.write(row) :]
        except OSError as error:
            raise self._cannot_write(error) from error
        self.count += 1
        return self.count - 1

    def store(self, order: Sequence[int]) -> None:
        """Write the store: row ``i`` is the image that arrived as number ``order[i]``.

        The file has the bytes that `numpy.save` would write, and appears whole or not at all.
        """
        header = {"descr": npy_format.dtype_to_descr(self._dtype), "fortran_order": False}
        with replacing(self.path) as temporary, temporary.open("wb") as stream:
            npy_format.write_array_header_1_0(stream, {**header, "shape": (len(order), *self._shape)})
            for place in order:
                self._waiting.seek(place * self._row_bytes)
                stream.write(self._waiting.read(self._row_bytes))

    def _cannot_write(self, error: OSError) -> ArtefactError:
        what = f"cannot write ({error.strerror})"
        return ArtefactError(what, where=str(self.path), remedy="check the free disk space and the permissions")


def open_pixels(path: Path, rows: int | None = None) -> NDArray[Any]:
    """Map the pixel store into memory, read only.

    Parameters
    ----------
    path
        A file written by `PixelStoreWriter`.
    rows
        Number of images it must hold; None if not known.

    Returns
    -------
    numpy.memmap
        Shape (images, rows, columns) or (volumes, slices, rows, columns), uint8 or float16.

    Raises
    ------
    ArtefactError
        If the file is missing, cut short, too long, or holds something else.
    """
    try:
        pixels: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        with path.open("rb") as stream:
            npy_format.read_magic(stream)
            npy_format.read_array_header_1_0(stream)
            expected = stream.tell() + pixels.nbytes
    except (OSError, ValueError, EOFError) as error:
        what = f"cannot read the pixel store ({type(error).__name__})"
        raise ArtefactError(what, where=str(path), remedy="run `preprocess` again") from error
    problem = ""
    if pixels.ndim not in (3, 4) or pixels.dtype not in (np.uint8, np.float16) or not pixels.flags.c_contiguous:
        problem = f"holds {pixels.dtype} values with {pixels.ndim} axes; images of uint8 or float16 were expected"
    elif path.stat().st_size != expected:
        problem = f"has {path.stat().st_size} bytes where {expected} were expected"
    elif rows is not None and len(pixels) != rows:
        problem = f"holds {len(pixels)} images where {rows} were expected"
    if problem:
        raise ArtefactError(f"the pixel store {problem}", where=str(path), remedy="run `preprocess` again")
    return pixels
