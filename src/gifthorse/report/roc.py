"""The ROC curve of two groups of scores, as inline SVG whose colours the style sheet sets."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

_SIDE, _LEFT, _TOP = 240, 56, 10
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def roc_points(negative: Sequence[float], positive: Sequence[float]) -> list[tuple[float, float]]:
    """Return (false, true positive rate) from (0, 0) to (1, 1), a point for each threshold that changes either.

    >>> roc_points([1, 2], [2, 3])
    [(0.0, 0.0), (0.0, 0.5), (0.5, 1.0), (1.0, 1.0)]
    """
    below, above = np.asarray(negative, float), np.asarray(positive, float)
    thresholds = np.unique([*below, *above])[::-1]
    return [(0.0, 0.0), *((float((below >= each).mean()), float((above >= each).mean())) for each in thresholds)]


def roc_curve(
    negative: Sequence[float], positive: Sequence[float], what: str, own: tuple[float, float] | None = None
) -> Markup:
    """Return the curve; ``own`` is the point of the method's own threshold, marked where it is known."""
    bottom, right = _TOP + _SIDE, _LEFT + _SIDE

    def place(rates: tuple[float, float]) -> tuple[float, float]:
        return _LEFT + rates[0] * _SIDE, bottom - rates[1] * _SIDE

    parts = []
    for tick in _TICKS:
        x, y = place((tick, tick))
        parts.append(_line("grid", _LEFT, y, right, y))
        parts.append(_line("grid", x, _TOP, x, bottom))
        parts.append(_text(f"{tick:g}", _LEFT - 8, y + 4, "end"))
        parts.append(_text(f"{tick:g}", x, bottom + 18, "middle"))
    parts.append(_line("median", _LEFT, bottom, right, _TOP))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, roc_points(negative, positive)))
    parts.append(Markup('<polyline class="curve" points="{}"/>').format(path))
    if own is not None:
        x, y = place(own)
        said = f"own threshold: {own[1]:.0%} of the positives, {own[0]:.0%} of the negatives"
        dot = Markup('<circle class="own" cx="{:.1f}" cy="{:.1f}" r="5"><title>{}</title></circle>')
        parts.append(dot.format(x, y, said))
    parts.append(_text("false positive rate", (_LEFT + right) / 2, bottom + 38, "middle"))
    upright = Markup('<text x="{0}" y="{1}" text-anchor="middle" transform="rotate(-90 {0} {1})">{2}</text>')
    parts.append(upright.format(16, (_TOP + bottom) / 2, "true positive rate"))
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        right + 16, bottom + 46, what, Markup("").join(parts)
    )


def _line(style: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(style, x1, y1, x2, y2)


def _text(text: str, x: float, y: float, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)
