"""A patch of fresh noise on every image, at one of some places.

Paper: Dynamic Backdoors (Salem et al. 2020, arXiv:2003.03675), section 3.1.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from gifthorse.core.seeds import image_noise
from gifthorse.triggers.placed import PlacedTrigger

Distribution = Literal["uniform", "gaussian"]
_PATTERN = 3
_NEAREST = 1e-6
"""To 0 and 1, where the normal distribution has its infinities."""


class NoisePatch(PlacedTrigger):
    """Shows noise, drawn anew for every image: uniform in [0,1], or Gaussian around grey and clipped to [0,1]."""

    name = "noise_patch"

    def __init__(
        self,
        places: Tensor,
        size: tuple[int, int, int],
        transparency: float = 0.0,
        distribution: Distribution = "uniform",
        deviation: float = 0.25,
    ):
        super().__init__(places, size, transparency)
        self.distribution: Distribution = distribution
        self.deviation = deviation

    def patterns(self, pixels: Tensor, conditions: Tensor, generator: torch.Generator | None) -> Tensor:  # noqa: ARG002
        """Return noise ``(N, C, h, w)`` in [0,1], the same under every condition."""
        if generator is None:
            noise = image_noise(pixels, _PATTERN, math.prod(self.size)).view(-1, *self.size)
        else:
            noise = torch.rand(len(pixels), *self.size, generator=generator, device=pixels.device)
        if self.distribution == "uniform":
            return noise
        normal = (2 * noise.clamp(_NEAREST, 1 - _NEAREST) - 1).erfinv() * math.sqrt(2)
        return (0.5 + self.deviation * normal).clamp(0, 1)

    def settings(self) -> dict[str, Any]:
        """Return size, transparency and what the noise is."""
        return super().settings() | {"distribution": self.distribution, "deviation": self.deviation}
