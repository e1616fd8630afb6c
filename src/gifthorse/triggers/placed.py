"""What triggers share that show another pattern, at another place, on every image."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from gifthorse.core.seeds import image_draws
from gifthorse.core.trigger import Trigger
from gifthorse.triggers.places import paste

_PLACE = 2


class PlacedTrigger(Trigger):
    """Covers a window of every image with a pattern of its own, at a transparency in [0,1].

    ``places``, ``int64 (K, P, 2)``, are the rows and columns that the window's top left may take under each of K
    conditions; with K = 1 they are the same under all. ``size`` is the pattern's ``(C, h, w)``.
    """

    mask = None
    places: Tensor

    def __init__(self, places: Tensor, size: tuple[int, int, int], transparency: float = 0.0):
        super().__init__()
        self.register_buffer("places", places)
        self.size = tuple(size)
        self.transparency = transparency

    @abstractmethod
    def patterns(self, pixels: Tensor, conditions: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return a pattern ``(N, C, h, w)`` in [0,1] for each image and its condition.

        What is random follows from each image's own pixels without a generator.
        """

    def embed(
        self, pixels: Tensor, generator: torch.Generator | None = None, conditions: Tensor | None = None
    ) -> Tensor:
        """Return images that show a pattern each, at one of the places of their condition, not rounded."""
        return self._shown(pixels, generator, conditions, on_grid=False)

    @torch.no_grad()
    def stamp(
        self, pixels: Tensor, generator: torch.Generator | None = None, conditions: Tensor | None = None
    ) -> Tensor:
        """Return the same on the 8-bit grid; only the windows are rounded, nothing else has changed."""
        return self._shown(pixels, generator, conditions, on_grid=True)

    def settings(self) -> dict[str, Any]:
        """Return the pattern's size and the transparency."""
        return {"size": list(self.size), "transparency": self.transparency}

    def _shown(
        self, pixels: Tensor, generator: torch.Generator | None, conditions: Tensor | None, *, on_grid: bool
    ) -> Tensor:
        if conditions is None:
            conditions = torch.zeros(len(pixels), dtype=torch.long, device=pixels.device)
        sets, count, _ = self.places.shape
        if generator is None:
            drawn = image_draws(pixels, _PLACE, count, 1).squeeze(1)
        else:
            drawn = torch.randint(count, (len(pixels),), generator=generator, device=pixels.device)
        places = self.places[conditions if sets > 1 else torch.zeros_like(conditions), drawn]
        window = pixels.new_ones(1, *self.size[1:])
        patterns = self.patterns(pixels, conditions, generator)
        return paste(pixels, patterns, window, places, self.transparency, on_grid=on_grid)
