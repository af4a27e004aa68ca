"""Scan: every entry below a folder is looked at once, and ends as an accepted instance or with a reason code."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import overload

from pipeline.core.errors import DicomError
from pipeline.core.parallel import map_in_order
from pipeline.core.places import standing_at
from pipeline.core.provenance import fingerprint
from pipeline.core.records import Instance
from pipeline.dicom.indexing.archives import Tree
from pipeline.dicom.indexing.consistency import refuse_inconsistent
from pipeline.dicom.indexing.index import Index, Rejection, open_index
from pipeline.dicom.indexing.rows import Entry
from pipeline.dicom.reading.paths import as_text, from_text
from pipeline.dicom.reading.quiet import quiet
from pipeline.dicom.slices.headers import read_header

_WORTH_PROCESSES = 2_000  # fewest files for which starting processes pays
_LOT = 64
# Far beyond what any file takes; a file that takes more is given up, and nothing else is.
_LOT_SECONDS = 300.0
_FILE_SECONDS = 30.0
_MEMORY_BYTES = 3_000_000_000
# Whether a file is accepted depends on them: they read headers, or decode what a header announces.
_READERS = ("pydicom", "numpy", "imagecodecs", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-libjpeg", "pylibjpeg-rle",
            "pyjpegls", "python-gdcm", "pillow", "nibabel")  # fmt: skip


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
    """Scan a folder and give everything at once: for folders of which all records fit into memory.

    Parameters
    ----------
    root
        The folder.
    modalities, largest_bytes, threads
        See `update`.
    keep_shared_ids
        See `pipeline.dicom.indexing.consistency.refuse_inconsistent`.

    Raises
    ------
    DicomError
        If the folder cannot be read at all.
    """
    with open_index(None, "") as index:
        update(index, Tree(root), modalities=modalities, largest_bytes=largest_bytes, threads=threads)
        refuse_inconsistent(index, root, keep_shared_ids=keep_shared_ids)
        return Scan(tuple(index.unrefused()), tuple(index.rejections()), frozenset(index.shared_ids))


def update(index: Index, tree: Tree, *, modalities: Collection[str], largest_bytes: int, threads: int = 1) -> None:
    """Bring an index up to date: read the header of every file of a tree that is new or has changed.

    Links are not followed, nothing but regular files is opened, nothing is written below the folder.

    Parameters
    ----------
    index
        Opened with the `answers_digest` of the same settings.
    tree
        The folder, and names for its files if they came out of an archive.
    modalities
        DICOM modalities wanted.
    largest_bytes
        Largest length of one instance's decoded pixels.
    threads
        Processes to use.

    Raises
    ------
    DicomError
        If the folder cannot be read at all.
    """
    waiting = index.compare(chain(walk(tree.root), map(Rejection._make, tree.refused())))
    look = partial(_look, os.fspath(tree.root), frozenset(modalities), largest_bytes)
    index.add(waiting, _headers(look, waiting, threads))
    index.rename(tree.names())


def answers_digest(tree: Tree, *, modalities: Collection[str], largest_bytes: int) -> str:
    """Tell what the content of an index depends on beside the files, as text.

    Two equal texts stand for the same folder or archive, the same settings, and the same code and libraries.
    """
    versions = [(name, _version(name)) for name in _READERS]
    source = (os.fspath(tree.root.resolve()), tree.archive)
    return repr((source, sorted(modalities), largest_bytes, fingerprint(__name__), versions))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def walk(root: Path) -> Iterator[Entry | Rejection]:
    """List the regular files below a folder, in no order, and reject everything else that is not a folder.

    Raises
    ------
    DicomError
        If the folder is missing or cannot be read.
    """
    if standing_at(root) != "folder" or not os.access(root, os.R_OK | os.X_OK):
        remedy = "check `ingest.source` and its permissions"
        raise DicomError("the source folder is missing or cannot be read", where=str(root), remedy=remedy)
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    path = f"{folder}{entry.name}"
                    found = _listed(as_text(path), entry)
                    if found is None:
                        waiting.append(f"{path}/")
                    else:
                        yield found
        except OSError:
            yield Rejection(as_text(folder), "UNREADABLE_FILE")


def _listed(path: str, entry: os.DirEntry[str]) -> Entry | Rejection | None:
    """Say what an entry is; None for a folder."""
    try:
        if entry.is_dir(follow_symlinks=False):
            return None
        if not entry.is_file(follow_symlinks=False):
            return Rejection(path, "NOT_A_REGULAR_FILE")
        facts = entry.stat(follow_symlinks=False)
    except OSError:  # it went away while it was looked at
        return Rejection(path, "UNREADABLE_FILE")
    return Entry(path, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, str(facts.st_ino))


Look = Callable[[str], Instance | str]


def _headers(look: Look, files: Sequence[str], threads: int) -> Iterator[Instance | str]:
    """Read headers in the order of the files, in lots: one header is less work than its way to a process and back."""
    if len(files) < _WORTH_PROCESSES:
        threads = 1
    each = partial(_look_at_lot, look)
    singly = partial(_look_one_by_one, look)
    seconds, memory_bytes = (None, None) if threads < 2 else (_LOT_SECONDS, _MEMORY_BYTES)
    lots = _Lots(files)
    for lot in map_in_order(each, lots, threads=threads, on_crash=singly, seconds=seconds, memory_bytes=memory_bytes):
        yield from lot


class _Lots(Sequence[Sequence[str]]):
    """Files in lots, each made when it is asked for."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files

    def __len__(self) -> int:
        return (len(self._files) + _LOT - 1) // _LOT

    @overload
    def __getitem__(self, place: int) -> Sequence[str]: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Sequence[str]]: ...
    def __getitem__(self, place: int | slice) -> Sequence[str] | Sequence[Sequence[str]]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        return self._files[place * _LOT : (place + 1) * _LOT]


def _look(root: str, modalities: frozenset[str], largest_bytes: int, path: str) -> Instance | str:
    # One of a million: as text it takes a tenth of the time that a path object takes.
    file = f"{root}{os.sep}{from_text(path)}"
    return read_header(file, path, modalities=modalities, largest_bytes=largest_bytes)


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
