"""What a page shows of arrays and sweeps: pictures as WebP, charts as inline SVG in the page's own colours."""

import base64
import io
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from PIL import Image

from gifthorse.report.naming import class_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gifthorse.core.record import Record
    from gifthorse.report.findings import Finding
    from gifthorse.report.style import Series

INSTALL = "pip install 'gifthorse[plots]'"
"""What brings matplotlib, which draws all charts."""
TILE = 56
"""Side of a small picture on screen, in CSS pixels, as near as whole magnification allows."""

_WIDTH, _LEFT, _RIGHT = 390, 52, 384
_PANEL, _BETWEEN = 62, 26
_MARKS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖"}
"""The markers of lines in a legend."""
_LETTER = 6.2
"""Pixels that a letter of a page's chart takes."""


@dataclass(frozen=True)
class Picture:
    """An image file as a data URI, and the size at which it is shown."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Histogram:
    """One panel of a histogram: ``style`` is ``clean``, ``stamped``, or ``plain`` for what is neither."""

    title: str
    style: str
    values: np.ndarray


def picture_row(pixels: np.ndarray) -> Picture:
    """Return pictures ``uint8 (N, C, H, W)``, with 1 or 3 channels, side by side."""
    count, channels, height, width = pixels.shape
    colours = np.repeat(pixels[:, :1], 3, axis=1) if channels != 3 else pixels
    sheet = np.zeros((height, count * (width + 1) - 1, 4), np.uint8)
    for index, picture in enumerate(colours):
        left = index * (width + 1)
        sheet[:, left : left + width, :3] = picture.transpose(1, 2, 0)
        sheet[:, left : left + width, 3] = 255
    file = io.BytesIO()
    # Without loss, and a third smaller than PNG; more effort saves another twentieth and takes five times as long.
    Image.fromarray(sheet).save(file, "WEBP", lossless=True, quality=20, method=1)
    zoom = max(1, round(TILE / width))
    uri = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
    return Picture(uri, sheet.shape[1] * zoom, height * zoom)


def recovered_triggers(masks: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """Return mask × pattern per class ``uint8 (K, C, H, W)``: what the search would stamp, on black."""
    levels: np.ndarray = np.rint(np.clip(np.nan_to_num(masks), 0, 1) * patterns).astype(np.uint8)
    return levels


def bar_chart(
    values: Sequence[float],
    what: str,
    suspect: int | None = None,
    targets: Collection[int] = (),
    names: Sequence[str] = (),
) -> Markup:
    """Return one bar per class with a line at the median, the suspect highlighted and the targets marked."""
    if not can_draw():
        return _missing()
    from gifthorse.report import plots

    heights = plots.finite_heights(values)
    median, lowest = float(np.median(heights)), int(np.argmin(heights))
    summary = f"{what} of {len(heights)} classes; median {median:.1f}, smallest {heights[lowest]:.1f} (class {lowest})"
    return _chart(1, summary, lambda panels: plots.bars(panels[0], values, what, suspect, targets, names))


def histograms(panels: Sequence[Histogram], threshold: float, axis: str) -> Markup:
    """Return one panel above the other on a shared axis, with a line at a finite threshold; some value is finite."""
    if not can_draw():
        return _missing()
    from gifthorse.report import plots

    means = ", ".join(
        f"{panel.title} mean {values.mean():.3g}"
        for panel in panels
        if len(values := plots.finite_values(panel.values))
    )
    summary = f"Histogram of {axis}: {means}" + (f"; threshold {threshold:.3g}" if math.isfinite(threshold) else "")
    return _chart(len(panels), summary, lambda found: plots.score_panels(found, panels, threshold, axis))


def difference_chart(groups: Mapping[str, np.ndarray]) -> Markup:
    """Return a box for each group of distances, by its name."""
    if not can_draw():
        return _missing()
    from gifthorse.report import plots

    spreads = [
        plots.Spread(name, values, "plain" if place else "stamped")
        for place, (name, values) in enumerate(groups.items())
    ]
    medians = ", ".join(f"{name} {float(np.median(values)):.3g}" for name, values in groups.items())
    summary = f"Distances between activations on clean and stamped images; medians: {medians}"
    return _chart(1, summary, lambda panels: plots.boxes(panels[0], spreads, "L2 distance"))


def finding_chart(found: "Finding", most: int, names: Sequence[str] = ()) -> tuple[Markup, Markup]:
    """Return what an analysis left to be drawn, pictures aside, and what it shows; ``names`` are those of the classes.

    Of each group of points at most so many are drawn.
    """
    if not can_draw():
        return _missing(), Markup("{}").format(found.title)
    draw: dict[str, Callable[[Finding, int, Sequence[str]], tuple[Markup, Markup]]] = {
        "points": _scatter,
        "against": _scatter,
        "profile": _profile,
        "distribution": _distributions,
        "matrix": _class_matrix,
    }
    return draw[found.kind](found, most, names)


def _scatter(found: "Finding", most: int, names: Sequence[str]) -> tuple[Markup, Markup]:  # noqa: ARG001
    from gifthorse.report import plots
    from gifthorse.report.findings import thinned
    from gifthorse.report.style import series_of

    shown, series = thinned(found.groups, most), series_of(list(found.groups), found.stamped)
    groups = [plots.Group(name, shown[name], series[name]) for name in found.drawn]
    svg = _chart(0, found.title, lambda panels: plots.scatter(panels[0], groups, *found.axes))
    counts = {
        name: f"{name} ({f'{len(shown[name])} of ' if len(shown[name]) < len(points) else ''}{len(points)})"
        for name, points in found.groups.items()
    }
    dotted = "; dotted: both alike" if found.axes and plots.alike(groups) else ""
    return svg, Markup("{}: {}{}").format(found.title, _legend((counts[name], series[name]) for name in counts), dotted)


def _profile(found: "Finding", most: int, names: Sequence[str]) -> tuple[Markup, Markup]:  # noqa: ARG001
    from gifthorse.report import plots
    from gifthorse.report.style import series_of

    series = series_of(list(found.groups), found.stamped)
    groups = [plots.Group(name, values, series[name]) for name, values in found.groups.items()]
    svg = _chart(1, found.title, lambda panels: plots.profile(panels[0], groups, found.layers))
    return svg, Markup("{}: {}").format(found.title, _legend(series.items()))


def _distributions(found: "Finding", most: int, names: Sequence[str]) -> tuple[Markup, Markup]:  # noqa: ARG001
    svg = histograms(panels_of(found), math.nan, found.title)
    return svg, Markup("{}; each panel on its own vertical scale").format(found.title)


def panels_of(found: "Finding") -> list[Histogram]:
    """Return a panel for each group of values that an analysis left."""
    clean = {name for name in found.groups if "clean" in name.lower()} if found.stamped else set()
    styles = dict.fromkeys(clean, "clean") | dict.fromkeys(found.stamped, "stamped")
    return [Histogram(name, styles.get(name, "plain"), values) for name, values in found.groups.items()]


def _class_matrix(found: "Finding", most: int, names: Sequence[str]) -> tuple[Markup, Markup]:  # noqa: ARG001
    from gifthorse.report import plots
    from gifthorse.report.inline import blank, to_svg

    (values,) = found.groups.values()
    left = 14 + _LETTER * max(len(class_label(index, names)) for index in range(len(values)))
    right, top, side = _RIGHT - 50, 8, _RIGHT - 50 - left
    panels = blank(
        _WIDTH, math.ceil(side + 50), [(left, right, top, top + side), (right + 40, _RIGHT, top, top + side)]
    )
    plots.class_matrix(panels[0], panels[1], values, names)
    return to_svg(panels, found.title), Markup("{}").format(found.title)


def _legend(entries: "Iterable[tuple[str, Series]]") -> Markup:
    """Return what is drawn how, in the words of a caption."""
    from gifthorse.report.inline import of_the_page

    drawn = Markup('<span style="color:{}">{}</span> {}')
    return Markup(", ").join(
        drawn.format(of_the_page(series.color), _MARKS[series.marker], name) for name, series in entries
    )


def roc_curve(
    negative: Sequence[float], positive: Sequence[float], what: str, own: tuple[float, float] | None = None
) -> Markup:
    """Return the ROC curve of two groups of scores; ``own`` is the point of the method's own threshold."""
    if not can_draw():
        return _missing()
    from gifthorse.report import plots

    points = plots.roc_points(np.asarray(negative, float), np.asarray(positive, float))
    curve = plots.Curve(what, (points,), () if own is None else (own,))
    return _chart(0, what, lambda panels: plots.roc(panels[0], [curve]))


