"""A perturbation of the whole image: what is added to every pixel, clipped to what a picture can show."""

from typing import Any

import torch
from torch import Tensor

from gifthorse.core.trigger import Trigger


class Perturbation(Trigger):
    """Adds a perturbation ``(C, H, W)``, in pixel units, to every image, weaker by a transparency in [0,1]."""

    name = "perturbation"
    mask = None
    perturbation: Tensor

    def __init__(self, perturbation: Tensor, transparency: float = 0.0):
        super().__init__()
        self.register_buffer("perturbation", perturbation)
        self.transparency = transparency

    def embed(
        self,
        pixels: Tensor,
        generator: torch.Generator | None = None,  # noqa: ARG002
        conditions: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return perturbed images, not rounded; the perturbation is the same under every condition."""
        return (pixels + (1 - self.transparency) * self.perturbation).clamp(0, 1)

    def settings(self) -> dict[str, Any]:
        """Return the transparency."""
        return {"transparency": self.transparency}
