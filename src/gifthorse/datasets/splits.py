"""Training, holdout and test sets: cut disjointly from a source of images, the same for every run, and read once."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from gifthorse.core.errors import RequestError
from gifthorse.core.seeds import generator
from gifthorse.core.task import Dataset, Splits
from gifthorse.datasets.names import enumerated


class Source(Protocol):
    """What can be cut: decoded images, or image files that nobody has opened yet."""

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> Self:
        """Return the images of an index, in that order."""


class LabelledSource(Source, Protocol):
    """What can be cut class by class."""

    @property
    def labels(self) -> Tensor:
        """The class of each image, ``int64 (N,)``."""


S = TypeVar("S", bound=Source)
L = TypeVar("L", bound=LabelledSource)


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


def cut_by_class(
    images: L, sizes: Mapping[str, int | None], class_names: Sequence[str], name: str, scarce: str = "holdout"
) -> dict[str, L]:
    """Cut a shuffled set as :func:`cut` does, but every class in the same proportions.

    Each class has an image in every part; ``scarce`` is the part that does without where a class or the part is too
    small. A part begins with an image of every class, and a smaller one is the beginning of a larger one.
    :class:`RequestError` names the classes that are too small for the others.
    """
    classes = len(class_names)
    counts = images.labels.bincount(minlength=classes)
    needed = [part for part in sizes if part != scarce]
    small = [f"'{class_names[label]}' ({count})" for label, count in enumerate(counts.tolist()) if count < len(needed)]
    if small:
        wanted = " and ".join(needed)
        raise RequestError(
            f"{name}: classes with too few images for one in {wanted}, to be left out: {enumerated(small)}"
        )
    for part in needed:
        if (size := sizes[part]) is not None and size < classes:
            raise RequestError(f"{name}: {part}={size} is too few for an image of each of the {classes} classes")
    fixed = {part: size for part, size in sizes.items() if size is not None}
    left = len(images) - sum(fixed.values())
    if left < (classes if len(fixed) < len(sizes) else 0):
        wanted = ", ".join(f"{part}={size}" for part, size in fixed.items())
        rest = "".join(f" and a {part} image of each of the {classes} classes" for part in sizes.keys() - fixed.keys())
        raise RequestError(f"{name} has {len(images)} images to cut from, too few for {wanted}{rest}")
    plenty = counts >= len(sizes)
    spared = {part: torch.ones_like(plenty) for part in needed}
    spared[scarce] = plenty if (fixed.get(scarce) or 0) >= int(plenty.sum()) else torch.zeros_like(plenty)
    order = torch.randperm(len(images), generator=generator(0, "dataset", name))
    parts = {}
    for place, (part, size) in enumerate(sizes.items()):
        kept = sum((spared[later].long() for later in list(sizes)[place + 1 :]), torch.zeros_like(counts))
        evenly = _evenly(images.labels[order], kept)
        chosen = evenly if size is None else evenly[:size]
        parts[part] = images.take(order[chosen])
        order = order[torch.ones_like(order, dtype=torch.bool).index_fill_(0, chosen, False)]
    return parts


def _evenly(labels: Tensor, kept: Tensor) -> Tensor:
    """Return an order of images in which every stretch has all classes in proportion, and one of each comes first.

    ``labels`` are ``int64 (N,)``; of each class the last ``kept``, ``int64 (classes,)``, are left out.
    """
    counts = labels.bincount(minlength=len(kept))
    by_class = labels.argsort(stable=True)
    rank = torch.empty_like(labels)
    rank[by_class] = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[by_class]]
    when = torch.where(rank == 0, 0, (rank + 0.5) / counts[labels])
    when[rank >= (counts - kept)[labels]] = torch.inf
    return when.argsort(stable=True)[: int(when.isfinite().sum())]


def load_splits(dataset: Dataset, root: Path, download: bool) -> Splits:
    """Read a data set: once per process, and again where its files were changed."""
    return _read(dataset, root, download, dataset.digest(root))


@cache
def _read(dataset: Dataset, root: Path, download: bool, digest: str) -> Splits:  # noqa: ARG001
    return dataset.load(root, download=download)
