"""Index: what is known of every file of a source, in SQLite on the disk, so that nothing is read twice.

One row for each file: its size and times, and what its header said. Only files whose size or times have changed
are read again, and a scan that was killed goes on where it stood. The memory taken does not grow with the number
of files. What follows from comparing files (refusals, parts of series) is worked out afresh every time, in
temporary tables beside the rows.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, overload

from pipeline.core.errors import ArtefactError
from pipeline.core.progress import Progress, say
from pipeline.core.records import Instance, MultiFrameInstance
from pipeline.dicom.indexing.rows import FILE_COLUMNS, Entry, from_json, row_of, to_json

_ROWS = 1_000  # written, or read, at a time
_SECONDS_BETWEEN_COMMITS = 5.0  # what a killed scan may lose
_FEWEST_TOGETHER = 1_000  # instances of several short series are given out together
_CACHE_KIB = 64_000
_TABLES = f"""
CREATE TABLE about (answers TEXT NOT NULL);
CREATE TABLE files ({FILE_COLUMNS});
CREATE TABLE records (file INTEGER PRIMARY KEY, record TEXT NOT NULL);
"""
# `refused` says which files are left out for what others hold; `strays` are entries that are no files with a row.
_WORK = """
CREATE TEMP TABLE seen (path TEXT PRIMARY KEY, size_bytes INTEGER, modified_ns INTEGER, changed_ns INTEGER,
    inode TEXT) WITHOUT ROWID;
CREATE TEMP TABLE waiting (number INTEGER PRIMARY KEY, path TEXT, size_bytes INTEGER, modified_ns INTEGER,
    changed_ns INTEGER, inode TEXT);
