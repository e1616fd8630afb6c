"""What a detector of robust models looks at: images translated to every class, and the clusters of their features."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from gifthorse.core.record import Record
from gifthorse.report import plots
from gifthorse.report.clusters import cluster_maps
from gifthorse.report.drawings.material import Drawing, Material, cells
from gifthorse.report.evidence import Arrays, drawable, suspect_of, true_targets
from gifthorse.report.naming import class_label
from gifthorse.report.style import PAGE, sheet
from gifthorse.report.tiles import Tile, TileRow, tile_sheet

Evidence = Callable[[str], Arrays]

ACROSS = 5
"""Maps side by side."""
PICTURES = 8
"""Translated images of a class."""


def clusters(material: Material) -> Iterator[Drawing]:
    """Yield a drawing for each cell whose defense clusters features."""
    for record, name, what in cells(material, "clusters", _clusters):
        yield Drawing(name, partial(_draw_clusters, record, what, material.evidence))


def translated(material: Material) -> Iterator[Drawing]:
    """Yield a drawing for each cell whose defense translates images."""
    for record, name, what in cells(material, "translated", _clusters):
        yield Drawing(name, partial(_draw_translated, record, what, material.evidence))


def _clusters(record: Record) -> bool:
    return "defense.clusters" in record.metrics


def _heading(record: Record, label: int) -> str:
    return class_label(label, record.class_names) + (" ▲" if label in true_targets(record) else "")


def _note(record: Record, what: str) -> str:
    targets = true_targets(record)
    return f"{what}; ▲ true target{'s' if len(targets) > 1 else ''}" if targets else what


def _draw_clusters(record: Record, what: str, evidence: Evidence) -> Figure | None:
    maps = cluster_maps(evidence(record.id))
    if not maps:
        return None
    rows = math.ceil(len(maps) / ACROSS)
    count = max(len(each.points) for each in maps.values())
    note = (
        f"{_note(record, what)}; n = {count} images at most of a class; filled: translated images, hollow: clean ones; "
    )
    note += "colours and shapes: clusters; in brackets: how many"
    figure = sheet(PAGE, 0.5 + 1.55 * rows, note)
    panels = figure.subplots(rows, ACROSS, squeeze=False).ravel()
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    for axes, (label, each) in zip(panels, maps.items(), strict=False):
        plots.cluster_map(axes, each.points, each.clusters, each.translated)
        weight = "bold" if label == suspect_of(record) else "normal"
        axes.set_title(f"{_heading(record, label)} ({each.count})", size=7, weight=weight)
    return figure


def _draw_translated(record: Record, what: str, evidence: Evidence) -> Figure | None:
    pictures = evidence(record.id).get("translated")
    if pictures is None or pictures.ndim != 5 or not drawable(pictures.reshape(-1, *pictures.shape[2:])):
        return None
    suspect = suspect_of(record)
    rows = [
        TileRow(
            _heading(record, label), tuple(Tile(np.asarray(each), marked=label == suspect) for each in row[:PICTURES])
        )
        for label, row in enumerate(pictures)
    ]
    shown = min(PICTURES, pictures.shape[1])
    note = f"{_note(record, what)}; n = {shown} images, the same in each row, translated to its class"
    return tile_sheet(rows, note + ("; framed: the suspect class" if suspect is not None else ""))
