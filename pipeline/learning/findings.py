"""Several findings at once: losses, heads and criteria where an image has any of them, and some are unknown.

Each finding is a question of two answers, and its logit is what the binary network gives as the difference of its two.
Everything here is therefore the binary case, finding by finding, over the images of which the answer is known; what is
known of one finding only is used for that one. Truth is 1 (present), 0 (absent) or -1 (unknown), shape (images,
findings), which no array of class indices has: their shape is (images,).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.errors import TrainingError
from pipeline.core.states import ABSENT, PRESENT, UNKNOWN

if TYPE_CHECKING:
    from torch import Tensor

STATES = 2  # absent, present
_MORE_PATIENTS = "use fewer folds or more patients, or take the finding out of label.findings.names"


def is_findings(truth: np.ndarray) -> bool:
    """Tell the states of findings from class indices."""
    return truth.ndim == 2


def state_weights(states: np.ndarray, *, balance: bool) -> np.ndarray:
    """Weights of absent and present for each finding, shape (findings, 2), with mean 1 over the known images.

    Examples
    --------
    >>> state_weights(np.array([[0], [0], [0], [1], [-1]]), balance=True).round(3).tolist()
    [[0.667, 2.0]]
    """
    counts = np.stack([(states == ABSENT).sum(axis=0), (states == PRESENT).sum(axis=0)], axis=1)
    if not balance:
        return np.ones(counts.shape)
    weights: np.ndarray = counts.sum(axis=1, keepdims=True) / (STATES * np.maximum(counts, 1))
    return weights


def check_states(
    states: np.ndarray, validation: np.ndarray, names: Sequence[str], where: str, remedy: str = _MORE_PATIENTS
) -> None:
    """Make sure that every finding can be learned, and a penalty chosen for it.

    Parameters
    ----------
    states, validation
        Of the training and of the validation part, shape (images, findings).
    names
        Of the findings, for the message.
    where, remedy
        Which training this is and what to do, for the message.

    Raises
    ------
    TrainingError
        If one is not present in some images and absent in others, or unknown in the whole validation part, or if
        that part holds one state of each only.
    """
    faults = [
        f"`{name}` is not both present and absent in the training part"
        for name, column in zip(names, states.T, strict=True)
        if not {ABSENT, PRESENT} <= set(column.tolist())
    ]
    faults += [
        f"`{name}` is unknown in the whole validation part"
        for name, column in zip(names, validation.T, strict=True)
        if (column == UNKNOWN).all()
    ]
    if not any({ABSENT, PRESENT} <= set(column.tolist()) for column in validation.T):
        faults.append("no finding is both present and absent in the validation part")
    if faults:
        raise TrainingError("; ".join(faults), where=where, remedy=remedy)


def each_known(logits: np.ndarray, states: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Give number, logits of absent and present (images, 2), and class indices of each finding that has both."""
    for place in range(states.shape[1]):
        is_known = states[:, place] != UNKNOWN
        truth = states[is_known, place]
        if len(np.unique(truth)) == STATES:
            half = logits[is_known, place] / 2
            yield place, np.stack([-half, half], axis=1), truth


def mean_over_findings(
    logits: np.ndarray, states: np.ndarray, measure: Callable[[np.ndarray, np.ndarray, int], float]
) -> float | None:
    """Average a measure of the binary case over the findings; None if none has both states.

    Parameters
    ----------
    logits, states
        Shape (images, findings).
    measure
        Takes logits of shape (images, 2), class indices, and the finding's number.
    """
    found = [measure(pair, truth, place) for place, pair, truth in each_known(logits, states)]
    return float(np.mean(found)) if found else None


def joined_probabilities(looks: Sequence[np.ndarray]) -> np.ndarray:
    """Join the logits of several networks, each (images, findings): their sigmoid is the mean probability."""
    from scipy.special import log_expit, logsumexp

    present = logsumexp([log_expit(one) for one in looks], axis=0)
    absent = logsumexp([log_expit(-one) for one in looks], axis=0)
    joined: np.ndarray = present - absent
    return joined


@dataclass(frozen=True)
class FindingCriterion:
    """The loss that is minimised: binary cross-entropy or focal loss of each known finding of each image.

    Of a finding with target q (1 or 0, smoothed) and probability p the loss is
    -w1 q (1 - p)^gamma log(p) - w0 (1 - q) p^gamma log(1 - p), summed over what is known and divided by the sum of
    the weights of the true states. With weights of 1 and gamma 0 it is the mean binary cross-entropy over what is
    known; for a single finding it is `pipeline.learning.criteria.Criterion` for two classes.

    Attributes
    ----------
    weights
        Of absent and present, shape (findings, 2), on the device.
    label_smoothing
        Share of each label that is spread evenly over absent and present.
    focal_gamma
        Exponent of the focal loss; None: cross-entropy.
    """

    weights: "Tensor"
    label_smoothing: float
    focal_gamma: float | None = None

    def mean(self, logits: "Tensor", truth: "Tensor") -> "Tensor":
        """Loss of a whole batch: logits and states of shape (batch, findings)."""
        return self.sum(logits, truth) / self.weight_of(truth)

    def sum(self, logits: "Tensor", truth: "Tensor") -> "Tensor":
        """Sum of the losses, not yet divided by the weight of the batch."""
        import torch

        targets = (truth == PRESENT) * (1 - self.label_smoothing) + self.label_smoothing / 2
        log_present, log_absent = torch.nn.functional.logsigmoid(logits), torch.nn.functional.logsigmoid(-logits)
        if self.focal_gamma is not None:
            # Of a probability that rounds to 1, the power of 0 has no finite gradient for exponents below 1.
            doubt_present = log_absent.exp().clamp_min(1e-6) ** self.focal_gamma
            doubt_absent = log_present.exp().clamp_min(1e-6) ** self.focal_gamma
            log_present, log_absent = log_present * doubt_present, log_absent * doubt_absent
        present = self.weights[:, 1] * targets * log_present
        absent = self.weights[:, 0] * (1 - targets) * log_absent
        return -((present + absent) * (truth != UNKNOWN)).sum()

    def weight_of(self, truth: "Tensor") -> "Tensor":
        """Sum of the weights of a batch's known states."""
        known = (truth == PRESENT) * self.weights[:, 1] + (truth == ABSENT) * self.weights[:, 0]
        return known.sum().clamp_min(1e-12)  # a batch of which nothing is known adds nothing
