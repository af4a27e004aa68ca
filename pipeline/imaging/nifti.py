"""NIfTI files: volumes on disk, uncompressed, without anything that identifies or changes from run to run."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.artefacts import replacing
from pipeline.core.errors import ArtefactError
from pipeline.core.volume import Volume
from pipeline.imaging.stacking import fits_int16

# NIfTI-1 qform_code and sform_code NIFTI_XFORM_SCANNER_ANAT: coordinates of the scanner.
_SCANNER = 1
_ISAL_LEVEL = 2
_COPY_BYTES = 1 << 20


def write_volume(path: Path, volume: Volume) -> None:
    """Write a volume as NIfTI-1: int16 if its values are integers that fit, else float32.

    The affine stands in sform and qform (a sheared one in sform only, because a quaternion cannot hold it).
    The unit of the values has no field in NIfTI and stays with the record of the image.

    Raises
    ------
    ArtefactError
        If the file cannot be written.
    """
    import nibabel as nib

    values = compact(volume.array)
    image = nib.Nifti1Image(values, volume.affine_mm, dtype=values.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine_mm, code=_SCANNER)
    image.set_qform(volume.affine_mm, code=0 if volume.is_sheared else _SCANNER)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        image.to_file_map({"image": nib.FileHolder(fileobj=stream)})


def compress(source: Path, target: Path) -> None:
    """Write a compressed copy of a file; the same bytes in give the same bytes out.

    Intel's ISA-L compresses about ten times as fast as zlib at its default level, to a file a tenth larger.

    Raises
    ------
    ArtefactError
        If one of the two cannot be read or written.
    """
    from isal import igzip

    try:
        with (
            source.open("rb") as plain,
            replacing(target) as temporary,
            temporary.open("wb") as raw,
            igzip.IGzipFile(  # type: ignore[no-untyped-call]
                filename="", mode="wb", compresslevel=_ISAL_LEVEL, fileobj=raw, mtime=0
            ) as packed,
        ):
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
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        image = nib.Nifti1Image.from_filename(path)
        values = np.asanyarray(image.dataobj)
        if int(image.header["sform_code"]) != _SCANNER or path.stat().st_size != image.dataobj.offset + values.nbytes:
            message = "not a volume of this program"
            raise ValueError(message)
        return Volume(values, np.asarray(image.affine), unit)
    except (OSError, ValueError, EOFError, ImageFileError, HeaderDataError, WrapStructError) as error:
        what = f"cannot read the volume ({type(error).__name__})"
        raise ArtefactError(what, where=str(path), remedy="run the stage that writes it again") from error


def compact(values: NDArray[Any]) -> NDArray[Any]:
    """Give the same values as int16 if that loses nothing, else as float32."""
    if values.dtype == np.int16:
        return values
    return values.astype(np.int16 if fits_int16(values) else np.float32, copy=False)
