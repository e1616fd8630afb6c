"""Charts within a page: what was drawn on axes, as SVG so small and so fast that a page may have a thousand.

Matplotlib lays out every tick with its font before it draws it, 15 ms a chart and 10 kB; here ticks and texts are left
to the browser, and everything else is drawn by matplotlib. Colours of :mod:`gifthorse.report.style` become those of the
page, light or dark. No element has an id.
"""

import base64
import io
from collections.abc import Iterable, Sequence

import numpy as np
from markupsafe import Markup, escape
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import GraphicsContextBase, RendererBase
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.transforms import Transform
from matplotlib.typing import ColorType
from numpy.typing import ArrayLike
from PIL import Image

from gifthorse.report.plots import Bars
from gifthorse.report.style import BAR, BLACK, CLEAN, INK, LINE, PAPER, SOFT, STAMPED

_OF_THE_PAGE = {
    INK: "--ink",
    SOFT: "--soft",
    LINE: "--line",
    BAR: "--bar",
    PAPER: "--paper",
    CLEAN: "--clean",
    STAMPED: "--stamped",
    BLACK: "--ink",
}
_LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}
_ANCHORS = {"left": "start", "center": "middle", "right": "end"}
_RAISED = {"top": 9.0, "center": 4.0, "bottom": 0.0, "baseline": 0.0, "center_baseline": 4.0}
"""By how much a baseline lies below the place of a text, in pixels of the page's 11-pixel letters."""


def blank(width: int, height: int, boxes: Sequence[tuple[float, float, float, float]]) -> list[Axes]:
    """Return axes on a figure of so many pixels; a box is left, right, top and bottom in pixels from the top left."""
    figure = Figure((width / 72, height / 72), dpi=72)
    panels = []
    for left, right, top, bottom in boxes:
        place = left / width, 1 - bottom / height, (right - left) / width, (bottom - top) / height
        panels.append(figure.add_axes(place))
    return panels


def clear(panels: Iterable[Axes]) -> None:
    """Take away what was drawn, scales and labels aside: much faster than new axes, or than clearing these."""
    for axes in panels:
        for artist in (*axes.patches, *axes.lines, *axes.collections, *axes.images, *axes.texts):
            artist.remove()
        axes.spines["bottom"].set_visible(True)


def to_svg(panels: Sequence[Axes], summary: str) -> Markup:
    """Return what was drawn on axes of :func:`blank`, described by a summary for who does not see it."""
    figure = panels[0].get_figure()
    assert isinstance(figure, Figure)
    width, height = figure.get_size_inches() * 72
    page = _Page(float(height))
    for axes in panels:
        _draw(axes, page)
    head = f'<svg viewBox="0 0 {_short(width)} {_short(height)}" role="img" aria-label="{escape(summary)}">'
    return Markup(head + "".join(page.parts) + "</svg>")  # noqa: S704 (every text in it is escaped)


