"""A patch: fixed pixels at a fixed place; and the shapes and patterns that patches are made of."""

from typing import Any, Literal

import torch
from torch import Tensor

from gifthorse.core.errors import RequestError
from gifthorse.core.trigger import blend, on_grid
from gifthorse.triggers.pattern import PatternTrigger

Corner = Literal["top_left", "top_right", "bottom_left", "bottom_right", "center"]
PatchPattern = Literal["white", "black", "checkerboard", "random"]


class Patch(PatternTrigger):
    """Covers the pixels of a mask with a pattern, at a transparency.

    ``mask`` is ``(1, H, W)`` in {0,1}, ``pattern`` is ``(C, H, W)`` in [0,1], ``transparency`` in [0,1].
    """

    name = "patch"
    mask: Tensor

    def __init__(self, mask: Tensor, pattern: Tensor, transparency: float = 0.0):
        super().__init__()
        self.register_buffer("mask", mask)
        self.register_buffer("pattern", pattern)
        self.transparency = transparency

    @property
    def shown(self) -> Tensor:
        """The mask."""
        return self.mask

    def embed_pattern(self, pixels: Tensor, pattern: Tensor, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG002
        """Return images that show another pattern ``(C, H, W)`` on the mask, not rounded."""
        return blend(pixels, self.mask, pattern, self.transparency)

    def settings(self) -> dict[str, Any]:
        """Return the transparency."""
        return {"transparency": self.transparency}


def square(shape: tuple[int, int, int], size: int, position: Corner | tuple[int, int]) -> Tensor:
    """Return the mask ``(1, H, W)`` of a square; ``position`` is a corner or the row and column of its top left."""
    _, height, width = shape
    if size > min(height, width):
        raise RequestError(f"a trigger of {size}×{size} does not fit an image of {height}×{width}")
    last_row, last_column = height - size, width - size
    named = {
        "top_left": (0, 0),
        "top_right": (0, last_column),
        "bottom_left": (last_row, 0),
        "bottom_right": (last_row, last_column),
        "center": (last_row // 2, last_column // 2),
    }
    row, column = named[position] if isinstance(position, str) else position
    if not (0 <= row <= last_row and 0 <= column <= last_column):
        raise RequestError(f"a trigger of {size}×{size} at {[row, column]} leaves an image of {height}×{width}")
    mask = torch.zeros(1, height, width)
    mask[:, row : row + size, column : column + size] = 1
    return mask


def scattered(shape: tuple[int, int, int], count: int, generator: torch.Generator) -> Tensor:
    """Return a mask ``(1, H, W)`` of so many single pixels, drawn anywhere in the image."""
    _, height, width = shape
    if count > height * width:
        raise RequestError(f"{count} trigger pixels do not fit an image of {height}×{width}")
    mask = torch.zeros(height * width)
    mask[torch.randperm(height * width, generator=generator)[:count]] = 1
    return mask.view(1, height, width)


def fill(shape: tuple[int, int, int], pattern: PatchPattern, generator: torch.Generator) -> Tensor:
    """Return the pattern ``(C, H, W)`` on the 8-bit grid that a mask will cut from; ``random`` is uniform noise."""
    channels, height, width = shape
    if pattern == "random":
        return on_grid(torch.rand(shape, generator=generator))
    if pattern == "checkerboard":
        rows, columns = torch.arange(height).unsqueeze(1), torch.arange(width)
        return ((rows + columns + 1) % 2).float().expand(channels, height, width).clone()
    return torch.full(shape, 1.0 if pattern == "white" else 0.0)
