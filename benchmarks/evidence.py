"""Are the numbers right? Equality to independent code, coverage of the intervals in simulation, speed.

Run with ``python benchmarks/evidence.py``; ``--simulations`` sets how many studies are simulated for each row,
``--seed`` draws other studies. Prints two tables and one line for each target.

The kind of interval was chosen on these settings, and which rows decide was settled after a first look at them (the
two that do not decide hold the truth more often than asked for), so the default seed flatters: judge by another one.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from pipeline.core.seeding import derive_seed
from pipeline.evaluation.areas import POOLED, area_interval, rank_folds
from pipeline.evaluation.bootstrap import bootstrap_interval, replicate
from pipeline.evaluation.decisions import metric_interval
from pipeline.evaluation.delong import delong
from pipeline.evaluation.intervals import normal_quantile, wilson
from pipeline.evaluation.metrics import class_areas
from pipeline.evaluation.ranking import equal_weights, rank
from pipeline.evaluation.scores import Clusters, FloatArray, IntArray, Scores

SEED = 20261121
CONFIDENCE = 0.95
REPLICATES = 400
COVERAGE = (0.93, 0.97)
DIGITS = 9.0
SPEED = 20.0


@dataclass(frozen=True)
class Setting:
    """A kind of study.

    Attributes
    ----------
    images
        Images of each patient; 0: one or more, 1.67 on average.
    correlation
        Correlation of the scores of two images of one patient.
    area
        True area under the ROC curve.
    is_target
        Whether the row decides the targets; the others show where the intervals are known to be cautious.
    """

    patients: int
    prevalence: float
    images: int
    correlation: float
    area: float
    is_target: bool = True


SETTINGS = (
    Setting(140, 0.35, 1, 0.0, 0.75),
    Setting(140, 0.35, 1, 0.0, 0.90),
    Setting(283, 0.50, 0, 0.5, 0.88),
    Setting(60, 0.50, 8, 0.5, 0.80),
    Setting(400, 0.10, 1, 0.0, 0.85),
    Setting(140, 0.35, 1, 0.0, 0.97, is_target=False),
    Setting(60, 0.30, 1, 0.0, 0.85, is_target=False),
)
FOLDS = 5


def main() -> None:
    """Print tables and targets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=2000, help="studies for each row (default 2000)")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the simulated studies")
    given = parser.parse_args()
    targets = [*equality(), *coverage(given.simulations, given.seed), speed()]
    print()
    for name, value, wanted in targets:
        verdict = "ok" if value >= wanted else "short"
        print(f"target {name} measured {value:.4g} wanted >={wanted:g} {verdict}")


def equality() -> list[tuple[str, float, float]]:
    """Largest differences from scikit-learn, SciPy and DeLong's definition, as digits that agree."""
    generator = np.random.default_rng(SEED)
    differences: dict[str, list[float]] = {"auroc": [], "average_precision": [], "delong": [], "wilson": []}
    for case in range(60):
        size, levels = int(generator.integers(10, 200)), (4, 30, 10**9)[case % 3]
        is_positive = np.arange(size) < generator.integers(2, size - 2)
        scores = generator.integers(0, levels, size=(2, size)) / levels
        for name, difference in _differences(is_positive, scores).items():
            differences[name].append(difference)
    print(f"{'equal to independent code':34} {'cases':>6} {'largest difference':>20}")
    targets = []
    for name, found in differences.items():
        largest = max(found)
        print(f"{name:34} {len(found):6d} {largest:20.2e}")
        targets.append((f"{name}_digits_equal", -math.log10(max(largest, 1e-16)), DIGITS))
    return targets


def _differences(is_positive: np.ndarray, scores: FloatArray) -> dict[str, float]:
    from scipy.stats import binomtest
    from sklearn.metrics import average_precision_score, roc_auc_score

    area, precision = class_areas(is_positive, scores[0])
    areas, covariance = delong(is_positive, scores)
    expected_areas, expected_covariance = delong_by_definition(is_positive, scores)
    successes, trials = int(is_positive.sum()), is_positive.size
    expected = binomtest(successes, trials).proportion_ci(CONFIDENCE, "wilson")
    ends = wilson(successes, trials, CONFIDENCE)
    return {
        "auroc": abs(area - roc_auc_score(is_positive, scores[0])),
        "average_precision": abs(precision - average_precision_score(is_positive, scores[0])),
        "delong": max(np.abs(areas - expected_areas).max(), np.abs(covariance - expected_covariance).max()),
        "wilson": max(abs(ends[0] - expected.low), abs(ends[1] - expected.high)),
    }


