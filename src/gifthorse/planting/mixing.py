"""How poison enters training: in the data set, in every batch, or in the loss.

At data-set and batch level ``poison_rate`` is the share of the images trained on that carry the trigger; stamped copies
are added to the clean images, so a rate r means r / (1 − r) copies for every clean image. At loss level every image
has a stamped copy, and λ weighs the mean loss of the copies. A goal that leaves classes out has as many cover images
beside them: stamped copies from those classes that keep their labels.

Paper: TrojanZoo, section 6.2 RQ6.
Differs: at loss level both means are of one pass; the paper's code makes a pass of each, normalised by batch statistics
    of its own. The running statistics then fit neither: on digits that costs badnets up to 0.078 of clean accuracy,
    and one pass at most 0.005. The weight of the clean loss is 1, as in the section, where the code has 1 − λ.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gifthorse.core.errors import RequestError
from gifthorse.core.goal import Goal
from gifthorse.core.images import Images, to_floats, to_levels
from gifthorse.core.trojan import Backdoor
from gifthorse.training.loop import Batch


def copies(clean: int, poison_rate: float) -> float:
    """Return how many stamped copies make up ``poison_rate`` of all images beside ``clean`` clean ones."""
    return clean * poison_rate / (1 - poison_rate)


class PoisonedSet(NamedTuple):
    """A poisoned data set.

    ``sources``, ``int64 (N,)``, are the positions in the clean set that its ``images`` come from; ``stamped``, ``bool
    (N,)``, says which carry the trigger: copies at the end, or images where they were.
    """

    images: Images
    sources: Tensor
    stamped: Tensor


class BatchMixing:
    """Adds stamped copies to every batch, after its augmentation; a fraction of a copy is carried to the next.

    All batches made of batches as long are as long: one with a copy more has a clean image less, its last. Copies are
    rounded as a picture would be, or ``differentiable`` for a trigger that is trained along.
    """

    def __init__(
        self, backdoor: Backdoor, poison_rate: float, random: torch.Generator, *, differentiable: bool = False
    ):
        self.goal, self.poison_rate, self.random = backdoor.goal, poison_rate, random
        self.show = backdoor.embed if differentiable else backdoor.stamp
        self.owed = 0.0

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with stamped copies of its first images, those of the target class left out."""
        pixels, labels = batch.pixels, batch.labels
        fewest = int(copies(len(labels), self.poison_rate))
        self.owed += self.poison_rate * (len(labels) + fewest)
        count = int(self.owed)
        self.owed -= count
        if count == 0:
            return batch
        chosen = _first(self.goal.sources(labels), count)
        covers = _covers(self.goal, labels)
        if covers is not None:
            chosen = torch.cat([chosen, _first(covers, count)])
        stamped, targets = self.show(pixels[chosen], labels[chosen], self.random)
        kept = len(labels) - len(chosen) // count * (count - fewest)
        wanted = torch.cat([labels[:kept], targets])
        return Batch(
            torch.cat([pixels[:kept], stamped]), wanted, stamped=_last(len(wanted), len(chosen), labels.device)
        )


