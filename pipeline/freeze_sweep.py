"""Where the features stop transferring: the cheap head trained at every block boundary, in every fold.

A block whose features give a better AUROC than those of the blocks behind it is where the source's knowledge is still
general enough for the task; what lies behind it is worth training anew.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.cohort.splits import assert_same_rows
from pipeline.config import load
from pipeline.core.artefacts import read_table, write_table
from pipeline.core.progress import say
from pipeline.core.records import FoldRole, Image, Record
from pipeline.core.states import UNKNOWN, LabelKind, truth_of
from pipeline.evaluation.aggregation import aggregate, group_patients
from pipeline.evaluation.ranking import equal_weights, rank
from pipeline.learning.bank.filling import features_of_blocks, fill_bank
from pipeline.learning.findings import check_states, is_findings
from pipeline.learning.loop.finetuning import class_weights
from pipeline.learning.probing.sweep import BlockProbe, ProbeData, best_of, candidates, probe_at, probe_logits
from pipeline.stages.bank import order_of_study

CHOSEN = "chosen"


class BoundaryScore(Record):
    """How well a linear head on the features of some blocks tells the classes apart in one fold."""

    blocks: str  # joined by a plus; "chosen": what the validation part chose in this fold, named in `note`
    fold: int
    features: int
    inverse_penalty: float
    validation_loss: float  # in nats, weighted by class if train.balance_classes is set
    # On the test part; of more than two classes the mean of each against the rest, of findings the mean of those that
    # are present in some of its patients and absent in others.
    patient_auroc: float | None
    note: str = ""


def sweep_boundaries(config: Path, *, output: Path | None = None, threads: int = 2) -> None:
    """Score a probe at every boundary and in every fold of a study that was preprocessed and split.

    Parameters
    ----------
    config
        the study's configuration file
    output
        the table; results/STUDY/freeze_sweep.tsv if not given
    threads
        processor threads
    """
    study = load(config)
    results = Path("results") / study.study
    order = order_of_study(study, results, threads)
    features = features_of_blocks(fill_bank(order, results / "state" / "sweep"))
    roles = read_table(results / "folds.tsv", FoldRole)
    assert_same_rows(roles, read_table(results / "images.tsv", Image))
    scores: list[BoundaryScore] = []
    balance = study.train.balance_classes
    for fold in sorted({role.fold for role in roles}):
        of_fold = [role for role in roles if role.fold == fold]
        scores += score_fold(features, of_fold, study.label.outputs, balance=balance, kind=study.label.kind)
    target = output or results / "freeze_sweep.tsv"
    write_table(target, BoundaryScore, scores)
    say(f"freeze_sweep: {target}")
    for line in in_words(scores):
        say(line)


def score_fold(
    features: dict[str, np.ndarray],
    roles: Sequence[FoldRole],
    classes: tuple[str, ...],
    *,
    balance: bool,
    kind: LabelKind = "classes",
) -> list[BoundaryScore]:
    """Score every candidate in one fold, and what the validation part would have chosen.

    Parameters
    ----------
    features
        For each block the pooled features of all images, shape (images, features).
    roles
        Of one fold.
    classes
        Names of the classes, or of the findings.
    balance
        Whether classes, or the states of each finding, are weighted as training weights them if
        `train.balance_classes` is set.
    kind
        What a label says.

    Raises
    ------
    TrainingError
        If a class or a state is absent from the training part.
    """
    rows = {part: np.array([role.row for role in roles if role.role == part]) for part in ("train", "validation")}
    truth = {part: truth_of([role for role in roles if role.role == part], classes, kind) for part in rows}
    if kind == "findings":
        check_states(truth["train"], truth["validation"], classes, f"fold {roles[0].fold}")
    weights = class_weights(truth["train"], len(classes), balance=balance)
    data = ProbeData(rows["train"], truth["train"], rows["validation"], truth["validation"], weights)
    test = [role for role in roles if role.role == "test"]
    of_test = truth_of(test, classes, kind)
    fitted = [probe_at(features, blocks, data) for blocks in candidates(list(features))]
    probes = [*((" + ".join(probe.blocks), probe) for probe in fitted), (CHOSEN, best_of(fitted))]
    return [_score(name, probe, features, test, of_test) for name, probe in probes]


def in_words(scores: Sequence[BoundaryScore]) -> list[str]:
    """Give a line for each boundary with its mean AUROC over the folds, and a remark on how to read them."""
    found: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        if score.patient_auroc is not None:
            found[score.blocks].append(score.patient_auroc)
    lines = [f"{name:<32} AUROC {np.mean(values):.3f} (mean of {len(values)} folds)" for name, values in found.items()]
    remark = f"only `{CHOSEN}` was chosen without the test parts; the best line of a table is too good by chance"
    return [*lines, remark]


def _score(
    name: str, probe: BlockProbe, features: dict[str, np.ndarray], test: Sequence[FoldRole], truth: NDArray[np.int64]
) -> BoundaryScore:
    logits = probe_logits(features, probe, np.array([role.row for role in test]))
    return BoundaryScore(
        blocks=name,
        fold=test[0].fold,
        features=probe.head.weight.shape[1],
        inverse_penalty=probe.head.penalty,
        validation_loss=probe.head.validation_loss,
        patient_auroc=_patient_auroc(logits, [role.patient for role in test], truth),
        note=" + ".join(probe.blocks) if name == CHOSEN else "",
    )


def _patient_auroc(logits: NDArray[np.float64], patients: Sequence[str], truth: NDArray[np.int64]) -> float | None:
    """AUROC of patients' mean probabilities, averaged over classes or findings; None if it is nowhere defined."""
    from scipy.special import expit, softmax

    if not is_findings(truth):
        areas = _areas(softmax(logits, axis=1), patients, truth)
        return None if None in areas else float(np.mean([area for area in areas if area is not None]))
    found = []
    for place, states in enumerate(truth.T):
        known = np.flatnonzero(states != UNKNOWN)
        present = expit(logits[known, place])
        of_known = [patients[index] for index in known.tolist()]
        found += _areas(np.stack([1 - present, present], axis=1), of_known, states[known])
    defined = [area for area in found if area is not None]
    return float(np.mean(defined)) if defined else None


def _areas(probabilities: NDArray[np.float64], patients: Sequence[str], truth: NDArray[np.int64]) -> list[float | None]:
    """AUROC of each class against the others, of two classes that of the second; None where one side is empty."""
    classes = probabilities.shape[1]
    units = group_patients(patients, truth.tolist(), [str(label) for label in range(classes)])
    of_units = np.array([unit.label for unit in units])
    means = aggregate(probabilities, units, "mean")
    areas: list[float | None] = []
    for label in range(classes) if classes > 2 else (1,):
        ranking = rank(of_units == label, means[:, label])
        areas.append(float(ranking.areas(equal_weights(len(units)))[0][0]) if ranking.is_defined else None)
    return areas
