"""Distances between sets of images, as distributions: what it takes to turn one into the other."""

import torch
from torch import Tensor


def unit_directions(count: int, dimensions: int, random: torch.Generator) -> Tensor:
    """Return random directions of length 1, ``float32 (D, L)``, spread evenly over the sphere."""
    drawn = torch.randn(dimensions, count, generator=random, device=random.device)
    return torch.nn.functional.normalize(drawn, dim=0)


def sliced_wasserstein(
    first: Tensor, second: Tensor, directions: Tensor, order: float = 1, *, largest: bool = False
) -> Tensor:
    """Return the sliced Wasserstein distance of two sets of points, a scalar of at least 0.

    ``first (N, D)`` and ``second (M, D)`` are seen along ``directions (D, L)``: see :func:`wasserstein_along`, whose
    mean it is as a power ``order``, or the largest (Kolouri et al. 2019, arXiv:1902.00434, section 2).
    """
    distances = wasserstein_along(seen_along(first, directions), seen_along(second, directions), order)
    return over_directions(distances, order, largest=largest)


def seen_along(points: Tensor, directions: Tensor) -> Tensor:
    """Return ``(N, L)``, the places of points ``(N, D)`` along each of ``directions (D, L)``, in ascending order."""
    return (points.flatten(1) @ directions).sort(0).values


def wasserstein_along(first: Tensor, second: Tensor, order: float = 1) -> Tensor:
    """Return the Wasserstein distance ``(L,)`` in each column of ``first (N, L)`` and ``second (M, L)``, both sorted.

    In one dimension the best plan keeps the order, so that it compares quantiles; of unequal numbers of points each
    quantile counts by the share of the mass that it stands for.
    """
    n, m = len(first), len(second)
    if n == m:
        return (first - second).abs().pow(order).mean(0).pow(1 / order)
    steps = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique().to(first.device)
    mass = steps.diff(prepend=steps.new_zeros(1)).to(first.dtype) / (n * m)
    moved = (first[(steps - 1) // m] - second[(steps - 1) // n]).abs().pow(order)
    distances: Tensor = (mass @ moved).pow(1 / order)
    return distances


def over_directions(distances: Tensor, order: float, *, largest: bool) -> Tensor:
    """Return the largest of the distances ``(L,)``, or their mean as powers ``order``."""
    return distances.amax() if largest else distances.pow(order).mean().pow(1 / order)
