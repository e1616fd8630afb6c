"""How well an index tells trojaned models from benign ones, and how sure so few models can make us.

Intervals are of the 95 % level. A share has the exact one (Clopper and Pearson 1934). AUROC has that of Newcombe 2006,
"Confidence intervals for an effect size measure based on the Mann-Whitney statistic", part 2, method 5: all values θ
whose own standard error, Hanley and McNeil's, is compatible with what was found. Simulated, it covers the truth in 93
to 97 % of groups of 5, 10 and 20 models, where a bootstrap covers 81 % of groups of five, and it has a width where two
groups are separated perfectly. A benign and a trojaned model of one seed share initial weights and clean batches, which
makes a difference between groups surer than between strangers: the intervals take none of that into account.
"""

from statistics import NormalDist

import torch
from torch import Tensor

from gifthorse.core.record import FPRS, Interval, Separation, benign_needed
from gifthorse.metrics import functional

LEVEL = 0.95
_ENDS = 1e-9


def separate(benign: Tensor, trojaned: Tensor) -> Separation:
    """Return AUROC and TPR at :data:`FPRS` of the index values ``benign (N,)`` and ``trojaned (M,)``.

    A TPR is given where the benign models suffice for its threshold; its interval takes that threshold as given.
    Nothing is said of an empty group.
    """
    if not (len(benign) and len(trojaned)):
        return Separation()
    auroc = functional.auroc(benign, trojaned)
    tprs, intervals = {}, {}
    for fpr in FPRS:
        if len(benign) >= benign_needed(fpr):
            above = trojaned > functional.threshold_at_fpr(benign, fpr)
            tprs[f"{fpr:g}"] = float(above.double().mean())
            intervals[f"{fpr:g}"] = _exact(above)
    return Separation(
        auroc=auroc,
        auroc_interval=auroc_interval(auroc, len(benign), len(trojaned)),
        tpr_at_fpr=tprs,
        tpr_at_fpr_interval=intervals,
    )


def share_interval(flags: Tensor) -> Interval | None:
    """Return the interval of the share that ``flags bool (N,)`` are set in; ``None`` where there is none."""
    return _exact(flags) if len(flags) else None


def auroc_interval(auroc: float, benign: int, trojaned: int) -> Interval:
    """Return the interval of an AUROC found on so many models."""
    # Whatever imports this module would wait for it, and every command does.
    from scipy.optimize import brentq

    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    half = (benign + trojaned) / 2 - 1

    def doubt(true: float) -> float:
        """How much further the AUROC found is from a true one than chance takes it."""
        spread = 1 + half * ((1 - true) / (2 - true) + true / (1 + true))
        return (auroc - true) ** 2 - z**2 * true * (1 - true) * spread / (benign * trojaned)

    low = 0.0 if auroc <= _ENDS else float(brentq(doubt, 0.0, min(auroc, 1 - _ENDS)))
    high = 1.0 if auroc >= 1 - _ENDS else float(brentq(doubt, max(auroc, _ENDS), 1.0))
    return low, high


def _exact(flags: Tensor) -> Interval:
    from scipy.stats import binomtest

    found = binomtest(int(flags.to(torch.bool).sum()), len(flags)).proportion_ci(LEVEL, method="exact")
    return float(found.low), float(found.high)