def stamp_curves(records: "Sequence[Record]") -> list[tuple[Markup, Markup]]:
    """Return what varied triggers did along every swept field of a stamp: a chart and what it shows, each."""
    if not can_draw():
        stamps = [record.stamp["name"] for record in records if record.stamp]
        return [(_missing(), Markup())] if any(stamps.count(name) > 2 for name in stamps) else []
    from gifthorse.report import plots
    from gifthorse.report.drawings.material import counted
    from gifthorse.report.drawings.sweeps import stamp_sweeps, track
    from gifthorse.report.inline import blank, to_svg
    from gifthorse.report.style import SERIES

    found = []
    for sweep, metrics in stamp_sweeps(records):
        shown = [metric for metric in metrics if metric.unit == metrics[0].unit]
        tracks = [track(sweep, metric) for metric in shown]
        what = f"{sweep.names['attack']}, {sweep.names['stamp']} by {sweep.field}"
        # Its scale may be logarithmic, so that axes are not shared.
        panels = blank(_WIDTH, 210, [(_LEFT, _RIGHT, 20, 170)])
        plots.sweep(panels[0], [each for each, _ in tracks], metrics[0].unit)
        panels[0].set_xlabel(sweep.field)
        panels[0].set_ylabel(metrics[0].unit.symbol)
        names = _legend((metric.heading, series) for series, metric in zip(SERIES, shown, strict=False))
        seeds = counted([count for _, counts in tracks for count in counts], "seed")
        caption = Markup("{}, n = {}, means with 95 % intervals where there are several: {}")
        found.append((to_svg(panels, what), caption.format(what, seeds, names)))
    return found


def can_draw() -> bool:
    """Tell whether matplotlib is there."""
    try:
        return find_spec("matplotlib") is not None
    except ValueError:
        return False


def _missing() -> Markup:
    return Markup('<p class="hint">Charts need matplotlib: {}</p>').format(INSTALL)


def _chart(panels: int, summary: str, draw: "Callable[[Sequence[Axes]], None]") -> Markup:
    from gifthorse.report.inline import clear, to_svg

    axes = _axes(panels)
    clear(axes)
    draw(axes)
    return to_svg(axes, summary)


@cache
def _axes(panels: int) -> "list[Axes]":
    """Return axes for charts of so many panels, 0 for a square: one set for all, as making one takes longest."""
    from gifthorse.report.inline import blank

    if panels == 0:
        return blank(_LEFT + 250 + 18, 300, [(_LEFT, _LEFT + 250, 10, 260)])
    if panels == 1:
        return blank(_WIDTH, 210, [(_LEFT, _RIGHT, 20, 170)])
    tops = [20 + place * (_PANEL + _BETWEEN) for place in range(panels)]
    bottom = tops[-1] + _PANEL
    return blank(_WIDTH, math.ceil(bottom + 40), [(_LEFT, _RIGHT, top, top + _PANEL) for top in tops])
