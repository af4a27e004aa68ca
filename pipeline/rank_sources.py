"""Which source to start from: estimates from features alone, never without their agreement with fine-tunings.

In each fold a source is scored on the images for training and validation, never on those for testing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.cohort.splits import assert_same_rows
from pipeline.config import load
from pipeline.core.artefacts import read_table, write_table
from pipeline.core.errors import ConfigError, PipelineError, TrainingError
from pipeline.core.progress import say
from pipeline.core.records import Estimate, FoldRole, Image, Record
from pipeline.core.states import UNKNOWN, LabelKind, truth_of
from pipeline.learning.bank.filling import features_of_blocks, fill_bank
from pipeline.learning.probing.ranking import logme, neighbour_auroc, nleep, probe_auroc, rank_agreement
from pipeline.learning.weights.sources import SOURCES
from pipeline.learning.weights.store import found_at
from pipeline.stages.bank import order_of_study
from pipeline.train_settings import NEEDED, TrainSettings, WeightsSettings

FEWEST = 3  # sources, for a rank agreement


class SourceScore(Record):
    """What one fold without its test part tells of a block of a source, and what fine-tuning gave, if it was run."""

    source: str
    block: str  # after which features were taken
    fold: int
    images: int  # for training and validation
    logme: float
    nleep: float
    neighbour_auroc: float | None
    probe_auroc: float | None
    fine_tuned_auroc: float | None = None


def rank_sources(
    config: Path,
    *,
    sources: tuple[str, ...] = (),
    fine_tuned: tuple[str, ...] = (),
    output: Path | None = None,
    threads: int = 2,
) -> None:
    """Score the sources that are at hand for a study, and say how well the scores agree with fine-tunings.

    Parameters
    ----------
    config
        the configuration file of a study that was preprocessed and split
    sources
        published sources; those whose file is here if not given. The study's own is always among them
    fine_tuned
        SOURCE=AUROC of fine-tunings that were run, for example imagenet=0.91, or SOURCE=results/STUDY/estimates.tsv
    output
        the table; results/STUDY/sources.tsv if not given
    threads
        processor threads
    """
    study = load(config)
    results = Path("results") / study.study
    choices = dict(_choices(study.train, sources))
    measured = dict(_measured(fine_tuned, choices))
    roles = read_table(results / "folds.tsv", FoldRole)
    assert_same_rows(roles, read_table(results / "images.tsv", Image))
    scores: list[SourceScore] = []
    for name, train in choices.items():
        try:
            order = order_of_study(study.model_copy(update={"train": train}), results, threads)
        except PipelineError as error:
            say(f"rank_sources: {name} is left out: {error}")
            continue
        bank = fill_bank(order, results / "state" / "sweep")
        scores += [
            score_source(
                name,
                block,
                features,
                of_fold,
                study.label.outputs,
                seed=study.seed,
                kind=study.label.kind,
                fine_tuned_auroc=measured.get(name),
            )
            for block, features in features_of_blocks(bank).items()
            for of_fold in _folds(roles)
        ]
    write_table(output or results / "sources.tsv", SourceScore, scores)
    for line in in_words(scores):
        say(line)


def score_source(
    name: str,
    block: str,
    features: np.ndarray,
    roles: Sequence[FoldRole],
    classes: tuple[str, ...],
    *,
    seed: int,
    kind: LabelKind = "classes",
    fine_tuned_auroc: float | None = None,
) -> SourceScore:
    """Score the features after a block of a source in one fold; images for testing are not looked at.

    Of several findings each is a question of its own, asked of the images of which it is known; scores are means over
    the findings that are present in some and absent in others.

    Parameters
    ----------
    features
        Of all images, shape (images, features).
    roles
        Of one fold.
    classes
        Names of the classes, or of the findings.
    kind
        What a label says.

    Raises
    ------
    TrainingError
        If no finding is present in some images and absent in others.
    """
    seen = [role for role in roles if role.role != "test"]
    groups = np.array([role.group for role in seen])
    found = features[np.array([role.row for role in seen])].astype(np.float64)
    asked = list(_questions(seen, classes, kind))
    if not asked:
        what = f"no finding is both present and absent in fold {roles[0].fold}"
        raise TrainingError(what, where="rank_sources", remedy="use fewer folds or more patients")
    return SourceScore(
        source=name,
        block=block,
        fold=roles[0].fold,
        images=len(seen),
        logme=float(np.mean([logme(found[known], truth) for known, truth in asked])),
        nleep=float(np.mean([nleep(found[known], truth, seed=seed) for known, truth in asked])),
        neighbour_auroc=_mean(neighbour_auroc(found[k], truth, groups[k], seed=seed) for k, truth in asked),
        probe_auroc=_mean(probe_auroc(found[k], truth, groups[k], seed=seed) for k, truth in asked),
        fine_tuned_auroc=fine_tuned_auroc,
    )


def _questions(
    seen: Sequence[FoldRole], classes: tuple[str, ...], kind: LabelKind
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Give for each question the images of which the answer is known, and the answers as class indices."""
    truth = truth_of(seen, classes, kind)
    if kind == "classes":
        return [(np.arange(len(seen)), truth)]
    columns = [(np.flatnonzero(column != UNKNOWN), column) for column in truth.T]
    return [(known, column[known]) for known, column in columns if len(np.unique(column[known])) > 1]


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _folds(roles: Sequence[FoldRole]) -> list[list[FoldRole]]:
    return [[role for role in roles if role.fold == fold] for fold in sorted({role.fold for role in roles})]


