"""A curve of networks between two trained ones, and the batch statistics of a network whose weights were not trained.

Paper: Garipov et al. 2018, NeurIPS, arXiv:1802.10026, section 3 (a quadratic Bezier curve, trained at uniform t) and
    appendix A (statistics of batch normalisation are computed anew for every network of the curve).
Differs: nothing; no layer of a network is rewritten for it: weights of the curve are put in its parameters' place.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from gifthorse.core.classifier import Classifier, inference_batch
from gifthorse.core.images import Images, to_floats


class Curve(nn.Module):
    """Networks φ(t) = (1-t)²·first + 2t(1-t)·θ + t²·last, weight by weight; θ, its parameters, starts in the middle.

    A forward pass goes through the network at a ``t`` drawn anew, whose weights are ``shown`` until the next.
    """

    def __init__(self, first: Classifier, last: Classifier, random: torch.Generator):
        super().__init__()
        self.bend = first.clone()
        self._random = random
        self._ends = [dict(end.clone().requires_grad_(False).named_parameters()) for end in (first, last)]
        self.shown: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, weight in self.bend.named_parameters():
                weight.copy_((self._ends[0][name] + self._ends[1][name]) / 2)

    def weights(self, t: float) -> dict[str, Tensor]:
        """Return the weights of the network at ``t``, by name."""
        first, last = self._ends
        return {
            name: (1 - t) ** 2 * first[name] + 2 * t * (1 - t) * bend + t**2 * last[name]
            for name, bend in self.bend.named_parameters()
        }

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits ``(N, K)`` of the network at a random place of the curve."""
        self.shown = self.weights(float(torch.rand((), generator=self._random)))
        logits: Tensor = functional_call(self.bend, self.shown, (pixels,))
        return logits

    def at(self, t: float, images: Images) -> Classifier:
        """Return the network at ``t``, in evaluation mode, with the batch statistics that ``images`` give it."""
        found = self.bend.clone()
        with torch.no_grad():
            weights = self.weights(t)
            for name, weight in found.named_parameters():
                weight.copy_(weights[name])
        estimate_statistics(found, images)
        return found


@torch.no_grad()
def estimate_statistics(model: nn.Module, images: Images) -> None:
    """Replace the statistics of batch normalisation by the mean over ``images``; all else stays as in evaluation.

    Batches are as equal as can be: a rest of one image would have no variance.
    """
    count = -(-len(images) // inference_batch(images.device))
    with _gathering(model) as norms:
        if not norms:
            return
        seen = 0
        for pixels in images.pixels.tensor_split(count):
            seen += len(pixels)
            for norm in norms:
                norm.momentum = len(pixels) / seen
            model(to_floats(pixels))


@contextmanager
def _gathering(model: nn.Module) -> Iterator[list[_BatchNorm]]:
    """Put batch normalisation alone into training mode, and back."""
    model.eval()
    norms = [each for each in model.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
    try:
        yield norms
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