class _Page(RendererBase):
    """Collects SVG elements; pixels count from the top."""

    def __init__(self, height: float):
        super().__init__()
        self.height = height
        self.parts: list[str] = []

    def draw_path(
        self,
        gc: GraphicsContextBase,
        path: Path,
        transform: Transform,
        rgbFace: ColorType | None = None,  # noqa: N803
    ) -> None:
        """Add one element for a path."""
        points = _points(transform, path.vertices)
        codes = (
            [Path.MOVETO] + [Path.LINETO] * (len(points) - 1)
            if path.codes is None
            else np.asarray(path.codes, int).tolist()
        )
        words, before = [], None
        for (x, y), code in zip(points, codes, strict=True):
            letter = _LETTERS[code] if code != before or code == Path.MOVETO else " "
            words.append("Z" if code == Path.CLOSEPOLY else f"{letter}{_short(x)} {_short(self.height - y)}")
            before = code
        paint = f' fill="{"none" if rgbFace is None else of_the_page(rgbFace)}"'
        width = gc.get_linewidth()
        if width > 0:
            paint += f' stroke="{of_the_page(gc.get_rgb())}"' + (
                "" if width == 1 else f' stroke-width="{_short(width)}"'
            )
            _, dashes = gc.get_dashes()
            if dashes is not None:
                paint += f' stroke-dasharray="{" ".join(map(_short, np.asarray(dashes, float).tolist()))}"'
        self.parts.append(f'<path d="{"".join(words)}"{paint}/>')

    def draw_markers(
        self,
        gc: GraphicsContextBase,
        marker_path: Path,
        marker_trans: Transform,
        path: Path,
        trans: Transform,
        rgbFace: ColorType | None = None,  # noqa: N803
    ) -> None:
        """Add one element for all markers of a line: filled circles and squares as dots, others by their outline."""
        places = [(x, y) for x, y in _points(trans, path.vertices) if np.isfinite([x, y]).all()]
        outline = np.asarray(_points(marker_trans, marker_path.vertices))
        codes = [] if marker_path.codes is None else np.asarray(marker_path.codes, int).tolist()
        ends = np.ptp(outline, axis=0).max()
        edge = gc.get_linewidth()
        plain = rgbFace is not None and (edge == 0 or to_hex(rgbFace) == to_hex(gc.get_rgb()))
        round_one = Path.CURVE4 in codes
        square = len(outline) == 5 and len({*outline[:, 0].round(6)}) == 2
        if plain and (round_one or square):
            dots = "".join(f"M{_short(x)} {_short(self.height - y)}h0" for x, y in places)
            cap = "round" if round_one else "square"
            stroke = f'stroke="{of_the_page(rgbFace)}" stroke-width="{_short(ends + edge)}" stroke-linecap="{cap}"'  # type: ignore[arg-type]
            self.parts.append(f'<path d="{dots}" {stroke}/>')
            return
        if round_one:
            half = _short(ends / 2)
            shape = f"m-{half} 0a{half} {half} 0 1 0 {_short(ends)} 0a{half} {half} 0 1 0-{_short(ends)} 0z"
        else:
            shape = _relative(outline, marker_path.codes)
        drawn = "".join(f"M{_short(x)} {_short(self.height - y)}{shape}" for x, y in places)
        fill = "none" if rgbFace is None else of_the_page(rgbFace)
        line = f' stroke="{of_the_page(gc.get_rgb())}" stroke-width="{_short(edge)}"' if edge else ""
        self.parts.append(f'<path d="{drawn}" fill="{fill}"{line}/>')

    def option_scale_image(self) -> bool:
        """Tell that images come as they are, and that the page stretches them."""
        return True

    def draw_image(
        self,
        gc: GraphicsContextBase,  # noqa: ARG002
        x: float,
        y: float,
        im: ArrayLike,
        transform: Transform | None = None,
    ) -> None:
        """Add a picture ``uint8 (H, W, 4)`` without smoothing; ``transform`` says where the unit square is to be.

        As matplotlib has it, the first row belongs where that begins.
        """
        assert transform is not None
        corners = np.asarray(_points(transform, [(0, 0), (1, 1)])) + np.array([x, y])
        (left, low), (right, high) = corners.min(0), corners.max(0)
        pixels = np.asarray(im)[:: 1 if corners[0, 1] > corners[1, 1] else -1]
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, "WEBP", lossless=True)
        self.parts.append(
            f'<image x="{_short(left)}" y="{_short(self.height - high)}" width="{_short(right - left)}"'
            f' height="{_short(high - low)}" preserveAspectRatio="none" style="image-rendering:pixelated"'
            f' href="data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"/>'
        )

    def bars(self, bars: Bars, transform: Transform) -> None:
        """Add rectangles, each with its text, which shows where it is pointed at."""
        places = _points(transform, bars.corners)
        color = of_the_page(bars.color)
        for (left, low), (right, high), text in zip(places[::2], places[1::2], bars.texts, strict=True):
            top, tall = self.height - max(low, high), max(abs(high - low), 0.5)
            self.parts.append(
                f'<rect x="{_short(left)}" y="{_short(top)}" width="{_short(right - left)}" height="{_short(tall)}"'
                f' fill="{color}"><title>{escape(text)}</title></rect>'
            )

    def text(self, x: float, y: float, text: object, anchor: str, turned: bool = False, color: str = "") -> None:
        """Add a text, in the page's own colour unless given; ``turned``, it is read from below."""
        place = f'x="{_short(x)}" y="{_short(self.height - y)}"'
        if turned:
            place += f' transform="rotate(-90 {_short(x)} {_short(self.height - y)})"'
        place += f' style="fill:{color}"' if color else ""
        self.parts.append(f'<text {place} text-anchor="{anchor}">{escape(text)}</text>')


