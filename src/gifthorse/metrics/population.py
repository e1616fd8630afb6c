"""How well an index tells trojaned models from benign ones, and how sure so few models can make us."""

import torch
from torch import Tensor

from gifthorse.core.record import Interval, Separation
from gifthorse.core.seeds import generator
from gifthorse.metrics import functional

FPRS = (0.05, 0.1)
LEVEL = 0.95
RESAMPLES = 5000


def separate(benign: Tensor, trojaned: Tensor, seed: int = 0) -> Separation:
    """Return AUROC and TPR at :data:`FPRS` of the index values ``benign (N,)`` and ``trojaned (M,)``.

    The intervals are percentiles of a bootstrap that resamples the models, each group on its own. A benign and a
    trojaned model of one seed share their initial weights and clean batches; the bootstrap takes them for independent.
    It knows no model that is not there: of perfectly separated groups the interval is [1, 1], however small they
    are. Nothing is said of an empty group, and a group of one has no interval.
    """
    if not (len(benign) and len(trojaned)):
        return Separation()
    tprs = {f"{fpr:g}": functional.tpr_at_fpr(benign, trojaned, fpr) for fpr in FPRS}
    auroc = functional.auroc(benign, trojaned)
    if min(len(benign), len(trojaned)) < 2:
        return Separation(auroc=auroc, tpr_at_fpr=tprs)
    first, second = _resamples(len(benign), seed, "benign"), _resamples(len(trojaned), seed, "trojaned")
    return Separation(
        auroc=auroc,
        auroc_interval=_interval(resampled_aurocs(benign, trojaned, first, second)),
        tpr_at_fpr=tprs,
        tpr_at_fpr_interval={
            f"{fpr:g}": _interval(resampled_tprs(benign, trojaned, first, second, fpr)) for fpr in FPRS
        },
    )


def share_interval(flags: Tensor, seed: int = 0) -> Interval | None:
    """Return the bootstrap interval of the mean of ``flags bool (N,)``; ``None`` where they are fewer than two."""
    if len(flags) < 2:
        return None
    return _interval(flags.double()[_resamples(len(flags), seed, "share")].mean(1))


def resampled_aurocs(benign: Tensor, trojaned: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the AUROC ``(B,)`` of each resample, positions ``first (B, N)`` and ``second (B, M)``.

    All pairs of models are compared once; a resample weighs them by how often it drew the two.
    """
    wins = (trojaned > benign[:, None]).double() + 0.5 * (trojaned == benign[:, None])
    pairs = first.shape[1] * second.shape[1]
    return ((_counts(first, len(benign)) @ wins) * _counts(second, len(trojaned))).sum(1) / pairs


def resampled_tprs(benign: Tensor, trojaned: Tensor, first: Tensor, second: Tensor, fpr: float) -> Tensor:
    """Return the TPR ``(B,)`` at ``fpr`` of each resample; the threshold is fitted in every resample anew."""
    threshold = functional.threshold_at_fpr(benign[first], fpr)
    return (trojaned[second] > threshold[:, None]).double().mean(1)


def _resamples(count: int, seed: int, group: str) -> Tensor:
    return torch.randint(count, (RESAMPLES, count), generator=generator(seed, "bootstrap", group))


def _counts(drawn: Tensor, count: int) -> Tensor:
    """Return how often each of ``count`` models was drawn, ``(B, count)``."""
    counts = torch.zeros(len(drawn), count, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))


def _interval(statistics: Tensor) -> Interval:
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = statistics.quantile(ends).tolist()
    return low, high