class _Mean(NamedTuple):
    """Scores averaged over the folds; None where a fold has none."""

    source: str
    block: str
    logme: float | None
    nleep: float | None
    neighbour_auroc: float | None
    probe_auroc: float | None
    fine_tuned_auroc: float | None


_ESTIMATES = ("logme", "nleep", "neighbour_auroc", "probe_auroc")


def _means(scores: Sequence[SourceScore]) -> list[_Mean]:
    found = []
    for source, block in dict.fromkeys((score.source, score.block) for score in scores):
        mine = [score for score in scores if (score.source, score.block) == (source, block)]
        columns = [[getattr(score, field) for score in mine] for field in (*_ESTIMATES, "fine_tuned_auroc")]
        means = (None if None in values else float(np.mean(values)) for values in columns)
        found.append(_Mean(source, block, *means))
    return found


def in_words(scores: Sequence[SourceScore]) -> list[str]:
    """Give means over the folds and, for each estimate, its agreement with fine-tunings, or that they are too few.

    The last block's features are not always the best; a source counts by its best block, for each estimate by its own.
    """
    means = _means(scores)
    columns = (*_ESTIMATES, "fine_tuned_auroc")
    lines = [f"{'source':<14}{'block':<14}" + "".join(f"{name:>18}" for name in columns)]
    for score in means:
        values = (getattr(score, name) for name in columns)
        shown = "".join(f"{'-' if v is None else format(v, '.3f'):>18}" for v in values)
        lines.append(f"{score.source:<14}{score.block:<14}{shown}")
    lines += [
        f"means of {len({score.fold for score in scores})} folds, each scored on its training and validation part",
        "an image for testing in one fold is for training in others: a source chosen by a mean has seen all labels, "
        "and one chosen by a fold's own row has not seen that fold's test part",
    ]
    tuned = {score.source: score.fine_tuned_auroc for score in means if score.fine_tuned_auroc is not None}
    if len(tuned) < FEWEST:
        what = f"{len(tuned)} fine-tunings were given, and {FEWEST} are needed to tell whether these estimates hold"
        return [*lines, f"{what}: do not choose a source by them alone (--fine-tuned SOURCE=AUROC ...)"]
    for name in _ESTIMATES:
        best = {source: _best(getattr(score, name) for score in means if score.source == source) for source in tuned}
        pairs = [(value, tuned[source]) for source, value in best.items() if value is not None]
        tau = rank_agreement(*zip(*pairs, strict=True)) if len(pairs) >= FEWEST else None
        found = "cannot be computed" if tau is None else f"{tau:+.2f}"
        lines.append(f"agreement of {name} with {len(pairs)} fine-tunings (Kendall's tau): {found}")
    return [
        *lines,
        "with so few sources tau itself is uncertain: estimates sort out the worst, and choose nothing alone",
    ]


def _best(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _measured(pairs: Sequence[str], known: Iterable[str]) -> Iterator[tuple[str, float]]:
    """Read what fine-tunings gave: a number, or the file in which a study's evaluation wrote its estimates."""
    names = tuple(known)
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in names:
            what = "a fine-tuning is given for a source that is not compared"
            raise ConfigError(what, where="--fine-tuned", remedy=f"choose from {', '.join(names)}")
        if value.endswith(".tsv"):
            yield name, _auroc_in(Path(value))
            continue
        try:
            auroc = float(value)
        except ValueError:
            auroc = float("nan")
        if not 0 <= auroc <= 1:
            remedy = "write SOURCE=AUROC, for example imagenet=0.91, or SOURCE=results/STUDY/estimates.tsv"
            raise ConfigError("a fine-tuning has no AUROC from 0 to 1", where="--fine-tuned", remedy=remedy)
        yield name, auroc


def _auroc_in(path: Path) -> float:
    """Read the patient-level AUROC over all folds of a study's own strategy, which stands first."""
    for row in read_table(path, Estimate):
        if (row.level, row.metric, row.fold) == ("patient", "auroc", None) and row.value is not None:
            return row.value
    what = "the table of estimates holds no AUROC of patients"
    raise ConfigError(what, where=str(path), remedy="name the estimates.tsv of a study that was evaluated")


def _choices(train: TrainSettings, sources: Sequence[str]) -> Iterator[tuple[str, TrainSettings]]:
    """Give the study's settings with each source in the place of its own."""
    yield train.weights.source, train
    known: Mapping[str, object] = SOURCES
    unknown = [name for name in sources if name not in known]
    if unknown:
        what = f"{unknown[0]} is no published source"
        raise ConfigError(what, where="--sources", remedy=f"choose from {', '.join(SOURCES)}")
    here = [name for name, facts in SOURCES.items() if train.backbone in facts.files and found_at(name, train.backbone)]
    for name in sources or here:
        # RadImageNet's digest is not published: it is ranked as a study's own source, which names the digest.
        if name != train.weights.source and train.backbone in SOURCES[name].files and name not in NEEDED:
            weights = WeightsSettings.model_validate(name)
            yield name, train.model_copy(update={"weights": weights})
