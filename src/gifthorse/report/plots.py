"""The drawings, each a function of axes and numbers: reports and figure files draw with the same.

What is drawn is what was given; a number that is none or infinite is left out, or has no height.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle, StepPatch
from matplotlib.path import Path
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from gifthorse.core.metric import Unit
from gifthorse.report.figures import Histogram
from gifthorse.report.naming import class_label
from gifthorse.report.style import BAR, CLEAN, INK, LINE, PAPER, SERIES, SHADES, SOFT, STAMPED, Series, number

BINS = 36
_LABELLED = 20
"""Most classes whose number stands under their bar."""
_LETTERS = 52
"""Most letters of names side by side under a chart."""
_WRITTEN = 12
"""Most classes whose pairs have their values written."""
_PERCENT = (0.0, 20.0, 40.0, 60.0, 80.0, 100.0)


class Bars(PolyCollection):
    """Upright bars from zero, centred at whole numbers, each with a text about it."""

    def __init__(
        self, places: Sequence[int], heights: Sequence[float], texts: Sequence[str], color: str, hatch: str | None
    ):
        left, top = np.array(places, float) - 0.36, np.array(heights, float)
        corners = np.stack([left, 0 * top, left, top, left + 0.72, top, left + 0.72, 0 * top], axis=1)
        super().__init__(list(corners.reshape(-1, 4, 2)), facecolor=color, edgecolor=PAPER, linewidth=0, hatch=hatch)
        self.texts = tuple(texts)
        self.color = color
        self.corners = np.stack([left, 0 * top, left + 0.72, top], axis=1).reshape(-1, 2)
        """Where each begins and where it ends, ``(2 N, 2)``."""


@dataclass(frozen=True, eq=False)
class Curve:
    """The ROC curves of one screen or detector, one per run, and the points of its own thresholds.

    A run is ``(2, N)``: false and true positive rates in [0,1]. ``sound`` says that every attack took.
    """

    label: str
    runs: tuple[np.ndarray, ...]
    own: tuple[tuple[float, float], ...] = ()
    sound: bool = True


@dataclass(frozen=True, eq=False)
class Spread:
    """The values of one box of a box plot; ``style`` is ``plain``, or ``stamped`` for the one that is set off."""

    label: str
    values: np.ndarray
    style: str = "plain"


@dataclass(frozen=True)
class Point:
    """A mean over seeds with the ends of its interval, which are the mean itself where there is no interval."""

    at: float
    mean: float
    low: float
    high: float
    sound: bool = True


@dataclass(frozen=True)
class Track:
    """One metric along a swept field."""

    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True, eq=False)
class TradeOff:
    """What a defense made of accuracy and ASR, in [0,1], a point for each model, with a fit from one to the other."""

    label: str
    accuracy: tuple[float, ...]
    success: tuple[float, ...]
    sound: tuple[bool, ...]
    fit: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True, eq=False)
class Group:
    """Points ``(N, 2)``, or a line through values ``(L,)``, with a label and what tells it from others."""

    label: str
    values: np.ndarray
    series: Series


@dataclass(frozen=True)
class Square:
    """One cell of a heat map: a number that gives it its shade, or none, and what stands in it."""

    value: float | None
    text: str


def bars(
    axes: Axes,
    values: Sequence[float],
    what: str,
    suspect: int | None = None,
    targets: Collection[int] = (),
    names: Sequence[str] = (),
    *,
    named: bool = False,
) -> None:
    """Draw one bar per class, a line at the median, the suspect set off and the targets marked.

    ``named`` puts the classes' names under their bars, beside the numbers.
    """
    heights = finite_heights(values)
    median = float(np.median(heights))
    _scale(axes, min(0.0, *heights), max(0.0, *heights))
    texts = [f"class {class_label(index, names)}: {height:.2f}" for index, height in enumerate(heights)]
    for found, color, hatch in ((False, BAR, None), (True, STAMPED, "////")):
        chosen = [index for index in range(len(heights)) if (index == suspect) is found]
        if chosen:
            drawn = Bars(chosen, [heights[each] for each in chosen], [texts[each] for each in chosen], color, hatch)
            axes.add_collection(drawn, autolim=False)
    axes.set_xlim(-0.5, len(heights) - 0.5)
    every = math.ceil(len(heights) / _LABELLED)
    # The numbers of many targets would overlap.
    set_off = (suspect, *(targets if len(targets) == 1 else ()))
    special = {each for each in set_off if each is not None and each < len(heights)}
    regular = (each for each in range(0, len(heights), every) if all(abs(each - one) >= every for one in special))
    labelled = sorted({*special, *regular})
    axes.xaxis.set_major_locator(FixedLocator(labelled))
    axes.xaxis.set_major_formatter(
        FixedFormatter([class_label(index, names) if named else str(index) for index in labelled])
    )
    marks = [index for index in targets if index < len(heights)]
    if marks:
        below = [-0.035] * len(marks)
        place = axes.get_xaxis_transform()
        marker = Line2D(marks, below, marker="^", markersize=5, color=INK, linestyle="none", transform=place)
        axes.add_artist(marker)
        marker.set_clip_on(False)
    _rule(axes, median, f"median {number(float(f'{median:.3g}'))}", horizontal=True)
    axes.set_xlabel("class")
    axes.set_ylabel(what)


def score_panels(panels: Sequence[Axes], groups: Sequence[Histogram], threshold: float, what: str) -> None:
    """Draw the histogram of each group in its own panel, on one shared axis, with a line at a finite threshold.

    Some value is finite. Heights are shares of the group's finite values, in percent.
    """
    finite = [finite_values(group.values) for group in groups]
    marked = math.isfinite(threshold)
    ticks = _ticks(*_extremes([*finite, np.array([threshold] if marked else [])]), most=7)
    edges = np.linspace(ticks[0], ticks[-1], BINS + 1)
    for axes, group, values in zip(panels, groups, finite, strict=True):
        shares = 100 * np.histogram(values, edges)[0] / max(len(values), 1)
        color = {"clean": CLEAN, "stamped": STAMPED, "plain": BAR}[group.style]
        axes.add_artist(StepPatch(shares, edges, facecolor=color, edgecolor=PAPER, linewidth=0, fill=True))
        axes.set_xlim(ticks[0], ticks[-1])
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(FixedFormatter([number(tick) for tick in ticks]))
        _scale(axes, 0.0, float(shares.max()) or 1.0, most=3)
        axes.text(1, 1.02, f"{group.title}, n = {len(values)}", transform=axes.transAxes, ha="right", va="bottom")
        axes.set_ylabel("images [%]")
        if marked:
            text = f"threshold {threshold:.3g}".replace("-", "−") if axes is panels[0] else ""
            _rule(axes, threshold, text, horizontal=False)
    panels[-1].set_xlabel(what)


def roc(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draw ROC curves in percent, all runs of a curve alike, with a marker at each threshold that a method set."""
    axes.add_artist(Line2D([0, 100], [0, 100], color=SOFT, linewidth=0.8, linestyle=(0, (1, 2))))
    for series, curve in zip(cycle(SERIES), curves, strict=False):
        for place, run in enumerate(curve.runs):
            line = Line2D(
                *(100 * run),
                color=series.color,
                linestyle=series.dashes,
                linewidth=1.2 if len(curve.runs) == 1 else 0.8,
                label=curve.label if place == 0 else "_",
                clip_on=False,
            )
            axes.add_artist(line)
        for false, true in curve.own:
            face = series.color if curve.sound else PAPER
            point = Line2D(
                [100 * false],
                [100 * true],
                color=series.color,
                marker=series.marker,
                markersize=5,
                markerfacecolor=face,
                linestyle="none",
                label="_",
                clip_on=False,
                zorder=3,
            )
            axes.add_artist(point)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(_PERCENT))
        axis.set_major_formatter(FixedFormatter([number(tick) for tick in _PERCENT]))
    axes.set_aspect("equal")
    axes.set_xlabel("false positive rate [%]")
    axes.set_ylabel("true positive rate [%]")


