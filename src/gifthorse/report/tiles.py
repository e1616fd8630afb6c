"""Sheets of small pictures with captions, for figures on paper."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gifthorse.report.style import LINE, SOFT, STAMPED, wrapped

_TILE, _GAP, _LINE, _MARGIN = 0.62, 0.1, 0.105, 0.06
"""Inches: the side of a picture, the space between two, the height of a line of text, the edge of the sheet."""
_SIZE = 6.0
_LETTER = 0.052
"""Inches that a letter takes."""


@dataclass(frozen=True, eq=False)
class Tile:
    """A picture ``uint8 (C, H, W)``, if any, with a caption; ``marked`` sets both off."""

    pixels: np.ndarray | None
    caption: str = ""
    marked: bool = False


@dataclass(frozen=True)
class TileRow:
    """Pictures side by side, what they are, and what stands above each."""

    label: str
    tiles: tuple[Tile, ...]
    heads: tuple[str, ...] = ()


def tile_sheet(rows: Sequence[TileRow], note: str) -> Figure:
    """Return a figure of rows of pictures with a note below, as large as they need."""
    columns = max(len(row.tiles) for row in rows)
    left = _MARGIN + _LETTER * _widest(row.label for row in rows) + _GAP
    words = [text for row in rows for text in (*row.heads, *(tile.caption for tile in row.tiles))]
    step = max(_TILE, _LETTER * _widest(words)) + _GAP
    width = left + columns * step + _MARGIN
    text = wrapped(note, width)
    height = _MARGIN + sum(map(_height, rows)) + _LINE * (_lines(text) + 0.5) + _MARGIN

    figure = Figure((width, height))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    top = height - _MARGIN
    for row in rows:
        centres = [left + (place + 0.5) * step for place in range(len(row.tiles))]
        upper = top - _above(row)
        for centre, head in zip(centres, row.heads, strict=False):
            axes.text(centre, upper + 0.03, head, size=_SIZE, ha="center", va="bottom")
        middle = upper - (_TILE if _pictured(row) else _below(row)) / 2
        axes.text(left - _GAP, middle, row.label, size=_SIZE, ha="right", va="center")
        for centre, tile in zip(centres, row.tiles, strict=True):
            under = upper
            if tile.pixels is not None:
                box = (centre - _TILE / 2, centre + _TILE / 2, upper - _TILE, upper)
                axes.imshow(_colours(tile.pixels), extent=box, interpolation="none", aspect="auto", zorder=1)
                color, thick = (STAMPED, 1.5) if tile.marked else (LINE, 0.5)
                frame = Rectangle((box[0], box[2]), _TILE, _TILE, facecolor="none", edgecolor=color, linewidth=thick)
                axes.add_patch(frame)
                frame.set_zorder(2)
                under -= _TILE + 0.03
            weight = "bold" if tile.marked else "normal"
            axes.text(centre, under, tile.caption, size=_SIZE, ha="center", va="top", weight=weight)
        top -= _height(row)
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.text(_MARGIN, _MARGIN, text, size=_SIZE, ha="left", va="bottom", color=SOFT)
    return figure


def gray(levels: np.ndarray) -> np.ndarray:
    """Return values in [0,1] of any shape as 8-bit levels; what is no number is black."""
    shown: np.ndarray = np.rint(255 * np.clip(np.nan_to_num(levels), 0, 1)).astype(np.uint8)
    return shown


def _height(row: TileRow) -> float:
    return _above(row) + (_TILE + 0.03 if _pictured(row) else 0.0) + _below(row) + _GAP


def _above(row: TileRow) -> float:
    return _LINE * max(map(_lines, row.heads)) + 0.03 if row.heads else 0.0


def _below(row: TileRow) -> float:
    return _LINE * max(_lines(tile.caption) for tile in row.tiles)


def _pictured(row: TileRow) -> bool:
    return any(tile.pixels is not None for tile in row.tiles)


def _lines(text: str) -> int:
    return text.count("\n") + 1 if text else 0


def _widest(texts: Iterable[str]) -> int:
    return max((len(line) for text in texts for line in text.split("\n")), default=0)


def _colours(pixels: np.ndarray) -> np.ndarray:
    """Return a picture as ``(H, W, 3)``; of other than three channels, the first."""
    channels = pixels if len(pixels) == 3 else np.repeat(pixels[:1], 3, axis=0)
    return channels.transpose(1, 2, 0)


def shortened(text: str, letters: int) -> str:
    """Return a text of at most so many letters.

    >>> shortened("automobile", 6), shortened("cat", 6)
    ('autom…', 'cat')
    """
    return text if len(text) <= letters else f"{text[: letters - 1]}…"
