"""Where the features stop transferring: the cheap head trained at every block boundary, in every fold.

A block whose features give a better AUROC than those of the blocks behind it is where the source's knowledge is still
general enough for the task; what lies behind it is worth training anew.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.config import load
from pipeline.core.artefacts import read_table, write_table
from pipeline.core.progress import say
from pipeline.core.records import FoldRole, Record
from pipeline.evaluation.aggregation import aggregate, group_patients
from pipeline.evaluation.ranking import equal_weights, rank
from pipeline.learning.bank.filling import features_of_blocks, fill_bank
from pipeline.learning.loop.finetuning import class_weights
from pipeline.learning.probing.sweep import BlockProbe, ProbeData, candidates, choose_probe, probe_at, probe_logits
from pipeline.prerequisites import require_classes
from pipeline.stages.bank import order_of_study

CHOSEN = "chosen"


class BoundaryScore(Record):
    """How well a linear head on the features of some blocks tells the classes apart in one fold."""

    blocks: str  # joined by a plus; "chosen": what the validation part chose in this fold, named in `note`
    fold: int
    features: int
    inverse_penalty: float
    validation_loss: float  # in nats, weighted by class if train.balance_classes is set
    patient_auroc: float | None  # on the test part; macro one against the rest for more than two classes
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
    require_classes(study, "freeze_sweep")
    results = Path("results") / study.study
    order = order_of_study(study, results, threads)
    features = features_of_blocks(fill_bank(order, results / "state" / "sweep"))
    roles = read_table(results / "folds.tsv", FoldRole)
    scores: list[BoundaryScore] = []
    balance = study.train.balance_classes
    for fold in sorted({role.fold for role in roles}):
        of_fold = [role for role in roles if role.fold == fold]
        scores += score_fold(features, of_fold, study.label.classes, balance=balance)
    target = output or results / "freeze_sweep.tsv"
    write_table(target, BoundaryScore, scores)
    say(f"freeze_sweep: {target}")
    for line in in_words(scores):
        say(line)


def score_fold(
    features: dict[str, np.ndarray], roles: Sequence[FoldRole], classes: tuple[str, ...], *, balance: bool
) -> list[BoundaryScore]:
    """Score every candidate in one fold, and what the validation part would have chosen.

    With `balance`, classes are weighted as training weights them if `train.balance_classes` is set.
    """
    rows = {part: np.array([role.row for role in roles if role.role == part]) for part in ("train", "validation")}
    truth = {part: np.array([classes.index(r.label) for r in roles if r.role == part]) for part in rows}
    weights = class_weights(truth["train"], len(classes), balance=balance)
    data = ProbeData(rows["train"], truth["train"], rows["validation"], truth["validation"], weights)
    test = [role for role in roles if role.role == "test"]
    probes = [(" + ".join(blocks), probe_at(features, blocks, data)) for blocks in candidates(list(features))]
    probes.append((CHOSEN, choose_probe(features, data)))
    return [_score(name, probe, features, test, classes) for name, probe in probes]


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
    name: str, probe: BlockProbe, features: dict[str, np.ndarray], test: Sequence[FoldRole], classes: tuple[str, ...]
) -> BoundaryScore:
    logits = probe_logits(features, probe, np.array([role.row for role in test]))
    return BoundaryScore(
        blocks=name,
        fold=test[0].fold,
        features=probe.head.weight.shape[1],
        inverse_penalty=probe.head.penalty,
        validation_loss=probe.head.validation_loss,
        patient_auroc=_patient_auroc(logits, test, classes),
        note=" + ".join(probe.blocks) if name == CHOSEN else "",
    )


def _patient_auroc(logits: NDArray[np.float64], test: Sequence[FoldRole], classes: tuple[str, ...]) -> float | None:
    """AUROC of patients' mean probabilities, of each class against the others; None if a class is absent."""
    from scipy.special import softmax

    labels = [classes.index(role.label) for role in test]
    units = group_patients([role.patient for role in test], labels, classes)
    truth = np.array([unit.label for unit in units])
    probabilities = aggregate(softmax(logits, axis=1), units, "mean")
    areas = []
    for label in range(len(classes)) if len(classes) > 2 else (1,):
        ranking = rank(truth == label, probabilities[:, label])
        if not ranking.is_defined:
            return None
        areas.append(float(ranking.areas(equal_weights(len(units)))[0][0]))
    return float(np.mean(areas))
