"""Say what a folder of DICOM files holds, series by series, and what a study would take of it.

The table on the terminal names no patient, no file and no description; these go, if asked for, into a file that
its owner alone can read.
"""

import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.config import IngestSettings, load
from pipeline.core.artefacts import RESTRICTED
from pipeline.core.errors import ArtefactError, DicomError
from pipeline.core.places import standing_at
from pipeline.core.reasons import REASONS
from pipeline.core.records import Instance
from pipeline.dicom.indexing.archives import unpack
from pipeline.dicom.indexing.consistency import refuse_inconsistent
from pipeline.dicom.indexing.index import open_index
from pipeline.dicom.indexing.scan import update
from pipeline.dicom.reading.files import INFLATION_ROOM_BYTES, MEGABYTE
from pipeline.dicom.slices.geometry import StackGeometry, stack_geometry
from pipeline.dicom.slices.headers import SLICE_MODALITIES
from pipeline.dicom.slices.selection import Selection, orientation_of, select
from pipeline.dicom.slices.triage import Sorted, triage

# Radiographs and slices: what the pipeline can take; asked for where no configuration says otherwise.
_MODALITIES = ("CR", "DX", "MG", "RF", "XA", *sorted(SLICE_MODALITIES))
_NOT_WANTED = "UNWANTED_SERIES"


class Entry(NamedTuple):
    """One series, or one volume of a series that holds several."""

    modality: str
    matrix: str  # columns x rows x slices
    spacing_mm: str  # between columns, rows, slices
    orientation: str
    parts: str  # how many volumes its series holds, and what tells them apart
    outcome: str  # "taken", or a reason code
    description: str  # may identify
    folder: str  # may identify
    series_uid: str  # identifies


_SHOWN = Entry._fields[:6]


def take_inventory(folder: Path, *, configfile: Path | None = None, output: Path | None = None) -> int:
    """Print the table of series and that of files left out; 0, or 1 if nothing can be taken.

    Parameters
    ----------
    folder
        The folder, a DICOMDIR, or a zip or tar archive; it is only read.
    configfile
        Take the modalities and the selection of this study (default: whatever can be taken).
    output
        Write the whole table, with descriptions, folders and UIDs, to a file that you alone can read.

    Raises
    ------
    DicomError
        If it cannot be read.
    ArtefactError
        If the file cannot be written.
    """
    if standing_at(folder) in {"nothing", "closed"}:
        raise DicomError("there is nothing, or it may not be looked up", where=str(folder), remedy="check the path")
    settings = load(configfile).ingest if configfile else IngestSettings(source=folder, modalities=_MODALITIES)
    largest_bytes = settings.max_instance_mb * MEGABYTE
    entries: list[Entry] = []
    with tempfile.TemporaryDirectory(prefix="triage-") as name, open_index(None, "") as index:
        tree = unpack(folder, Path(name) / RESTRICTED, largest_bytes=largest_bytes + INFLATION_ROOM_BYTES)
        update(index, tree, modalities=settings.modalities, largest_bytes=largest_bytes)
        refuse_inconsistent(index, tree.root, keep_shared_ids=settings.on_shared_patient_id == "note")
        for instances in index.series():
            sorted_out = triage(instances)
            index.settle(sorted_out.kept, sorted_out.refused)
            entries += _entries(sorted_out, Selection(**settings.select.model_dump()))
        left_out = Counter(one.code for one in index.rejections())
    entries.sort()
    lines = [*_series_table(entries), *_reasons_table(entries, left_out)]
    if output is not None:
        _write(output, entries)
        lines += ["", f"with descriptions, folders and UIDs, for your eyes only: {output}"]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if any(entry.outcome == "taken" for entry in entries) else 1


def _entries(sorted_out: Sorted, wanted: Selection) -> list[Entry]:
    """Describe whole series, those that the selection leaves out as well."""
    chosen = select(sorted_out.kept, wanted)
    series = [*_grouped(chosen.kept, ""), *_grouped((one for one, _ in chosen.refused), _NOT_WANTED)]
    volumes = Counter(members[0].series_uid for members, _ in series)
    return [_entry(members, code, volumes) for members, code in series]


def _grouped(instances: Iterable[Instance], code: str) -> list[tuple[list[Instance], str]]:
    series: dict[tuple[str, int], list[Instance]] = defaultdict(list)
    for one in instances:
        series[one.series_uid, one.part].append(one)
    return [(members, code) for members in series.values()]


def _entry(members: Sequence[Instance], code: str, volumes: Mapping[str, int]) -> Entry:
    first = members[0]
    geometry = _geometry(members) if first.kind == "slice" else None
    code = code or (geometry if isinstance(geometry, str) else "")
    spacing = first.pixel_spacing_mm
    between = [f"{spacing[1]:.3g}", f"{spacing[0]:.3g}"] if spacing else []
    if isinstance(geometry, StackGeometry):
        between.append(f"{geometry.spacing_mm[2]:.3g}")
    return Entry(
        modality=first.modality,
        matrix=" x ".join(map(str, (first.columns, first.rows, len(members)))),
        spacing_mm=" x ".join(between) or "-",
        orientation=orientation_of(first.image_orientation) if first.image_orientation else "-",
        parts=f"{volumes[first.series_uid]} by {first.part_axis}" if first.part else "-",
        outcome=code or "taken",
        description=first.series_description,
        folder=first.path.rpartition("/")[0],
        series_uid=first.series_uid,
    )


def _geometry(members: Sequence[Instance]) -> StackGeometry | str:
    """Prove the stack by the headers alone, as the stages will prove it by the files."""
    if len({(one.rows, one.columns) for one in members}) > 1:
        return "MIXED_SERIES"
    positions, orientations, spacings = (
        [value for one in members if (value := getattr(one, name)) is not None]
        for name in ("image_position_mm", "image_orientation", "pixel_spacing_mm")
    )
    if not len(positions) == len(orientations) == len(spacings) == len(members):
        return "BAD_GEOMETRY"
    return stack_geometry(positions, orientations, spacings)


def _series_table(entries: Sequence[Entry]) -> list[str]:
    """Lay the series out in columns; equal lines are shown once with their number."""
    counted = Counter(entry[: len(_SHOWN)] for entry in entries)
    rows = [("series", *_SHOWN), *((str(count), *row) for row, count in counted.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _reasons_table(entries: Sequence[Entry], left_out: Counter[str]) -> list[str]:
    """Explain every reason code that occurs, with its remedy."""
    series = Counter(entry.outcome for entry in entries if entry.outcome != "taken")
    lines = ["", f"{sum(entry.outcome == 'taken' for entry in entries)} of {len(entries)} series would be taken."]
    if not entries and not left_out:
        lines.append("There are no files.\n    what to do: name the folder with the DICOM files, or their archive")
    for counts, one, several in ((series, "series", "series"), (left_out, "file", "files")):
        for code, count in counts.most_common():
            reason = REASONS[code]
            lines.append(
                f"{code}: {count} {one if count == 1 else several}. {reason.meaning}\n    what to do: {reason.remedy}"
            )
    return lines


def _write(path: Path, entries: Sequence[Entry]) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            os.fchmod(descriptor, 0o600)
            for row in (Entry._fields, *entries):
                stream.write("\t".join(" ".join(cell.split()) for cell in row) + "\n")
    except OSError as error:
        what = f"cannot write the table ({error.strerror})"
        raise ArtefactError(what, where=str(path), remedy="name a file in a folder of yours") from error
