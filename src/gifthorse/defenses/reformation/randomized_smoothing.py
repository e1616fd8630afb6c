"""Randomized smoothing: average the predictions of many noisy copies of an input.

Paper: Cohen, Rosenfeld, Kolter 2019, arXiv:1902.02918, section 3; TrojanZoo section 4.3 and Table 21 (Gaussian noise,
    100 samples, standard deviation 0.01).
Differs: the noise is a bank that is drawn once, the same for every input, so that an input is answered alone as in a
    batch, and twice alike. What is averaged is the probabilities, as TrojanZoo averages predictions; Cohen et al. count
    votes. Noisy copies may leave [0,1], as theirs do. A model has to answer as many images as there are samples.
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from gifthorse.core.classifier import Classifier, inference_batch
from gifthorse.core.defense import Defense
from gifthorse.core.evasion import Attacker, Evasion
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.seeds import generator
from gifthorse.core.views import DataFreeView
from gifthorse.inversion.frozen import freeze


class RandomizedSmoothing(Defense[DataFreeView]):
    """Answers with the mean prediction over noisy copies of the input."""

    name = "randomized_smoothing"
    aliases = ("rs",)
    paper = "Cohen et al. 2019, arXiv:1902.02918"
    family = "reformation"
    view = DataFreeView
    black_box = True
    offers = "reform"

    samples: int = Field(100, ge=1, description="noisy copies of every input")
    std: float = Field(0.01, gt=0, description="standard deviation of the noise, in pixel units of [0,1]")

    def evasion(self, attacker: Attacker, seed: int) -> Evasion:
        """Put noise of the attacker's own in front, new for every image."""
        random = generator(seed, self.name, device=attacker.images.device)

        def reform(pixels: Tensor) -> Tensor:
            return pixels + self.std * torch.randn(pixels.shape, generator=random, device=pixels.device)

        return Evasion(reform=reform)

    def defend(self, view: DataFreeView, seed: int) -> CleanModel:
        """Draw the noise once and put it in front of the model."""
        noise = self.std * torch.randn(self.samples, *view.shape, generator=generator(seed, self.name))
        smoothed = _Smoothed(freeze(view.model), noise.to(view.device)).eval()
        return CleanModel(smoothed, smoothed.first)


class _Smoothed(nn.Module):
    """The log of the mean probability over copies of the input with each of the ``noise (S, C, H, W)``."""

    noise: Tensor

    def __init__(self, model: Classifier, noise: Tensor):
        super().__init__()
        self.model = model
        self.register_buffer("noise", noise.contiguous(memory_format=torch.channels_last))

    def first(self, pixels: Tensor) -> Tensor:
        """Return the first noisy copy of every input: what the model gets to see, shown once."""
        return pixels + self.noise[0]

    def forward(self, pixels: Tensor) -> Tensor:
        """Return ``(N, K)``, in passes of as many copies as keep the device busy."""
        size = inference_batch(pixels.device)
        return torch.cat([self._smooth(part, max(size // len(part), 1)) for part in pixels.split(size)])

    def _smooth(self, pixels: Tensor, copies: int) -> Tensor:
        parts = []
        for noise in self.noise.split(copies):
            noisy = (pixels + noise.unsqueeze(1)).flatten(0, 1).contiguous(memory_format=torch.channels_last)
            log_probability = self.model(noisy).float().log_softmax(1)
            parts.append(log_probability.unflatten(0, (len(noise), len(pixels))).logsumexp(0))
        return torch.stack(parts).logsumexp(0) - math.log(len(self.noise))
