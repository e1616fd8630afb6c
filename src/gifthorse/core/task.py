"""The task: images, an architecture and a training recipe."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import Configuration
from gifthorse.core.images import Images
from gifthorse.core.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Splits:
    """Three disjoint sets: for training, for defenders (never trained on), and for judging."""

    train: Images
    holdout: Images
    test: Images
    class_names: tuple[str, ...]


class Dataset(Configuration):
    """A named source of images."""

    catalogue = "dataset"

    title: ClassVar[str]

    @abstractmethod
    def load(self, root: Path, *, download: bool = False) -> Splits:
        """Read the images from a folder; :class:`RequestError` says where it looked and how to get them."""


class Architecture(Configuration):
    """A named network shape."""

    catalogue = "model"

    parameters: ClassVar[int | None] = None
    """Trainable parameters with the default fields for CIFAR-10, so that a listing need not build the network."""

    @abstractmethod
    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> Classifier:
        """Return a freshly initialised classifier for images of ``shape`` (channels, height, width)."""

    def count_parameters(self, shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10) -> int:
        """Return the number of trainable parameters; no weight is allocated."""
        with torch.device("meta"):
            model = self.build(shape, classes, 0)
        return sum(weight.numel() for weight in model.parameters())

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """Add the number of parameters."""
        return {**super().describe(), "parameters": cls.parameters}


@dataclass(frozen=True, eq=False)
class Task(Splits):
    """Images, architecture and recipe: what attackers and judges work on; defenders get a view instead."""

    architecture: Architecture
    recipe: Recipe

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.train.classes

    def build(self, seed: int) -> Classifier:
        """Return a freshly initialised classifier for this task, on the task's device."""
        return self.architecture.build(self.train.shape, self.classes, seed).to(self.train.device)

    def to(self, device: torch.device | str) -> Self:
        """Return the task with its images on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("train", "holdout", "test")}
        return replace(self, **moved)
