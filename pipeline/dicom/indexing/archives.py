"""Archives as hostile input: the files in a zip or tar are unpacked under numbers, within limits, before a scan.

A member's own name is never used as a path. It is kept in a restricted table, for the person who may know.
"""

import csv
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, Self

from pipeline.core.artefacts import read_document, write_document, write_table
from pipeline.core.errors import ArtefactError, DicomError
from pipeline.core.places import standing_at
from pipeline.core.progress import say
from pipeline.core.provenance import fingerprint
from pipeline.core.records import Identified
from pipeline.dicom.deidentification.pseudonyms import close_to_others
from pipeline.dicom.reading.paths import as_text

_FOLDER = "unpacked"
_MEMBERS, _NAMES, _COMPLETE = "members", "names.tsv", "complete.json"
_MEMBERS_IN_A_FOLDER = 1_000
_MOST_NAME_CHARACTERS = 1_000
_STEP_BYTES = 1 << 20
# Python's readers of these methods inflate all that they are given, so they are given little.
_SMALL_STEP_BYTES = 1 << 12
_BLOCK_BYTES = 4096  # what the smallest file takes on the disk
_GIGABYTE = 1_000_000_000
_MOST_EXPANSION = 1000  # deflate reaches 1032, images 2 to 10
_FREE_FRACTION = 0.05
_BYTES_BETWEEN_LOOKS = 64 * (1 << 20)  # at the free space
_MOST_HEADER_BYTES = 1 << 20  # of a long name in a tar
_LONG_HEADERS = frozenset(
    {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)


class Member(Identified):
    """One file of an archive: its number, its own name, and why it is not there, if it is not."""

    file: str  # below the folder with the members
    path: str
    code: str = ""


class _Complete(Identified):
    """Which archive has been unpacked, and how; written last."""

    source: str
    inode: str
    archive_bytes: int
    modified_ns: int
    changed_ns: int
    largest_bytes: int
    code: str


@dataclass(frozen=True)
class Tree:
    """Where the files of a source lie, and, if it was an archive, which one and what they were called."""

    root: Path
    _table: Path | None = None
    archive: str = ""  # what tells it from others that were unpacked to the same place

    def names(self) -> Iterator[tuple[str, str]]:
        """Give the path below `root`, and the name in the archive, of every member that was unpacked."""
        return ((one.file, one.path) for one in self._members() if not one.code)

    def refused(self) -> Iterator[tuple[str, str]]:
        """Give the name in the archive, and the reason code, of every member that was not."""
        return ((one.path, one.code) for one in self._members() if one.code)

    def _members(self) -> Iterator[Member]:
        """Read the table row by row: there may be millions."""
        if self._table is None:
            return
        with self._table.open(encoding="utf-8", newline="") as stream:
            rows = csv.reader(stream, delimiter="\t")
            next(rows)
            for cells in rows:
                file, path, code = (cell.removeprefix("'") for cell in cells)
                yield Member(file=file, path=path, code=code)


class _Found(NamedTuple):
    """A member as its archive lists it; `content` is None if it cannot be had, for the reason of the code."""

    name: str
    code: str = ""
    content: Iterator[bytes] | None = None
    size_bytes: int = 0  # that must be gone through to reach the next member


class _MemberFault(Exception):  # noqa: N818  one member cannot be read
    pass


def folder_of(source: Path) -> Path:
    """Give the folder to be scanned, where the source names a folder, or the DICOMDIR in it; else the source."""
    return source.parent if source.name.upper() == "DICOMDIR" and standing_at(source) == "file" else source


def is_archive(path: Path) -> bool:
    """Tell by its content whether a file is a zip or a tar, plain or compressed."""
    return _is_tar(path) or _is_zip(path)


def source_root(source: Path, restricted: Path) -> Path:
    """Tell where the files of a source lie that `unpack` has prepared.

    Parameters
    ----------
    source
        A folder, a DICOMDIR, or an archive.
    restricted
        The folder that was given to `unpack`.

    Raises
    ------
    DicomError
        If it is an archive that is not unpacked.
    """
    folder = folder_of(source)
    place = restricted / _FOLDER
    if standing_at(folder) == "folder":
        return folder
    if not (place / _COMPLETE).is_file():
        what = "the source is neither a folder nor an archive that has been unpacked"
        raise DicomError(what, where=str(source), remedy="check `ingest.source`, and run the stage ingest again")
    return place / _MEMBERS


def unpack(source: Path, restricted: Path, *, largest_bytes: int) -> Tree:
    """Unpack a source if it is an archive and has not been unpacked as it is now; tell where its files lie.

    Links, devices, encrypted and damaged members are not unpacked but counted with their reason.

    Parameters
    ----------
    source
        A folder, a DICOMDIR, or an archive.
    restricted
        Folder for identifiers; the files go into ``unpacked/members`` below it, by their numbers.
    largest_bytes
        A member that is larger is refused, whatever size it claims.

    Raises
    ------
    DicomError
        If the archive is cut short, or holds more than the disk or 1000 times its own size.
    """
    folder = folder_of(source)
    place = restricted / _FOLDER
    if standing_at(folder) in {"folder", "nothing", "closed"}:  # what is missing is told by the scan
        _remove(place)  # of an archive that was the source before
        return Tree(folder)
    if not is_archive(source):
        remedy = "name a folder, a DICOMDIR, or a zip or tar archive; an archive that is damaged must be copied again"
        raise DicomError("the source is neither a folder nor an archive", where=str(source), remedy=remedy)
    facts = source.stat()
    wanted = _Complete(
        source=str(source.resolve()),
        inode=str(facts.st_ino),
        archive_bytes=facts.st_size,
        modified_ns=facts.st_mtime_ns,
        changed_ns=facts.st_ctime_ns,
        largest_bytes=largest_bytes,
        code=fingerprint(__name__),
    )
    tree = Tree(place / _MEMBERS, place / _NAMES, wanted.model_dump_json())
    with suppress(ArtefactError):
        if read_document(place / _COMPLETE, _Complete) == wanted:
            return tree
    say("ingest: unpacking the archive")
    _remove(place)
    try:
        close_to_others(place)
        close_to_others(tree.root)
        writer = _Writer(source, tree.root, largest_bytes, facts)
        write_table(place / _NAMES, Member, writer.members())
    except BaseException:
        _remove(place)
        raise
    os.sync()
    write_document(place / _COMPLETE, wanted)
    say(f"ingest: {writer.count} files in the archive")
    return tree


class _Writer:
    """Write members under their numbers, and watch how much that is."""

    def __init__(self, source: Path, root: Path, largest_bytes: int, facts: os.stat_result) -> None:
        self._source = source
        self._root = root
        self._largest_bytes = largest_bytes
        self._modified_ns = facts.st_mtime_ns
        self._room_bytes = _MOST_EXPANSION * facts.st_size + _GIGABYTE
        self._bytes_until_look = 0
        self.count = 0

    def members(self) -> Iterator[Member]:
        """Unpack them all; each is told once it is there, or refused."""
        names: set[int] = set()
        listed = _tar_members if _is_tar(self._source) else _zip_members
        for found in listed(self._source):
            self.count += 1
            file = f"{self.count // _MEMBERS_IN_A_FOLDER:04d}/{self.count:07d}"
            name = as_text(found.name)[:_MOST_NAME_CHARACTERS]
            if hash(name) in names:  # an archive may hold one name twice
                name = f"{name} (member {self.count})"
            names.add(hash(name))
            code = found.code
            if found.content is not None:
                code = self._store(self._root / file, found.content)
            if code:
                self._spend(found.size_bytes)
            yield Member(file=file, path=name, code=code)

    def _store(self, path: Path, content: Iterator[bytes]) -> str:
        """Write one member; give the code if that cannot be done."""
        code = ""
        written = 0
        self._spend(_BLOCK_BYTES)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as stream:
            try:
                for piece in content:
                    written += len(piece)
                    if written > self._largest_bytes:
                        code = "BAD_DIMENSIONS"
                        break
                    self._spend(len(piece))
                    stream.write(piece)
            except _MemberFault:
                code = "UNREADABLE_FILE"
        if code:
            path.unlink()
        else:  # of the archive: its own times are ours, and would differ from one unpacking to the next
            os.utime(path, ns=(self._modified_ns, self._modified_ns))
        return code

    def _spend(self, count: int) -> None:
        """Stop at an archive that holds absurdly much, and before the disk is full."""
        self._room_bytes -= count
        self._bytes_until_look -= count
        where = str(self._source)
        remedy = "check where it comes from; if it is what you want, unpack it yourself and name the folder"
        if self._room_bytes < 0:
            what = f"the archive holds more than {_MOST_EXPANSION} times its own size and 1 GB"
            raise DicomError(what, where=where, remedy=remedy)
        if self._bytes_until_look < 0:
            self._bytes_until_look = _BYTES_BETWEEN_LOOKS
            disk = shutil.disk_usage(self._root)
            if disk.free < min(_GIGABYTE, _FREE_FRACTION * disk.total):
                what = "unpacking the archive would fill the disk with the results"
                raise DicomError(what, where=where, remedy=f"make room; {remedy}")


def _zip_members(path: Path) -> Iterator[_Found]:
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # a damaged directory makes zipfile raise nearly anything
        raise _damaged(path) from error
    with archive:
        # What stands in front may be another archive, whose members the directory at the end does not name.
        if min((info.header_offset for info in archive.infolist()), default=archive.start_dir) > 0:
            raise _damaged(path)
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0  # 3: Unix
            if info.is_dir() or kind == stat.S_IFDIR:
                continue
            if kind not in {0, stat.S_IFREG}:
                yield _Found(info.filename, "NOT_A_REGULAR_FILE")
            else:
                yield _Found(info.filename, content=_zip_content(archive, info))


def _zip_content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    bounded = info.compress_type in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
    step = _STEP_BYTES if bounded else _SMALL_STEP_BYTES
    try:
        with archive.open(info) as stream:  # raises for encrypted members and unknown methods
            yield from iter(lambda: stream.read(step), b"")
    except Exception:  # noqa: BLE001  damage makes it raise nearly anything
        raise _MemberFault from None


class _Header(tarfile.TarInfo):
    """The header of a tar's member; one that is damaged is an error, where tarfile takes it for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header."""
        try:
            found = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the end, as it should be
            raise tarfile.ReadError("a damaged header") from error
        if found.size < 0 or (found.type in _LONG_HEADERS and found.size > _MOST_HEADER_BYTES):
            raise tarfile.ReadError("a header of absurd length")  # tarfile would read all of it into memory
        return found


def _tar_members(path: Path) -> Iterator[_Found]:
    try:
        with tarfile.open(path, "r:*", tarinfo=_Header) as archive:
            before = -1
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
                if archive.offset <= before:  # it would go round in circles
                    raise _damaged(path)
                before = archive.offset
                if member.isdir():
                    continue
                stream = archive.extractfile(member) if member.isreg() else None
                if stream is None:
                    yield _Found(member.name, "NOT_A_REGULAR_FILE", size_bytes=member.size)
                else:
                    yield _Found(member.name, content=_tar_content(path, stream), size_bytes=member.size)
            if not _ends_here(archive):
                raise _damaged(path)
    except DicomError:
        raise
    except Exception as error:  # as for zip
        raise _damaged(path) from error


def _ends_here(archive: tarfile.TarFile) -> bool:
    """Tell whether nothing but zeros follows the last member, neither none nor absurdly many: no other archive."""
    stream: IO[bytes] = archive.fileobj  # type: ignore[assignment]  # typed as writable only
    stream.seek(archive.offset)
    found = 0
    while chunk := stream.read(_STEP_BYTES):
        found += len(chunk)
        if chunk.count(0) < len(chunk) or found > _GIGABYTE:
            return False
    return found >= tarfile.BLOCKSIZE


def _tar_content(path: Path, stream: IO[bytes]) -> Iterator[bytes]:
    try:
        yield from iter(lambda: stream.read(_STEP_BYTES), b"")
    except Exception as error:  # what follows cannot be read either
        raise _damaged(path) from error


def _is_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:*", tarinfo=_Header):
            return True
    except Exception:  # noqa: BLE001  whatever it is, it is none
        return False


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except Exception:  # noqa: BLE001  as above
        return False


def _damaged(path: Path) -> DicomError:
    what = "the archive is damaged or cut short, or several archives in one file"
    return DicomError(what, where=str(path), remedy="copy it again, or unpack what can be had and name the folder")


def _remove(place: Path) -> None:
    try:
        if place.is_symlink():
            place.unlink()
        elif place.exists():
            shutil.rmtree(place)
    except OSError as error:
        what = f"cannot remove what was unpacked before ({error.strerror})"
        raise ArtefactError(what, where=str(place), remedy="remove it yourself") from error
