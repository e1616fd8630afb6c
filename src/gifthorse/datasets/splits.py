"""Training, holdout and test sets: cut disjointly from a source of images, the same for every run, and read once."""

from functools import cache
from pathlib import Path
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from gifthorse.core.errors import RequestError
from gifthorse.core.seeds import generator
from gifthorse.core.task import Dataset, Splits


class Source(Protocol):
    """What can be cut: decoded images, or image files that nobody has opened yet."""

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> Self:
        """Return the images of an index, in that order."""


S = TypeVar("S", bound=Source)


def cut(images: S, sizes: dict[str, int | None], name: str) -> dict[str, S]:
    """Cut a shuffled set into parts of the given sizes; one size may be ``None``: whatever is left.

    The shuffle depends on the data set's name alone, so that a run's seed never moves an image between sets.
    """
    fixed = sum(size for size in sizes.values() if size is not None)
    left = len(images) - fixed
    if left < 0 or (left == 0 and None in sizes.values()):
        wanted = ", ".join(f"{part}={size}" for part, size in sizes.items() if size is not None)
        raise RequestError(f"{name} has {len(images)} images to cut from, too few for {wanted}")
    order = torch.randperm(len(images), generator=generator(0, "dataset", name))
    lengths = [left if size is None else size for size in sizes.values()]
    parts = order[: sum(lengths)].split(lengths)
    return {part: images.take(index) for part, index in zip(sizes, parts, strict=True)}


def load_splits(dataset: Dataset, root: Path, download: bool) -> Splits:
    """Read a data set: once per process, and again where its files were changed."""
    return _read(dataset, root, download, dataset.digest(root))


@cache
def _read(dataset: Dataset, root: Path, download: bool, digest: str) -> Splits:  # noqa: ARG001
    return dataset.load(root, download=download)
