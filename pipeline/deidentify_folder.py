"""De-identify a folder of DICOM files by itself, without a study: what may leave, a receipt, and the way back apart."""

import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from pipeline.config import DeidentifySettings
from pipeline.core.artefacts import RESTRICTED, write_table
from pipeline.core.errors import ArtefactError, ConfigError, DicomError
from pipeline.core.marked_yaml import read_yaml
from pipeline.core.mistakes import describe_error
from pipeline.core.parallel import map_in_order, map_series
from pipeline.core.places import standing_at
from pipeline.core.progress import Progress, say
from pipeline.core.records import BlankedRectangle, Finding, OriginalName, PseudonymLink, ReceiptLine
from pipeline.dicom.deidentification.burned_in import NEEDS_DECODER, Screen, needed_looks
from pipeline.dicom.deidentification.description import description
from pipeline.dicom.deidentification.file_rewriting import WORTH_PROCESSES
from pipeline.dicom.deidentification.new_headers import FAILED
from pipeline.dicom.deidentification.objects import ObjectRewriter, WrittenObject
from pipeline.dicom.deidentification.options import DEFAULT_OPTIONS, contradiction
from pipeline.dicom.deidentification.pixel_rules import PixelRule
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms, close_to_others, read_or_create_key
from pipeline.dicom.deidentification.receipt import Receipt
from pipeline.dicom.deidentification.series import remarks, shared_ids
from pipeline.dicom.indexing.index import Rejection
from pipeline.dicom.indexing.scan import walk
from pipeline.dicom.reading.files import FileFault, Refusal, whole_sha256
from pipeline.dicom.reading.paths import from_text

_LARGEST_DATE_SHIFT_DAYS = 3650
_FILE = "file"  # kind of the original names of what was kept out
_UNFINISHED = ".unfinished"  # where files stand until it is known which of them may leave
_TABLES = frozenset({"receipt.tsv", "quarantine.tsv", "blanked.tsv"})


def deidentify_folder(
    *,
    input: Path | None = None,  # noqa: A002  the option is called so
    output: Path | None = None,
    restricted: Path | None = None,
    key: Path | None = None,
    options: tuple[str, ...] = DEFAULT_OPTIONS,
    pixel_rules: Path | None = None,
    suspected_text: Literal["note", "quarantine"] = "quarantine",
    tolerated_characters: int = 8,
    describe: bool = False,
    threads: int = 1,
) -> int:
    """Write ``OUTPUT/dicom``, ``receipt.tsv``, ``quarantine.tsv`` and ``blanked.tsv``; 0, or 1 if no file could leave.

    Until it is known which files may leave they stand in ``OUTPUT/.unfinished``, which nobody should pass on. What an
    interrupted run left of it is removed by the next one.

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
    pixel_rules
        YAML file with the key `pixel_rules`: which images are blanked where (docs/burned-in-text.md).
    suspected_text
        What becomes of images in which much text is suspected.
    tolerated_characters
        How many suspected characters are not much.
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
    ArtefactError
        If the output cannot be written, or a file that may not leave cannot be removed.
    """
    rules = _read_rules(pixel_rules) if pixel_rules else ()
    if message := contradiction(options, has_pixel_rules=bool(rules)):
        raise ConfigError(message, where="--options", remedy="docs/configuration.md lists them under `deidentify`")
    if describe:
        sys.stdout.write(description(options) + "\n")
        return 0
    if input is None or output is None:
        raise ConfigError("two folders are needed", where="--input, --output", remedy="name both")
    closed = restricted or output.absolute().parent / RESTRICTED / output.name
    _require_places(input, output, closed)
    close_to_others(closed)
    _remove_leftovers(output / _UNFINISHED)
    names = Pseudonyms(read_or_create_key(key or closed / "key"))
    screen = Screen(rules, suspected_text, tolerated_characters)
    rewriter = ObjectRewriter(input, output / _UNFINISHED, names, _LARGEST_DATE_SHIFT_DAYS, screen, frozenset(options))
    return _deidentify(rewriter, output, closed, threads)


def _read_rules(path: Path) -> tuple[PixelRule, ...]:
    """Read rules for pixels: the same key as in the section `deidentify` of a configuration, and no other."""
    values, lines = read_yaml(path)
    if not isinstance(values, dict) or set(values) != {"pixel_rules"}:
        raise ConfigError("expected the key `pixel_rules`", where=str(path), remedy="see docs/burned-in-text.md")
    try:
        return DeidentifySettings.model_validate(values).pixel_rules
    except ValidationError as error:
        found = [describe_error(item, lines, str(path), DeidentifySettings) for item in error.errors()]
        raise ConfigError("\n  ".join(found), remedy="see docs/burned-in-text.md") from error


