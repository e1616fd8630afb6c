"""What analyses saw inside of models: a sheet of pictures, and a chart for each title."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from gifthorse.core.record import Record
from gifthorse.report import plots
from gifthorse.report.drawings.material import Drawing, Material, counted, file_name
from gifthorse.report.evidence import Arrays
from gifthorse.report.figures import panels_of
from gifthorse.report.findings import Finding, findings
from gifthorse.report.naming import class_label
from gifthorse.report.style import COLUMN, series_of, sheet, wrapped
from gifthorse.report.tiles import Tile, TileRow, tile_sheet

Evidence = Callable[[str], Arrays]

PICTURES = 8
"""Most pictures in a row."""
_LETTERS = 24
"""Letters of a caption in a line."""


def analyses(material: Material) -> Iterator[Drawing]:
    """Yield a drawing for the pictures of each cell with an analysis, and for each of its charts.

    Which these are only its evidence tells.
    """
    for part in material.parts():
        for record in part.records:
            if record.status != "done" or record.id not in part.analyses:
                continue
            analysis, attack = part.analyses[record.id], part.attack(record)
            met = [part.defense(record)] if record.defense else [part.stamps[record.id]] if record.stamp else []
            name = partial(file_name, "analyses", *part.place, attack, *met, analysis, f"seed{record.seed}")
            what = f"{analysis} of {' after '.join([attack, *met])}, {part.about}, seed {record.seed}"
            found = findings(material.evidence(record.id))
            if any(each.kind == "pictures" for each in found):
                yield Drawing(name("pictures"), partial(_draw_pictures, record, what, material.evidence))
            for place, each in enumerate(found):
                if each.kind != "pictures":
                    yield Drawing(name(each.title), partial(_draw, record, what, material.evidence, place))


def _draw_pictures(record: Record, what: str, evidence: Evidence) -> Figure:
    shown = [each for each in findings(evidence(record.id)) if each.kind == "pictures"]
    rows = [
        TileRow(fill(each.title, _LETTERS), tuple(Tile(pixels) for pixels in each.groups[""][:PICTURES]))
        for each in shown
    ]
    return tile_sheet(rows, f"{what}; n = {counted([len(row.tiles) for row in rows], 'image')} in a row")


def _draw(record: Record, what: str, evidence: Evidence, place: int) -> Figure:
    found = findings(evidence(record.id))[place]
    draw = {
        "points": _scatter,
        "against": _scatter,
        "profile": _profile,
        "distribution": _distributions,
        "matrix": _matrix,
    }[found.kind]
    return draw(found, f"{found.title}; {what}", record.class_names)


def _groups(found: Finding, labels: dict[str, str]) -> list[plots.Group]:
    series = series_of(list(found.groups), found.stamped)
    return [plots.Group(labels[name], found.groups[name], series[name]) for name in found.drawn]


def _scatter(found: Finding, note: str, names: Sequence[str]) -> Figure:  # noqa: ARG001
    counts = {name: len(points) for name, points in found.groups.items()}
    groups = _groups(found, {name: f"{name} ({count})" for name, count in counts.items()})
    note += f"; n = {counted([sum(counts.values())], 'point')}"
    note += "; dotted: both alike" if found.axes and plots.alike(groups) else ""
    figure = sheet(COLUMN, 3.5 + 0.15 * len(counts), note)
    axes = figure.add_subplot()
    plots.scatter(axes, groups, *found.axes)
    figure.legend(loc="outside upper center", handlelength=1)
    return figure


def _profile(found: Finding, note: str, names: Sequence[str]) -> Figure:  # noqa: ARG001
    layers = [len(values) for values in found.groups.values()]
    figure = sheet(COLUMN, 2.4 + 0.15 * len(layers), f"{note}; n = {counted(layers, 'layer')}")
    axes = figure.add_subplot()
    plots.profile(axes, _groups(found, {name: name for name in found.groups}), found.layers)
    figure.legend(loc="outside upper center", handlelength=3)
    return figure


def _distributions(found: Finding, note: str, names: Sequence[str]) -> Figure:  # noqa: ARG001
    panels = panels_of(found)
    counts = [len(plots.finite_values(panel.values)) for panel in panels]
    figure = sheet(COLUMN, 0.8 + 0.85 * len(panels), f"{note}; n = {counted(counts, 'image')} in a panel")
    axes = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0])
    plots.score_panels(axes, panels, float("nan"), wrapped(found.title, COLUMN))
    return figure


def _matrix(found: Finding, note: str, names: Sequence[str]) -> Figure:
    values: np.ndarray = found.groups[""]
    longest = max(len(class_label(index, names)) for index in range(len(values)))
    figure = sheet(COLUMN + 0.04 * longest, COLUMN, f"{note}; n = {len(values)} classes")
    axes, scale = figure.subplots(1, 2, width_ratios=[20, 1])
    plots.class_matrix(axes, scale, values, names)
    return figure
