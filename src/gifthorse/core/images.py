"""Images in memory: 8-bit pixels and labels; floats in [0,1] only when asked for."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from gifthorse.core.errors import RequestError


@dataclass(frozen=True, eq=False)
class Images:
    """A labelled set of images.

    ``pixels`` is ``uint8 (N, C, H, W)``, ``labels`` is ``int64 (N,)`` in ``[0, classes)``; :class:`RequestError` where
    they are not. That is looked at once: what is made of checked images makes no device wait.
    """

    pixels: Tensor
    labels: Tensor
    classes: int

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            found = f"{self.pixels.dtype} {tuple(self.pixels.shape)}"
            raise RequestError(f"images must be uint8 of shape (N, C, H, W), not {found}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.pixels.shape[:1]:
            found = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise RequestError(f"labels must be int64 of shape ({len(self.pixels)},), not {found}")
        if len(self.labels) and not (0 <= int(self.labels.min()) <= int(self.labels.max()) < self.classes):
            raise RequestError(f"labels must lie in [0, {self.classes})")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self.pixels.device

    def take(self, index: Tensor | slice) -> Self:
        """Return the images of an index, a boolean mask or a slice, in that order."""
        return self._of(self.pixels[index], self.labels[index])

    def join(self, other: "Images") -> Self:
        """Return these images followed by the others; :class:`RequestError` where they know other classes."""
        if other.classes != self.classes:
            raise RequestError(f"images of {other.classes} classes cannot follow images of {self.classes}")
        return self._of(torch.cat([self.pixels, other.pixels]), torch.cat([self.labels, other.labels]))

    def to(self, device: torch.device | str) -> Self:
        """Return the same images on a device."""
        return self._of(self.pixels.to(device), self.labels.to(device))

    def floats(self) -> Tensor:
        """Return all pixels as ``float32 (N, C, H, W)`` in [0,1]."""
        return to_floats(self.pixels)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float pixels and labels in order, ``size`` at a time."""
        for pixels, labels in zip(self.pixels.split(size), self.labels.split(size), strict=True):
            yield to_floats(pixels), labels

    def _of(self, pixels: Tensor, labels: Tensor) -> Self:
        made = copy.copy(self)  # does not construct, so does not check
        vars(made).update(pixels=pixels, labels=labels)
        return made


def to_floats(pixels: Tensor) -> Tensor:
    """Turn ``uint8`` pixels into ``float32`` in [0,1], channels last in memory."""
    return pixels.to(torch.float32, memory_format=torch.channels_last).div_(255)


def to_levels(pixels: Tensor) -> Tensor:
    """Turn float pixels in [0,1] into the ``uint8`` levels that a PNG would hold."""
    return (pixels * 255).round_().clamp_(0, 255).to(torch.uint8)