def roc_points(negative: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return false and true positive rates ``(2, N)`` from (0, 0) to (1, 1); ties are straight lines between points.

    So the area under it is the AUROC with ties counting half. Neither group is empty.

    >>> roc_points(np.array([1, 2]), np.array([2, 3])).tolist()
    [[0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0]]
    """
    thresholds = np.unique(np.concatenate([negative, positive]))
    above = np.stack([len(each) - np.searchsorted(np.sort(each), thresholds) for each in (negative, positive)])
    counts = np.concatenate([np.zeros((2, 1), int), above[:, ::-1]], axis=1)
    steps = np.diff(counts)
    # What lies on a straight line between its neighbours says nothing.
    turns = steps[0, 1:] * steps[1, :-1] != steps[0, :-1] * steps[1, 1:]
    corners = counts[:, np.concatenate([[True], turns, [True]])]
    return corners / [[len(negative)], [len(positive)]]


def sweep(axes: Axes, tracks: Sequence[Track], unit: Unit) -> None:
    """Draw metrics of one unit along a field, with error bars; where an attack did not take, markers are hollow."""
    for series, track in zip(cycle(SERIES), tracks, strict=False):
        at = [point.at for point in track.points]
        mean, low, high = (
            unit.scale * np.array([getattr(point, name) for point in track.points]) for name in ("mean", "low", "high")
        )
        axes.errorbar(
            at,
            mean,
            yerr=[mean - low, high - mean],
            label=track.label,
            color=series.color,
            linestyle=series.dashes,
            marker=series.marker,
            capsize=2.5,
            elinewidth=0.8,
            clip_on=False,
            zorder=3,
        )
        hollow = [place for place, point in enumerate(track.points) if not point.sound]
        if hollow:
            axes.plot(
                [at[place] for place in hollow],
                mean[hollow],
                color=series.color,
                marker=series.marker,
                markerfacecolor=PAPER,
                linestyle="none",
                clip_on=False,
                zorder=4,
            )
    if (unit.low, unit.high) == (0, 1):
        axes.set_ylim(0, unit.scale)
    values = sorted({point.at for track in tracks for point in track.points})
    if values[0] > 0 and values[-1] >= 10 * values[0]:
        axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    shown = values if len(values) <= 8 else values[:: math.ceil(len(values) / 8)]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_major_formatter(FixedFormatter([number(value) for value in shown]))
    axes.grid(visible=True, axis="y", color=LINE, linewidth=0.5)
    axes.set_axisbelow(True)


def boxes(axes: Axes, spreads: Sequence[Spread], what: str) -> None:
    """Draw a box for each group of values, one below the other: quartiles, the median, whiskers at 5 and 95 %."""
    edges = [np.percentile(each.values, [5, 25, 50, 75, 95]) for each in spreads]
    ticks = _ticks(0.0, max(float(each[-1]) for each in edges))
    for place, (spread, (low, first, middle, third, high)) in enumerate(zip(spreads, edges, strict=True)):
        color = STAMPED if spread.style == "stamped" else BAR
        for ends in ((low, first), (third, high)):
            axes.add_artist(Line2D(ends, [place, place], color=SOFT, linewidth=1))
        box = Rectangle((first, place - 0.3), third - first, 0.6, facecolor=color, edgecolor=SOFT, linewidth=0.6)
        axes.add_artist(box)
        axes.add_artist(Line2D([middle, middle], [place - 0.3, place + 0.3], color=INK, linewidth=1.5))
    axes.set_ylim(len(spreads) - 0.5, -0.5)
    axes.yaxis.set_major_locator(FixedLocator(range(len(spreads))))
    axes.yaxis.set_major_formatter(FixedFormatter([each.label for each in spreads]))
    axes.set_xlim(ticks[0], ticks[-1])
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([number(tick) for tick in ticks]))
    axes.set_xlabel(what)


def trade_off(axes: Axes, curves: Sequence[TradeOff]) -> None:
    """Draw ASR against accuracy in percent, a point for each model, with the logistic curve where there is one."""
    for series, curve in zip(cycle(SERIES), curves, strict=False):
        accuracy, success = 100 * np.asarray(curve.accuracy), 100 * np.asarray(curve.success)
        faces = [series.color if sound else PAPER for sound in curve.sound]
        axes.scatter(
            accuracy, success, marker=series.marker, s=14, c=faces, edgecolors=series.color, linewidths=0.8, zorder=3,
            clip_on=False,
        )  # fmt: skip
        axes.plot([], [], color=series.color, linestyle=series.dashes, marker=series.marker, label=curve.label)
        if curve.fit is not None:
            at = np.linspace(accuracy.min(), accuracy.max(), 100)
            axes.plot(at, 100 * curve.fit(at / 100), color=series.color, linestyle=series.dashes, linewidth=1.2)
    axes.set_ylim(0, 100)
    axes.yaxis.set_major_locator(FixedLocator(_PERCENT))
    axes.grid(visible=True, axis="y", color=LINE, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_xlabel("accuracy [%]")
    axes.set_ylabel("attack success rate [%]")


def cluster_map(axes: Axes, points: np.ndarray, clusters: np.ndarray, translated: np.ndarray) -> None:
    """Draw points ``(N, 2)``, a colour and shape for each cluster, gray for noise; those of clean images are hollow."""
    for cluster in np.unique(clusters).tolist():
        series = SERIES[cluster % len(SERIES)]
        colour, marker = (SOFT, "x") if cluster < 0 else (series.color, series.marker)
        for filled, chosen in ((False, ~translated), (True, translated)):
            here = points[(clusters == cluster) & chosen]
            if len(here):
                # A cross has no face.
                face = colour if filled or cluster < 0 else "none"
                axes.plot(
                    *here.T, linestyle="none", marker=marker, markersize=1.8, markeredgewidth=0.4,
                    markeredgecolor=colour, markerfacecolor=face, clip_on=False,
                )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")


def scatter(axes: Axes, groups: Sequence[Group], across: str = "", up: str = "") -> None:
    """Draw points on square axes, later groups above earlier ones.

    Without names of the axes these mean nothing: they have one scale and no numbers. Where they cover about the same
    values, a dotted line shows where both are equal.
    """
    everything = np.concatenate([group.values for group in groups])
    low, high = everything.min(0), everything.max(0)
    if across or up:
        shared = alike(groups)
        spans = (
            [(float(min(low)), float(max(high)))] * 2 if shared else list(zip(low.tolist(), high.tolist(), strict=True))
        )
        ticks = [_ticks(*span) for span in spans]
        limits = [(each[0], each[-1]) for each in ticks]
        if shared:
            axes.add_artist(Line2D(*[limits[0]] * 2, color=SOFT, linewidth=0.8, linestyle=(0, (1, 2)), label="_"))
    else:
        half = 0.53 * (float((high - low).max()) or 1.0)
        ticks = [[], []]
        for spine in axes.spines.values():
            spine.set_visible(False)
        limits = [(float(middle) - half, float(middle) + half) for middle in (low + high) / 2]
    for place, group in enumerate(groups):
        dots = Line2D(
            *group.values.T, linestyle="none", marker=group.series.marker, markersize=3.8, markeredgewidth=0,
            markerfacecolor=group.series.color, markeredgecolor=group.series.color, label=group.label, clip_on=False,
            zorder=2 + place / 1000,
        )  # fmt: skip
        axes.add_artist(dots)
    axes.set_xlim(*limits[0])
    axes.set_ylim(*limits[1])
    for axis, places in zip((axes.xaxis, axes.yaxis), ticks, strict=True):
        axis.set_major_locator(FixedLocator(places))
        axis.set_major_formatter(FixedFormatter([number(place) for place in places]))
    axes.set_box_aspect(1)
    axes.set_xlabel(across)
    axes.set_ylabel(up)


def alike(groups: Sequence[Group]) -> bool:
    """Tell whether points cover about the same values across and up, so that the two may be compared."""
    everything = np.concatenate([group.values for group in groups])
    low, high = everything.min(0), everything.max(0)
    return float(min(high) - max(low)) > 0.5 * float(max(high) - min(low))


def profile(axes: Axes, groups: Sequence[Group], layers: Sequence[str] = ()) -> None:
    """Draw a line for each group through its values at every layer; what is no number leaves a gap.

    Layers go by their number where they are not all named.
    """
    finite = [finite_values(group.values) for group in groups]
    _scale(axes, *_extremes(finite))
    count = max(len(group.values) for group in groups)
    for group in groups:
        series = group.series
        line = Line2D(
            np.arange(1, len(group.values) + 1), np.where(np.isfinite(group.values), group.values, np.nan),
            color=series.color, linestyle=series.dashes, linewidth=1.2, marker=series.marker, markersize=4,
            markeredgewidth=0, label=group.label, clip_on=False, zorder=3,
        )  # fmt: skip
        axes.add_artist(line)
    named = len(layers) == count
    names = list(layers) if named else [str(place + 1) for place in range(count)]
    axes.set_xlim(*((0.5, count + 0.5) if named or count == 1 else (1, count)))
    letters = count * (max(map(len, names)) + 1)
    shown = range(0, count, math.ceil(letters / _LETTERS) if named else math.ceil(count / _LABELLED))
    axes.xaxis.set_major_locator(FixedLocator([place + 1 for place in shown]))
    axes.xaxis.set_major_formatter(FixedFormatter([names[place] for place in shown]))
    axes.set_xlabel("layer, first to last")


def class_matrix(axes: Axes, scale: Axes, values: np.ndarray, names: Sequence[str]) -> None:
    """Draw a value for each pair of classes ``(K, K)`` as a shade, few as numbers too, and beside it what shades mean.

    What is no number has no shade.
    """
    low, high = _extremes([finite_values(values)])
    high = high if high > low else low + 1
    shades, count = colormaps[SHADES], len(values)
    axes.imshow(
        shades((values - low) / (high - low)), extent=(-0.5, count - 0.5, count - 0.5, -0.5), interpolation="none",
        aspect="auto",
    )  # fmt: skip
    if count <= _WRITTEN:
        for row, column in zip(*np.nonzero(np.isfinite(values)), strict=True):
            value = float(values[row, column])
            axes.text(
                column, row, number(float(f"{value:.2g}")), ha="center", va="center", size=6,
                color=_legible(shades((value - low) / (high - low))),
            )  # fmt: skip
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_ylim(count - 0.5, -0.5)
    shown = range(0, count, 1 if count <= _WRITTEN else math.ceil(count / 10))
    for axis, labels in (
        (axes.xaxis, [str(place) for place in shown]),
        (axes.yaxis, [class_label(place, names) for place in shown]),
    ):
        axis.set_major_locator(FixedLocator(shown))
        axis.set_major_formatter(FixedFormatter(labels))
    axes.tick_params(length=0)
    axes.set_xlabel("class")
    scale.imshow(shades(np.linspace(1, 0, 64))[:, None], extent=(0, 1, low, high), interpolation="none", aspect="auto")
    ticks = [tick for tick in _ticks(low, high) if low <= tick <= high]
    scale.set_xlim(0, 1)
    scale.set_ylim(low, high)
    scale.xaxis.set_major_locator(NullLocator())
    scale.yaxis.set_major_locator(FixedLocator(ticks))
    scale.yaxis.set_major_formatter(FixedFormatter([number(tick) for tick in ticks]))
    for each in (axes, scale):
        for spine in each.spines.values():
            spine.set_visible(False)


def leverage(axes: Axes, groups: Sequence[Group]) -> None:
    """Draw what success costs, each group's points ``(N, 2)`` from (0, 0) on, with the diagonal that no leverage is."""
    axes.add_artist(Line2D([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=(0, (1, 2)), label="_"))
    for group in groups:
        series = group.series
        line = Line2D(
            *group.values.T, color=series.color, linestyle=series.dashes, linewidth=1.2, marker=series.marker,
            markersize=4, markeredgewidth=0, label=group.label, clip_on=False, zorder=3,
        )  # fmt: skip
        axes.add_artist(line)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_box_aspect(1)
    axes.set_xlabel("attack success rate, normalised")
    axes.set_ylabel("clean accuracy drop, normalised")


def shaded(
    axes: Axes,
    squares: Sequence[Sequence[Square]],
    rows: Sequence[str],
    columns: Sequence[str],
    limits: tuple[float, float],
) -> QuadMesh:
    """Draw numbers as shades between two limits, and as text; a square without a number is hatched, never blank."""
    values = np.array([[np.nan if square.value is None else square.value for square in line] for line in squares])
    shades = colormaps[SHADES]
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(values), cmap=shades, vmin=limits[0], vmax=limits[1], edgecolors=PAPER, linewidth=1.5
    )
    span = (limits[1] - limits[0]) or 1.0
    for down, line in enumerate(squares):
        for right, square in enumerate(line):
            color = SOFT
            if square.value is None:
                box = Rectangle((right, down), 1, 1, facecolor="none", edgecolor=LINE, linewidth=0, hatch="////")
                axes.add_patch(box)
            else:
                color = _legible(shades((square.value - limits[0]) / span))
            axes.text(right + 0.5, down + 0.5, square.text, ha="center", va="center", size=7, color=color)
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return mesh


def heat_map(
    figure: Figure,
    axes: Axes,
    squares: Sequence[Sequence[Square]],
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    limits: tuple[float, float],
) -> None:
    """Draw numbers as shades between two limits, and as text; a square without a number is hatched, never blank."""
    mesh = shaded(axes, squares, rows, columns, limits)
    axes.tick_params("x", rotation=30)
    for text in axes.get_xticklabels():
        text.set(ha="right", rotation_mode="anchor")
    axes.set_xlabel("defense")
    axes.set_ylabel("attack")
    axes.set_title(label, size=8, loc="left")
    bar = figure.colorbar(mesh, ax=axes, fraction=0.05, aspect=max(4, 2.6 * len(rows)), pad=0.03)
    bar.outline.set_visible(False)


def _legible(shade: Sequence[float]) -> str:
    """Return the colour of letters on a shade."""
    red, green, blue, _ = shade
    return INK if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else PAPER


def finite_heights(values: Sequence[float]) -> list[float]:
    """Return the values, 0 for what is no number."""
    return [value if math.isfinite(value) else 0.0 for value in values]


def finite_values(values: np.ndarray) -> np.ndarray:
    """Return what is finite of scores of any shape, as ``float64 (N,)``."""
    found: np.ndarray = values[np.isfinite(values)].astype(float)
    return found


def _extremes(groups: Sequence[np.ndarray]) -> tuple[float, float]:
    everything = np.concatenate(groups)
    return float(everything.min()), float(everything.max())


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers that reach from at or below ``low`` to at or above ``high``."""
    if low == high:
        low, high = (low, high + 1) if low == 0 else (low - abs(low) / 2, high + abs(high) / 2)
    found = list(map(float, MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)))
    # An end that only rounding added shows nothing.
    while len(found) > 2 and found[1] <= low:
        found = found[1:]
    while len(found) > 2 and found[-2] >= high:
        found = found[:-1]
    return found


def _scale(axes: Axes, low: float, high: float, most: int = 5) -> None:
    """Let the vertical axis end at round numbers, with thin lines at all of them."""
    ticks = _ticks(low, high, most)
    axes.set_ylim(ticks[0], ticks[-1])
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FixedFormatter([number(tick) for tick in ticks]))
    ends = [(place, tick) for tick in ticks for place in (0.0, 1.0)]
    codes = [Path.MOVETO, Path.LINETO] * len(ticks)
    lines = PathPatch(Path(ends, codes), transform=axes.get_yaxis_transform(), edgecolor=LINE, facecolor="none")
    lines.set_linewidth(0.6)
    lines.set_zorder(0)
    axes.add_artist(lines)


def _rule(axes: Axes, value: float, text: str, *, horizontal: bool) -> None:
    """Draw a dashed line across at a value, with a text outside of the axes."""
    place = axes.get_yaxis_transform() if horizontal else axes.get_xaxis_transform()
    across, at = [0.0, 1.0], [value, value]
    line = Line2D(
        *((across, at) if horizontal else (at, across)), color=INK, linewidth=1, dashes=(4, 3), transform=place
    )
    axes.add_artist(line)
    if horizontal:
        axes.text(1, 1.02, text, transform=axes.transAxes, ha="right", va="bottom")
    elif text:
        axes.text(0, 1.02, text, transform=axes.transAxes, ha="left", va="bottom")
