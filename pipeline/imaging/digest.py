"""Digest of pixels: the same picture has the same digest however it was stored."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pixel_sha256(values: NDArray[Any]) -> str:
    """Digest the shape and the values of an image or volume.

    Two files of one picture agree if their modality values agree as 32-bit floats, after MONOCHROME1 was
    reflected: whatever the transfer syntax, the byte order, unused high bits, or the split of a value into a
    stored value and a rescale slope. Files that differ in one pixel, or hold the same numbers in another
    shape, do not agree.

    Parameters
    ----------
    values
        Modality values, shape (rows, columns) or (I, J, K).

    Returns
    -------
    str
        64 hexadecimal digits: SHA-256 over the axis lengths as little-endian 64-bit integers and the values
        as little-endian 32-bit floats: of an image row by row, of a volume with the first axis fastest, as
        in its NIfTI file.
    """
    digest = hashlib.sha256(np.array(values.shape, dtype="<i8").tobytes())
    # Slice by slice: a large volume is not copied as a whole.
    parts = [values] if values.ndim == 2 else np.moveaxis(values, -1, 0).swapaxes(1, 2)
    for part in parts:
        # Adding 0 turns the negative zero, which a negative slope gives, into zero.
        digest.update((part.astype(np.float32) + np.float32(0)).astype("<f4").tobytes())
    return digest.hexdigest()
