"""What becomes of every file of a public corpus: accepted and decoded, or a reason code."""

from pathlib import Path
from typing import NamedTuple

import pydicom

from pipeline.core.records import Instance
from pipeline.dicom.decoding.pixels import PixelReadError, read_pixels
from pipeline.dicom.reading.files import LARGEST_PIXEL_BYTES
from pipeline.dicom.slices.headers import read_header


class Everything(frozenset):
    """A set of modalities that holds whatever is asked for."""

    def __contains__(self, item: object) -> bool:
        return True


class Outcome(NamedTuple):
    """One file: its transfer syntax by name (empty if it has none), and ``decoded`` or a reason code."""

    path: Path
    syntax: str
    result: str


def outcome(path: Path) -> Outcome:
    """Take one file through header and pixels."""
    found = read_header(path, path.name, modalities=Everything(), largest_bytes=LARGEST_PIXEL_BYTES)
    if not isinstance(found, Instance):
        return Outcome(path, _syntax(path), str(found))
    try:
        read_pixels(path)
    except PixelReadError as error:
        return Outcome(path, _syntax(path), error.code)
    return Outcome(path, _syntax(path), "decoded")


def outcomes(root: Path) -> list[Outcome]:
    """Take every regular file below a folder."""
    return [outcome(path) for path in sorted(root.resolve().rglob("*")) if path.is_file() and not path.is_symlink()]


def _syntax(path: Path) -> str:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID.name
    except Exception:  # noqa: BLE001  damaged on purpose
        return ""
