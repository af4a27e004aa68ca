"""Series: de-identified instances grouped into one record each, and what is to be said of single ones."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from pipeline.core.records import BlankedRectangle, Finding, Series
from pipeline.dicom.deidentification.burned_in import SUSPECTED
from pipeline.dicom.deidentification.objects import Person, WrittenObject
from pipeline.dicom.deidentification.rewriting import Rewritten
from pipeline.dicom.deidentification.values import OLDEST_SHOWN_YEARS
from pipeline.dicom.slices.headers import age_years, parsed_date


def series_records(instances: Iterable[Rewritten]) -> list[tuple[str, Series]]:
    """Describe each series, or each part of one that holds several volumes.

    What its instances agree on is said; where they do not, nothing is. Rows and columns are those of one
    instance: whether all agree is for the quality checks to find out.

    Returns
    -------
    list
        Each with what to sort by, so that the order depends on the files' contents only, not on the key.
    """
    groups: dict[tuple[str, int], list[Rewritten]] = defaultdict(list)
    for instance in sorted(instances, key=lambda one: one.source_sha256):
        groups[instance.series_uid, instance.part].append(instance)
    return [(group[0].source_sha256, _record(group)) for group in groups.values()]


def remarks_of(instances: Iterable[Rewritten]) -> list[Finding]:
    """Give what is to be said of instances that left: rectangles that were blanked, characters that are suspected.

    Returns
    -------
    list
        In an order that depends on the files' contents only.
    """
    ordered = sorted(instances, key=lambda one: one.source_sha256)
    return list(remarks(ordered))


def remarks(ordered: Iterable[Rewritten | WrittenObject]) -> Iterator[Finding]:
    """Give what is to be said of files that left, one after the other."""
    for one in ordered:
        for code, value in (("PIXELS_BLANKED", len(one.blanked)), (SUSPECTED, one.characters)):
            if value:
                yield Finding(
                    stage="deidentify", unit="instance", unit_id=one.sop_uid, code=code, severity="noted", value=value
                )


def shared_ids(written: Iterable[WrittenObject]) -> list[Finding]:
    """Note the patients whose files name two issuers of the ID, two birth dates or both sexes.

    They may be several people under one Patient ID, who have got one pseudonym and one shift of dates. An empty value
    contradicts nothing. The same question as `indexing.consistency` asks of a study.
    """
    people: dict[str, set[Person]] = defaultdict(set)
    for one in written:
        people[one.originals[0].pseudonym].add(one.person)
    shared = sorted(patient for patient, seen in people.items() if _are_several(seen))
    return [
        Finding(stage="deidentify", unit="patient", unit_id=patient, code="SHARED_PATIENT_ID", severity="noted")
        for patient in shared
    ]


def _are_several(seen: set[Person]) -> bool:
    return any(len({*values} - {""}) > 1 for values in zip(*seen, strict=True))


def blanked_rectangles(instances: Iterable[Rewritten]) -> Iterator[BlankedRectangle]:
    """Name the rectangles that were blanked, in the order of `remarks_of`."""
    for one in sorted(instances, key=lambda one: one.source_sha256):
        for place in one.blanked:
            yield BlankedRectangle(sop_uid=one.sop_uid, rule=one.rule, **place.model_dump())


def _record(group: list[Rewritten]) -> Series:
    first = group[0]
    day = parsed_date(_agreed(one.study_date for one in group))
    age = age_years(_agreed(one.patient_age for one in group), "", "")
    return Series(
        patient=first.patient,
        study_uid=first.study_uid,
        series_uid=first.series_uid,
        part=first.part,
        part_axis=first.part_axis,
        modality=first.modality,
        kind="volume" if first.kind == "slice" else "image",
        instances=len(group),
        rows=first.rows,
        columns=first.columns,
        photometric_interpretation=first.photometric_interpretation,
        is_compressed=any(one.is_compressed for one in group),
        site=_agreed(one.site for one in group),
        scanner=_agreed(one.scanner for one in group),
        body_part=_agreed(one.body_part for one in group),
        view_position=_agreed(one.view_position for one in group),
        study_date=day.isoformat() if day else "",
        patient_age_years=min(age, OLDEST_SHOWN_YEARS + 1) if age is not None else None,
        patient_sex=_agreed(one.patient_sex for one in group),
    )


def _agreed(values: Iterable[str]) -> str:
    known = {value for value in values if value}
    return known.pop() if len(known) == 1 else ""
