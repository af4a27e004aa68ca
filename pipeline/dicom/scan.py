"""Scan: a folder tree becomes accepted instances and rejected files; every entry ends on exactly one side."""

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.core.errors import DicomError
from pipeline.core.parallel import map_in_order
from pipeline.core.progress import Progress
from pipeline.core.records import Instance
from pipeline.dicom.files import FileFault, Slot, quiet, whole_sha256
from pipeline.dicom.headers import read_header
from pipeline.dicom.paths import as_text, from_text

_WORTH_PROCESSES = 2_000  # fewest files for which starting processes pays
_LOT = 64
# Far beyond what any file takes; a file that takes more is given up, and nothing else is.
_LOT_SECONDS = 300.0
_FILE_SECONDS = 30.0
_MEMORY_BYTES = 3_000_000_000
# Values that many instances share; each is kept in memory once.
_SHARED = (
    "patient_id", "patient_id_issuer", "patient_birth_date", "study_uid", "series_uid", "sop_class_uid",
    "transfer_syntax_uid", "modality", "photometric_interpretation", "image_orientation", "pixel_spacing_mm",
    "image_type", "series_description", "study_date", "patient_sex", "institution", "manufacturer",
    "manufacturer_model", "body_part", "view_position",
)  # fmt: skip
_NO_FIELDS: set[str] = set()
# A slice that is refused for one of these was meant to be part of its volume.
_LOSSES = frozenset(
    {
        "TRUNCATED_FILE", "CONFLICTING_INSTANCES", "UNREADABLE_HEADER", "BAD_DIMENSIONS", "BAD_GEOMETRY",
        "UNSUPPORTED_TRANSFER_SYNTAX",
    }
)  # fmt: skip
_SEXES = frozenset({"M", "F"})  # O (other) may be set for anybody (PS3.3, C.7.1.1)


@dataclass(frozen=True)
class Rejection:
    """An entry that is left out: its path as text (see `paths.as_text`) and the reason code."""

    path: str
    code: str
    slot: Slot | None = None  # the place of a slice that is missing now


@dataclass(frozen=True)
class Scan:
    """What a scan found, both parts sorted by path; and the Patient IDs that seem to stand for several people."""

    instances: tuple[Instance, ...]
    rejections: tuple[Rejection, ...]
    shared_ids: frozenset[str]

    @property
    def entries(self) -> int:
        """Number of entries found below the folder (directories do not count, unless they cannot be read)."""
        return len(self.instances) + len(self.rejections)


def scan(
    root: Path,
    *,
    modalities: Collection[str],
    largest_bytes: int,
    keep_shared_ids: bool = False,
    threads: int = 1,
) -> Scan:
    """Read the header of every file below a folder.

    Links are not followed, nothing but regular files is opened, nothing is written.

    Parameters
    ----------
    root
        The folder.
    modalities
        DICOM modalities wanted.
    largest_bytes
        Largest length of one instance's decoded pixels.
    keep_shared_ids
        Keep instances whose Patient ID seems to stand for several people; the IDs are told in any case.
    threads
        Processes to use.

    Raises
    ------
    DicomError
        If the folder cannot be read at all.
    """
    files, rejections = walk(root)
    progress = Progress("ingest: files", len(files))
    look = partial(_look, os.fspath(root), frozenset(modalities), largest_bytes)
    instances: list[Instance] = []
    known: dict[object, object] = {}
    for name, found in zip(files, _headers(look, files, threads), strict=True):
        if isinstance(found, str):
            rejections.append(Rejection(name, str(found), getattr(found, "slot", None)))
        else:
            instances.append(_slimmed(found, known))
        progress.advance()
    for check in (partial(without_duplicates, root=root), without_contradictions):
        instances, refused = check(instances)
        rejections.extend(refused)
    incomplete = incomplete_series(instances, rejections)
    rejections += [Rejection(one.path, "SERIES_INCOMPLETE") for one in instances if one.series_uid in incomplete]
    instances = [one for one in instances if one.series_uid not in incomplete]
    shared = shared_ids(instances)
    if not keep_shared_ids:
        rejections += [Rejection(one.path, "SHARED_PATIENT_ID") for one in instances if one.patient_id in shared]
        instances = [one for one in instances if one.patient_id not in shared]
    return Scan(tuple(instances), tuple(sorted(rejections, key=lambda rejection: rejection.path)), frozenset(shared))


def walk(root: Path) -> tuple[list[str], list[Rejection]]:
    """List the regular files below a folder, sorted by path, and reject everything else that is not a folder.

    Raises
    ------
    DicomError
        If the folder is missing or cannot be read.
    """
    if not root.is_dir() or not os.access(root, os.R_OK | os.X_OK):
        remedy = "check `ingest.source` and its permissions"
        raise DicomError("the source folder is missing or cannot be read", where=str(root), remedy=remedy)
    files: list[str] = []
    rejections: list[Rejection] = []
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as entries:
                found = list(entries)
        except OSError:
            rejections.append(Rejection(as_text(folder), "UNREADABLE_FILE"))
            continue
        for entry in found:
            path = f"{folder}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                waiting.append(f"{path}/")
            elif entry.is_file(follow_symlinks=False):
                files.append(as_text(path))
            else:
                rejections.append(Rejection(as_text(path), "NOT_A_REGULAR_FILE"))
    return sorted(files), rejections


