"""How certain a model stays of images that are blended with others: what a trigger gives itself away by.

Paper: STRIP (Gao et al. 2019, arXiv:1902.06531), section III; TrojanZoo, section 4.3.
"""

import torch
from torch import Tensor, nn

from gifthorse.core.classifier import inference_batch


def blended(pixels: Tensor, overlays: Tensor, weights: tuple[float, float], *, clip: bool) -> Tensor:
    """Return images and overlays in [0,1], which broadcast, added by the two weights; clipped to [0,1] where asked."""
    mixed = weights[0] * pixels + weights[1] * overlays
    return mixed.clamp(0, 1) if clip else mixed


def entropy_of_blends(
    model: nn.Module, pixels: Tensor, overlays: Tensor, weights: tuple[float, float] = (0.5, 0.5), *, clip: bool = True
) -> Tensor:
    """Return the mean entropy ``(N,)``, in nats, of a model's answers to each image blended with every overlay.

    ``pixels (N, C, H, W)`` and ``overlays (M, C, H, W)`` are in [0,1]; the rest is that of :func:`blended`.
    Differentiable, in one batch of N · M.
    """
    mixed = blended(pixels.unsqueeze(1), overlays, weights, clip=clip)
    logits = model(mixed.flatten(0, 1).contiguous(memory_format=torch.channels_last)).float()
    log_probability = logits.log_softmax(1)
    entropy = -(log_probability.exp() * log_probability).sum(1)
    means: Tensor = entropy.view(len(pixels), len(overlays)).mean(1)
    return means


def batches_to_blend(pixels: Tensor, overlays: Tensor) -> tuple[Tensor, ...]:
    """Return images ``(N, C, H, W)`` in parts whose blends with all overlays keep the device busy."""
    parts: tuple[Tensor, ...] = pixels.split(max(inference_batch(overlays.device) // len(overlays), 1))
    return parts
