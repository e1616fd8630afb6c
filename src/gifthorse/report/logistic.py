"""What accuracy costs in success: a logistic curve through the runs of one defense (DHBE, section 5.2.1, Figure 3)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_STRENGTH = 1e3
"""How little the slope is held back, which it must be where one accuracy parts all that succeed from all that fail."""


@dataclass(frozen=True)
class Logistic:
    """ASR as a function of accuracy: 1 / (1 + exp(-``slope`` · (accuracy - ``middle``))), both in [0,1]."""

    slope: float
    middle: float

    def __call__(self, accuracy: np.ndarray) -> np.ndarray:
        """Return the ASR that is expected at each accuracy."""
        found: np.ndarray = 0.5 * (1 + np.tanh(0.5 * self.slope * (accuracy - self.middle)))
        return found

    def accuracy_at(self, success: float) -> float:
        """Return the accuracy at which an ASR is expected.

        >>> round(Logistic(20.0, 0.9).accuracy_at(0.5), 3), round(Logistic(20.0, 0.9).accuracy_at(0.1), 3)
        (0.9, 0.79)
        """
        return self.middle + math.log(success / (1 - success)) / self.slope


def logistic_fit(accuracy: Sequence[float], success: Sequence[float]) -> Logistic | None:
    """Return the curve of largest likelihood, each ASR taken as a share of successes; ``None`` where there is none.

    That is for fewer than three accuracies, and where success is the same at all of them.
    """
    at, won = np.asarray(accuracy, float), np.asarray(success, float)
    if len(np.unique(at)) < 3 or np.ptp(won) == 0:
        return None
    from sklearn.linear_model import LogisticRegression

    centre, scale = float(at.mean()), float(at.std())
    standard = ((at - centre) / scale).reshape(-1, 1)
    outcome = np.repeat([1, 0], len(at))
    fitted = LogisticRegression(C=_STRENGTH).fit(
        np.vstack([standard, standard]), outcome, np.concatenate([won, 1 - won])
    )
    slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if slope == 0:
        return None
    return Logistic(slope / scale, centre - offset / slope * scale)
