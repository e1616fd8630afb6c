"""From arrays to pictures: WebP as data URIs, charts as inline SVG whose colours the style sheet sets."""

import base64
import io
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from PIL import Image

TILE = 56
"""Side of a small picture on screen, in CSS pixels, as near as whole magnification allows."""

_WIDTH, _LEFT, _RIGHT = 390, 40, 384
_BINS = 36


@dataclass(frozen=True)
class Picture:
    """An image file as a data URI, and the size at which it is shown."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Histogram:
    """One panel of a histogram: ``style`` is ``clean`` or ``stamped``."""

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
    # Without loss, and a third smaller than PNG.
    Image.fromarray(sheet).save(file, "WEBP", lossless=True, method=2)
    zoom = max(1, round(TILE / width))
    uri = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
    return Picture(uri, sheet.shape[1] * zoom, height * zoom)


def recovered_triggers(masks: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """Return mask × pattern per class ``uint8 (K, C, H, W)``: what the search would stamp, on black."""
    levels: np.ndarray = np.rint(np.clip(np.nan_to_num(masks), 0, 1) * patterns).astype(np.uint8)
    return levels


def bar_chart(values: Sequence[float], what: str, suspect: int | None = None, targets: Collection[int] = ()) -> Markup:
    """Return one bar per class with a line at the median, the suspect highlighted and the targets marked."""
    heights = [value if math.isfinite(value) else 0.0 for value in values]
    median = float(np.median(heights))
    ticks = _ticks(min(0.0, *heights), max(0.0, *heights))
    top, bottom = 20, 170
    scale = (bottom - top) / ((ticks[-1] - ticks[0]) or 1)

    def y(value: float) -> float:
        return bottom - (value - ticks[0]) * scale

    step = (_RIGHT - _LEFT) / len(heights)
    every = math.ceil(len(heights) / 20)
    # The numbers of many targets would overlap.
    numbered = {suspect, *(targets if len(targets) == 1 else ())}
    parts = [_grid(tick, y(tick)) for tick in ticks]
    for index, value in enumerate(heights):
        middle = _LEFT + (index + 0.5) * step
        parts.append(
            Markup(
                '<rect class="bar{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
            ).format(
                " suspect" if index == suspect else "",
                middle - 0.36 * step,
                min(y(value), y(0)),
                0.72 * step,
                max(abs(y(value) - y(0)), 0.5),
                f"class {index}: {value:.2f}",
            )
        )
        if index % every == 0 or index in numbered:
            parts.append(_text(index, middle, bottom + 14, "middle"))
        if index in targets:
            parts.append(
                Markup('<path class="target" d="M{:.1f} {} l4 7 h-8 z"/>').format(middle, bottom + 18),
            )
    parts.append(_line("median", _LEFT, y(median), _RIGHT, y(median)))
    parts.append(_text(f"median {median:.1f}", _RIGHT, top - 8, "end"))
    parts.append(_text("class", _LEFT - 6, bottom + 14, "end"))
    lowest = int(np.argmin(heights))
    summary = f"{what} of {len(heights)} classes; median {median:.1f}, smallest {heights[lowest]:.1f} (class {lowest})"
    return _svg(bottom + 28, summary, parts)


def histograms(panels: Sequence[Histogram], threshold: float, axis: str) -> Markup:
    """Return one panel above the other on a shared axis, with a line at a finite threshold; some value is finite."""
    finite = [panel.values[np.isfinite(panel.values)].astype(float) for panel in panels]
    marked = math.isfinite(threshold)
    everything = np.concatenate([*finite, [threshold] if marked else []])
    ticks = _ticks(float(everything.min()), float(everything.max()))
    edges = np.linspace(ticks[0], ticks[-1], _BINS + 1)
    across = (_RIGHT - _LEFT) / ((ticks[-1] - ticks[0]) or 1)
    panel_height, gap, top = 64, 30, 26

    def x(value: float) -> float:
        return _LEFT + (value - ticks[0]) * across

    parts = []
    for number, (panel, values) in enumerate(zip(panels, finite, strict=True)):
        bottom = top + panel_height + number * (panel_height + gap)
        shares = np.histogram(values, edges)[0] / max(len(values), 1)
        peak = float(shares.max()) or 1.0
        for share, start, end in zip(shares, edges[:-1], edges[1:], strict=True):
            if share > 0:
                height = max(panel_height * share / peak, 0.75)
                parts.append(
                    Markup(
                        '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
                    ).format(
                        panel.style,
                        x(start) + 0.3,
                        bottom - height,
                        x(end) - x(start) - 0.6,
                        height,
                        f"{start:.3g} to {end:.3g}: {share:.1%} of the {panel.title} images",
                    )
                )
        parts.append(_line("axis", _LEFT, bottom, _RIGHT, bottom))
        parts.append(_text(f"{panel.title} ({len(values)})", _RIGHT, bottom - panel_height + 4, "end"))
        parts.append(_text(f"{peak:.0%}", _LEFT - 6, bottom - panel_height + 8, "end"))
    last = top + len(panels) * (panel_height + gap) - gap
    parts += [_text(f"{tick:g}", x(tick), last + 14, "middle") for tick in ticks]
    if marked:
        parts.append(_line("median", x(threshold), top - 8, x(threshold), last))
        anchor = "middle" if 0.2 < (x(threshold) - _LEFT) / (_RIGHT - _LEFT) < 0.8 else "start"
        parts.append(_text(f"threshold {threshold:.3g}", x(threshold), top - 13, anchor))
    parts.append(_text(axis, (_LEFT + _RIGHT) / 2, last + 30, "middle"))
    means = ", ".join(
        f"{panel.title} mean {values.mean():.3g}" for panel, values in zip(panels, finite, strict=True) if len(values)
    )
    return _svg(last + 36, f"Histogram of {axis}: {means}; threshold {threshold:.3g}", parts)


def _svg(height: float, summary: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, height, summary, Markup("").join(parts)
    )


def _line(style: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(style, x1, y1, x2, y2)


def _text(text: object, x: float, y: float, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _grid(value: float, y: float) -> Markup:
    return _line("grid", _LEFT, y, _RIGHT, y) + _text(f"{value:g}", _LEFT - 6, y + 4, "end")


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers, at least two, that reach from at or below ``low`` to at or above ``high``."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power * 4 >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]