class LossMixing:
    """Adds the mean loss of stamped copies, weighed by λ, to the mean loss of the clean images of every batch.

    Copies of images of the target class weigh nothing; cover images weigh as much as the attacked. Copies are rounded,
    or ``differentiable``, as in :class:`BatchMixing`.
    """

    def __init__(self, backdoor: Backdoor, weight: float, random: torch.Generator, *, differentiable: bool = False):
        self.goal, self.weight, self.random = backdoor.goal, weight, random
        self.show = backdoor.embed if differentiable else backdoor.stamp

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch followed by a stamped copy of each of its images, with their weights."""
        pixels, labels = batch.pixels, batch.labels
        stamped, targets = self.show(pixels, labels, self.random)
        shares = _share(self.goal.sources(labels), self.weight)
        covers = _covers(self.goal, labels)
        if covers is not None:
            shares = shares + _share(covers, self.weight)
        weights = torch.cat([torch.full_like(shares, 1 / len(labels)), shares])
        wanted = torch.cat([labels, targets])
        last = _last(len(wanted), len(labels), labels.device)
        return Batch(torch.cat([pixels, stamped]), wanted, weights, last)


def _covers(goal: Goal, labels: Tensor) -> Tensor | None:
    """Return ``bool (N,)``: images of classes that the goal leaves out, ``None`` where it leaves none out."""
    unwanted = goal.unwanted(labels)
    return None if unwanted is None else unwanted != labels


def _first(wanted: Tensor, count: int) -> Tensor:
    """Return the positions ``int64 (count,)`` of the first wanted images, over again where they are too few."""
    order = wanted.logical_not().to(torch.uint8).argsort(stable=True)
    return order[torch.arange(count, device=wanted.device) % wanted.sum().clamp_min(1)]


def _share(wanted: Tensor, weight: float) -> Tensor:
    """Return what each image weighs in a mean over the wanted ones that weighs so much, 0 where there are none."""
    return weight * wanted.float() / wanted.sum().clamp_min(1)


def _last(total: int, count: int, device: torch.device) -> Tensor:
    """Return ``bool (total,)``, true for the last ``count``."""
    return torch.arange(total, device=device) >= total - count


def choose_poisoned(labels: Tensor, goal: Goal, poison_rate: float, random: torch.Generator) -> Tensor:
    """Return the positions ``int64 (P,)`` of the images to copy and stamp, drawn from the goal's sources.

    Cover images follow, as many, or all there are.
    """
    sources = goal.sources(labels).nonzero().squeeze(1)
    count = round(copies(len(labels), poison_rate))
    if not 0 < count <= len(sources):
        raise RequestError(
            f"poison_rate={poison_rate:g} asks for {count} stamped copies of {len(labels)} training images; "
            f"between 1 and {len(sources)} are possible"
        )
    chosen = sources[torch.randperm(len(sources), generator=random, device=labels.device)[:count]]
    covers = _covers(goal, labels)
    if covers is None:
        return chosen
    others = covers.nonzero().squeeze(1)
    return torch.cat([chosen, others[torch.randperm(len(others), generator=random, device=labels.device)[:count]]])


def poison_dataset(images: Images, backdoor: Backdoor, chosen: Tensor, random: torch.Generator) -> PoisonedSet:
    """Return the images followed by stamped, relabelled copies of the chosen ones (before any augmentation)."""
    victims = images.take(chosen)
    stamped, targets = backdoor.stamp(to_floats(victims.pixels), victims.labels, random)
    together = images.join(Images(to_levels(stamped), targets, images.classes))
    sources = torch.cat([torch.arange(len(images), device=chosen.device), chosen])
    return PoisonedSet(together, sources, _last(len(together), len(chosen), chosen.device))


def choose_from_target(labels: Tensor, goal: Goal, poison_rate: float, random: torch.Generator) -> Tensor:
    """Return the positions ``int64 (P,)`` of a share of the images that have their wanted class already."""
    wanted = goal.sources(labels).logical_not().nonzero().squeeze(1)
    count = round(poison_rate * len(wanted))
    if count < 1:
        raise RequestError(f"poison_rate={poison_rate:g} selects none of {len(wanted)} images of the target class")
    return wanted[torch.randperm(len(wanted), generator=random, device=labels.device)[:count]]


def poison_in_place(images: Images, backdoor: Backdoor, chosen: Tensor, random: torch.Generator) -> PoisonedSet:
    """Return the images, the chosen ones stamped (before any augmentation); every label is kept."""
    pixels = images.pixels.clone()
    pixels[chosen] = to_levels(backdoor.stamp(to_floats(pixels[chosen]), images.labels[chosen], random).pixels)
    stamped = torch.zeros_like(images.labels, dtype=torch.bool)
    stamped[chosen] = True
    sources = torch.arange(len(images), device=chosen.device)
    return PoisonedSet(Images(pixels, images.labels, images.classes), sources, stamped)
