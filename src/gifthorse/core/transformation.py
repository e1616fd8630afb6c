"""Transformations of whole images, whoever makes them: a defense before it answers, or a judge of a trigger."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from gifthorse.core.configuration import Configuration
from gifthorse.core.seeds import image_noise


class Transformation(Configuration, ABC):
    """Makes another image of an image, by a few random numbers or by none."""

    catalogue = "transformation"

    def draws(self, shape: tuple[int, int, int]) -> int:  # noqa: ARG002
        """Return how many random numbers an image of ``shape`` (channels, height, width) takes; none here."""
        return 0

    def unfit(self, shape: tuple[int, int, int]) -> str | None:  # noqa: ARG002
        """Return why images of ``shape`` cannot be transformed so, in one sentence; ``None`` where they can."""
        return None

    @abstractmethod
    def apply(self, pixels: Tensor, shares: Tensor) -> Tensor:
        """Return transformed images ``(N, C, H, W)`` of pixels in [0,1], not rounded, and in [0,1] as well.

        ``shares (N, draws)`` are uniform in [0,1): each image is transformed by its own.
        """


def unfit(steps: Sequence[Transformation], shape: tuple[int, int, int]) -> str | None:
    """Return the first sentence that one of several has to say."""
    return next((reason for step in steps if (reason := step.unfit(shape)) is not None), None)


def random_shares(
    steps: Sequence[Transformation],
    pixels: Tensor,
    seed: int,
    times: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return what ``steps`` take for images ``(N, C, H, W)``, ``times`` over: ``(N, times, draws)`` in [0,1).

    They follow from each image's own pixels and the seed, unless there is a generator; the first are the same however
    often.
    """
    _, channels, height, width = pixels.shape
    count = sum(step.draws((channels, height, width)) for step in steps)
    if count == 0:
        return pixels.new_empty(len(pixels), times, 0)
    if generator is None:
        return image_noise(pixels, seed, times * count).view(len(pixels), times, count)
    return torch.rand(len(pixels), times, count, generator=generator, device=pixels.device)


def one_after_the_other(steps: Sequence[Transformation], pixels: Tensor, shares: Tensor) -> Tensor:
    """Return what becomes of images ``(N, C, H, W)``; ``shares (N, draws)`` are those of the first step first."""
    _, channels, height, width = pixels.shape
    counts = [step.draws((channels, height, width)) for step in steps]
    for step, own in zip(steps, shares.split(counts, 1), strict=True):
        pixels = step.apply(pixels, own)
    return pixels
