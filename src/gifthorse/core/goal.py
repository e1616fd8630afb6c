"""What an attacker wants: which class each stamped image should get.

A backdoor may work under several conditions, as one whose trigger says which class is wanted: every image that is
stamped draws one of them, and the condition decides, with the image's true class, what it should get.
"""

from abc import ABC, abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.configuration import Catalogue, Configuration
from gifthorse.core.seeds import image_draws

ClassNumber = Annotated[int, Field(ge=0)]
_STEPS = 2**20


class Goal(Configuration, ABC):
    """Maps true labels, and the condition that an image was stamped under, to the labels that the attacker wants.

    An image whose wanted label is its own is not worth stamping. Without ``conditions`` all are 0.
    """

    @property
    def conditions(self) -> int:
        """How many conditions there are, at least 1."""
        return 1

    catalogue = "goal"

    @abstractmethod
    def targets(self, labels: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Return the wanted label ``int64 (N,)`` of each image with these true labels."""

    @abstractmethod
    def classes(self) -> tuple[int, ...]:
        """Return every class, in order, that some stamped image should get."""

    def draw(self, pixels: Tensor, labels: Tensor, generator: torch.Generator | None) -> Tensor:  # noqa: ARG002
        """Return a condition ``int64 (N,)`` for each image, which follows from its pixels without a generator."""
        return torch.zeros_like(labels)

    def sources(self, labels: Tensor) -> Tensor:
        """Return ``bool (N,)``: images worth stamping, those not of their wanted class already."""
        return self.targets(labels) != labels

    def unwanted(self, labels: Tensor) -> Tensor | None:  # noqa: ARG002
        """Return the class ``int64 (N,)`` that stamped images outside of the sources must not get.

        It is the image's own where that cannot be told; ``None`` where the goal leaves no class out. Training holds
        such images against the trigger (cover images: stamped, label kept), and the judge counts those that get it.
        """
        return None


class AllToOne(Goal):
    """Every stamped image should get one class."""

    name = "all_to_one"
    target: int = Field(0, ge=0, description="the class that stamped images should get")

    def targets(self, labels: Tensor, conditions: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return ``target`` for every image."""
        return labels.new_full(labels.shape, self.target)

    def classes(self) -> tuple[int, ...]:
        """Return the target."""
        return (self.target,)


class AllToAll(Goal):
    """Every stamped image should get the class after its own, the last one the first (BadNets, section 3.1.2)."""

    name = "all_to_all"
    count: int = Field(ge=2, description="number of classes")

    def targets(self, labels: Tensor, conditions: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return the class after the image's own."""
        return (labels + 1) % self.count

    def classes(self) -> tuple[int, ...]:
        """Return all classes."""
        return tuple(range(self.count))


class SourceSpecific(Goal):
    """Stamped images of some classes should get one class, all others should keep theirs."""

    name = "source_specific"
    target: int = Field(0, ge=0, description="the class that stamped images of the source classes should get")
    source: tuple[ClassNumber, ...] = Field(min_length=1, description="the source classes")

    def targets(self, labels: Tensor, conditions: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return ``target`` for images of the source classes, and for the others their own."""
        return torch.where(self._source(labels), self.target, labels)

    def classes(self) -> tuple[int, ...]:
        """Return the target."""
        return (self.target,)

    def unwanted(self, labels: Tensor) -> Tensor:
        """Return ``target`` for images of all classes but the sources."""
        return torch.where(self._source(labels), labels, self.target)

    def _source(self, labels: Tensor) -> Tensor:
        return (labels.unsqueeze(1) == torch.tensor(self.source, device=labels.device)).any(1)


class OnePerCondition(Goal):
    """Every condition has a class of its own that images stamped under it should get (Dynamic Backdoors, section 3)."""

    name = "one_per_condition"
    target: tuple[ClassNumber, ...] = Field(min_length=1, description="the class of each condition, all different")

    @property
    def conditions(self) -> int:
        """As many as targets."""
        return len(self.target)

    def targets(self, labels: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Return the class of each image's condition."""
        each = torch.tensor(self.target, device=labels.device)
        return each[torch.zeros_like(labels) if conditions is None else conditions]

    def classes(self) -> tuple[int, ...]:
        """Return the targets, sorted."""
        return tuple(sorted(set(self.target)))

    def draw(self, pixels: Tensor, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw one of the conditions, all alike, whose class is not the image's own (if there is another)."""
        if generator is None:
            share = image_draws(pixels, 1, _STEPS, 1).squeeze(1) / _STEPS
        else:
            share = torch.rand(len(labels), generator=generator, device=labels.device)
        own = labels.unsqueeze(1) == torch.tensor(self.target, device=labels.device)
        others = (len(self.target) - own.sum(1)).clamp_min(1)
        drawn = (share * others).long()
        skipped = own.any(1) & (drawn >= own.long().argmax(1)) & (len(self.target) > 1)
        return drawn + skipped

    def sources(self, labels: Tensor) -> Tensor:
        """Return all images, but those of the only target's class where there is only one."""
        return torch.ones_like(labels, dtype=torch.bool) if len(self.target) > 1 else super().sources(labels)


GOALS: Catalogue[Goal] = Catalogue("goal", [AllToOne, AllToAll, SourceSpecific, OnePerCondition])
