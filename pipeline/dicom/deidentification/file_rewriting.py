"""File rewriting: what the rewriters of a study and of a folder have in common."""

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydicom.dataset import Dataset

from pipeline.core.artefacts import write_parts
from pipeline.core.errors import ArtefactError, PipelineError
from pipeline.dicom.decoding.pixel_format import PixelElement
from pipeline.dicom.deidentification.burned_in import Screen
from pipeline.dicom.deidentification.codestreams import without_comments
from pipeline.dicom.deidentification.encoding import encoded_file
from pipeline.dicom.deidentification.leaks import Tokens
from pipeline.dicom.deidentification.new_headers import FAILED, NewHeader, new_header, refuse_comments
from pipeline.dicom.deidentification.options import DEFAULT_OPTIONS
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms
from pipeline.dicom.deidentification.values import Identity
from pipeline.dicom.reading.files import MEGABYTE, FileFault, Refusal
from pipeline.dicom.reading.quiet import quiet

LARGEST_HEADER_VALUE_BYTES = 16 * MEGABYTE
WORTH_PROCESSES = 400  # fewest files for which starting worker processes pays
_NO_RULES = Screen()

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class FileRewriter:
    """Rewrites files of one folder into another.

    Parameters
    ----------
    source
        The folder with the files; it is only read.
    target
        Where ``<series>/<sop_uid>.dcm`` are written.
    pseudonyms
        The keyed names.
    largest_date_shift_days
        Dates of a patient move back by one to this many days.
    screen
        Which images may leave although their pixels may identify somebody.
    options
        Words of `pipeline.dicom.deidentification.options.OPTIONS`.
    """

    source: Path
    target: Path
    pseudonyms: Pseudonyms
    largest_date_shift_days: int
    screen: Screen = _NO_RULES
    options: frozenset[str] = frozenset(DEFAULT_OPTIONS)

    def guarded(self, work: Callable[[T], R], item: T, codes: Collection[str]) -> R | str:
        """Do the work on one file, or give the reason code why nothing was written.

        Parameters
        ----------
        work, item
            What is called with what.
        codes
            Those that are passed on; any other fault becomes ``DEIDENTIFICATION_FAILED``.

        Raises
        ------
        ArtefactError
            If the target cannot be written.
        """
        try:
            with quiet():
                return work(item)
        except PipelineError:
            raise
        except FileFault as fault:
            code = fault.code if fault.code in codes else FAILED
            return Refusal(code, fault.slot) if fault.slot else code
        except Exception:  # noqa: BLE001  whatever goes wrong with one file, the file stays behind and is counted
            return FAILED

    def remove(self, path: Path) -> None:
        """Remove a file that was written; a folder that it leaves empty goes with it.

        Raises
        ------
        ArtefactError
            If it cannot be removed.
        """
        try:
            path.unlink()
        except OSError as error:
            what = f"cannot remove a file ({error.strerror})"
            raise ArtefactError(what, where=str(path), remedy="check the permissions") from error
        with suppress(OSError):  # it holds others
            path.parent.rmdir()

    def new_header(
        self,
        found: Dataset,
        transfer_syntax_uid: str,
        owner: tuple[str, Tokens],
        declare: Callable[[Dataset], None] | None = None,
    ) -> tuple[NewHeader, Dataset]:
        """De-identify, encode and search the header of a patient's, given with the words to search for."""
        identity = Identity(self.pseudonyms, owner[0], self.largest_date_shift_days, owner[1])
        return new_header(found, transfer_syntax_uid, identity, self.options, declare)

    def write(
        self,
        path: Path,
        header: NewHeader,
        transfer_syntax_uid: str,
        tokens: Tokens,
        place: PixelElement | None,
        pixels: bytes | memoryview,
    ) -> None:
        """Write a file, without the comments in its compressed pixels.

        Raises
        ------
        FileFault
            ``DEIDENTIFICATION_FAILED`` if the pixels may hold texts that cannot be told from the picture.
        ArtefactError
            If the target cannot be written.
        """
        if place is not None and place.is_encapsulated:
            pixels = without_comments(pixels, transfer_syntax_uid)
            refuse_comments(pixels, tokens)
        write_parts(path, encoded_file(header.encoded, transfer_syntax_uid, place, pixels))
