"""The anomaly index of model inspection, defined once for detectors and judges alike."""

import torch
from torch import Tensor


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
    index is signed. A MAD of zero (more than half the classes equal) is replaced by a floor of 1e-6 of the scale.
    """
    centre = median(scores).unsqueeze(-1)
    deviation = scores - centre
    floor = 1e-6 * scores.abs().amax(-1, keepdim=True).clamp_min(1e-6)
    mad = torch.maximum(median(deviation.abs()).unsqueeze(-1), floor)
    return deviation / (1.4826 * mad)


def says_something(scores: Tensor) -> bool:
    """Tell whether an anomaly index of ``scores (K,)`` means anything: not where more than half of them are equal."""
    return bool(median((scores - median(scores)).abs()) > 0)


def norm_readouts(norms: Tensor) -> dict[str, float]:
    """Return two further indices of the sizes ``(K,)`` of recovered triggers: what is small is suspicious.

    ``log`` is the anomaly index of the logarithms: sizes are positive, so their plain index cannot exceed the median
    over 1.4826 MAD, however small the smallest is. ``ratio`` is the median over the smallest.
    """
    positive = norms.clamp_min(1e-6)
    return {"log": float(anomaly_indices(-positive.log()).max()), "ratio": float(median(positive) / positive.min())}
