"""The anomaly index of model inspection, defined once for detectors and judges alike."""

import torch
from torch import Tensor

ROUNDING = 1e-6
"""Scores that differ by less than this share of the largest are equal."""


def median(values: Tensor) -> Tensor:
    """Return the median over the last dimension, the midpoint of the two middle values when their number is even.

    ``torch.median`` takes the lower one, which shifts every index of ten classes.

    >>> median(torch.tensor([1.0, 2.0, 4.0, 9.0])).item()
    3.0
    """
    ordered = values.sort(-1).values
    count = values.shape[-1]
    return (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2


def anomaly_indices(scores: Tensor) -> Tensor:
    """Return ``(score − median) / (1.4826 · MAD)`` per class; ``scores`` is ``(..., K)``, higher = more suspicious.

    One-sided as Neural Cleanse (section IV-C) uses it: only a deviation towards the suspicious side counts, so the
    index is signed. Zero for all classes where more than half of them are equal: a MAD of zero measures nothing, and
    then nothing stands out.
    """
    deviation, mad = _deviations(scores)
    return torch.where(mad > 0, deviation / (1.4826 * mad), 0)


def says_something(scores: Tensor) -> bool:
    """Tell whether an anomaly index of ``scores (K,)`` means anything: not where more than half of them are equal."""
    return bool(_deviations(scores)[1] > 0)


def _deviations(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is above the median ``(..., K)`` and the MAD ``(..., 1)``, zero where it is rounding alone."""
    deviation = scores - median(scores).unsqueeze(-1)
    mad = median(deviation.abs()).unsqueeze(-1)
    return deviation, mad * (mad > ROUNDING * scores.abs().amax(-1, keepdim=True))


def norm_readouts(norms: Tensor) -> dict[str, float]:
    """Return two further indices of the sizes ``(K,)`` of recovered triggers: what is small is suspicious.

    ``log`` is the anomaly index of the logarithms: sizes are positive, so their plain index cannot exceed the median
    over 1.4826 MAD, however small the smallest is. ``ratio`` is the median over the smallest.
    """
    positive = norms.clamp_min(1e-6)
    return {"log": float(anomaly_indices(-positive.log()).max()), "ratio": float(median(positive) / positive.min())}