@dataclass
class _Sorted:
    """What became of the files of a folder, by their paths."""

    written: dict[str, tuple[str, WrittenObject]] = field(default_factory=dict)  # by what was written
    refused: dict[str, str] = field(default_factory=dict)

    def take_back(self, rewriter: ObjectRewriter, files: Iterable[str], code: str) -> None:
        """Remove files that were written.

        Raises
        ------
        ArtefactError
            If one cannot be removed.
        """
        for file in files:
            path, _ = self.written.pop(file)
            self.refused[path] = code
            rewriter.remove(rewriter.target / file)

    def take_back_volumes(self, rewriter: ObjectRewriter, volumes: Set[str]) -> None:
        """Remove what was written of volumes of which a slice is kept out.

        Only some slices of a volume are looked at: the neighbours of one that is kept out may say the same.
        """
        cut = [file for file, (_, one) in self.written.items() if one.volume in volumes]
        self.take_back(rewriter, cut, "SERIES_INCOMPLETE")


def _deidentify(rewriter: ObjectRewriter, output: Path, closed: Path, threads: int) -> int:
    found = sorted(walk(rewriter.source), key=lambda one: one.path)
    done = _Sorted(refused={one.path: one.code for one in found if isinstance(one, Rejection)})
    files = [one.path for one in found if one.path not in done.refused]
    conflicting: set[str] = set()
    incomplete: set[str] = set()
    progress = Progress("deidentify: files", len(files))
    for path, result in _rewritten(rewriter, files, threads):
        progress.advance(1)
        if isinstance(result, str):
            done.refused[path] = str(result)
            if isinstance(result, Refusal):
                incomplete.add(result.slot.series_uid)  # keyed, as `WrittenObject.volume`
        elif result.file not in done.written:
            done.written[result.file] = path, result
        elif _are_same(rewriter, done.written[result.file][0], path):
            done.refused[path] = "DUPLICATE_FILE"
        else:
            done.refused[path] = "CONFLICTING_INSTANCES"
            conflicting.add(result.file)
    done.take_back(rewriter, conflicting, "CONFLICTING_INSTANCES")
    done.take_back_volumes(rewriter, incomplete)
    done.take_back_volumes(rewriter, _look_at_unseen(rewriter, done, threads))
    whole = [one for _, one in done.written.values()]
    noted = _write_tables(output, closed, whole, done.refused, rewriter)
    if rewriter.target.is_dir():
        _finish(rewriter.target, output / "dicom")
    reasons, remarkable = Counter(done.refused.values()), Counter(one.code for one in noted)
    say(f"deidentify: {len(whole)} of {len(found)} files written")
    say(f"deidentify: kept out: {_counted(reasons)}")
    say(f"deidentify: remarks: {_counted(remarkable)}")
    say(f"deidentify: the way back, for your eyes only: {closed}")
    return 0 if whole else 1


def _rewritten(
    rewriter: ObjectRewriter, files: Sequence[str], threads: int
) -> Iterator[tuple[str, WrittenObject | str]]:
    """Rewrite files; those that take a decoder come last, each in a process that it may take down."""
    many = threads if len(files) >= WORTH_PROCESSES else 1
    waiting: dict[str, str] = {}
    for path, result in zip(files, map_in_order(rewriter, files, threads=many, on_crash=lambda _: FAILED), strict=True):
        if isinstance(result, str) and result == NEEDS_DECODER:
            waiting[path] = result
        else:
            yield path, result
    decoding = map_series(
        replace(rewriter, may_decode=True),
        list(waiting),
        pixels=0,
        threads=threads,
        on_crash=lambda path: _undecodable(waiting[path]),
        needs_decoder=lambda _: True,
    )
    yield from zip(waiting, decoding, strict=True)


def _look_at_unseen(rewriter: ObjectRewriter, done: _Sorted, threads: int) -> set[str]:
    """Look at slices of volumes in which none was looked at; give the volumes that hold one that is kept out."""
    volumes: dict[str, list[tuple[str, str, WrittenObject]]] = defaultdict(list)
    for file, (path, one) in sorted(done.written.items(), key=lambda item: item[1][0]):
        if one.volume:
            volumes[one.volume].append((path, file, one))
    chosen = {
        slices[at][0]: slices[at][1:]
        for slices in volumes.values()
        for at in needed_looks([None if one.rule else one.slice_number for _, _, one in slices])
    }
    incomplete: set[str] = set()
    for path, result in _rewritten(replace(rewriter, looks_at_all=True), sorted(chosen), threads):
        file, one = chosen[path]
        if isinstance(result, str):
            done.take_back(rewriter, [file], str(result))
            incomplete.add(one.volume)
        else:
            done.written[file] = path, result
    return incomplete


