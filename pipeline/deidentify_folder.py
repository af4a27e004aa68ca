"""De-identify a folder of DICOM files by itself, without a study: what may leave, a receipt, and the way back apart."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.core.artefacts import RESTRICTED, write_table
from pipeline.core.errors import ConfigError, DicomError
from pipeline.core.parallel import map_in_order
from pipeline.core.progress import Progress, say
from pipeline.core.records import Finding, OriginalName, PseudonymLink, ReceiptLine
from pipeline.dicom.deidentification.description import description
from pipeline.dicom.deidentification.objects import ObjectRewriter, WrittenObject
from pipeline.dicom.deidentification.options import DEFAULT_OPTIONS, contradiction
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms, close_to_others, read_or_create_key
from pipeline.dicom.deidentification.receipt import Receipt
from pipeline.dicom.deidentification.rewriting import FAILED, WORTH_PROCESSES
from pipeline.dicom.indexing.index import Rejection
from pipeline.dicom.indexing.scan import walk
from pipeline.dicom.reading.files import FileFault, whole_sha256
from pipeline.dicom.reading.paths import from_text

_LARGEST_DATE_SHIFT_DAYS = 3650


def deidentify_folder(
    *,
    input: Path | None = None,  # noqa: A002  the option is called so
    output: Path | None = None,
    restricted: Path | None = None,
    key: Path | None = None,
    options: tuple[str, ...] = DEFAULT_OPTIONS,
    describe: bool = False,
    threads: int = 1,
) -> int:
    """Write ``OUTPUT/dicom``, ``receipt.tsv`` and ``quarantine.tsv``; 0, or 1 if no file could leave.

    Parameters
    ----------
    input
        The folder with the files; it is only read.
    output
        A new folder for what may leave.
    restricted
        Where the way back stands (default: ``restricted/NAME`` beside the output folder NAME). Keep it.
    key
        File with the secret key (default: ``key`` in the restricted folder); made on first use, mode 0600.
    options
        What files may keep beyond the basic profile: the options of docs/configuration.md, `deidentify`.
    describe
        Print the rules in words and do nothing else.
    threads
        Processes to use.

    Raises
    ------
    ConfigError
        If options contradict each other or a folder is missing.
    DicomError
        If the input cannot be read.
    """
    if message := contradiction(options, has_pixel_rules=False):
        raise ConfigError(message, where="--options", remedy="choose others")
    if describe:
        sys.stdout.write(description(options) + "\n")
        return 0
    if input is None or output is None:
        raise ConfigError("two folders are needed", where="--input, --output", remedy="name both")
    return _deidentify(input, output, restricted, key, frozenset(options), threads)


def _deidentify(
    source: Path, output: Path, restricted: Path | None, key: Path | None, options: frozenset[str], threads: int
) -> int:
    closed = restricted or output.absolute().parent / RESTRICTED / output.name
    _require_places(source, output, closed)
    close_to_others(closed)
    names = Pseudonyms(read_or_create_key(key or closed / "key"))
    rewriter = ObjectRewriter(source, output / "dicom", names, _LARGEST_DATE_SHIFT_DAYS, options)
    found = sorted(walk(source), key=lambda one: one.path)
    refused = {one.path: one.code for one in found if isinstance(one, Rejection)}
    files = [one.path for one in found if one.path not in refused]
    results = map_in_order(
        rewriter, files, threads=threads if len(files) >= WORTH_PROCESSES else 1, on_crash=lambda _: FAILED
    )
    written: dict[str, tuple[str, WrittenObject]] = {}
    progress = Progress("deidentify: files", len(files))
    for path, result in zip(files, results, strict=True):
        progress.advance(1)
        if isinstance(result, str):
            refused[path] = result
        elif result.file in written:
            refused |= _again(rewriter, written, path, result)
        else:
            written[result.file] = path, result
    for path, result in list(written.values()):
        if refused.get(path) == "CONFLICTING_INSTANCES":
            del written[result.file]
            with suppress(OSError):
                (rewriter.target / result.file).unlink()
    whole = [result for _, result in written.values()]
    _write_tables(output, closed, whole, refused, rewriter)
    reasons = Counter(refused.values())
    say(f"deidentify: {len(whole)} of {len(found)} files written")
    say(f"deidentify: kept out: {', '.join(f'{code} {n}' for code, n in sorted(reasons.items())) or 'none'}")
    say(f"deidentify: the way back, for your eyes only: {closed}")
    return 0 if whole else 1


def _require_places(source: Path, output: Path, restricted: Path) -> None:
    """Refuse places that would mix what goes in, what may leave and what may not."""
    if not source.is_dir():
        raise DicomError("the source folder is missing or cannot be read", where=str(source), remedy="check the path")
    if output.exists() and any(output.iterdir()):
        what = "the folder for the output is not empty"
        raise ConfigError(what, where=str(output), remedy="name a new folder, so that nothing old leaves with it")
    inner, outer, closed = (one.resolve() for one in (source, output, restricted))
    if RESTRICTED not in closed.parts:
        what = f"the way back must stand below a folder named {RESTRICTED}"
        raise ConfigError(what, where=str(restricted), remedy="name such a folder")
    if outer.is_relative_to(inner) or closed.is_relative_to(outer) or closed.is_relative_to(inner):
        what = "input, output and restricted folder lie within each other"
        raise ConfigError(what, where=str(output), remedy="name folders beside each other")


def _again(
    rewriter: ObjectRewriter, written: dict[str, tuple[str, WrittenObject]], path: str, result: WrittenObject
) -> dict[str, str]:
    """Say what becomes of a second file of one instance: nothing if it is the same, else both go."""
    first, _ = written[result.file]
    try:
        digests = {whole_sha256(rewriter.source / from_text(one)) for one in (first, path)}
    except FileFault:
        digests = set()
    if len(digests) == 1:
        return {path: "DUPLICATE_FILE"}
    return {first: "CONFLICTING_INSTANCES", path: "CONFLICTING_INSTANCES"}


def _write_tables(
    output: Path,
    restricted: Path,
    written: Iterable[WrittenObject],
    refused: dict[str, str],
    rewriter: ObjectRewriter,
) -> None:
    receipt = Receipt()
    originals: set[tuple[str, str, str]] = set()
    for one in written:
        receipt.add(one.counts)
        originals |= {(name.kind, name.pseudonym, name.original) for name in one.originals}
    write_table(output / "receipt.tsv", ReceiptLine, receipt.lines())
    write_table(output / "quarantine.tsv", Finding, _findings(refused, rewriter.pseudonyms))
    patients = sorted({(pseudonym, name) for kind, pseudonym, name in originals if kind == "PatientID"})
    links = (
        PseudonymLink(patient_id=name, patient=pseudonym, date_shift_days=rewriter.shift_days(name))
        for pseudonym, name in patients
    )
    write_table(restricted / "pseudonyms.tsv", PseudonymLink, links)
    uids = sorted(one for one in originals if one[0] != "PatientID")
    rows = (OriginalName(kind=kind, pseudonym=new, original=name) for kind, new, name in uids)
    write_table(restricted / "originals.tsv", OriginalName, rows)


def _findings(refused: dict[str, str], names: Pseudonyms) -> Iterator[Finding]:
    for path, code in sorted(refused.items(), key=lambda one: names.file(one[0])):
        yield Finding(stage="deidentify", unit="file", unit_id=names.file(path), code=code, severity="excluded")
