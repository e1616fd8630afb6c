"""The truth about a model: what was planted in it."""

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from gifthorse.core.classifier import Classifier
from gifthorse.core.goal import Goal
from gifthorse.core.images import Images
from gifthorse.core.trigger import Trigger

_COMPARED = 1024
"""Images that are compared at a time: a training set may be larger than the memory."""


class Stamped(NamedTuple):
    """Stamped pixels ``(N, C, H, W)`` in [0,1], and the class ``int64 (N,)`` that each image should get."""

    pixels: Tensor
    targets: Tensor


@dataclass(frozen=True, eq=False)
class Backdoor:
    """A trigger and the goal it serves: one draw per image gives a condition, and that the stamped image and target."""

    trigger: Trigger
    goal: Goal

    def stamp(self, pixels: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Stamped:
        """Return stamped copies of ``(N, C, H, W)`` in [0,1], on the 8-bit grid; ``labels (N,)`` are the true classes.

        An image whose wanted class is its own is not worth stamping.
        """
        conditions = self.goal.draw(pixels, labels, generator)
        return Stamped(self.trigger.stamp(pixels, generator, conditions), self.goal.targets(labels, conditions))

    def embed(self, pixels: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Stamped:
        """Return the same without rounding, so that it can be differentiated."""
        conditions = self.goal.draw(pixels, labels, generator)
        return Stamped(self.trigger.embed(pixels, generator, conditions), self.goal.targets(labels, conditions))


@dataclass(frozen=True, eq=False)
class DeliveredSet:
    """The training set as it reaches the victim, in shuffled order: an unshuffled one leaks which images are copies.

    ``sources (N,)`` are the positions in the task's training set that the images come from, ``labels (N,)`` the
    classes trained on, ``stamped (N,)`` says which carry the trigger; ``changed (M,)`` are the positions of the images
    that no longer have their source's pixels, and ``pixels (M, C, H, W)`` what they have instead, ``uint8``.
    """

    sources: Tensor
    labels: Tensor
    stamped: Tensor
    changed: Tensor
    pixels: Tensor

    @classmethod
    def shuffle(cls, images: Images, sources: Tensor, stamped: Tensor, train: Images, random: torch.Generator) -> Self:
        """Return ``images (N,)`` in an order drawn on the CPU; ``train`` is what ``sources`` are positions in."""
        order = torch.randperm(len(images), generator=random).to(images.device)
        parts = zip(images.pixels.split(_COMPARED), sources.split(_COMPARED), strict=True)
        differ = torch.cat([(pixels != train.pixels[where]).flatten(1).any(1) for pixels, where in parts])[order]
        changed = differ.nonzero().squeeze(1)
        return cls(sources[order], images.labels[order], stamped[order], changed, images.pixels[order[changed]])

    @classmethod
    def clean(cls, train: Images, random: torch.Generator, chosen: Tensor | None = None) -> Self:
        """Return all images, or those ``chosen (N,)``, untouched, in an order drawn on the CPU; no pixel is read."""
        positions = torch.arange(len(train), device=train.device) if chosen is None else chosen
        order = positions[torch.randperm(len(positions), generator=random).to(train.device)]
        none = torch.zeros_like(order, dtype=torch.bool)
        return cls(order, train.labels[order], none, order[:0], train.pixels[:0])

    @property
    def poisoned(self) -> Tensor:
        """Positions ``int64 (P,)`` in the task's training set of what carries the trigger."""
        return self.sources[self.stamped]

    def images(self, train: Images) -> Images:
        """Return the delivered images with their delivered labels; ``train`` is the task's training set."""
        pixels = train.pixels[self.sources]
        pixels[self.changed] = self.pixels
        return Images(pixels, self.labels.clone(), train.classes)


@dataclass(frozen=True, eq=False)
class Trojan:
    """A delivered model with its benign twin, trained as long on the same images without the attack.

    ``backdoor`` is ``None`` for the benign model that every detector is also judged on; ``delivered`` where there is no
    training set to hand over, because images were stamped afresh for every mini-batch or nothing was trained.
    """

    model: Classifier
    twin: Classifier
    backdoor: Backdoor | None
    delivered: DeliveredSet | None = None
