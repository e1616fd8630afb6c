"""Projected gradient descent on inputs: for adversarial training, and to measure adversarial accuracy.

Paper: Madry et al. 2018, arXiv:1706.06083, section 2; the l2 steps as AEGIS uses them (section IV).
Differs: the model is in evaluation mode while inputs are sought, so that the search leaves batch normalisation alone.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gifthorse.core.recipe import AdversarialRecipe
from gifthorse.training.precision import fast_arithmetic


def perturb(
    model: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    adversary: AdversarialRecipe,
    random: torch.Generator,
    *,
    keep_best: bool = False,
) -> Tensor:
    """Return inputs ``(N, C, H, W)`` in [0,1] within the adversary's ball around ``pixels`` that raise the loss.

    The search starts at a random point of the ball and gives the last point, or with ``keep_best`` the one with the
    highest loss seen (AEGIS's adversarial accuracy). No gradient of a parameter is computed; the mode is restored.
    """
    training = model.training
    model.eval()
    point = _project(pixels + _random_offset(pixels, adversary, random), pixels, adversary)
    best, highest = point, torch.full(labels.shape, -torch.inf, device=pixels.device)
    for _ in range(adversary.steps):
        point.requires_grad_()
        losses = _losses(model, point, labels)
        (gradient,) = torch.autograd.grad(losses.sum(), [point])
        point = point.detach()
        if keep_best:
            best, highest = _higher(best, highest, point, losses.detach())
        point = _project(point + _ascent(gradient, adversary), pixels, adversary)
    if keep_best:
        with torch.no_grad():
            point, _ = _higher(best, highest, point, _losses(model, point, labels))
    model.train(training)
    return point


def _losses(model: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
    with fast_arithmetic(pixels.device):
        logits = model(pixels)
    return cross_entropy(logits.float(), labels, reduction="none")


def _higher(best: Tensor, highest: Tensor, point: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
    better = losses > highest
    return torch.where(better.view(-1, 1, 1, 1), point, best), torch.where(better, losses, highest)


def _random_offset(pixels: Tensor, adversary: AdversarialRecipe, random: torch.Generator) -> Tensor:
    """Return a point of the ball: uniform in it for linf; of uniform direction and length for l2."""
    offset = torch.rand(pixels.shape, generator=random, device=pixels.device) * 2 - 1
    if adversary.norm == "linf":
        return adversary.radius * offset
    length = torch.rand(len(pixels), 1, 1, 1, generator=random, device=pixels.device)
    return adversary.radius * length * offset / _l2(offset).clamp_min(1e-12)


def _ascent(gradient: Tensor, adversary: AdversarialRecipe) -> Tensor:
    """Return the step of length ``step_size`` that raises a locally linear loss most."""
    direction = gradient.sign() if adversary.norm == "linf" else gradient / _l2(gradient).clamp_min(1e-12)
    return adversary.step_size * direction


def _project(point: Tensor, centre: Tensor, adversary: AdversarialRecipe) -> Tensor:
    """Return the nearest point that lies in the ball and in [0,1]."""
    offset = point - centre
    if adversary.norm == "linf":
        offset = offset.clamp(-adversary.radius, adversary.radius)
    else:
        offset = offset * (adversary.radius / _l2(offset).clamp_min(1e-12)).clamp_max(1)
    return (centre + offset).clamp(0, 1)


def _l2(tensor: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(tensor, dim=(1, 2, 3), keepdim=True)
    return norm
