"""Projected gradient descent on inputs: for adversarial training, adversarial accuracy, and images of a wanted class.

Paper: Madry et al. 2018, arXiv:1706.06083, section 2; the l2 steps as AEGIS uses them (section IV).
Differs: the model is in evaluation mode while inputs are sought, so that the search leaves batch normalisation alone.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gifthorse.core.pgd import Pgd
from gifthorse.training.precision import fast_arithmetic


def perturb(
    model: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    pgd: Pgd,
    random: torch.Generator | None = None,
) -> Tensor:
    """Return inputs ``(N, C, H, W)`` in [0,1] within a ball around ``pixels``, found by projected gradient descent.

    They raise the cross-entropy of the ``labels (N,)``, or lower it where the search is targeted. ``random`` is drawn
    from where it starts at a random point, and only there. No gradient of a parameter is computed; the mode is
    restored.
    """
    training = model.training
    model.eval()
    start = pixels + _random_offset(pixels, pgd, random) if pgd.start == "random" else pixels
    point = _project(start, pixels, pgd)
    best, highest = point, torch.full(labels.shape, -torch.inf, device=pixels.device)
    for _ in range(pgd.steps):
        point.requires_grad_()
        gains = _gains(model, point, labels, pgd)
        (gradient,) = torch.autograd.grad(gains.sum(), [point])
        point = point.detach()
        if pgd.returned == "best":
            best, highest = _higher(best, highest, point, gains.detach())
        point = _project(point + _ascent(gradient, pgd), pixels, pgd)
    if pgd.returned == "best":
        with torch.no_grad():
            point, _ = _higher(best, highest, point, _gains(model, point, labels, pgd))
    model.train(training)
    return point


def _gains(model: nn.Module, pixels: Tensor, labels: Tensor, pgd: Pgd) -> Tensor:
    """Return what the search raises, ``(N,)``: the loss of the labels, or its negative."""
    with fast_arithmetic(pixels.device):
        logits = model(pixels)
    losses = cross_entropy(logits.float(), labels, reduction="none")
    return -losses if pgd.targeted else losses


def _higher(best: Tensor, highest: Tensor, point: Tensor, gains: Tensor) -> tuple[Tensor, Tensor]:
    better = gains > highest
    return torch.where(better.view(-1, 1, 1, 1), point, best), torch.where(better, gains, highest)


def _random_offset(pixels: Tensor, pgd: Pgd, random: torch.Generator | None) -> Tensor:
    """Return a point of the ball: uniform in it for linf; of uniform direction and length for l2."""
    if random is None:
        raise ValueError("a search that starts at a random point needs a generator")
    offset = torch.rand(pixels.shape, generator=random, device=pixels.device) * 2 - 1
    if pgd.norm == "linf":
        return pgd.radius * offset
    length = torch.rand(len(pixels), 1, 1, 1, generator=random, device=pixels.device)
    return pgd.radius * length * offset / _l2(offset).clamp_min(1e-12)


def _ascent(gradient: Tensor, pgd: Pgd) -> Tensor:
    """Return the step of length ``step_size`` that raises a locally linear loss most."""
    direction = gradient.sign() if pgd.norm == "linf" else gradient / _l2(gradient).clamp_min(1e-12)
    return pgd.step_size * direction


def _project(point: Tensor, centre: Tensor, pgd: Pgd) -> Tensor:
    """Return the nearest point that lies in the ball and in [0,1]."""
    offset = point - centre
    if pgd.norm == "linf":
        offset = offset.clamp(-pgd.radius, pgd.radius)
    else:
        offset = offset * (pgd.radius / _l2(offset).clamp_min(1e-12)).clamp_max(1)
    return (centre + offset).clamp(0, 1)


def _l2(tensor: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(tensor, dim=(1, 2, 3), keepdim=True)
    return norm
