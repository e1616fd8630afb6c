"""How figures look: few colours, told apart by colour-blind readers as well, each with a line style and a marker.

Colours of series are those of Okabe and Ito 2008, "Color Universal Design", without the yellow that white paper hides.
"""

import io
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from textwrap import fill
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure

from gifthorse.core.metric import Metric

INK, SOFT, LINE, BAR, PAPER = "#1b1f24", "#59636e", "#d8dee4", "#9aa7b4", "#ffffff"
BLACK = "#000000"
CLEAN, STAMPED = "#0072b2", "#d55e00"
SHADES = "cividis"
"""The colour map of heat maps: from dark blue to yellow, evenly lighter, the same to most colour-blind readers."""

COLUMN, PAGE = 3.4, 7.0
"""Widths in inches: one column of a paper in two, and all of it."""
_NOTE_SIZE = 6.0
_LETTERS = 21
"""Letters of a note that fit an inch."""


@dataclass(frozen=True)
class Series:
    """What tells one line from the others."""

    color: str
    dashes: Any
    marker: str


SERIES = (
    Series(CLEAN, "-", "o"),
    Series(STAMPED, "--", "s"),
    Series("#009e73", "-.", "^"),
    Series("#cc79a7", ":", "D"),
    Series("#e69f00", (0, (5, 1, 1, 1, 1, 1)), "v"),
    Series("#56b4e9", (0, (3, 1)), "P"),
    Series(BLACK, (0, (1, 1)), "X"),
)

SET_OFF = Series(STAMPED, "-", "X")
"""What is set off from all others."""


def series_of(names: Sequence[str], set_off: Collection[str] = ()) -> dict[str, Series]:
    """Return how each of some groups is drawn: no two of up to forty alike, those that are set off in their colour."""
    others = [each for each in SERIES if not set_off or each.color != SET_OFF.color]
    markers = [each.marker for each in SERIES if each.marker != SET_OFF.marker]
    found: dict[str, Series] = {}
    plain = 0
    for name in names:
        if name in set_off:
            place = sum(each in set_off for each in found)
            marker, dashes = [SET_OFF.marker, *markers][place % len(SERIES)], SERIES[place % len(SERIES)].dashes
            found[name] = replace(SET_OFF, marker=marker, dashes=dashes)
        else:
            base, turn = others[plain % len(others)], plain // len(others)
            place = markers.index(base.marker) if base.marker in markers else 0
            found[name] = replace(base, marker=markers[(place + turn) % len(markers)]) if turn else base
            plain += 1
    return found


_STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "hatch.linewidth": 0.6,
    "savefig.dpi": 300,
    # Names of classes and methods are whatever their authors chose; a dollar sign in them is no formula.
    "text.parse_math": False,
    # Fonts that a journal takes, and text that stays text.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "gifthorse",
}
UNDATED: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}


@contextmanager
def styled() -> Iterator[None]:
    """Draw and save in the style of this module, whatever the user's own settings of matplotlib."""
    with matplotlib.style.context(["default", _STYLE]):
        yield


def encode(figure: Figure, form: str) -> bytes:
    """Return the figure as a ``pdf``, ``svg`` or ``png``: the same figure is the same bytes, today and tomorrow."""
    file = io.BytesIO()
    figure.savefig(file, format=form, metadata=UNDATED[form])
    return file.getvalue()


def sheet(width: float, height: float, note: str) -> Figure:
    """Return an empty figure, in inches, with a note in small letters below what will be drawn."""
    figure = Figure((width, height), layout="constrained")
    figure.supxlabel(wrapped(note, width), x=0.01, ha="left", size=_NOTE_SIZE, color=SOFT)
    return figure


def wrapped(text: str, width: float) -> str:
    """Return the text of a note in lines that fit so many inches; a number stays with its unit."""
    for kept in ("n = ", "95 %"):
        text = text.replace(kept, kept.replace(" ", "\N{NO-BREAK SPACE}"))
    return fill(text, int(_LETTERS * width))


def axis_label(metric: Metric) -> str:
    """Return what a metric is called at an axis, with its unit.

    >>> from gifthorse.core.metric import METRICS
    >>> axis_label(METRICS["attack.asr"]), axis_label(METRICS["defense.auroc"])
    ('trojan: attack success rate [%]', 'area under the ROC curve')
    """
    return f"{metric.title} [{metric.unit.symbol}]" if metric.unit.symbol else metric.title


def number(value: float) -> str:
    """Return a number as axes show it.

    >>> number(0.05), number(-20.0), number(1e-05)
    ('0.05', '−20', '1e−05')
    """
    return f"{value:g}".replace("-", "−")
