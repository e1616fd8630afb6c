"""How poison enters training (TrojanZoo section 6.2, RQ6): in the data set, in every batch, or in the loss.

At data-set and batch level ``poison_rate`` is the share of the images trained on that carry the trigger; stamped copies
are added to the clean images, so a rate r means r / (1 − r) copies for every clean image. At loss level every image
has a stamped copy, and λ weighs the mean loss of the copies.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gifthorse.core.errors import RequestError
from gifthorse.core.goal import Goal
from gifthorse.core.images import Images, to_floats, to_levels
from gifthorse.core.trigger import Trigger
from gifthorse.training.loop import Batch


def copies(clean: int, poison_rate: float) -> float:
    """Return how many stamped copies make up ``poison_rate`` of all images beside ``clean`` clean ones."""
    return clean * poison_rate / (1 - poison_rate)


class PoisonedSet(NamedTuple):
    """A poisoned data set.

    ``sources``, ``int64 (P,)``, are the positions in the clean set of the images that were stamped; ``stamped``, ``bool
    (N,)``, says which of ``images`` carry the trigger: copies at the end, or images where they were.
    """

    images: Images
    sources: Tensor
    stamped: Tensor


class BatchMixing:
    """Adds stamped copies to every batch, after its augmentation; a fraction of a copy is carried to the next."""

    def __init__(self, trigger: Trigger, goal: Goal, poison_rate: float, random: torch.Generator):
        self.trigger, self.goal, self.poison_rate, self.random = trigger, goal, poison_rate, random
        self.owed = 0.0

    def __call__(self, pixels: Tensor, labels: Tensor) -> Batch:
        """Return the batch with stamped copies of its first images, those of the target class left out."""
        self.owed += copies(len(labels), self.poison_rate)
        count = int(self.owed)
        self.owed -= count
        if count == 0:
            return Batch(pixels, labels)
        sources = self.goal.sources(labels)
        order = sources.logical_not().to(torch.uint8).argsort(stable=True)
        chosen = order[torch.arange(count, device=labels.device) % sources.sum().clamp_min(1)]
        stamped = self.trigger.stamp(pixels[chosen], self.random)
        wanted = torch.cat([labels, self.goal.targets(labels[chosen])])
        return Batch(torch.cat([pixels, stamped]), wanted, stamped=_last(len(wanted), count, labels.device))


class LossMixing:
    """Adds the mean loss of stamped copies, weighed by λ, to the mean loss of the clean images of every batch.

    Copies of images of the target class weigh nothing.
    """

    def __init__(self, trigger: Trigger, goal: Goal, weight: float, random: torch.Generator):
        self.trigger, self.goal, self.weight, self.random = trigger, goal, weight, random

    def __call__(self, pixels: Tensor, labels: Tensor) -> Batch:
        """Return the batch followed by a stamped copy of each of its images, with their weights."""
        stamped = self.trigger.stamp(pixels, self.random)
        sources = self.goal.sources(labels).float()
        weights = torch.cat(
            [torch.full_like(sources, 1 / len(labels)), self.weight * sources / sources.sum().clamp_min(1)]
        )
        wanted = torch.cat([labels, self.goal.targets(labels)])
        last = _last(len(wanted), len(labels), labels.device)
        return Batch(torch.cat([pixels, stamped]), wanted, weights, last)


def _last(total: int, count: int, device: torch.device) -> Tensor:
    """Return ``bool (total,)``, true for the last ``count``."""
    return torch.arange(total, device=device) >= total - count


def choose_poisoned(labels: Tensor, goal: Goal, poison_rate: float, random: torch.Generator) -> Tensor:
    """Return the positions ``int64 (P,)`` of the images to copy and stamp, drawn from the goal's sources."""
    sources = goal.sources(labels).nonzero().squeeze(1)
    count = round(copies(len(labels), poison_rate))
    if not 0 < count <= len(sources):
        raise RequestError(
            f"poison_rate={poison_rate:g} asks for {count} stamped copies of {len(labels)} training images; "
            f"between 1 and {len(sources)} are possible"
        )
    return sources[torch.randperm(len(sources), generator=random, device=labels.device)[:count]]


def poison_dataset(
    images: Images, trigger: Trigger, goal: Goal, chosen: Tensor, random: torch.Generator
) -> PoisonedSet:
    """Return the images followed by stamped, relabelled copies of the chosen ones (before any augmentation)."""
    victims = images.take(chosen)
    stamped = to_levels(trigger.stamp(to_floats(victims.pixels), random))
    together = images.join(Images(stamped, goal.targets(victims.labels), images.classes))
    return PoisonedSet(together, chosen, _last(len(together), len(chosen), chosen.device))


def choose_from_target(labels: Tensor, goal: Goal, poison_rate: float, random: torch.Generator) -> Tensor:
    """Return the positions ``int64 (P,)`` of a share of the images that have their wanted class already."""
    wanted = goal.sources(labels).logical_not().nonzero().squeeze(1)
    count = round(poison_rate * len(wanted))
    if count < 1:
        raise RequestError(f"poison_rate={poison_rate:g} selects none of {len(wanted)} images of the target class")
    return wanted[torch.randperm(len(wanted), generator=random, device=labels.device)[:count]]


def poison_in_place(images: Images, trigger: Trigger, chosen: Tensor, random: torch.Generator) -> PoisonedSet:
    """Return the images, the chosen ones stamped (before any augmentation); every label is kept."""
    pixels = images.pixels.clone()
    pixels[chosen] = to_levels(trigger.stamp(to_floats(pixels[chosen]), random))
    stamped = torch.zeros_like(images.labels, dtype=torch.bool)
    stamped[chosen] = True
    return PoisonedSet(Images(pixels, images.labels, images.classes), chosen, stamped)
