"""Which source to start from: estimates from features alone, never without their agreement with fine-tunings."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.config import load
from pipeline.core.artefacts import read_table, write_table
from pipeline.core.errors import ConfigError, PipelineError
from pipeline.core.progress import say
from pipeline.core.records import FoldRole, Record
from pipeline.learning.bank import features_of_blocks, fill_bank
from pipeline.learning.ranking import logme, neighbour_auroc, nleep, probe_auroc, rank_agreement
from pipeline.learning.sources import SOURCES
from pipeline.learning.weights import places_of
from pipeline.prerequisites import require_classes
from pipeline.stages.bank import order_of_study
from pipeline.train_settings import NEEDED, TrainSettings, WeightsSettings

FEWEST = 3  # sources, for a rank agreement


class SourceScore(Record):
    """What is estimated of a source without fine-tuning, and the AUROC that fine-tuning gave, if it was run."""

    source: str
    images: int
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
        SOURCE=AUROC of fine-tunings that were run, for example imagenet=0.91
    output
        the table; results/STUDY/sources.tsv if not given
    threads
        processor threads
    """
    study = load(config)
    require_classes(study, "rank_sources")
    results = Path("results") / study.study
    measured = dict(_measured(fine_tuned))
    roles = list({role.row: role for role in read_table(results / "folds.tsv", FoldRole)}.values())
    rows = np.array([role.row for role in roles])
    truth = np.array([study.label.classes.index(role.label) for role in roles])
    groups = np.array([role.group for role in roles])
    scores: list[SourceScore] = []
    for name, train in _choices(study.train, sources):
        try:
            order = order_of_study(study.model_copy(update={"train": train}), results, threads)
        except PipelineError as error:
            say(f"rank_sources: {name} is left out: {error}")
            continue
        bank = fill_bank(order, results / "state" / "sweep")
        features = features_of_blocks(bank)[bank.blocks[-1]][rows].astype(np.float64)
        scores.append(
            SourceScore(
                source=name,
                images=len(rows),
                logme=logme(features, truth),
                nleep=nleep(features, truth, seed=study.seed),
                neighbour_auroc=neighbour_auroc(features, truth, groups, seed=study.seed),
                probe_auroc=probe_auroc(features, truth, groups, seed=study.seed),
                fine_tuned_auroc=measured.get(name),
            )
        )
    write_table(output or results / "sources.tsv", SourceScore, scores)
    for line in in_words(scores):
        say(line)


def in_words(scores: Sequence[SourceScore]) -> list[str]:
    """Give the table and, for each estimate, its agreement with the fine-tunings; say so if there are too few."""
    columns = ("logme", "nleep", "neighbour_auroc", "probe_auroc", "fine_tuned_auroc")
    lines = [f"{'source':<14}" + "".join(f"{name:>18}" for name in columns)]
    for score in sorted(scores, key=lambda one: -one.logme):
        values = (getattr(score, name) for name in columns)
        lines.append(f"{score.source:<14}" + "".join(f"{'-' if v is None else format(v, '.3f'):>18}" for v in values))
    tuned = [score for score in scores if score.fine_tuned_auroc is not None]
    if len(tuned) < FEWEST:
        what = f"{len(tuned)} fine-tunings were given, and {FEWEST} are needed to tell whether these estimates hold"
        return [*lines, f"{what}: do not choose a source by them alone (--fine-tuned SOURCE=AUROC ...)"]
    for name in columns[:-1]:
        pairs = [(getattr(score, name), score.fine_tuned_auroc) for score in tuned if getattr(score, name) is not None]
        tau = rank_agreement(*zip(*pairs, strict=True)) if len(pairs) >= FEWEST else None
        found = "cannot be computed" if tau is None else f"{tau:+.2f}"
        lines.append(f"agreement of {name} with {len(pairs)} fine-tunings (Kendall's tau): {found}")
    return [
        *lines,
        "with so few sources tau itself is uncertain: estimates sort out the worst, and choose nothing alone",
    ]


def _measured(pairs: Sequence[str]) -> Iterator[tuple[str, float]]:
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            yield name, float(value)
        except ValueError:
            remedy = "write SOURCE=AUROC, for example imagenet=0.91"
            raise ConfigError("a fine-tuning has no number", where="--fine-tuned", remedy=remedy) from None


def _choices(train: TrainSettings, sources: Sequence[str]) -> Iterator[tuple[str, TrainSettings]]:
    """Give the study's settings with each source in the place of its own."""
    yield train.weights.source, train
    known: Mapping[str, object] = SOURCES
    unknown = [name for name in sources if name not in known]
    if unknown:
        what = f"{unknown[0]} is no published source"
        raise ConfigError(what, where="--sources", remedy=f"choose from {', '.join(SOURCES)}")
    here = [
        name
        for name, facts in SOURCES.items()
        if train.backbone in facts.files and any(path.is_file() for path in places_of(name, train.backbone))
    ]
    for name in sources or here:
        # RadImageNet's digest is not published: it is ranked as a study's own source, which names the digest.
        if name != train.weights.source and train.backbone in SOURCES[name].files and name not in NEEDED:
            weights = WeightsSettings.model_validate(name)
            yield name, train.model_copy(update={"weights": weights})
