"""Where small triggers lie: sets of places, and pasting a pattern at another place of every image.

Paper: Dynamic Backdoors (Salem et al. 2020, arXiv:2003.03675), section 3.1 and Figure 2 (a region for every target,
    in which the places move vertically), section 4.7 (4, 8, 16 places, or all).
Differs: where the four, eight and sixteen places lie is not said: on a grid from corner to corner.
"""

import math

import torch
from torch import Tensor

from gifthorse.core.errors import RequestError
from gifthorse.core.trigger import blend, rounded

Size = tuple[int, int]
"""Height and width of a window, in pixels."""


def paste(
    pixels: Tensor, patterns: Tensor, window: Tensor, places: Tensor, transparency: float, *, on_grid: bool = False
) -> Tensor:
    """Return images ``(N, C, H, W)`` with a pattern each, not rounded, or rounded to the 8-bit grid where it shows.

    ``patterns`` is ``(C, h, w)``, or ``(N, C, h, w)`` where every image has its own; ``window (1, h, w)`` in {0,1} says
    where it shows; ``places``, ``int64 (N, 2)``, are row and column of the window's top left in each image.
    """
    height, width = window.shape[1:]
    if (height, width) == pixels.shape[2:]:
        embedded = blend(pixels, window, patterns, transparency)
        return rounded(embedded, pixels) if on_grid else embedded
    top, left = places.unbind(1)
    rows = top.view(-1, 1, 1) + torch.arange(height, device=pixels.device).view(1, -1, 1)
    columns = left.view(-1, 1, 1) + torch.arange(width, device=pixels.device)
    where = torch.arange(len(pixels), device=pixels.device).view(-1, 1, 1), rows, columns
    stamped = pixels.clone()
    channels_last = stamped.permute(0, 2, 3, 1)
    covered = channels_last[where].permute(0, 3, 1, 2)
    embedded = blend(covered, window, patterns, transparency)
    channels_last[where] = (rounded(embedded, covered) if on_grid else embedded).permute(0, 2, 3, 1)
    return stamped


def anywhere(shape: tuple[int, int, int], size: Size) -> Tensor:
    """Return every place ``int64 (P, 2)``, row and column, where a window fits into images ``(C, H, W)``."""
    rows, columns = _room(shape, size)
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).view(-1, 2)


def grid(shape: tuple[int, int, int], size: Size, count: int) -> Tensor:
    """Return ``count`` places ``int64 (P, 2)`` on a grid from corner to corner: 4 are the corners.

    :class:`RequestError` where so many do not fit.
    """
    rows, columns = _room(shape, size)
    down = max(each for each in range(1, math.isqrt(count) + 1) if count % each == 0)
    across = count // down
    if down > rows or across > columns:
        raise RequestError(
            f"{count} locations ({down}×{across}) of a {_said(size)} trigger do not fit an image of {_said(shape[1:])}"
        )
    return torch.cartesian_prod(_spread(rows, down), _spread(columns, across)).view(-1, 2)


def center(shape: tuple[int, int, int], size: Size) -> Tensor:
    """Return the four places ``int64 (4, 2)`` of windows around the centre, beside each other where they fit."""
    down, across = (
        torch.tensor([max(side // 2 - own, 0), min(side // 2, room - 1)])
        for side, own, room in zip(shape[1:], size, _room(shape, size), strict=True)
    )
    return torch.cartesian_prod(down, across)


def bands(shape: tuple[int, int, int], size: Size, sets: int) -> Tensor:
    """Return disjoint sets of places ``int64 (sets, P, 2)``, which move vertically in a region of the image for each.

    :class:`RequestError` where the image has no room for so many.
    """
    _room(shape, size)
    columns = min(sets, shape[2] // size[1])
    rows = math.ceil(sets / columns)
    high, wide = shape[1] // rows, shape[2] // columns
    if high < size[0]:
        raise RequestError(
            f"an image of {_said(shape[1:])} has no room for {sets} bands of a {_said(size)} trigger: "
            "make it smaller, or name fewer targets"
        )
    corners = torch.cartesian_prod(torch.arange(rows) * high, torch.arange(columns) * wide).view(-1, 1, 2)[:sets]
    moves = torch.stack([torch.arange(high - size[0] + 1), torch.zeros(high - size[0] + 1, dtype=torch.long)], 1)
    return corners + moves


def split(places: Tensor, sets: int) -> Tensor:
    """Return ``places (P, 2)`` dealt out to disjoint sets ``(sets, P // sets, 2)``, one after the other.

    :class:`RequestError` where there are fewer places than sets.
    """
    each = len(places) // sets
    if each < 1:
        raise RequestError(
            f"{sets} targets need a location each, there are {len(places)}: name more, fewer targets, or disjoint=false"
        )
    return places[: each * sets].view(each, sets, 2).transpose(0, 1).contiguous()


def _room(shape: tuple[int, int, int], size: Size) -> tuple[int, int]:
    """Return how many rows and columns a window may begin in."""
    rows, columns = shape[1] - size[0] + 1, shape[2] - size[1] + 1
    if rows < 1 or columns < 1:
        raise RequestError(f"a trigger of {_said(size)} does not fit an image of {_said(shape[1:])}")
    return rows, columns


def _spread(room: int, count: int) -> Tensor:
    """Return so many positions from the first to the last, ``int64 (count,)``; one is the first."""
    return torch.linspace(0, room - 1, count).round().long()


def _said(size: tuple[int, ...]) -> str:
    return "×".join(map(str, size))
