"""Give every image its class from the label table; everything that does not fit is counted or stops the study."""

from collections import Counter
from functools import partial
from pathlib import Path

from pipeline.cohort.labels import join_labels, read_label_table, resolve_labels
from pipeline.config import LabelSettings
from pipeline.core.artefacts import read_table, write_table
from pipeline.core.errors import PrivacyError
from pipeline.core.progress import say
from pipeline.core.records import Finding, FlowStep, Image, Label
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms, read_or_create_key


def label(
    *, settings: LabelSettings, table: Path, key: Path, images: Path, labels: Path, unlabelled: Path, flow: Path
) -> None:
    """Join the label table with the images; its keys become pseudonyms on the way.

    Parameters
    ----------
    settings
        Columns, classes, and what to do about contradictions and unknown classes.
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
    if not key.exists():  # a new key would match nothing
        raise PrivacyError("the study's secret key is missing", where=str(key), remedy="run `ingest` again")
    translate = partial(Pseudonyms(read_or_create_key(key)).label_key, settings.key)
    found = read_label_table(table, key=settings.key, column=settings.column).with_keys(translate)
    keyed = resolve_labels(
        found,
        classes=settings.classes,
        on_contradiction=settings.on_contradiction,
        on_unknown_class=settings.on_unknown_class,
    )
    index = read_table(images, Image)
    cohort = join_labels(index, keyed, key=settings.key, classes=settings.classes)
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
    counts = Counter(row.label for row in cohort.labels)
    classes = ", ".join(f"{name} {counts[name]}" for name in settings.classes)
    say(f"label: {left} of {len(index)} images have a label ({classes})")
