"""Artefacts: tables (TSV, Parquet) and documents (JSON), written whole or not at all, checked when read."""

import csv
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args, get_origin

from pydantic import ValidationError

from pipeline.core.errors import ArtefactError, PrivacyError
from pipeline.core.records import Identified, Record

if TYPE_CHECKING:
    import pyarrow as pa

R = TypeVar("R", bound=Record)
RESTRICTED = "restricted"
_MOST_ERRORS_SHOWN = 20
_AGAIN = "run the stage that writes it again"
# A cell that starts so is a formula to a spreadsheet program (OWASP, "CSV injection").
_FORMULA_STARTS = ("=", "+", "-", "@")


@contextmanager
def replacing(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path` and rename it onto `path` when the block ends well.

    The data are flushed to the disk before the rename, so that a crash leaves the old file or the new one,
    never half of one. Without `flush` that holds for a crash of the program but not of the machine: for the
    many small files of a folder that is made anew as a whole, and whose reader notices a damaged file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise _cannot_write(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if flush:
            _flush_to_disk(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o600 if RESTRICTED in path.absolute().parts else 0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_parts(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file out of pieces: as `replacing` without flush, with as few calls of the system as that takes.

    Raises
    ------
    ArtefactError
        If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = _created(temporary, 0o600 if RESTRICTED in path.absolute().parts else 0o666)  # less the umask
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        try:
            waiting = [memoryview(part) for part in parts if len(part)]
            while waiting:
                written = os.writev(descriptor, waiting)
                while waiting and written >= len(waiting[0]):
                    written -= len(waiting.pop(0))
                if written:
                    waiting[0] = waiting[0][written:]
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise _cannot_write(path, error) from error
        raise


def _created(path: Path, mode: int) -> int:
    """Open a new file for writing, in a folder that may have to be made."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, mode)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, mode)


def write_table(path: Path, kind: type[R], rows: Iterable[R]) -> None:
    """Write records as TSV with a header line.

    Raises
    ------
    PrivacyError
        If `kind` may hold identifiers and `path` is not below a folder named ``restricted``.
    """
    _require_place(path, kind)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        plain = csv.writer(stream, delimiter="\t", lineterminator="\n")
        # The csv module does not quote a bare carriage return, and takes it for the end of a line when reading.
        quoted = csv.writer(stream, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL)
        plain.writerow(kind.model_fields)
        for row in rows:
            cells = [_cell(value) for value in row.model_dump(mode="json").values()]
            (quoted if any("\r" in cell for cell in cells) else plain).writerow(cells)


def read_table(path: Path, kind: type[R]) -> list[R]:
    """Read a TSV table written by `write_table`, checking every row.

    Raises
    ------
    ArtefactError
        If the file is missing, has other columns, or rows that do not fit; all bad rows are named.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = list(csv.reader(stream, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _cannot_read(path, "table", error) from error
    columns = list(kind.model_fields)
    if not lines or lines[0] != columns:
        found = ", ".join(lines[0]) if lines else "nothing"
        what = f"expected the columns {', '.join(columns)}; found {found}"
        raise ArtefactError(what, where=str(path), remedy=_AGAIN)
    rows: list[R] = []
    problems: list[str] = []
    for number, cells in enumerate(lines[1:], start=2):
        try:
            rows.append(_parse(kind, columns, cells))
        except (ValidationError, ValueError) as error:
            problems.append(f"line {number}: {_summary(error)}")
    if problems:
        shown = "\n    ".join(problems[:_MOST_ERRORS_SHOWN])
        what = f"{len(problems)} rows do not fit {kind.__name__}:\n    {shown}"
        raise ArtefactError(what, where=str(path), remedy=_AGAIN)
    return rows


def write_parquet(path: Path, kind: type[R], rows: Iterable[R], *, batch: int = 50_000) -> None:
    """Write records as Parquet in row groups of `batch`, holding one group in memory at a time.

    Raises
    ------
    PrivacyError
        As `write_table`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    _require_place(path, kind)
    schema = _arrow_schema(kind)
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        waiting: list[dict[str, object]] = []
        for row in rows:
            waiting.append(row.model_dump(mode="json"))
            if len(waiting) == batch:
                writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
                waiting.clear()
        writer.write_table(pa.Table.from_pylist(waiting, schema=schema))


def read_parquet(path: Path, kind: type[R]) -> Iterator[R]:
    """Yield the records of a Parquet table, one row group in memory at a time.

    Raises
    ------
    ArtefactError
        If the file is missing, damaged, or a row does not fit.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                for row in file.read_row_group(group).to_pylist():
                    yield kind.model_validate(row)
    except (OSError, pa.ArrowException, ValidationError) as error:
        raise _cannot_read(path, "table", error) from error


def count_parquet(path: Path) -> int:
    """Give the number of rows of a Parquet table, without reading them.

    Raises
    ------
    ArtefactError
        If the file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise _cannot_read(path, "table", error) from error


def write_document(path: Path, document: Record) -> None:
    """Write one record as indented JSON, keys in the order of the fields; the same record, the same bytes."""
    _require_place(path, type(document))
    text = document.model_dump_json(indent=1)
    with replacing(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")


def read_document(path: Path, kind: type[R]) -> R:
    """Read a JSON document written by `write_document`.

    Raises
    ------
    ArtefactError
        If it is missing, damaged or does not fit.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise _cannot_read(path, "document", error) from error


def list_files(folder: Path, suffix: str, expected: int) -> list[Path]:
    """List the files of a folder that a stage wrote, sorted by name.

    Raises
    ------
    ArtefactError
        If there are not `expected` of them.
    """
    paths = sorted(folder.glob(f"*{suffix}"))
    if len(paths) != expected:
        what = f"{len(paths)} files where {expected} are listed"
        raise ArtefactError(what, where=str(folder), remedy="run the stage that writes them again")
    return paths


def _cannot_read(path: Path, kind: str, error: Exception) -> ArtefactError:
    if isinstance(error, FileNotFoundError):
        remedy = "check the path, or run the study up to the stage that writes it"
        return ArtefactError(f"there is no such {kind}", where=str(path), remedy=remedy)
    if isinstance(error, ValidationError):
        reason = _summary(error)
    else:
        reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    return ArtefactError(f"cannot read the {kind} ({reason})", where=str(path), remedy=_AGAIN)


def _cannot_write(path: Path, error: OSError) -> ArtefactError:
    what = f"cannot write ({error.strerror})"
    return ArtefactError(what, where=str(path), remedy="check the free disk space and the permissions")


def _require_place(path: Path, kind: type[Record]) -> None:
    if issubclass(kind, Identified) and RESTRICTED not in path.absolute().parent.parts:
        what = f"{kind.__name__} may hold identifiers and can only be written below a folder named {RESTRICTED}"
        raise PrivacyError(what)


def _flush_to_disk(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return json.dumps(value, separators=(",", ":"))
    if isinstance(value, str) and value.startswith((*_FORMULA_STARTS, "'")):
        return f"'{value}"
    return repr(value) if isinstance(value, float) else str(value)


def _parse(kind: type[R], columns: Sequence[str], cells: Sequence[str]) -> R:
    if len(cells) != len(columns):
        message = f"{len(cells)} cells where {len(columns)} were expected"
        raise ValueError(message)
    values: dict[str, object] = {}
    for name, cell in zip(columns, cells, strict=True):
        annotation = kind.model_fields[name].annotation
        if cell == "" and annotation is not str:
            values[name] = None
        elif cell.startswith("[") and _holds(annotation, tuple):
            values[name] = json.loads(cell)
        else:
            values[name] = cell.removeprefix("'")
    return kind.model_validate(values)


def _summary(error: Exception) -> str:
    """Say which fields are wrong and why, without repeating their values."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3])
    return str(error) if type(error) is ValueError else type(error).__name__


def _holds(annotation: object, kind: type) -> bool:
    """Tell whether an annotation is `kind`, or a union with a member that is."""
    members = [annotation, *get_args(annotation)]
    return any(member is kind or get_origin(member) is kind for member in members)


def _arrow_schema(kind: type[Record]) -> "pa.Schema":
    import pyarrow as pa

    simple = ((bool, pa.bool_()), (int, pa.int64()), (float, pa.float64()), (tuple, pa.list_(pa.float64())))
    fields = []
    for name, field in kind.model_fields.items():
        found = next((arrow for base, arrow in simple if _holds(field.annotation, base)), pa.string())
        if get_args(field.annotation)[:1] == (str,):  # a tuple of words
            found = pa.list_(pa.string())
        fields.append(pa.field(name, found))
    return pa.schema(fields)
