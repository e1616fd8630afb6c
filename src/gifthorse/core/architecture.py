"""The architecture: a named network shape."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch

from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import Configuration


class Architecture(Configuration):
    """A named network shape."""

    catalogue = "model"

    parameters: ClassVar[int | None] = None
    """Trainable parameters with the default fields for CIFAR-10, so that a listing need not build the network."""

    @abstractmethod
    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> Classifier:
        """Return a freshly initialised classifier for images of ``shape`` (channels, height, width)."""

    def check(self, shape: tuple[int, int, int], classes: int) -> None:
        """Raise :class:`RequestError` where the fields cannot be carried out; nothing is computed."""

    def count_parameters(self, shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10) -> int:
        """Return the number of trainable parameters; no weight is allocated."""
        with torch.device("meta"):
            model = self.build(shape, classes, 0)
        return sum(weight.numel() for weight in model.parameters())

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """Add the number of parameters."""
        return {**super().describe(), "parameters": cls.parameters}
