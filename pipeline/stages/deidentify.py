"""Replace or remove everything that identifies a patient; pixels stay as they are unless a rule blanks them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path

from pipeline.config import DeidentifySettings
from pipeline.core.artefacts import count_parquet, read_parquet, write_table
from pipeline.core.errors import ArtefactError, DicomError
from pipeline.core.parallel import map_in_order, map_series
from pipeline.core.progress import Progress, say
from pipeline.core.records import BlankedRectangle, Finding, FlowStep, Instance, PseudonymLink, ReceiptLine
from pipeline.core.records import Series as SeriesRecord
from pipeline.dicom.deidentification.burned_in import Screen, needed_looks
from pipeline.dicom.deidentification.file_rewriting import WORTH_PROCESSES
from pipeline.dicom.deidentification.new_headers import FAILED
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms, close_to_others, read_or_create_key
from pipeline.dicom.deidentification.receipt import Receipt
from pipeline.dicom.deidentification.rewriting import Rewriter, Rewritten
from pipeline.dicom.deidentification.series import blanked_rectangles, remarks_of, series_records
from pipeline.dicom.deidentification.splitting import needs_decoder
from pipeline.dicom.indexing.archives import source_root

_BATCH = 20_000  # files


def deidentify(
    *,
    settings: DeidentifySettings,
    source: Path,
    key: Path,
    instances: Path,
    dicom: Path,
    series: Path,
    pseudonyms: Path,
    quarantine: Path,
    blanked: Path,
    receipt: Path,
    flow: Path,
    threads: int = 1,
) -> None:
    """Write a de-identified copy of every instance, or count it with the reason why it is kept out.

    Parameters
    ----------
    settings
        What files may keep, the size of the date shift, and the rules for pixels.
    source
        The folder or archive that was scanned; it is only read. What was unpacked lies beside the instances.
    key
        The study's secret key.
    instances
        Table of `Instance` (restricted).
    dicom
        Folder for the de-identified files, ``<series>/<sop_uid>.dcm`` (see `Series.name`).
    series
        Table of `Series`.
    pseudonyms
        Table of `PseudonymLink` (restricted): the way back to the patients.
    quarantine
        Table of `Finding`, one for each instance kept out; and remarks on some that are not.
    blanked
        Table of `BlankedRectangle`: which pixels were overwritten.
    receipt
        Table of `ReceiptLine`: what was done to which attribute how often.
    flow
        Table with one `FlowStep`.
    threads
        Processes to use.

    Raises
    ------
    DicomError
        If no instance is left, or an archive is not unpacked any more.
    """
    close_to_others(pseudonyms.parent)
    names = Pseudonyms(read_or_create_key(key))
    dicom.mkdir(parents=True, exist_ok=True)
    rewriter = _rewriter(settings, source_root(source, instances.parent), dicom, names)
    entered = count_parquet(instances)
    progress = Progress("deidentify: instances", entered)
    patients: set[str] = set()
    refused: list[tuple[str, Finding]] = []
    records: list[tuple[str, SeriesRecord]] = []
    remarkable: list[Rewritten] = []
    done = Receipt()
    results = _rewritten(rewriter, _by_file(instances), threads=threads if entered >= WORTH_PROCESSES else 1)
    for _, group in groupby(results, key=lambda one: one[0][0].series_uid):
        whole, losses = _of_a_series(group, rewriter, progress, patients)
        refused += [(one.head_sha256, _finding(names.uid(one.unit_uid), code)) for one, code in losses]
        records += series_records(whole)
        for one in whole:
            done.add(one.counts)
        remarkable += [one for one in whole if one.blanked or one.characters]
    # By content, not by pseudonym or path: the order must not depend on the key, nor tell anything of the names.
    listed = [record for _, record in sorted(records, key=lambda one: (one[0], one[1].part))]
    findings = [finding for _, finding in sorted(refused, key=lambda one: one[0])]
    write_table(series, SeriesRecord, listed)
    write_table(pseudonyms, PseudonymLink, _links(patients, names, settings))
    remarks = remarks_of(remarkable)
    write_table(quarantine, Finding, [*findings, *remarks])
    write_table(blanked, BlankedRectangle, blanked_rectangles(remarkable))
    write_table(receipt, ReceiptLine, done.lines())
    step = FlowStep(
        stage="deidentify",
        unit="instance",
        entered=entered,
        excluded=len(findings),
        left=entered - len(findings),
        produced_unit="series",
        produced=len(listed),
    )
    write_table(flow, FlowStep, [step])
    say(f"deidentify: {step.left} of {step.entered} instances written, in {step.produced} series")
    say(f"deidentify: kept out: {_counted(findings) or 'none'}")
    say(f"deidentify: remarks: {_counted(remarks) or 'none'}")
    if not step.left:
        what = f"no instance could be de-identified ({_counted(findings) or 'none came in'})"
        raise DicomError(what, where=str(quarantine), remedy="see the reasons; check that the source is unchanged")


def _rewriter(settings: DeidentifySettings, root: Path, dicom: Path, names: Pseudonyms) -> Rewriter:
    screen = Screen(settings.pixel_rules, settings.suspected_text, settings.tolerated_characters)
    return Rewriter(root, dicom, names, settings.max_date_shift_days, screen, frozenset(settings.options))


def _by_file(instances: Path) -> Iterator[list[Instance]]:
    """Put the frames of one file together; the table has them one after another, and series after series."""
    done: set[str] = set()
    for series_uid, slices in groupby(read_parquet(instances, Instance), key=lambda one: one.series_uid):
        if series_uid in done:
            what = "the instances are not in the order of their series"
            raise ArtefactError(what, where=str(instances), remedy="run the stage ingest again")
        done.add(series_uid)
        for _, frames in groupby(_with_looks(list(slices)), key=lambda one: one.path):
            yield list(frames)


def _with_looks(series: list[Instance]) -> list[Instance]:
    """Take the numbers off slices of volumes of which no slice would be looked at: without a number they are."""
    volumes: dict[int, list[int]] = defaultdict(list)
    for place, one in enumerate(series):
        if one.kind == "slice":
            volumes[one.part].append(place)
    for places in volumes.values():
        for at in needed_looks([series[place].instance_number for place in places]):
            series[places[at]] = series[places[at]].model_copy(update={"instance_number": None})
    return series


def _of_a_series(
    files: Iterable[tuple[list[Instance], list[Rewritten] | str]],
    rewriter: Rewriter,
    progress: Progress,
    patients: set[str],
) -> tuple[list[Rewritten], list[tuple[Instance, str]]]:
    """Divide the instances of a series into those that were written and those kept out; add whose they are."""
    written: list[tuple[Instance, Rewritten]] = []
    losses: list[tuple[Instance, str]] = []
    for file, result in files:
        patients.add(file[0].patient_id)
        if isinstance(result, str):
            losses += [(one, result) for one in file]
        else:
            written += zip(file, result, strict=True)
        progress.advance(len(file))
    return _whole_volumes(written, losses, rewriter), losses


def _whole_volumes(
    written: list[tuple[Instance, Rewritten]], losses: list[tuple[Instance, str]], rewriter: Rewriter
) -> list[Rewritten]:
    """Take back volumes that lost a slice: at an end of the stack the loss would show nowhere.

    What is taken back is added to `losses`.
    """
    cut = {one.part for one, _ in losses if one.kind == "slice"}
    if any(one.concatenation_uid for one, _ in losses):  # nobody knows which parts its other files hold
        cut |= {one.part for one, _ in written}
    for instance, one in written:
        if instance.part in cut and instance.kind == "slice":
            rewriter.take_back(one)
            losses.append((instance, "SERIES_INCOMPLETE"))
    return [one for instance, one in written if instance.part not in cut or instance.kind != "slice"]


def _rewritten(
    rewriter: Rewriter, files: Iterable[list[Instance]], *, threads: int
) -> Iterator[tuple[list[Instance], list[Rewritten] | str]]:
    """Rewrite file after file, with no more than a batch of them in memory."""
    waiting = iter(files)
    while batch := list(islice(waiting, _BATCH)):
        pixels = sum(one.rows * one.columns * one.frames for one, *_ in batch)
        decoding = map_series(
            rewriter, batch, pixels=pixels, threads=threads, on_crash=lambda _: FAILED, needs_decoder=_needs_decoder
        )
        copying = map_in_order(rewriter, batch, threads=threads, on_crash=lambda _: FAILED)
        results = decoding if any(map(_needs_decoder, batch)) else copying
        yield from zip(batch, results, strict=True)


def _needs_decoder(file: list[Instance]) -> bool:
    return needs_decoder(file[0])


def _counted(findings: Iterable[Finding]) -> str:
    return ", ".join(f"{code} {n}" for code, n in sorted(Counter(one.code for one in findings).items()))


def _finding(sop_uid: str, code: str) -> Finding:
    return Finding(stage="deidentify", unit="instance", unit_id=sop_uid, code=code, severity="excluded")


def _links(patients: Iterable[str], names: Pseudonyms, settings: DeidentifySettings) -> Iterable[PseudonymLink]:
    for patient_id in sorted(patients):
        shift = names.date_shift_days(patient_id, settings.max_date_shift_days)
        yield PseudonymLink(patient_id=patient_id, patient=names.patient(patient_id), date_shift_days=shift)
