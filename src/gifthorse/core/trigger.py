"""The trigger and the one place where its blending formula is written.

TrojanZoo (equation 1) prints α as the pattern's weight and m = 1 for "keep", while its text and tables use α as
transparency. Here m = 1 is "stamp" and α is transparency (0 opaque, 1 invisible):

    x ⊕ r = (1 − m) ⊙ x + m ⊙ [α x + (1 − α) p]
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class Trigger(nn.Module, ABC):
    """Stamps images, each on its own.

    ``mask`` is ``(1, H, W)`` in {0,1} where the trigger has fixed pixels, and ``None`` where it has not. Tensors that
    make the trigger are buffers; ``settings`` returns the rest, so that ``Trigger(**settings, **buffers)`` is its copy.
    """

    name: ClassVar[str]
    mask: Tensor | None

    @abstractmethod
    def stamp(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return stamped copies of ``(N, C, H, W)`` in [0,1], on the 8-bit grid, leaving the input alone."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the JSON-ready constructor arguments that are not buffers."""


def blend(pixels: Tensor, mask: Tensor, pattern: Tensor, transparency: float) -> Tensor:
    """Return ``x ⊕ r`` as the module's formula says, without rounding (so that it can be differentiated).

    ``pixels`` is ``(..., C, H, W)``; ``mask`` and ``pattern`` broadcast against it.

    >>> x, m, p = torch.tensor([0.2, 0.2]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0])
    >>> blend(x, m, p, 0.75)
    tensor([0.2000, 0.4000])
    """
    return pixels + mask * (1 - transparency) * (pattern - pixels)


def on_grid(pixels: Tensor) -> Tensor:
    """Round pixels in [0,1] to the 256 levels that a PNG can hold."""
    return (pixels * 255).round().clamp(0, 255) / 255
