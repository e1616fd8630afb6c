"""What figures and reports read from a record and its evidence alike, whatever the method's name."""

from collections.abc import Mapping

import numpy as np

from gifthorse.core.record import Record

Arrays = Mapping[str, np.ndarray]


_COMPARED = {"defense.clusters": "clusters", "defense.trigger_norms": "mean norm of reversed triggers"}
"""Lists by class that say what a detector's scores are of."""


def class_values(record: Record, evidence: Arrays) -> tuple[str, list[float]] | None:
    """Return what a detector compares between classes, and its values, if there are any.

    That is what it says of its scores, or the mask norms where it scores by them, and its own scores otherwise.
    """
    for name, what in _COMPARED.items():
        values = record.metrics.get(name)
        if isinstance(values, list) and values:
            return what, values
    masks, scores = evidence.get("masks"), record.metrics.get("defense.scores")
    if masks is not None and len(masks) and (not isinstance(scores, list) or _scored_by_norm(scores, masks)):
        return "L1 norm of the recovered mask", mask_norms(masks)
    return ("score (higher is more suspicious)", scores) if isinstance(scores, list) and scores else None


def mask_norms(masks: np.ndarray) -> list[float]:
    """Return the L1 norm of each mask ``(K, 1, H, W)``; what is no number counts nothing."""
    return [float(norm) for norm in np.abs(np.nan_to_num(masks)).reshape(len(masks), -1).sum(1, dtype=float)]


def suspect_of(record: Record) -> int | None:
    """Return the class that the detector suspects, if any."""
    value = record.metrics.get("defense.suspect_class")
    return int(value) if isinstance(value, (int, float)) else None


def true_targets(record: Record) -> list[int]:
    """Return the classes that stamped images should get; none where the record names none."""
    found = record.metrics.get("attack.targets")
    return [int(target) for target in found] if isinstance(found, list) else []


def drawable(pixels: np.ndarray) -> bool:
    """Tell whether there is anything to draw; an empty test set has no pictures."""
    return pixels.ndim == 4 and pixels.size > 0


def _scored_by_norm(scores: list[float], masks: np.ndarray) -> bool:
    return len(scores) == len(masks) and np.allclose(scores, [-n for n in mask_norms(masks)], rtol=1e-3, atol=1e-3)


def matted(trigger: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return opacity and pattern ``(C, H, W)`` in [0,1] of what was blended into a black and a white image.

    ``trigger`` is both images, ``uint8 (2, C, H, W)``. Where nothing shows there is no pattern: black stands there.
    """
    black, white = trigger.astype(float) / 255
    opacity: np.ndarray = np.clip(1 - (white - black), 0, 1)
    shows = opacity > 1 / 255
    return opacity, np.where(shows, np.clip(black / np.where(shows, opacity, 1), 0, 1), 0)
