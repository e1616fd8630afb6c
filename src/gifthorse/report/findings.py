"""What analyses left to be drawn, by the names of their arrays; what is of no known kind or shape is passed over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gifthorse.core.findings import DRAWN, is_drawn
from gifthorse.report.evidence import Arrays, drawable
from gifthorse.report.naming import natural

STAMPED = "stamped"
"""What the name of a group of images with a trigger has in it."""


@dataclass(eq=False)
class Finding:
    """One chart, or one row of pictures: all ``groups`` that an analysis named under one ``title``, each by its name.

    ``kind`` is one of :data:`gifthorse.core.findings.DRAWN`. Groups are ``uint8 (N, C, H, W)`` where they are pictures,
    finite ``float (N, 2)`` where they are points, else ``float`` of the kind's own shape with a finite value at least.
    ``axes`` are the names of the axes of points that have some, or in one text those of a profile's layers.
    """

    kind: str
    title: str
    axes: tuple[str, ...] = ()
    groups: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def stamped(self) -> tuple[str, ...]:
        """Return the groups of images with a trigger, where there are others to set them off from."""
        found = tuple(name for name in self.groups if STAMPED in name.lower())
        return found if len(found) < len(self.groups) else ()

    @property
    def layers(self) -> list[str]:
        """Return the names of a profile's layers, where it has some."""
        return [name for text in self.axes for name in text.split(",")]

    @property
    def drawn(self) -> list[str]:
        """Return the groups in the order in which they are drawn, those that are set off above all others."""
        return sorted(self.groups, key=lambda name: name in self.stamped)


def findings(evidence: Arrays) -> list[Finding]:
    """Return what there is to draw: in natural order by kind and title, and so are the groups of each.

    A row of pictures that others are named after, as ``clean images`` by ``model, clean images``, stands above them.
    """
    found: dict[tuple[str, ...], Finding] = {}
    for name in sorted(evidence, key=natural):
        if not is_drawn(name):
            continue
        kind, *parts = name.split("/")
        values = _values(kind, evidence[name])
        if values is None:
            continue
        # A row of pictures, or a matrix, is a chart of its own; all else is one group of a chart.
        title, group = (parts, "") if DRAWN[kind] == 2 else (parts[:-1], parts[-1])
        found.setdefault((kind, *title), Finding(kind, title[0], tuple(title[1:]))).groups[group] = values
    order, rows = list(DRAWN), [each.title for each in found.values() if each.kind == "pictures"]

    def place(each: Finding) -> tuple[int, tuple[list[str | float], int]]:
        return order.index(each.kind), _beneath(each.title, rows) if each.kind == "pictures" else ([], 0)

    return sorted(found.values(), key=place)


def _beneath(title: str, rows: Sequence[str]) -> tuple[list[str | float], int]:
    """Return where a row of pictures stands: the row that it belongs to, and how far beneath that."""
    if any(_named_after(other, title) for other in rows):
        return natural(title), 0
    above = max((row for row in rows if _named_after(title, row)), key=len, default=title)
    return natural(above), 1


def _named_after(title: str, row: str) -> bool:
    """Tell whether a title has another within it, between commas."""
    return title != row and f", {row}, " in f", {title}, "


def thinned(groups: Mapping[str, np.ndarray], most: int) -> dict[str, np.ndarray]:
    """Return at most so many points of each group, evenly from its first to its last."""
    return {
        name: points[np.linspace(0, len(points) - 1, min(most, len(points))).astype(int)]
        for name, points in groups.items()
    }


def _values(kind: str, array: np.ndarray) -> np.ndarray | None:
    """Return an array as a :class:`Finding` has it; ``None`` where it is nothing of the kind."""
    if kind == "pictures":
        return array if array.dtype == np.uint8 and drawable(array) else None
    if array.dtype.kind not in "fiub":
        return None
    values = array.astype(float)
    if kind in ("points", "against"):
        points = values if kind == "points" else values.T
        if points.ndim != 2 or points.shape[1] != 2:
            return None
        points = points[np.isfinite(points).all(1)]
        return points if len(points) else None
    shaped = values.ndim == 2 and len({*values.shape}) == 1 if kind == "matrix" else values.ndim == 1
    return values if shaped and np.isfinite(values).any() else None
