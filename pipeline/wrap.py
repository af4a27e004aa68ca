"""Wrap pictures (PNG, JPEG) or NIfTI volumes and their table into DICOM files that a study can take in."""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset

from pipeline.core.artefacts import replacing
from pipeline.core.errors import ArtefactError, CohortError, PipelineError
from pipeline.core.places import standing_at
from pipeline.core.progress import Progress, say
from pipeline.dicom.wrapping import Identity, wrap_picture, wrap_volume

_PICTURES = (".png", ".jpg", ".jpeg")
_VOLUMES = (".nii", ".nii.gz")
_KEYS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
# BIDS: sub-<label> names the person, ses-<label> the visit.
_SUBJECT, _SESSION = (re.compile(rf"(?:^|[/_]){word}-([A-Za-z0-9]+)") for word in ("sub", "ses"))
_LARGEST_PICTURE_PIXELS = 200_000_000
_MOST_SHOWN = 10


def wrap_files(
    folder: Path,
    *,
    table: Path,
    output: Path,
    file: str = "file",
    patient: str = "PatientID",
    modality: Literal["CR", "DX", "MG", "CT", "MR", "PT"] = "CR",
) -> None:
    """Write ``output/dicom`` and ``output/labels.csv``, which bears the UIDs to match labels by.

    Parameters
    ----------
    folder
        Folder with the files; it is only read.
    table
        CSV file with a header line: one row for each file, its label and whatever else.
    output
        Folder for the DICOM files and the table.
    file
        Column with the file's path below the folder.
    patient
        Column with the patient; without it, sub-LABEL in the path names one, as in BIDS.
    modality
        What the files are: CR, DX or MG for pictures; CT, MR or PT for volumes.

    Raises
    ------
    CohortError
        If rows and files do not fit, naming every line.
    ArtefactError
        If something cannot be read or written.
    """
    if standing_at(folder) != "folder":
        what = "there is no such folder, or it may not be looked up"
        raise CohortError(what, where=str(folder), remedy="name the folder with the pictures or volumes")
    rows = _read_table(table, file)
    people = [_patient(row, row[file], patient) for row in rows]
    _require_files(folder, table, [row[file] for row in rows], people)
    progress = Progress("wrap: files", len(rows))
    labelled: list[dict[str, str]] = []
    for number, (row, person) in enumerate(zip(rows, people, strict=True), start=1):
        visit = _SESSION.search(row[file])
        identity = Identity(person, visit[1] if visit else row[file], row[file])
        try:
            first = _write(output / "dicom" / f"{number:06d}", _objects(folder / row[file], identity, modality))
        except PipelineError:
            raise
        except Exception as error:  # noqa: BLE001  decoders raise nearly anything, and their messages may repeat the input
            what = f"line {number + 1}: the file cannot be wrapped ({type(error).__name__})"
            raise ArtefactError(what, where=str(table), remedy="take the row out, or mend the file") from None
        labelled.append({**row, **{key: str(first.get(key, "")) for key in _KEYS}})
        progress.advance()
    with replacing(output / "labels.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys([*labelled[0]])))
        writer.writeheader()
        writer.writerows(labelled)
    key = "SOPInstanceUID" if modality in {"CR", "DX", "MG"} else "SeriesInstanceUID"
    say(f"wrap: {len(rows)} files of {len(set(people))} patients in {output}; match labels by {key}")


def _read_table(path: Path, file: str) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True, restval="")
            rows = list(reader)
    except OSError as error:
        what = f"the table cannot be read ({error.strerror})"
        raise CohortError(what, where=str(path), remedy="check --table and the permissions") from None
    except (UnicodeDecodeError, csv.Error) as error:
        what = f"the table cannot be read ({type(error).__name__})"
        raise CohortError(what, where=str(path), remedy="save it as CSV in UTF-8, with commas") from None
    if file not in (reader.fieldnames or ()):
        what = f"the table has no column `{file}`"
        raise CohortError(what, where=str(path), remedy="name the column with the files by --file")
    if not rows:
        remedy = "write one row for each file"
        raise CohortError("the table has a header line and no rows", where=str(path), remedy=remedy)
    if any(None in row for row in rows):
        what = "a row has more cells than the header line"
        raise CohortError(what, where=str(path), remedy="mend the commas in that row")
    return rows


