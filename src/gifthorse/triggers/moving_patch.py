"""A patch that is somewhere else on every image: at a random place, or at one of a list of places."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gifthorse.core.seeds import image_draws
from gifthorse.triggers.pattern import PatternTrigger
from gifthorse.triggers.places import paste


class MovingPatch(PatternTrigger):
    """Covers a window, at its own place on every image, with a pattern at a transparency.

    ``window`` is ``(1, h, w)`` in {0,1}, ``pattern`` is ``(C, h, w)`` in [0,1]. ``positions`` are the rows and columns
    that the window's top left may take; without them it may lie anywhere in the image.
    """

    name = "moving_patch"
    mask = None
    window: Tensor

    def __init__(
        self,
        window: Tensor,
        pattern: Tensor,
        transparency: float = 0.0,
        positions: Sequence[Sequence[int]] | None = None,
    ):
        super().__init__()
        self.register_buffer("window", window)
        self.register_buffer("pattern", pattern)
        self.transparency = transparency
        self.positions = None if positions is None else [list(position) for position in positions]

    @property
    def shown(self) -> Tensor:
        """The window."""
        return self.window

    def embed_pattern(self, pixels: Tensor, pattern: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return images that show another pattern ``(C, h, w)``, each at its own place, not rounded."""
        return paste(pixels, pattern, self.window, self._places(pixels, generator), self.transparency)

    def settings(self) -> dict[str, Any]:
        """Return the transparency and the positions."""
        return {"transparency": self.transparency, "positions": self.positions}

    def _places(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return row and column ``int64 (N, 2)`` of each image's window."""
        height, width = self.window.shape[1:]
        across = pixels.shape[3] - width + 1
        count = (pixels.shape[2] - height + 1) * across if self.positions is None else len(self.positions)
        if generator is None:
            drawn = image_draws(pixels, 0, count, 1).squeeze(1)
        else:
            drawn = torch.randint(0, count, (len(pixels),), generator=generator, device=pixels.device)
        if self.positions is None:
            return torch.stack([drawn // across, drawn % across], 1)
        return torch.tensor(self.positions, device=pixels.device)[drawn]
