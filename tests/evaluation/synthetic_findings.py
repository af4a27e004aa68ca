"""Synthetic studies of several findings, with predictions of known quality."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.core.records import FoldRole, Label, Prediction
from pipeline.core.states import read_states, write_states
from pipeline.evaluation.study import Protocol, Tables
from tests.evaluation.synthetic import BINARY, Plan, make_protocol, make_tables

NAMES = ("Effusion", "Mass", "Hernia")


def make_finding_tables(
    names: Sequence[str] = NAMES, *, prevalences: Sequence[float] = (0.5, 0.3, 0.2), unknown: float = 0.15
) -> Tables:
    """Turn the binary study into one of several findings: the first has its labels and logits, exactly."""
    tables = make_tables(Plan(patients=90))
    draw = np.random.default_rng(3)
    labels, of_image = [], {}
    of_patient: dict[str, np.ndarray] = {}
    for row in tables.labels:
        has = of_patient.setdefault(row.patient, draw.random(len(names)) < prevalences)
        states = np.where(draw.random(len(names)) < unknown, -1, has).astype(int)
        states[0] = BINARY.index(row.label)
        of_image[row.image_id] = write_states(names, states.tolist())
        labels.append(Label(image_id=row.image_id, patient=row.patient, label=of_image[row.image_id]))
    folds = [row.model_copy(update={"label": of_image[row.image_id]}) for row in tables.folds]
    return replace(
        tables,
        labels=labels,
        folds=folds,
        predictions=[_prediction(row, of_image[row.image_id], names, draw) for row in tables.predictions],
        training=[row.model_copy(update={"classes": tuple(names), "kind": "findings"}) for row in tables.training],
    )


def _prediction(row: Prediction, label: str, names: Sequence[str], draw: np.random.Generator) -> Prediction:
    states = np.maximum(read_states(label, names), 0)
    logits = 1.5 * states + draw.normal(size=len(names)) * 1.2
    logits[0] = row.logits[1] - row.logits[0]
    return row.model_copy(update={"label": label, "logits": tuple(logits.tolist())})


def reordered(tables: Tables, names: Sequence[str], order: Sequence[int]) -> Tables:
    """The same study with its findings in another order."""

    def label(text: str) -> str:
        states = read_states(text, names)
        return write_states([names[i] for i in order], [states[i] for i in order])

    rows: list[FoldRole] = [row.model_copy(update={"label": label(row.label)}) for row in tables.folds]
    return replace(
        tables,
        labels=[row.model_copy(update={"label": label(row.label)}) for row in tables.labels],
        folds=rows,
        predictions=[
            row.model_copy(update={"label": label(row.label), "logits": tuple(row.logits[i] for i in order)})
            for row in tables.predictions
        ],
        training=[row.model_copy(update={"classes": tuple(names[i] for i in order)}) for row in tables.training],
    )


def make_finding_protocol(names: Sequence[str] = NAMES, replicates: int = 200) -> Protocol:
    return replace(make_protocol(tuple(names), replicates=replicates), kind="findings")
