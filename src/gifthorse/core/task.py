"""The task: images, an architecture and a training recipe."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from gifthorse.core.architecture import Architecture
from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import Configuration, fingerprint
from gifthorse.core.contents import content_digest
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

    def sources(self, root: Path) -> tuple[Path, ...]:  # noqa: ARG002
        """Return the files and folders under a data root that are read; in folders only the images count."""
        return ()

    def digest(self, root: Path | None) -> str:
        """Return a digest of what would be read under a data root, by content; of no files where there is none."""
        read = (*self.files(), *(() if root is None else self.sources(root)))
        return fingerprint({"contents": [content_digest(path) for path in read]})

    @abstractmethod
    def load(self, root: Path, *, download: bool = False) -> Splits:
        """Read the images from a folder; :class:`RequestError` says where it looked and how to get them."""


@dataclass(frozen=True, eq=False)
class Task(Splits):
    """Images, architecture and recipe: what attackers and judges work on; defenders get a view instead."""

    architecture: Architecture
    recipe: Recipe
    prepared: Mapping[str, Tensor] = field(default_factory=dict)
    """What the attack in hand prepared on the benign model, where that is done."""

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
