"""What an attacker wants: which class each stamped image should get."""

from abc import ABC, abstractmethod

from pydantic import Field
from torch import Tensor

from gifthorse.core.configuration import Catalogue, Configuration


class Goal(Configuration, ABC):
    """Maps true labels to the labels that the attacker wants for the stamped images."""

    catalogue = "goal"

    @abstractmethod
    def targets(self, labels: Tensor) -> Tensor:
        """Return the wanted label ``int64 (N,)`` of each image with these true labels."""

    def sources(self, labels: Tensor) -> Tensor:
        """Return ``bool (N,)``: images worth stamping, those not of their wanted class already."""
        return self.targets(labels) != labels


class AllToOne(Goal):
    """Every stamped image should get one class."""

    name = "all_to_one"
    target: int = Field(0, ge=0, description="the class that stamped images should get")

    def targets(self, labels: Tensor) -> Tensor:
        """Return ``target`` for every image."""
        return labels.new_full(labels.shape, self.target)


GOALS: Catalogue[Goal] = Catalogue("goal", [AllToOne])
