"""The truth about a model: what was planted in it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gifthorse.core.classifier import Classifier
from gifthorse.core.goal import Goal
from gifthorse.core.images import Images
from gifthorse.core.trigger import Trigger


@dataclass(frozen=True, eq=False)
class Backdoor:
    """A trigger, the goal it serves, and which training images carried it.

    ``poisoned`` holds the positions ``int64 (P,)`` of the poisoned images in the training set; it is ``None`` where
    fresh images were drawn for every batch, and where none was poisoned.
    """

    trigger: Trigger
    goal: Goal
    poisoned: Tensor | None

    def stamp(self, pixels: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return stamped copies of ``(N, C, H, W)`` in [0,1], and the class ``(N,)`` that each should get.

        ``labels (N,)`` are the true classes; an image whose wanted class is its own is not worth stamping.
        """
        return self.trigger.stamp(pixels, generator), self.goal.targets(labels)


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