def delong_by_definition(is_positive: np.ndarray, scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Areas and covariance from all pairs (DeLong et al., 1988, equations 3 to 6)."""
    placements = []
    for row in scores:
        one, other = row[is_positive][:, None], row[~is_positive][None, :]
        wins = (one > other) + 0.5 * (one == other)
        placements.append((wins.mean(axis=1), wins.mean(axis=0)))
    areas = np.array([positive.mean() for positive, _ in placements])
    parts = [np.stack([pair[side] for pair in placements]) - areas[:, None] for side in (0, 1)]
    return areas, sum(part @ part.T / (part.shape[1] - 1) / part.shape[1] for part in parts)


def coverage(simulations: int, seed: int) -> list[tuple[str, float, float]]:
    """Fraction of intervals that hold the truth; 95 % is meant."""
    print()
    print(
        f"coverage of {CONFIDENCE:.0%} intervals, {simulations} studies a row, {FOLDS} folds, {REPLICATES} replicates"
    )
    kinds = ("auroc", "auprc", "pooled", "sensitivity", "difference", "percentile", "as single")
    print(f"{'patients prev. images corr. area':34}", *(f"{kind:>11}" for kind in kinds), "  decides")
    held: dict[str, list[float]] = {}
    for setting in SETTINGS:
        found = simulate(setting, simulations, seed)
        images = str(setting.images or "1+")
        name = f"{setting.patients:8d} {setting.prevalence:5.2f} {images:>6} {setting.correlation:5.1f}"
        name += f" {setting.area:4.2f}"
        print(f"{name:34}", *(f"{found[kind]:11.3f}" for kind in kinds), "  yes" if setting.is_target else "  no")
        for kind in kinds[:5] if setting.is_target else ():
            held.setdefault(kind, []).append(found[kind])
    print("percentile: the same resamples with percentile ends; as single: DeLong, every image a patient of its own")
    targets = []
    for kind, values in held.items():
        targets.append((f"coverage_{kind}_lowest", min(values), COVERAGE[0]))
        targets.append((f"misses_{kind}_fewest", 1 - max(values), round(1 - COVERAGE[1], 6)))
    return targets


def simulate(setting: Setting, simulations: int, seed: int) -> dict[str, float]:
    """Coverage of each kind of interval in one setting."""
    generator = np.random.default_rng(derive_seed(seed, "coverage", repr(setting)))
    rows = [_one_study(setting, generator, number) for number in range(simulations)]
    # Average precision depends on the number of units; its truth is its mean over studies of this size.
    truths = {"auprc": float(np.mean([row["auprc"][2] for row in rows]))}
    result = {}
    for kind in rows[0]:
        truth = [truths.get(kind, row[kind][3]) for row in rows]
        result[kind] = float(
            np.mean([row[kind][0] <= true <= row[kind][1] for row, true in zip(rows, truth, strict=True)])
        )
    return result


Row = dict[str, tuple[float, float, float, float]]  # low, high, value, truth


def _one_study(setting: Setting, generator: np.random.Generator, number: int) -> Row:
    scores, other, clusters = draw_study(setting, generator)
    ranked = [rank_folds(scores), rank_folds(other)]

    def statistics(weights: FloatArray) -> dict[tuple[int, tuple[str, int | None]], FloatArray]:
        return {(i, key): found for i, one in enumerate(ranked) for key, found in one.values(weights).items()}

    drawn = replicate(clusters, statistics, seed=number, replicates=REPLICATES)
    whole = {key: float(found[0]) for key, found in statistics(equal_weights(clusters.folds.size)).items()}
    own = {key: value for (i, key), value in whole.items() if i == 0}
    own_drawn = {key: found for (i, key), found in drawn.items() if i == 0}
    row: Row = {}
    for kind, metric in (("auroc", "auroc"), ("auprc", "auprc"), ("pooled", POOLED)):
        interval = area_interval(scores, (metric, None), own, own_drawn, CONFIDENCE)
        row[kind] = (_end(interval.low, -1), _end(interval.high, 2), own[metric, None], setting.area)
    distance = NormalDist().inv_cdf(setting.area) * math.sqrt(2)
    interval = metric_interval(scores, "sensitivity", CONFIDENCE)
    hit = float((scores.decisions == 1)[scores.labels == 1].mean())
    row["sensitivity"] = (_end(interval.low, -1), _end(interval.high, 2), hit, NormalDist().cdf(distance / 2))
    difference = whole[0, ("auroc", None)] - whole[1, ("auroc", None)]
    apart = drawn[0, ("auroc", None)] - drawn[1, ("auroc", None)]
    interval = bootstrap_interval(difference, apart, CONFIDENCE, "identity")
    row["difference"] = (_end(interval.low, -2), _end(interval.high, 2), difference, 0.0)
    low, high = np.quantile(own_drawn["auroc", None], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    row["percentile"] = (float(low), float(high), own["auroc", None], setting.area)
    areas, covariance = delong(scores.labels == 1, scores.probabilities[:, 1][None, :])
    half = normal_quantile(CONFIDENCE) * math.sqrt(covariance[0, 0])
    row["as single"] = (areas[0] - half, areas[0] + half, areas[0], setting.area)
    return row


def draw_study(setting: Setting, generator: np.random.Generator) -> tuple[Scores, Scores, Clusters]:
    """Draw a study from two normal distributions, and a second, equally good reader of the same images."""
    positives = round(setting.patients * setting.prevalence)
    of_patients = (np.arange(setting.patients) < positives).astype(np.int64)
    folds = np.concatenate([np.arange(positives) % FOLDS, np.arange(setting.patients - positives) % FOLDS])
    counts = np.full(setting.patients, setting.images)
    if setting.images == 0:
        counts = generator.geometric(0.6, setting.patients)
    order = np.lexsort([of_patients, folds])
    clusters = Clusters({str(i): i for i in range(order.size)}, folds[order], of_patients[order])
    units = np.repeat(np.arange(order.size), counts[order])
    labels = clusters.classes[units]
    distance = NormalDist().inv_cdf(setting.area) * math.sqrt(2)
    shared = generator.normal(size=units.size)  # what both readers see
    arrays = []
    for _ in range(2):
        habit = generator.normal(size=order.size)[units] * math.sqrt(setting.correlation)
        noise = (shared + generator.normal(size=units.size)) / math.sqrt(2) * math.sqrt(1 - setting.correlation)
        arrays.append(habit + noise + distance * (labels - 0.5))
    first, second = (_scores(values, labels, clusters, units) for values in arrays)
    return first, second, clusters


def _scores(values: FloatArray, labels: IntArray, clusters: Clusters, units: IntArray) -> Scores:
    positive = 1 / (1 + np.exp(-values))
    return Scores(
        strategy="simulated",
        level="image",
        classes=("no", "yes"),
        probabilities=np.stack([1 - positive, positive], axis=1),
        labels=labels,
        decisions=(values >= 0).astype(np.int64),
        folds=clusters.folds[units],
        clusters=units,
        patients=units,
    )


def speed() -> tuple[str, float, float]:
    """Time of bootstrap replicates of AUROC and average precision over that of a loop around scikit-learn."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    generator = np.random.default_rng(SEED)
    labels = (np.arange(10_000) % 3 == 0).astype(np.int64)
    scores = generator.normal(size=10_000) + labels
    clusters = Clusters({str(i): i for i in range(10_000)}, np.zeros(10_000, dtype=np.int64), labels)
    ranking = rank(labels == 1, scores)

    def statistics(weights: FloatArray) -> dict[str, FloatArray]:
        area, precision = ranking.areas(weights)
        return {"auroc": area, "auprc": precision}

    def loop() -> None:
        for _ in range(10):
            chosen = generator.integers(0, 10_000, 10_000)
            roc_auc_score(labels[chosen], scores[chosen])
            average_precision_score(labels[chosen], scores[chosen])

    ours = _seconds(lambda: replicate(clusters, statistics, seed=1, replicates=2000)) / 2000
    theirs = _seconds(loop) / 10
    print()
    print(f"one replicate of AUROC and average precision, 10 000 images: {1e6 * ours:.0f} us, ", end="")
    print(f"scikit-learn in a loop {1e6 * theirs:.0f} us")
    return "bootstrap_speed_over_loop", theirs / ours, SPEED


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _end(value: float | None, missing: float) -> float:
    return missing if value is None else value


if __name__ == "__main__":
    main()