CREATE TEMP TABLE strays (path TEXT NOT NULL, code TEXT NOT NULL);
CREATE TEMP TABLE names (path TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
CREATE TEMP TABLE refused (path TEXT PRIMARY KEY, code TEXT NOT NULL) WITHOUT ROWID;
CREATE TEMP VIEW live AS
    SELECT * FROM files WHERE code = '' AND NOT EXISTS (SELECT 1 FROM refused WHERE refused.path = files.path);
"""


class Rejection(NamedTuple):
    """An entry that is left out: its path as text (see `paths.as_text`) and the reason code."""

    path: str
    code: str


@dataclass(frozen=True)
class Counts:
    """How many entries were found, and what of them is kept.

    Attributes
    ----------
    entries
        Files and everything else that is no folder.
    files_kept
        Those of which at least one frame is kept.
    instances_kept
        Files of one image, and frames of others.
    series_kept
        Series, or parts of series, in which they stand.
    shared_ids_kept
        Patient IDs that seem to stand for several people and under which something is kept.
    """

    entries: int
    files_kept: int
    instances_kept: int
    series_kept: int
    shared_ids_kept: frozenset[str]


class Waiting(Sequence[str]):
    """The paths of files that are yet to be read, sorted, fetched as they are asked for."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._count: int = database.execute("SELECT count(*) FROM waiting").fetchone()[0]

    def __len__(self) -> int:
        """Count them."""
        return self._count

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        """Fetch one path, or those of a slice without steps."""
        if isinstance(place, int):
            return self[place : place + 1][0]
        start, stop, _ = place.indices(self._count)
        found = self._database.execute(
            "SELECT path FROM waiting WHERE number > ? AND number <= ? ORDER BY number", (start, stop)
        )
        return [path for (path,) in found]

    def entries(self) -> Iterator[Entry]:
        """Give them all with their sizes and times."""
        for start in range(0, self._count, _ROWS):
            rows = self._database.execute(
                "SELECT path, size_bytes, modified_ns, changed_ns, inode FROM waiting"
                " WHERE number > ? AND number <= ? ORDER BY number",
                (start, start + _ROWS),
            )
            yield from map(Entry._make, rows.fetchall())


class Index:
    """The rows of a source, and what is worked out from them.

    First `compare` it with the source and `add` what was read; then `refuse` files for what others hold; then
    `settle` each of the `series`; then ask for `rejections` and `counts`.

    Attributes
    ----------
    database
        The connection, for questions about all files.
    shared_ids
        Patient IDs that seem to stand for several people.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database
        self.shared_ids: set[str] = set()
        self._files_kept = 0
        self._instances_kept = 0
        self._series_kept = 0
        self._patients_kept: set[str] = set()
        database.executescript(_WORK)

    def compare(self, found: Iterable[Entry | Rejection]) -> Waiting:
        """Take note of what lies in the source now: forget files that are gone, find those to be read.

        Parameters
        ----------
        found
            Every entry of the source, in any order: files, and what is refused without being opened.
        """
        files: list[Entry] = []
        for one in found:
            if isinstance(one, Rejection):
                self.database.execute("INSERT INTO strays VALUES (?, ?)", one)
                continue
            files.append(one)
            if len(files) == _ROWS:
                self._see(files)
        self._see(files)
        self.database.executescript(
            """
            CREATE TEMP TABLE stale AS
                SELECT id FROM files LEFT JOIN seen USING (path) WHERE seen.size_bytes IS NULL
                OR (files.size_bytes, files.modified_ns, files.changed_ns, files.inode)
                <> (seen.size_bytes, seen.modified_ns, seen.changed_ns, seen.inode);
            BEGIN;
            DELETE FROM records WHERE file IN (SELECT id FROM stale);
            DELETE FROM files WHERE id IN (SELECT id FROM stale);
            COMMIT;
            INSERT INTO waiting (path, size_bytes, modified_ns, changed_ns, inode)
                SELECT * FROM seen WHERE NOT EXISTS (SELECT 1 FROM files WHERE files.path = seen.path) ORDER BY path;
            DROP TABLE seen;
            """
        )
        waiting = Waiting(self.database)
        known = self._number("SELECT count(*) FROM files")
        if known:
            say(f"ingest: {known} files are as they were, {len(waiting)} are new or changed")
        return waiting

    def add(self, waiting: Waiting, found: Iterable[Instance | str]) -> None:
        """Store what the waiting files said, in their order; as much as possible if reading them ends early."""
        first = self._number("SELECT coalesce(max(id), 0) + 1 FROM files")
        progress = Progress("ingest: files", len(waiting))
        committed = time.monotonic()
        rows: list[tuple[object, ...]] = []
        records: list[tuple[int, str]] = []
        try:
            for number, (entry, answer) in enumerate(zip(waiting.entries(), found, strict=True), start=first):
                rows.append(row_of(number, entry, answer))
                if isinstance(answer, Instance):
                    records.append((number, to_json(answer)))
                progress.advance()
                if len(rows) == _ROWS:
                    self._write(rows, records)
                    if time.monotonic() - committed > _SECONDS_BETWEEN_COMMITS:
                        self.database.commit()
                        committed = time.monotonic()
        finally:
            self._write(rows, records)
            self.database.commit()

    def rename(self, names: Iterable[tuple[str, str]]) -> None:
        """Take other names for rejected files (path, name); one that is named but not there is refused."""
        self.database.executemany("INSERT INTO names VALUES (?, ?)", names)
        self.database.execute(
            "INSERT INTO strays SELECT name, 'UNREADABLE_FILE' FROM names"
            " WHERE NOT EXISTS (SELECT 1 FROM files WHERE files.path = names.path)"
        )

    def series(self) -> Iterator[list[Instance]]:
        """Give what is not refused, frame by frame, whole series together, by study, series and path."""
        self.database.executescript(
            """
            DROP TABLE IF EXISTS temp.members;
            CREATE TEMP TABLE members (number INTEGER PRIMARY KEY, file INTEGER);
            INSERT INTO members (file) SELECT id FROM live ORDER BY study, series, path;
            """
        )
        rows = self.database.execute(
            "SELECT record FROM members CROSS JOIN records ON records.file = members.file ORDER BY members.number"
        )
        together: list[Instance] = []
        for _, members in groupby((from_json(text) for (text,) in rows), key=lambda one: one.series_uid):
            for one in members:
                together.extend(_expanded(one))
            if len(together) >= _FEWEST_TOGETHER:
                yield together
                together = []
        if together:
            yield together

    def settle(self, kept: Sequence[Instance], refused: Iterable[tuple[Instance, str]]) -> None:
        """Take note of what becomes of whole series; a file of which one frame is kept is not refused."""
        files = {one.path for one in kept}
        self._files_kept += len(files)
        self._instances_kept += len(kept)
        self._series_kept += len({(one.series_uid, one.part) for one in kept})
        self._patients_kept.update(self.shared_ids & {one.patient_id for one in kept})
        codes: dict[str, str] = {}
        for one, code in sorted(refused, key=lambda pair: pair[0].frame):
            if one.path not in files:
                codes.setdefault(one.path, code)  # of its first frame
        self.refuse(codes.items())

    def refuse(self, files: Iterable[tuple[str, str]]) -> None:
        """Leave files out: their paths, each with a reason code."""
        self.database.executemany("INSERT INTO refused VALUES (?, ?)", files)

    def unrefused(self) -> Iterator[Instance]:
        """Give what is not refused, sorted by path; files of several frames as a whole."""
        rows = self.database.execute("SELECT record FROM live JOIN records ON records.file = live.id ORDER BY path")
        return (from_json(text) for (text,) in rows)

    def rejections(self) -> Iterator[Rejection]:
        """Give every entry that is left out, sorted by path."""
        rows = self.database.execute(
            "SELECT coalesce(name, path), code FROM (SELECT path, code FROM files WHERE code <> ''"
            " UNION ALL SELECT path, code FROM refused) LEFT JOIN names USING (path)"
            " UNION ALL SELECT path, code FROM strays ORDER BY 1, 2"
        )
        return map(Rejection._make, rows)

    def counts(self) -> Counts:
        """Count entries, and what was settled as kept."""
        return Counts(
            entries=self._number("SELECT (SELECT count(*) FROM files) + (SELECT count(*) FROM strays)"),
            files_kept=self._files_kept,
            instances_kept=self._instances_kept,
            series_kept=self._series_kept,
            shared_ids_kept=frozenset(self._patients_kept),
        )

    def _see(self, files: list[Entry]) -> None:
        """Store entries of the source, sorted: folders are not listed in any order."""
        self.database.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?)", sorted(files))
        files.clear()

    def _write(self, rows: list[tuple[object, ...]], records: list[tuple[int, str]]) -> None:
        if rows:
            self.database.executemany(f"INSERT INTO files VALUES ({', '.join('?' * len(rows[0]))})", rows)
            self.database.executemany("INSERT INTO records VALUES (?, ?)", records)
        rows.clear()
        records.clear()

    def _number(self, query: str) -> int:
        return int(self.database.execute(query).fetchone()[0])


@contextmanager
def open_index(path: Path | None, answers: str) -> Iterator[Index]:
    """Open an index, or make one: a file that is damaged, of somebody else or out of date is thrown away.

    Parameters
    ----------
    path
        Its file, in a folder that only its owner can enter (None: one that is gone afterwards).
    answers
        Digest of what the answers depend on beside the files: code, settings, libraries.

    Raises
    ------
    ArtefactError
        If it cannot be written, or another process uses it.
    """
    try:
        if path is None:  # kept in memory while it is small, else in a file without a name
            with closing(sqlite3.connect("")) as database:
                database.executescript(_TABLES)
                yield Index(database)
            return
        with _locked(path), closing(_sound(path, answers)) as database:
            yield Index(database)
    except sqlite3.Error as error:
        what = f"the index cannot be used ({error})"
        remedy = "check the free disk space; if it happens again, remove the file"
        raise ArtefactError(what, where=str(path or ""), remedy=remedy) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes out, where the file system can; SQLite's own locks fail on some network file systems."""
    place = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        what = f"the index cannot be made ({error.strerror})"
        raise ArtefactError(what, where=str(place), remedy="check the folder and its permissions") from error
    with os.fdopen(descriptor, "w"):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            what = "another process is taking the same study in"
            raise ArtefactError(what, where=str(path), remedy="wait until it has ended") from error
        except OSError:  # no locks here: Snakemake's own lock has to do
            pass
        yield


def _sound(path: Path, answers: str) -> sqlite3.Connection:
    """Open the index if it can be used, else make it anew."""
    if path.is_symlink() or not path.is_file() or not path.stat().st_size:
        return _made(path, answers)
    database = _connection(path)
    try:
        sound = database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        (known,) = database.execute("SELECT answers FROM about").fetchone()
        database.execute(f"SELECT {', '.join(_names_of_columns())} FROM files JOIN records ON file = id LIMIT 1")
    except (sqlite3.DatabaseError, TypeError):
        sound = False
    if sound and known == answers:
        return database
    database.close()
    why = "settings or software have changed" if sound else "the index is damaged or not one"
    say(f"ingest: {why}: every file is read again")
    return _made(path, answers)


def _made(path: Path, answers: str) -> sqlite3.Connection:
    try:
        for old in (path, path.with_name(f"{path.name}-journal")):
            old.unlink(missing_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        what = f"the index cannot be made ({error.strerror})"
        raise ArtefactError(what, where=str(path), remedy="check the folder and its permissions") from error
    database = _connection(path)
    database.executescript(_TABLES)
    database.execute("INSERT INTO about VALUES (?)", (answers,))
    database.commit()
    return database


def _connection(path: Path) -> sqlite3.Connection:
    """Connect without locks and without shared memory, so that it works on any file system."""
    database = sqlite3.connect(f"{path.absolute().as_uri()}?nolock=1", uri=True)
    place = os.fspath(path.parent.absolute()).replace("'", "''")
    with suppress(sqlite3.DatabaseError, UnicodeEncodeError):  # a damaged file is noticed later
        database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        database.execute("PRAGMA journal_mode = TRUNCATE")
        # Large sorts go beside the index, where only the owner looks, and not to a small /tmp.
        database.execute(f"PRAGMA temp_store_directory = '{place}'")
    return database


def _expanded(one: Instance) -> Sequence[Instance]:
    return one.expanded() if isinstance(one, MultiFrameInstance) else (one,)


def _names_of_columns() -> list[str]:
    return [line.split()[0] for line in FILE_COLUMNS.split(",")]
