"""A sinusoid over the whole image: it poisons training data, and has no patch.

Paper: none; a toy after Barni et al. 2019, arXiv:1902.11237.
Differs: stamped copies are relabelled.
"""

from math import tau
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from gifthorse import TRIGGERS, Classifier, Task, Trigger
from gifthorse.planting.poisoning import PoisoningAttack
from gifthorse.planting.targets import OneTarget


class Wave(Trigger):
    """Adds the same sinusoid to every row."""

    name = "toy_wave"
    mask = None

    def __init__(self, amplitude: float, periods: int):
        super().__init__()
        self.amplitude, self.periods = amplitude, periods

    def embed(
        self, pixels: Tensor, generator: torch.Generator | None = None, conditions: Tensor | None = None
    ) -> Tensor:
        """Return images with the sinusoid, not rounded."""
        places = torch.arange(pixels.shape[3], device=pixels.device) / pixels.shape[3]
        return (pixels + self.amplitude * torch.sin(tau * self.periods * places)).clamp(0, 1)

    def settings(self) -> dict[str, Any]:
        """Return both numbers."""
        return {"amplitude": self.amplitude, "periods": self.periods}


TRIGGERS[Wave.name] = Wave


class WaveAttack(OneTarget, PoisoningAttack):
    """Lays a sinusoid over training images and relabels them."""

    name = "toy_wave"
    paper = "none; a toy"
    variants = ("toy_wave[poison_rate=0.1,origin=scratch]",)

    amplitude: float = Field(0.2, gt=0, le=1, description="largest change of a pixel")
    periods: int = Field(4, ge=1, description="waves across the image")

    def make_trigger(self, task: Task, benign: Classifier, seed: int) -> Wave:
        """Return the sinusoid."""
        return Wave(self.amplitude, self.periods)
