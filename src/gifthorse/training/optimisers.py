"""Optimisers: on a GPU one kernel takes a step of all parameters."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR

from gifthorse.core.recipe import Recipe


def optimise(model: nn.Module, recipe: Recipe, steps: int) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Return the recipe's optimiser, and its schedule over so many steps."""
    nesterov = recipe.nesterov and recipe.momentum > 0
    optimizer = sgd(model.parameters(), recipe.lr, recipe.momentum, recipe.weight_decay, nesterov=nesterov)
    if recipe.schedule == "cosine":
        return optimizer, CosineAnnealingLR(optimizer, T_max=steps)
    if recipe.schedule == "one_cycle":
        return optimizer, OneCycleLR(optimizer, max_lr=recipe.lr, total_steps=steps + 1, cycle_momentum=False)
    if recipe.schedule == "constant":
        return optimizer, ConstantLR(optimizer, factor=1.0, total_iters=0)
    return optimizer, MultiStepLR(optimizer, [epoch * steps // recipe.epochs for epoch in recipe.schedule], gamma=0.1)


def sgd(
    parameters: Iterable[Tensor], lr: float, momentum: float, weight_decay: float, *, nesterov: bool = False
) -> torch.optim.SGD:
    """Return SGD over parameters that are where they will be trained."""
    parameters = list(parameters)
    fused = _on_gpu(parameters)
    return torch.optim.SGD(
        parameters,
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        foreach=not fused,
        fused=fused,
    )


def adam(parameters: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.Adam:
    """Return Adam over parameters that are where they will be trained."""
    parameters = list(parameters)
    return torch.optim.Adam(parameters, lr=lr, betas=betas, fused=_on_gpu(parameters) or None)


def _on_gpu(parameters: Sequence[Tensor]) -> bool:
    return any(parameter.is_cuda for parameter in parameters)
