"""Coverage of the intervals of means over several findings, in simulated studies whose true AUROC is known.

    python benchmarks/finding_means.py [STUDIES]

Each study has 90 patients with three images each and three correlated findings (prevalence 0.4, 0.25, 0.15), a tenth of
the states unknown, and scores whose errors are correlated within patients and between findings. Printed are the share
of studies whose 95 % interval of the mean AUROC by image holds the truth, and the mean width.
"""

import sys

import numpy as np
from scipy.stats import norm

from pipeline.core.records import CalibratedPrediction
from pipeline.evaluation.estimates import Resampling
from pipeline.evaluation.macro import estimate_means, judge_means

PREVALENCE = {"A": 0.4, "B": 0.25, "C": 0.15}
DISTANCES = (1.5, 1.0, 1.0)  # between the means of scores with and without the finding, in standard deviations
PATIENTS, IMAGES, FOLDS, UNKNOWN = 90, 3, 3, 0.1
CONFIDENCE, REPLICATES = 0.95, 200


def simulate(rng: np.random.Generator) -> dict[str, list[CalibratedPrediction]]:
    """Draw the predictions of one study; folds hold each finding in nearly equal shares."""
    number = len(PREVALENCE)
    together = rng.multivariate_normal(np.zeros(number), 0.4 + 0.6 * np.eye(number), size=PATIENTS)
    has = together < norm.ppf(list(PREVALENCE.values()))
    order = np.lexsort((rng.random(PATIENTS), *has.T))
    folds = np.empty(PATIENTS, dtype=int)
    folds[order] = np.arange(PATIENTS) % FOLDS
    habits = rng.multivariate_normal(np.zeros(number), 0.3 + 0.7 * np.eye(number), size=PATIENTS)
    rows: dict[str, list[CalibratedPrediction]] = {name: [] for name in PREVALENCE}
    for patient, image in np.ndindex(PATIENTS, IMAGES):
        scores = DISTANCES * has[patient] + np.sqrt(0.5) * (habits[patient] + rng.normal(size=number))
        for place, name in enumerate(PREVALENCE):
            if rng.random() < UNKNOWN:
                continue
            label = name if has[patient, place] else f"no {name}"
            probability = float(norm.cdf(scores[place] - 1))
            rows[name].append(
                CalibratedPrediction(
                    strategy="full", fold=int(folds[patient]), level="image", unit_id=f"{patient}.{image}",
                    patient=f"P{patient}", group=f"P{patient}", label=label,
                    probabilities=(1 - probability, probability), decision=label,
                )
            )  # fmt: skip
    return rows


def main() -> None:
    """Print the coverage."""
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    truth = float(np.mean(norm.cdf(np.array(DISTANCES) / np.sqrt(2))))
    rng = np.random.default_rng(1)
    ends = []
    for study in range(studies):
        resampling = Resampling(study, REPLICATES, CONFIDENCE)
        estimates = estimate_means(judge_means(simulate(rng), resampling), "full", resampling)
        mean = next(item for item in estimates if (item.level, item.metric, item.fold) == ("image", "auroc", None))
        if mean.low is not None and mean.high is not None:
            ends.append((mean.low, mean.high))
    holds = sum(low <= truth <= high for low, high in ends)
    width = np.mean([high - low for low, high in ends])
    print(f"{holds} of {len(ends)} intervals hold {truth:.3f} ({holds / len(ends):.3f}); mean width {width:.3f}")


if __name__ == "__main__":
    main()