def _undecodable(asked: str) -> str:
    """Give the code of a file whose decoder crashed; it is known already whether it is a slice, and of what."""
    code = "UNDECODABLE_PIXELS"
    return Refusal(code, asked.slot) if isinstance(asked, Refusal) else code


def _require_places(source: Path, output: Path, restricted: Path) -> None:
    """Refuse places that would mix what goes in, what may leave and what may not."""
    if standing_at(source) != "folder":
        raise DicomError("the source folder is missing or cannot be read", where=str(source), remedy="check the path")
    there = _names_in(output)
    is_interrupted = _UNFINISHED in there and there <= {_UNFINISHED, *_TABLES}
    if there and not is_interrupted:
        what = "the folder for the output is not empty"
        raise ConfigError(what, where=str(output), remedy="name a new folder, so that nothing old leaves with it")
    inner, outer, closed = (one.resolve() for one in (source, output, restricted))
    if RESTRICTED not in closed.parts:
        what = f"the way back must stand below a folder named {RESTRICTED}"
        raise ConfigError(what, where=str(restricted), remedy="name such a folder")
    if outer.is_relative_to(inner) or inner.is_relative_to(outer) or any(map(closed.is_relative_to, (inner, outer))):
        what = "input, output and restricted folder lie within each other"
        raise ConfigError(what, where=str(output), remedy="name folders beside each other")


def _names_in(folder: Path) -> set[str]:
    """Give the names of what stands in the folder for the output, if it is there."""
    if standing_at(folder) == "nothing":
        return set()
    try:
        return {one.name for one in folder.iterdir()}
    except OSError as error:
        what = f"the folder for the output cannot be looked into ({error.strerror})"
        raise ArtefactError(what, where=str(folder), remedy="name a folder of yours") from error


def _remove_leftovers(folder: Path) -> None:
    """Remove what an interrupted run left."""
    if folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            what = f"cannot remove what an interrupted run left ({error.strerror})"
            raise ArtefactError(what, where=str(folder), remedy="name a new folder for the output") from error


def _finish(unfinished: Path, folder: Path) -> None:
    """Let files leave: all of them at once."""
    try:
        unfinished.rename(folder)
    except OSError as error:
        what = f"cannot rename the folder of the files ({error.strerror})"
        raise ArtefactError(what, where=str(unfinished), remedy="check the permissions") from error


def _are_same(rewriter: ObjectRewriter, first: str, second: str) -> bool:
    """Tell whether two files of one instance are the same."""
    try:
        return len({whole_sha256(rewriter.source / from_text(one)) for one in (first, second)}) == 1
    except FileFault:
        return False


def _write_tables(
    output: Path,
    restricted: Path,
    written: Sequence[WrittenObject],
    refused: dict[str, str],
    rewriter: ObjectRewriter,
) -> list[Finding]:
    """Write what is to be said; give the remarks on what left."""
    receipt = Receipt()
    originals: set[tuple[str, str, str]] = set()
    for one in written:
        receipt.add(one.counts)
        originals |= {(name.kind, name.pseudonym, name.original) for name in one.originals}
    write_table(output / "receipt.tsv", ReceiptLine, receipt.lines())
    by_content = sorted(written, key=lambda one: one.sop_uid)
    noted = [*remarks(by_content), *shared_ids(written)]
    write_table(output / "quarantine.tsv", Finding, [*_findings(refused, rewriter.pseudonyms), *noted])
    rectangles = (
        BlankedRectangle(sop_uid=one.sop_uid, rule=one.rule, **place.model_dump())
        for one in by_content
        for place in one.blanked
    )
    write_table(output / "blanked.tsv", BlankedRectangle, rectangles)
    patients = sorted({(pseudonym, name) for kind, pseudonym, name in originals if kind == "PatientID"})
    links = (
        PseudonymLink(patient_id=name, patient=pseudonym, date_shift_days=rewriter.shift_days(name))
        for pseudonym, name in patients
    )
    write_table(restricted / "pseudonyms.tsv", PseudonymLink, links)
    uids = sorted(one for one in originals if one[0] != "PatientID")
    files = ((_FILE, rewriter.pseudonyms.file(path), path) for path in sorted(refused))
    rows = (OriginalName(kind=kind, pseudonym=new, original=name) for kind, new, name in (*uids, *files))
    write_table(restricted / "originals.tsv", OriginalName, rows)
    return noted


def _counted(codes: Counter[str]) -> str:
    return ", ".join(f"{code} {n}" for code, n in sorted(codes.items())) or "none"


def _findings(refused: dict[str, str], names: Pseudonyms) -> Iterator[Finding]:
    for path, code in sorted(refused.items(), key=lambda one: names.file(one[0])):
        yield Finding(stage="deidentify", unit="file", unit_id=names.file(path), code=code, severity="excluded")