def without_duplicates(
    instances: Iterable[Instance], *, root: Path | None = None
) -> tuple[list[Instance], list[Rejection]]:
    """Keep one file for each SOP Instance UID: the first by path if all are the same bytes, none otherwise.

    Files whose digests differ are different. Where they agree, the files are read as a whole and compared, if
    the folder is given: only files that share a UID cost that.
    """
    same: dict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        same[instance.sop_uid].append(instance)
    kept: list[Instance] = []
    rejections: list[Rejection] = []
    for group in same.values():
        first, *others = sorted(group, key=lambda instance: instance.path)
        if others and not _are_the_same(group, root):
            slot = Slot(first.series_uid, first.sop_uid) if first.kind == "slice" else None
            rejections.extend(Rejection(instance.path, "CONFLICTING_INSTANCES", slot) for instance in group)
            continue
        kept.append(first)
        rejections.extend(Rejection(other.path, "DUPLICATE_FILE") for other in others)
    return sorted(kept, key=lambda instance: instance.path), rejections


def _are_the_same(group: Sequence[Instance], root: Path | None) -> bool:
    if len({one.head_sha256 for one in group}) > 1:
        return False
    if root is None:
        return True
    try:
        return len({whole_sha256(Path(root, from_text(one.path))) for one in group}) == 1
    except FileFault:  # one of them is gone, or out of reach: nobody can tell
        return False


def without_contradictions(instances: Sequence[Instance]) -> tuple[list[Instance], list[Rejection]]:
    """Reject studies that stand under several patients, and series under several studies or modalities.

    Taken at face value, they would put one examination under two patients, and so on both sides of a split.
    """
    owners: dict[tuple[str, str], set[tuple[str, ...]]] = defaultdict(set)
    for one in instances:
        owners["study", one.study_uid].add((one.patient_id,))
        owners["series", one.series_uid].add((one.patient_id, one.study_uid, one.modality))
    kept: list[Instance] = []
    rejections: list[Rejection] = []
    for one in instances:
        if len(owners["study", one.study_uid]) == len(owners["series", one.series_uid]) == 1:
            kept.append(one)
        else:
            rejections.append(Rejection(one.path, "INCONSISTENT_IDENTITY"))
    return kept, rejections


def incomplete_series(instances: Iterable[Instance], rejections: Iterable[Rejection]) -> set[str]:
    """Find the series of slices that lost one to damage.

    At an end of the stack the loss would show nowhere: the volume would be shorter, and nobody would know. A
    damaged copy of a slice that is there as well is no loss.
    """
    there = {one.sop_uid for one in instances}
    return {
        one.slot.series_uid
        for one in rejections
        if one.slot and one.code in _LOSSES and one.slot.series_uid and one.slot.sop_uid not in there
    }


def shared_ids(instances: Iterable[Instance]) -> set[str]:
    """Find the Patient IDs with two issuers, two birth dates or both sexes; an empty value contradicts nothing.

    Two people under one ID would have one label, one prediction and one date shift. Asked of what
    `without_contradictions` left: a file of somebody else that was filed under this ID is gone by then, and
    says nothing about the others.
    """
    known: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in instances:
        issuer = "".join(filter(str.isalnum, one.patient_id_issuer.casefold()))  # spellings vary
        known[one.patient_id, "issuer"].add(issuer)
        known[one.patient_id, "birth date"].add(one.patient_birth_date)
        known[one.patient_id, "sex"].add(one.patient_sex.upper() if one.patient_sex.upper() in _SEXES else "")
    return {patient_id for (patient_id, _), values in known.items() if len(values - {""}) > 1}


def _slimmed(instance: Instance, known: dict[object, object]) -> Instance:
    """Let equal values be one object, and forget which fields were set (4 kB): millions are held at once."""
    values = vars(instance)
    for name in _SHARED:
        values[name] = known.setdefault(values[name], values[name])
    object.__setattr__(instance, "__pydantic_fields_set__", _NO_FIELDS)
    return instance


Look = Callable[[str], Instance | str]


def _headers(look: Look, files: Sequence[str], threads: int) -> Iterator[Instance | str]:
    """Read headers in the order of the files, in lots: one header is less work than its way to a process and back."""
    if len(files) < _WORTH_PROCESSES:
        threads = 1
    lots = [files[start : start + _LOT] for start in range(0, len(files), _LOT)]
    each = partial(_look_at_lot, look)
    singly = partial(_look_one_by_one, look)
    seconds, memory_bytes = (None, None) if threads < 2 else (_LOT_SECONDS, _MEMORY_BYTES)
    for lot in map_in_order(each, lots, threads=threads, on_crash=singly, seconds=seconds, memory_bytes=memory_bytes):
        yield from lot


def _look(root: str, modalities: frozenset[str], largest_bytes: int, path: str) -> Instance | str:
    return read_header(Path(root, from_text(path)), path, modalities=modalities, largest_bytes=largest_bytes)


def _look_at_lot(look: Look, lot: Sequence[str]) -> list[Instance | str]:
    with quiet():
        return [look(path) for path in lot]


def _look_one_by_one(look: Look, lot: Sequence[str]) -> list[Instance | str]:
    """Find the file that killed a worker: each in a process of its own, so that the others are not lost with it."""
    lost = "UNREADABLE_HEADER"
    found = map_in_order(
        look, lot, threads=2, on_crash=lambda _: lost, seconds=_FILE_SECONDS, memory_bytes=_MEMORY_BYTES
    )
    return list(found)
