"""Consistency: what only several files together show, asked of the index; files that contradict are refused.

The order of the questions matters: a file that is refused by one says nothing to the next.
"""

from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from pipeline.dicom.indexing.index import Index
from pipeline.dicom.reading.files import FileFault, whole_sha256
from pipeline.dicom.reading.paths import from_text

# A slice that is refused for one of these was meant to be part of its volume.
LOSSES = (
    "TRUNCATED_FILE", "CONFLICTING_INSTANCES", "UNREADABLE_HEADER", "BAD_DIMENSIONS", "BAD_GEOMETRY",
    "UNSUPPORTED_TRANSFER_SYNTAX", "UNSUPPORTED_IMAGE", "MISSING_IDENTITY", "UNWANTED_MODALITY",
)  # fmt: skip
_GROUPS_BETWEEN_COMMITS = 100


class _Copy(NamedTuple):
    """One of several files with one SOP Instance UID."""

    sop_uid: str
    path: str
    file: int
    series_uid: str
    kind: str
    head: str
    whole: str | None


def refuse_inconsistent(index: Index, root: Path, *, keep_shared_ids: bool) -> None:
    """Refuse duplicates, contradictions, series with a loss, and Patient IDs of several people.

    Parameters
    ----------
    index
        Of everything below `root`.
    root
        The folder: files with one UID are read as a whole and compared, once.
    keep_shared_ids
        Keep instances whose Patient ID seems to stand for several people; the IDs are told in any case.
    """
    index.database.execute("CREATE TEMP TABLE lost AS SELECT series, sop FROM files WHERE 0")
    _refuse_duplicates(index, root)
    _refuse_contradictions(index)
    _refuse_incomplete(index)
    _refuse_shared(index, keep_shared_ids=keep_shared_ids)


def _refuse_duplicates(index: Index, root: Path) -> None:
    """Keep one file for each SOP Instance UID: the first by path if all are the same bytes, none otherwise."""
    index.database.executescript(
        """
        CREATE TEMP TABLE repeated AS SELECT sop FROM live GROUP BY sop HAVING count(*) > 1;
        CREATE TEMP TABLE copies AS SELECT sop, path, id, series, kind, head, whole FROM live
            WHERE sop IN (SELECT sop FROM repeated) ORDER BY sop, path;
        """
    )
    rows = map(_Copy._make, index.database.execute("SELECT * FROM copies ORDER BY rowid"))
    for number, (_, members) in enumerate(groupby(rows, key=lambda one: one.sop_uid), start=1):
        first, *others = members
        if _are_the_same(index, [first, *others], root):
            index.refuse((one.path, "DUPLICATE_FILE") for one in others)
        else:
            index.refuse((one.path, "CONFLICTING_INSTANCES") for one in (first, *others))
            if first.kind == "slice":
                index.database.execute("INSERT INTO lost VALUES (?, ?)", (first.series_uid, first.sop_uid))
        if number % _GROUPS_BETWEEN_COMMITS == 0:  # what was read must not be read again
            index.database.commit()
    index.database.commit()


def _are_the_same(index: Index, copies: list[_Copy], root: Path) -> bool:
    """Compare digests of the heads, and where these agree, of all bytes."""
    if len({one.head for one in copies}) > 1:
        return False
    try:
        return len({_whole(index, one, root) for one in copies}) == 1
    except FileFault:  # one of them is gone, or out of reach: nobody can tell
        return False


def _whole(index: Index, one: _Copy, root: Path) -> str:
    if one.whole is not None:
        return one.whole
    found = whole_sha256(Path(root, from_text(one.path)))
    index.database.execute("UPDATE files SET whole = ? WHERE id = ?", (found, one.file))
    return found


def _refuse_contradictions(index: Index) -> None:
    """Refuse studies that stand under several patients, and series under several studies or modalities.

    Taken at face value, they would put one examination under two patients, and so on both sides of a split.
    """
    index.database.executescript(
        """
        CREATE TEMP TABLE odd_studies AS SELECT study FROM live GROUP BY study HAVING min(patient) <> max(patient);
        CREATE TEMP TABLE odd_series AS SELECT series FROM live GROUP BY series
            HAVING min(patient) <> max(patient) OR min(study) <> max(study) OR min(modality) <> max(modality);
        CREATE TEMP TABLE odd AS SELECT path FROM live
            WHERE study IN (SELECT study FROM odd_studies) OR series IN (SELECT series FROM odd_series);
        INSERT INTO refused SELECT path, 'INCONSISTENT_IDENTITY' FROM odd;
        """
    )


def _refuse_incomplete(index: Index) -> None:
    """Refuse series of slices that lost one to damage.

    At an end of the stack the loss would show nowhere: the volume would be shorter, and nobody would know. A
    damaged copy of a slice that is there as well is no loss.
    """
    marks = ", ".join("?" * len(LOSSES))
    index.database.execute(
        f"INSERT INTO lost SELECT series, sop FROM files WHERE series <> '' AND code IN ({marks})", LOSSES
    )
    index.database.executescript(
        """
        CREATE TEMP TABLE there AS SELECT sop FROM live WHERE sop IN (SELECT sop FROM lost);
        CREATE TEMP TABLE incomplete AS SELECT path FROM live
            WHERE series IN (SELECT series FROM lost WHERE sop NOT IN (SELECT sop FROM there));
        INSERT INTO refused SELECT path, 'SERIES_INCOMPLETE' FROM incomplete;
        """
    )


def _refuse_shared(index: Index, *, keep_shared_ids: bool) -> None:
    """Find the Patient IDs with two issuers, two birth dates or both sexes; an empty value contradicts nothing.

    Two people under one ID would have one label, one prediction and one date shift. Asked of what is left after
    contradictions: a file of somebody else that was filed under this ID is gone by then, and says nothing about
    the others.
    """
    index.database.execute(
        """
        CREATE TEMP TABLE shared AS SELECT patient FROM live GROUP BY patient
            HAVING min(nullif(issuer, '')) <> max(nullif(issuer, ''))
            OR min(nullif(birth_date, '')) <> max(nullif(birth_date, ''))
            OR min(nullif(sex, '')) <> max(nullif(sex, ''))
        """
    )
    index.shared_ids.update(patient for (patient,) in index.database.execute("SELECT patient FROM shared"))
    if not keep_shared_ids:
        index.database.executescript(
            """
            CREATE TEMP TABLE doubtful AS SELECT path FROM live WHERE patient IN (SELECT patient FROM shared);
            INSERT INTO refused SELECT path, 'SHARED_PATIENT_ID' FROM doubtful;
            """
        )
