"""Give every image its class or findings from the label table; what does not fit is counted or stops the study."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pipeline.cohort.findings import count_states, join_findings, read_finding_table, resolve_findings
from pipeline.cohort.labels import LabelledCohort, join_labels, read_label_table, resolve_labels
from pipeline.core.artefacts import read_table, write_table
from pipeline.core.errors import PrivacyError
from pipeline.core.places import standing_at
from pipeline.core.progress import say
from pipeline.core.records import Finding, FlowStep, Image, Label
from pipeline.core.states import ABSENT, PRESENT
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms, read_key
from pipeline.label_settings import FindingColumns, FindingList, LabelSettings


def label(
    *, settings: LabelSettings, table: Path, key: Path, images: Path, labels: Path, unlabelled: Path, flow: Path
) -> None:
    """Join the label table with the images; its keys become pseudonyms on the way.

    Parameters
    ----------
    settings
        Columns, classes or findings, and what to do about contradictions and unknown classes.
    table
        CSV or TSV file with original identifiers; it is only read.
    key
        The study's secret key, made by `ingest`.
    images
        Table of `Image`.
    labels
        Table of `Label` written for the images that stay.
    unlabelled
        Table of `Finding`: images left out, and remarks.
    flow
        Table with one `FlowStep`.

    Raises
    ------
    CohortError
        If the table cannot be used; all its problems are named at once.
    PrivacyError
        If the key is missing or open to others.
    """
    if standing_at(key) == "nothing":  # a new key would match nothing
        raise PrivacyError("the study's secret key is missing", where=str(key), remedy="run `ingest` again")
    translate = partial(Pseudonyms(read_key(key)).label_key, settings.key)
    index = read_table(images, Image)
    asked = settings.findings
    cohort = (
        _classes(settings, table, translate, index)
        if asked is None
        else _findings(settings, asked, table, translate, index)
    )
    write_table(labels, Label, cohort.labels)
    write_table(unlabelled, Finding, cohort.findings)
    left = len(cohort.labels)
    step = FlowStep(
        stage="label",
        unit="image",
        entered=len(index),
        excluded=len(index) - left,
        left=left,
        produced_unit="image",
        produced=left,
    )
    write_table(flow, FlowStep, [step])
    say(f"label: {left} of {len(index)} images have a label ({_counted(settings, cohort.labels)})")


def _classes(
    settings: LabelSettings, table: Path, translate: Callable[[str], str], index: Sequence[Image]
) -> LabelledCohort:
    found = read_label_table(table, key=settings.key, column=settings.column).with_keys(translate)
    keyed = resolve_labels(
        found,
        classes=settings.classes,
        on_contradiction=settings.on_contradiction,
        on_unknown_class=settings.on_unknown_class,
    )
    return join_labels(index, keyed, key=settings.key, classes=settings.classes)


def _findings(
    settings: LabelSettings,
    asked: FindingList | FindingColumns,
    table: Path,
    translate: Callable[[str], str],
    index: Sequence[Image],
) -> LabelledCohort:
    found = read_finding_table(table, key=settings.key, column=settings.column, layout=asked.layout)
    found = found.with_keys(translate)
    keyed = resolve_findings(
        found, on_contradiction=settings.on_contradiction, on_unknown_class=settings.on_unknown_class
    )
    return join_findings(index, keyed, key=settings.key, names=asked.names)


def _counted(settings: LabelSettings, labels: Sequence[Label]) -> str:
    if settings.findings is None:
        counts = Counter(row.label for row in labels)
        return ", ".join(f"{name} {counts[name]}" for name in settings.classes)
    states = count_states(labels, settings.findings.names)
    return ", ".join(f"{name} {found[PRESENT]} of {found[PRESENT] + found[ABSENT]}" for name, found in states.items())
