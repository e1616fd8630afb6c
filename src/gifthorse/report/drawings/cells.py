"""Charts of one cell each: the scores of a screen, and what a detector compares between classes."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from gifthorse.core.metric import METRICS
from gifthorse.core.record import Record
from gifthorse.report import plots
from gifthorse.report.drawings.material import Drawing, Material, cells
from gifthorse.report.evidence import Arrays, class_values, suspect_of, true_targets
from gifthorse.report.figures import Histogram
from gifthorse.report.naming import class_label, name_of
from gifthorse.report.style import COLUMN, PAGE, sheet
from gifthorse.report.tables import measure

_WIDE = 12
"""Bars that fit in a column; more take the page's width."""


def scores(material: Material) -> Iterator[Drawing]:
    """Yield a drawing for each cell whose defense scores images."""
    for record, name, what in cells(material, "scores", lambda record: "defense.fpr" in record.metrics):
        yield Drawing(name, partial(_draw_scores, record, what, material.evidence))


def classes(material: Material) -> Iterator[Drawing]:
    """Yield a drawing for each cell whose defense inspects models."""
    for record, name, what in cells(material, "classes", lambda record: "defense.index" in record.metrics):
        yield Drawing(name, partial(_draw_classes, record, what, material.evidence))


def _draw_scores(record: Record, what: str, evidence: Callable[[str], Arrays]) -> Figure | None:
    arrays = evidence(record.id)
    groups = [
        Histogram(f"{style} images", style, arrays[f"{style}_scores"].ravel())
        for style in ("clean", "stamped")
        if f"{style}_scores" in arrays
    ]
    if not any(np.isfinite(each.values).any() for each in groups):
        return None
    flagged = [
        f"{METRICS[name].heading} {METRICS[name].unit.text(value)} %"
        for name in ("defense.fpr", "defense.tpr")
        if (value := measure(record, name)) is not None
    ]
    figure = sheet(COLUMN, 0.8 + 0.85 * len(groups), f"{what}; {', '.join(flagged)}")
    panels = list(figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0])
    threshold = float(arrays["threshold"].ravel()[0]) if "threshold" in arrays else float("nan")
    plots.score_panels(panels, groups, threshold, f"score of {name_of(record.defense or {})} (higher: more suspicious)")
    return figure


def _draw_classes(record: Record, what: str, evidence: Callable[[str], Arrays]) -> Figure | None:
    found = class_values(record, evidence(record.id))
    if found is None:
        return None
    measured, values = found
    suspect, targets, names = suspect_of(record), true_targets(record), record.class_names
    note = f"{what}; n = {len(values)} classes; "
    note += "no class is suspect" if suspect is None else f"hatched: the suspect, class {class_label(suspect, names)}"
    note += f"; ▲ true target{'s' if len(targets) > 1 else ''}" if targets else ""
    longest = max(len(class_label(index, names)) for index in range(len(values)))
    figure = sheet(PAGE if len(values) > _WIDE else COLUMN, 2.5 + (0.04 * longest if longest > 3 else 0), note)
    axes = figure.add_subplot()
    plots.bars(axes, values, measured, suspect, targets, names, named=True)
    axes.tick_params("x", length=0, pad=8 if targets else 3)
    if longest > 3:
        for text in axes.get_xticklabels():
            text.set(rotation=40, ha="right", rotation_mode="anchor")
    return figure
