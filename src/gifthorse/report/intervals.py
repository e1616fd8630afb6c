"""How sure a mean over few seeds is."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from gifthorse.core.record import Interval

LEVEL = 0.95


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Return the interval of the mean by Student's t; ``None`` for fewer than two values, which tell no spread.

    It takes the values for draws from one normal distribution, and may reach beyond what a share can be.

    >>> [round(end, 3) for end in mean_interval([0.9, 0.95, 1.0])]
    [0.826, 1.074]
    """
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half
