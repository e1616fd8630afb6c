"""Steganography: the lowest bits of every pixel are a pattern's, all higher bits the image's own."""

from typing import Any

import torch
from torch import Tensor

from gifthorse.core.trigger import Trigger


class LowBits(Trigger):
    """Replaces the ``bits`` lowest of eight of every pixel by those of a pattern ``uint8 (C, H, W)``.

    With a transparency in [0,1] pixels go only a part of the way; at 0 the pattern can be read off exactly.
    """

    name = "low_bits"
    mask = None
    pattern: Tensor

    def __init__(self, pattern: Tensor, bits: int, transparency: float = 0.0):
        super().__init__()
        self.register_buffer("pattern", pattern)
        self.bits = bits
        self.transparency = transparency

    def embed(
        self,
        pixels: Tensor,
        generator: torch.Generator | None = None,  # noqa: ARG002
        conditions: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return images with the pattern in their low bits, the same under every condition.

        Replacing bits has no gradient: an image's own pixels pass theirs on as if something were added to them.
        """
        levels, replaced = (pixels.detach() * 255).round(), 2**self.bits
        change = self.pattern.to(levels).remainder(replaced) - levels.remainder(replaced)
        return torch.where(change == 0, pixels, pixels + (1 - self.transparency) * change / 255)

    def settings(self) -> dict[str, Any]:
        """Return how many bits are replaced, and the transparency."""
        return {"bits": self.bits, "transparency": self.transparency}
