"""Find whom pseudonyms stand for, with the secret key and the restricted folder; without both there is no way back."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.artefacts import read_parquet, read_table, write_table
from pipeline.core.errors import PrivacyError
from pipeline.core.places import standing_at
from pipeline.core.progress import say
from pipeline.core.records import Instance, OriginalName, PseudonymLink
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms, read_key

_UIDS = {"study_uid": "StudyInstanceUID", "series_uid": "SeriesInstanceUID", "sop_uid": "SOPInstanceUID"}


def relink(
    *, restricted: Path, key: Path | None = None, pseudonyms: tuple[str, ...] = (), output: Path | None = None
) -> int:
    """Print, or write into the restricted folder, what pseudonyms and new UIDs stand for; 1 if one is unknown.

    Parameters
    ----------
    restricted
        The restricted folder of a study (``results/STUDY/restricted``) or of a stand-alone de-identification.
    key
        The secret key (default: ``key`` in the restricted folder).
    pseudonyms
        Patients' pseudonyms, UIDs of de-identified files, or names of files in the quarantine of a stand-alone
        de-identification; all patients if none is given.
    output
        Write a table there, below a folder named ``restricted``, instead of printing it.

    Raises
    ------
    PrivacyError
        If the key or the restricted folder is missing, or if they do not belong together.
    """
    names = Pseudonyms(read_key(key or restricted / "key"))
    links = _links(restricted, names)
    found = [OriginalName(kind="PatientID", pseudonym=one.patient, original=one.patient_id) for one in links]
    if pseudonyms:
        wanted = set(pseudonyms)
        uids = _uids(restricted, names) if wanted - {one.patient for one in links} else ()
        found = sorted(
            {one for one in (*found, *uids) if one.pseudonym in wanted}, key=lambda one: (one.kind, one.pseudonym)
        )
    if output is not None:
        write_table(output, OriginalName, found)
    else:
        writer = csv.writer(sys.stdout, delimiter="\t", lineterminator="\n")
        writer.writerows(
            [tuple(OriginalName.model_fields), *((one.kind, one.pseudonym, one.original) for one in found)]
        )
    unknown = set(pseudonyms) - {one.pseudonym for one in found}
    if unknown:
        say(
            f"relink: {len(unknown)} of {len(set(pseudonyms))} names are unknown here: were they made with this folder?"
        )
    return 1 if unknown else 0


def _links(restricted: Path, names: Pseudonyms) -> list[PseudonymLink]:
    """Read the table of patients, and hold it against the key."""
    path = restricted / "pseudonyms.tsv"
    if standing_at(path) != "file":
        what = "the restricted folder holds no table of pseudonyms"
        raise PrivacyError(what, where=str(path), remedy="name the restricted folder of the files' de-identification")
    links = read_table(path, PseudonymLink)
    if any(names.patient(one.patient_id) != one.patient for one in links):
        what = "this key did not make these pseudonyms"
        raise PrivacyError(what, where=str(restricted), remedy="name the key of the files' de-identification")
    return links


def _uids(restricted: Path, names: Pseudonyms) -> Iterator[OriginalName]:
    """Give what UIDs stand for, from the table of a stand-alone de-identification or from a study's instances."""
    table, instances = restricted / "originals.tsv", restricted / "instances.parquet"
    if table.is_file():
        yield from read_table(table, OriginalName)
    elif instances.is_file():
        for one in read_parquet(instances, Instance):
            for field, kind in _UIDS.items():
                uid = one.unit_uid if field == "sop_uid" else getattr(one, field)
                yield OriginalName(kind=kind, pseudonym=names.uid(uid), original=uid)