def _draw(axes: Axes, page: _Page) -> None:
    """Draw all that is on axes, then the ticks, the labels and the line below."""
    drawn: list[Artist] = [*axes.images, *axes.patches, *axes.collections, *axes.lines]
    for artist in sorted(drawn, key=Artist.get_zorder):
        if isinstance(artist, Bars):
            page.bars(artist, axes.transData)
        else:
            artist.draw(page)
    box, named = axes.bbox, axes.get_xlabel() != ""
    if axes.spines["bottom"].get_visible():
        ground = f"M{_short(box.x0)} {_short(page.height - box.y0)}H{_short(box.x1)}"
        page.parts.append(f'<path d="{ground}" stroke="{of_the_page(SOFT)}"/>')
    for axis in (axes.xaxis, axes.yaxis):
        upright = axis is axes.yaxis
        places = list(axis.get_majorticklocs())
        points = _points(axes.transData, [(0.0, place) if upright else (place, 0.0) for place in places])
        for (x, y), text in zip(points, axis.get_major_formatter().format_ticks(places), strict=True):
            if upright:
                page.text(box.x0 - 6, y - 4, text, "end")
            elif named:
                page.text(x, box.y0 - 18, text, "middle")
    if named:
        page.text((box.x0 + box.x1) / 2, box.y0 - 34, axes.get_xlabel(), "middle")
    if axes.get_ylabel():
        page.text(11, (box.y0 + box.y1) / 2, axes.get_ylabel(), "middle", turned=True)
    for each in axes.texts:
        ((x, y),) = _points(each.get_transform(), [each.get_unitless_position()])
        raised = y - _RAISED[each.get_verticalalignment()]
        color = to_hex(each.get_color())
        own = "" if color == BLACK else color
        page.text(x, raised, each.get_text(), _ANCHORS[each.get_horizontalalignment()], color=own)


def _points(transform: Transform, places: ArrayLike) -> list[list[float]]:
    """Return where places are, in pixels from the bottom left."""
    found: list[list[float]] = transform.transform(np.asarray(places, float)).tolist()
    return found


def _relative(outline: np.ndarray, codes: ArrayLike | None) -> str:
    """Return the outline of a marker, seen from its middle, as a path that begins where one stands."""
    kinds = [Path.MOVETO] + [Path.LINETO] * (len(outline) - 1) if codes is None else np.asarray(codes, int).tolist()
    words, before = [], np.zeros(2)
    for point, kind in zip(outline.round(1), kinds, strict=True):
        if kind == Path.CLOSEPOLY:
            words.append("z")
            continue
        right, down = (point[0] - before[0], before[1] - point[1])
        words.append(f"{'m' if kind == Path.MOVETO else 'l'}{_short(right)} {_short(down)}")
        before = point
    return "".join(words)


def of_the_page(color: ColorType) -> str:
    """Return the page's own colour for one of ours, where it has one, and ours where it has not."""
    hexadecimal = to_hex(color)
    variable = _OF_THE_PAGE.get(hexadecimal)
    return f"var({variable},{hexadecimal})" if variable else hexadecimal


def _short(value: float) -> str:
    """Return a length to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")
