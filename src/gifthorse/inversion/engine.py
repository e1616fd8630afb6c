"""Many triggers, one batch: optimises a mask and a pattern per target class, all classes side by side.

Each class keeps its own schedule. Losses of different classes share no variable, so their sum is optimised; Adam
works element by element, so the result is what one class after another would give. Finished classes leave the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gifthorse.core.images import Images, to_floats
from gifthorse.core.outcomes import RecoveredTriggers
from gifthorse.core.progress import track
from gifthorse.core.seeds import generator
from gifthorse.core.trigger import blend
from gifthorse.inversion.frozen import freeze
from gifthorse.training.precision import fast_arithmetic

SQUASH = 2 - 1e-7


@dataclass(frozen=True)
class Budget:
    """How long to search: ``steps`` of ``batches`` mini-batches of ``batch_size`` images per class.

    ``max_batch`` bounds the stamped images in one forward pass, and with them the memory; ``None`` leaves the choice
    to the device (a CPU gains nothing from stacking classes, a GPU does).
    """

    steps: int
    batches: int
    batch_size: int
    lr: float
    betas: tuple[float, float] = (0.5, 0.9)
    max_batch: int | None = None

    def classes_at_once(self, device: torch.device) -> int:
        """Return how many classes share a forward pass."""
        largest = self.max_batch or (4096 if device.type == "cuda" else 128)
        return max(largest // self.batch_size, 1)


class Schedule(Protocol):
    """One method's bookkeeping over ``K`` classes; every tensor is ``(K,)`` on the model's device."""

    weight: Tensor
    finished: Tensor

    def observe(self, active: Tensor, accuracy: Tensor, norm: Tensor, mask: Tensor, pattern: Tensor) -> None:
        """Take in one step of the classes ``active (A,)``: mean accuracy and penalty, mask and pattern after it."""


def invert(
    model: nn.Module,
    images: Images,
    targets: Tensor,
    penalty: Callable[[Tensor, Tensor], Tensor],
    schedule: Schedule,
    budget: Budget,
    seed: int,
) -> RecoveredTriggers:
    """Search a trigger for each of ``targets (K,)``, minimising cross-entropy + weight · penalty(mask, pattern).

    ``penalty`` maps masks ``(A, 1, H, W)`` and patterns ``(A, C, H, W)`` to ``(A,)``. Returns the variables as they
    are at the end; a schedule keeps better ones on the way.
    """
    device, (channels, height, width) = images.device, images.shape
    random = generator(seed, "inversion", device=device)
    frozen = freeze(model)
    start = torch.rand(len(targets), 1 + channels, height, width, generator=random, device=device)
    raw = torch.atanh((start - 0.5) * SQUASH).requires_grad_()
    optimizer = torch.optim.Adam([raw], lr=budget.lr, betas=budget.betas)
    together = budget.classes_at_once(device)

    for _ in track(range(budget.steps), "trigger inversion", budget.steps):
        active = schedule.finished.logical_not().nonzero().squeeze(1)
        if len(active) == 0:
            break
        hits, sizes = torch.zeros(2, len(targets), device=device)
        order = torch.rand(budget.batches, len(images), generator=random, device=device).argsort(1)
        for index in order[:, : budget.batch_size]:
            pixels = to_floats(images.pixels[index])
            raw.grad = None
            for group in active.split(together):
                mask, pattern = squash(raw[group])
                stamped = blend(pixels, mask.unsqueeze(1), pattern.unsqueeze(1), 0.0).flatten(0, 1)
                with fast_arithmetic(device):
                    logits = frozen(stamped.contiguous(memory_format=torch.channels_last))
                wanted = targets[group].repeat_interleave(len(pixels))
                size = penalty(mask, pattern)
                losses = cross_entropy(logits.float(), wanted, reduction="none").view(len(group), -1).mean(1)
                (losses + schedule.weight[group] * size).sum().backward()
                hits[group] += (logits.argmax(1) == wanted).view(len(group), -1).float().mean(1)
                sizes[group] += size.detach()
            optimizer.step()
        mask, pattern = squash(raw.detach()[active])
        schedule.observe(active, hits[active] / budget.batches, sizes[active] / budget.batches, mask, pattern)
    return RecoveredTriggers(*squash(raw.detach()))


def squash(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Turn unbounded variables ``(A, 1 + C, H, W)`` into masks and patterns in [0,1] (Neural Cleanse's tanh)."""
    values = torch.tanh(raw) / SQUASH + 0.5
    return values[:, :1], values[:, 1:]
