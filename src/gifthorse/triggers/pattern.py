"""What triggers that show one pattern share: the pattern is a tensor that an attack may optimise."""

from abc import abstractmethod

import torch
from torch import Tensor

from gifthorse.core.trigger import Trigger, on_grid


class PatternTrigger(Trigger):
    """Shows the same pattern on every image, at a transparency in [0,1]; the pattern is a buffer, also in [0,1]."""

    pattern: Tensor
    transparency: float

    @property
    @abstractmethod
    def shown(self) -> Tensor:
        """Where the pattern shows: 1, elsewhere 0; broadcasts against ``pattern``."""

    @abstractmethod
    def embed_pattern(self, pixels: Tensor, pattern: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return images that show another pattern of the same shape, not rounded, so that it can be optimised."""

    def embed(
        self,
        pixels: Tensor,
        generator: torch.Generator | None = None,
        conditions: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return images that show the pattern, the same under every condition, not rounded."""
        return self.embed_pattern(pixels, self.pattern, generator)

    def show(self, pattern: Tensor) -> None:
        """Show another pattern of the same shape from now on, rounded to the 8-bit grid, where anything shows."""
        self.pattern.copy_(torch.where(self.shown.bool(), on_grid(pattern), self.pattern))