def _patient(row: Mapping[str, str], file: str, column: str) -> str:
    if row.get(column):
        return row[column].strip()
    found = _SUBJECT.search(file)
    return found[1] if found else ""


def _require_files(folder: Path, table: Path, files: Sequence[str], people: Sequence[str]) -> None:
    """Stop with every row whose file is missing, outside, named twice, of an unknown kind, or nobody's."""
    root = folder.resolve()
    problems: list[str] = []
    seen: dict[str, int] = {}
    checks: tuple[tuple[str, Callable[[str], bool]], ...] = (
        ("names no PNG, JPEG or NIfTI file", lambda name: not name.lower().endswith((*_PICTURES, *_VOLUMES))),
        ("names a file outside of the folder", lambda name: not (root / name).resolve().is_relative_to(root)),
        ("names a file that is not there, or is a link", lambda name: not _is_plain(folder / name)),
    )
    for line, (name, person) in enumerate(zip(files, people, strict=True), start=2):
        wrong = next((words for words, is_wrong in checks if is_wrong(name)), "")
        if name in seen:
            wrong = f"names the same file as line {seen[name]}"
        if not person:
            wrong = wrong or "names no patient"
        seen.setdefault(name, line)
        if wrong:
            problems.append(f"line {line} {wrong}")
    if problems:
        shown = problems[:_MOST_SHOWN] + ([f"and {len(problems) - _MOST_SHOWN} more"] * (len(problems) > _MOST_SHOWN))
        what = "the table and the folder do not fit\n    " + "\n    ".join(shown)
        raise CohortError(what, where=str(table), remedy="mend the table; paths are relative to the folder")


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _objects(path: Path, identity: Identity, modality: str) -> Iterator[Dataset]:
    is_volume = path.name.lower().endswith(_VOLUMES)
    if is_volume == (modality in {"CR", "DX", "MG"}):
        what = "a picture is no volume" if not is_volume else "a volume is no radiograph"
        remedy = "CR, DX or MG for pictures (PNG, JPEG); CT, MR or PT for volumes (NIfTI)"
        raise CohortError(f"{what}: --modality {modality} does not fit the files", where="--modality", remedy=remedy)
    if not is_volume:
        yield wrap_picture(_grey(path), identity, modality=modality)
        return
    import nibabel as nib

    image = nib.Nifti1Image.from_filename(path)
    yield from wrap_volume(np.asanyarray(image.dataobj), np.asarray(image.affine), identity, modality=modality)


def _grey(path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8 | np.uint16]]":
    """Read a grey picture; colours become luma (ITU-R BT.601), as Pillow computes it."""
    from PIL import Image

    with Image.open(path, formats=["PNG", "JPEG"]) as picture:
        if picture.width * picture.height > _LARGEST_PICTURE_PIXELS:
            message = "too many pixels"
            raise ValueError(message)
        if picture.mode.startswith("I"):
            values = np.asarray(picture)
            if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
                message = "more than 16 bits"
                raise ValueError(message)
            return values.astype(np.uint16)
        return np.asarray(picture.convert("L"), dtype=np.uint8)


def _write(place: Path, objects: Iterator[Dataset]) -> Dataset:
    """Write the objects of one file and give the first."""
    first: Dataset | None = None
    for index, dataset in enumerate(objects, start=1):
        with replacing(place / f"{index:05d}.dcm", flush=False) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
        first = first or dataset
    if first is None:
        message = "nothing to write"
        raise ValueError(message)
    return first
