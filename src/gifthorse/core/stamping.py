"""How a trigger is shown when a backdoor is judged, where that is not as it was planted."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gifthorse.core.configuration import Configuration
from gifthorse.core.images import Images, to_levels
from gifthorse.core.seeds import generator
from gifthorse.core.trigger import Trigger, on_grid


class Stamping(Configuration, ABC):
    """Varies the trigger of test images: a field of a judgement, so that the attack and its model stay the same."""

    catalogue = "stamp"

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise :class:`RequestError` where images of ``shape`` (channels, height, width) cannot be stamped so."""

    def skip(self, trigger: Trigger, shape: tuple[int, int, int]) -> str | None:  # noqa: ARG002
        """Return why a trigger cannot be varied so, in one sentence; ``None`` where it can."""
        return None

    def attempts(self) -> int:
        """Return how often the attacker tries an image, with a fresh draw each time, until one works; at least 1."""
        return 1

    @abstractmethod
    def vary(self, trigger: Trigger) -> Trigger:
        """Return the varied trigger."""


class ImageTransformation(Stamping):
    """Varies a trigger with the whole image that shows it, which can be done to an image without one as well."""

    @abstractmethod
    def transform(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return transformed images ``(N, C, H, W)`` of pixels in [0,1], not rounded, and in [0,1] as well.

        What is random follows from each image's own pixels without a generator.
        """

    @torch.no_grad()
    def transformed(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the same on the 8-bit grid."""
        return on_grid(self.transform(pixels, generator))

    def vary(self, trigger: Trigger) -> Trigger:
        """Return the trigger that transforms every image once it is stamped."""
        return TransformedTrigger(trigger, self)


class VariedTrigger(Trigger):
    """A trigger that shows another one otherwise; it is made for a judgement and never saved.

    ``mask`` is ``None``: where a varied trigger lies is not what a defense looks for.
    """

    name = "varied"
    mask = None

    def __init__(self, trigger: Trigger):
        super().__init__()
        self.trigger = trigger

    def settings(self) -> dict[str, Any]:
        """Raise ``TypeError``: a varied trigger is not saved."""
        raise TypeError("a varied trigger is not saved; the trigger and the stamping that it is made of are")


class TransformedTrigger(VariedTrigger):
    """Stamps an image with a trigger, and transforms all of it."""

    def __init__(self, trigger: Trigger, transformation: ImageTransformation):
        super().__init__(trigger)
        self.transformation = transformation

    def embed(
        self, pixels: Tensor, generator: torch.Generator | None = None, conditions: Tensor | None = None
    ) -> Tensor:
        """Return stamped images ``(N, C, H, W)``, transformed and not rounded."""
        return self.transformation.transform(self.trigger.embed(pixels, generator, conditions), generator)

    @torch.no_grad()
    def stamp(
        self, pixels: Tensor, generator: torch.Generator | None = None, conditions: Tensor | None = None
    ) -> Tensor:
        """Return the 8-bit image of what an 8-bit stamped image was transformed into."""
        return self.transformation.transformed(self.trigger.stamp(pixels, generator, conditions), generator)


def unstamped(stamp: Stamping | None, images: Images, random: torch.Generator | None = None) -> Images:
    """Return what becomes of images without a trigger: transformed where the stamping transforms whole images.

    What is random follows from a generator, without one from that which all judges stamp with.
    """
    if not isinstance(stamp, ImageTransformation):
        return images
    random = random or generator(0, "judge", "stamp", device=images.device)
    return replace(images, pixels=to_levels(stamp.transformed(images.floats(), random)))
