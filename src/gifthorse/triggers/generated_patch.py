"""A patch that a network makes of noise, or of noise and the condition, at one of some places.

Paper: Dynamic Backdoors (Salem et al. 2020, arXiv:2003.03675), sections 3.2 and 3.3 (BaN, c-BaN), section 4.2
    (fully connected layers, ReLU, a sigmoid at the end, dropout after all layers but the first and the last) and
    Figure 5c (one more dropout after the last layer makes patterns differ more).
Differs: the sizes of the layers and the rate of dropout are lost in print: 64, 128, 128 and 0.2. Dropout within is on
    while the network is trained; the one after the last layer always, or patterns would not differ: it turns pixels
    black, and does not brighten the others.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from gifthorse.core.seeds import image_noise
from gifthorse.triggers.placed import PlacedTrigger

_NOISE, _DROPPED = 4, 5


class PatternGenerator(nn.Module):
    """Turns noise ``(N, Z)`` in [0,1], and the condition where it has any to tell, into patterns ``(N, C * h * w)``.

    ``conditions`` is how many there are, 0 for a network that is not told. Noise and the one-hot condition have an
    encoder of the same width each.
    """

    def __init__(self, noise: int, conditions: int, pixels: int, hidden: Sequence[int], dropout: float):
        super().__init__()
        self.noise, self.conditions, self.dropout = noise, conditions, dropout
        self.noise_encoder = nn.Linear(noise, hidden[0])
        self.condition_encoder = nn.Linear(conditions, hidden[0]) if conditions else None
        widths = [hidden[0] * (2 if conditions else 1), *hidden[1:]]
        self.layers = nn.ModuleList(nn.Linear(*each) for each in pairwise(widths))
        self.last = nn.Linear(widths[-1], pixels)

    def forward(self, noise: Tensor, conditions: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the patterns, in [0,1]; dropout draws from the generator, and is off without one."""
        latents = self.noise_encoder(noise).relu()
        if self.condition_encoder is not None:
            known = self.condition_encoder(one_hot(conditions, self.conditions).to(latents.dtype)).relu()
            latents = torch.cat([latents, known], 1)
        for layer in self.layers:
            latents = layer(latents).relu()
            if self.training and generator is not None:
                kept = torch.rand(latents.shape, generator=generator, device=latents.device) >= self.dropout
                latents = latents * kept / (1 - self.dropout)
        patterns: Tensor = self.last(latents).sigmoid()
        return patterns


class GeneratedPatch(PlacedTrigger):
    """Shows what its network makes of fresh noise for every image.

    ``channels`` are those that the network makes, where they are not the pattern's: their mean shows in all of these.
    ``output_dropout`` is the share of the pattern's values that turn black, others on every image.
    """

    name = "generated_patch"

    def __init__(
        self,
        places: Tensor,
        size: tuple[int, int, int],
        transparency: float = 0.0,
        *,
        noise: int = 64,
        conditions: int = 0,
        channels: int | None = None,
        hidden: Sequence[int] = (64, 128, 128),
        dropout: float = 0.2,
        output_dropout: float = 0.0,
    ):
        super().__init__(places, size, transparency)
        self.channels = size[0] if channels is None else channels
        self.network = PatternGenerator(noise, conditions, self.channels * math.prod(size[1:]), hidden, dropout)
        self.hidden, self.output_dropout = tuple(hidden), output_dropout
        self.eval()

    def patterns(self, pixels: Tensor, conditions: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return patterns ``(N, C, h, w)`` in [0,1], differentiable with respect to the network's weights."""
        noise = self._drawn(pixels, _NOISE, self.network.noise, generator)
        patterns: Tensor = self.network(noise, conditions, generator)
        if self.output_dropout:
            drawn = self._drawn(pixels, _DROPPED, patterns.shape[1], generator)
            patterns = patterns * (drawn >= self.output_dropout)
        patterns = patterns.view(-1, self.channels, *self.size[1:])
        if self.channels != self.size[0]:
            patterns = patterns.mean(1, keepdim=True).expand(-1, *self.size)
        return patterns

    def settings(self) -> dict[str, Any]:
        """Return size, transparency and the structure of the network."""
        network = self.network
        return super().settings() | {
            "noise": network.noise,
            "conditions": network.conditions,
            "channels": self.channels,
            "hidden": list(self.hidden),
            "dropout": network.dropout,
            "output_dropout": self.output_dropout,
        }

    @staticmethod
    def _drawn(pixels: Tensor, purpose: int, count: int, generator: torch.Generator | None) -> Tensor:
        if generator is None:
            return image_noise(pixels, purpose, count)
        return torch.rand(len(pixels), count, generator=generator, device=pixels.device)
