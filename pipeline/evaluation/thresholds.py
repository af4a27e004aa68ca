"""Thresholds: chosen by a rule on a fold's validation patients, never on its test part."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.evaluation.scores import BoolArray, FloatArray

WITHOUT_CHOICE = 0.5


@dataclass(frozen=True)
class Rule:
    """How a threshold is chosen.

    Attributes
    ----------
    kind
        ``"sensitivity"``: highest specificity with at least this sensitivity; ``"specificity"``: the
        reverse; ``"youden"``: highest sum of both (Youden, 1950,
        doi:10.1002/1097-0142(1950)3:1<32::AID-CNCR2820030106>3.0.CO;2-3).
    at_least
        The sensitivity or specificity asked for; not used by ``"youden"``.
    """

    kind: Literal["sensitivity", "specificity", "youden"]
    at_least: float = 0.0

    def in_words(self) -> str:
        """Name the rule for a reader.

        Examples
        --------
        >>> Rule("sensitivity", 0.9).in_words()
        'sensitivity at least 0.9'
        """
        if self.kind == "youden":
            return "largest sum of sensitivity and specificity"
        return f"{self.kind} at least {self.at_least:g}"


@dataclass(frozen=True)
class Threshold:
    """A unit is decided positive if its probability is at least `value`."""

    value: float
    note: str = ""


def choose_threshold(is_positive: BoolArray, probabilities: FloatArray, rule: Rule) -> Threshold:
    """Choose a threshold on validation patients.

    Candidates lie half way between neighbouring probabilities, and between the outermost ones and 0 and 1.
    Among candidates that the rule holds equal, the one with the higher sensitivity is taken: where the data
    do not decide, a finding is rather looked at once more than missed.

    Parameters
    ----------
    is_positive, probabilities
        Shape (patients,).

    Returns
    -------
    Threshold
        0.5 with a note if the patients hold one class only.
    """
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    if not (positives and negatives):
        return Threshold(WITHOUT_CHOICE, "threshold 0.5: the validation part holds one class only")
    distinct = np.unique(probabilities)
    # The highest candidate decides nobody positive, even where a probability is 1.
    nobody = (distinct[-1] + 1) / 2 if distinct[-1] < 1 else float(np.nextafter(1, 2))
    candidates = np.concatenate([[distinct[0] / 2], (distinct[1:] + distinct[:-1]) / 2, [nobody]])
    missed = np.searchsorted(np.sort(probabilities[is_positive]), candidates, side="left")
    passed = np.searchsorted(np.sort(probabilities[~is_positive]), candidates, side="left")
    sensitivity, specificity = 1 - missed / positives, passed / negatives
    # Rounding must not fail a candidate that reaches the wanted value exactly (0.9 of 10 patients).
    slack = 1e-12
    if rule.kind == "sensitivity":
        merit = np.where(sensitivity >= rule.at_least - slack, specificity, -1.0)
    elif rule.kind == "specificity":
        merit = np.where(specificity >= rule.at_least - slack, sensitivity, -1.0)
    else:
        merit = np.round(sensitivity + specificity, 12)
    best = np.flatnonzero(merit == merit.max())
    # Candidates rise, so sensitivity falls: the first of the best has the highest sensitivity, but for the
    # rule "specificity" all of the best share it, and the last has the highest specificity.
    chosen = best[-1] if rule.kind == "specificity" else best[0]
    return Threshold(float(candidates[chosen]))
