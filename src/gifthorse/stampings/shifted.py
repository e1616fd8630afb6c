"""The trigger somewhere else.

Paper: Rethinking the Trigger of Backdoor Attack (Li et al. 2020, arXiv:2004.04692), section 3.2 and Figure 3: the test
    images' trigger at another location than the training images'.
Differs: the paper moves a patch that stays within the image; here any trigger moves, and what leaves the image is cut
    off. Of a trigger that follows from the image, what moves is the change that it makes to the image behind it.
"""

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.errors import RequestError
from gifthorse.core.stamping import Stamping, VariedTrigger
from gifthorse.core.trigger import Trigger


class Shifted(Stamping):
    """Moves the trigger by some pixels."""

    name = "shifted"
    paper = "Li et al. 2020, arXiv:2004.04692, section 3.2"
    variants = ("shifted[down=0,right=3]",)

    down: int = Field(2, description="pixels downwards, negative: upwards")
    right: int = Field(2, description="pixels to the right, negative: to the left")

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise :class:`RequestError` where nothing of the trigger can be left in the image."""
        _, height, width = shape
        for field, by, side in (("down", self.down, height), ("right", self.right, width)):
            if abs(by) >= side:
                raise RequestError(f"{self.name}: {field}={by} moves the trigger out of images of {height}×{width}")

    def vary(self, trigger: Trigger) -> Trigger:
        """Return the moved trigger."""
        return ShiftedTrigger(trigger, self.down, self.right)


class ShiftedTrigger(VariedTrigger):
    """Makes another trigger's changes to an image ``down`` and ``right`` by so many pixels."""

    def __init__(self, trigger: Trigger, down: int, right: int):
        super().__init__(trigger)
        self.down, self.right = down, right

    def embed(
        self, pixels: Tensor, generator: torch.Generator | None = None, conditions: Tensor | None = None
    ) -> Tensor:
        """Return images ``(N, C, H, W)`` that are changed where the trigger was moved to, not rounded."""
        behind = moved(pixels, -self.down, -self.right)
        change = self.trigger.embed(behind, generator, conditions) - behind
        return pixels + moved(change, self.down, self.right)


def moved(pixels: Tensor, down: int, right: int) -> Tensor:
    """Return images ``(..., H, W)`` moved by so many pixels, with 0 where nothing came from.

    >>> moved(torch.tensor([[1, 2], [3, 4]]), 1, -1)
    tensor([[0, 0],
            [2, 0]])
    """
    height, width = pixels.shape[-2:]
    result = torch.zeros_like(pixels)
    result[..., _to(down, height), _to(right, width)] = pixels[..., _to(-down, height), _to(-right, width)]
    return result


def _to(by: int, side: int) -> slice:
    """Return the positions that something of a side still reaches after a move."""
    return slice(min(max(by, 0), side), max(min(side + by, side), 0))
