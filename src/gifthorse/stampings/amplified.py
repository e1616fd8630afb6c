"""The same trigger several times in one image.

Paper: DHBE, section 5.3, Figure 5 and Table 6: in the four corners (x4), and in the centre and the middles of the four
    edges as well (x9).
Differs: how far the copies lie from the edges is not said: they touch them, wherever the trigger itself lies.
"""

from itertools import product
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.stamping import Stamping, VariedTrigger
from gifthorse.core.trigger import Trigger
from gifthorse.stampings.shifted import ShiftedTrigger

_ANCHORS = {4: (0.0, 1.0), 9: (0.0, 0.5, 1.0)}
"""By copies: where they lie between the first and the last place of an image's side, in either direction."""


class Amplified(Stamping):
    """Stamps the same trigger four or nine times."""

    name = "amplified"
    paper = "DHBE, section 5.3"
    variants = ("amplified[copies=9]",)

    copies: Literal[4, 9] = Field(
        4, description="4: in the four corners; 9: in the centre and the middles of the four edges as well"
    )

    def skip(self, trigger: Trigger, shape: tuple[int, int, int]) -> str | None:
        """Return why there cannot be so many: the trigger has no pixels of its own, or copies would overlap."""
        if trigger.mask is None:
            return f"{self} needs a trigger with the same pixels in every image, which this attack has not"
        _, _, *size = _box(trigger.mask)
        if any(own * len(_ANCHORS[self.copies]) > side for own, side in zip(size, shape[1:], strict=True)):
            own, image = ("×".join(map(str, each)) for each in (size, shape[1:]))
            return f"{self}: copies of a {own} trigger would overlap in images of {image}"
        return None

    def vary(self, trigger: Trigger) -> Trigger:
        """Return the trigger that is shown so often; :meth:`skip` says whether it can be."""
        return AmplifiedTrigger(trigger, self.copies)


class AmplifiedTrigger(VariedTrigger):
    """Shows a trigger of fixed pixels at every anchor of the image."""

    def __init__(self, trigger: Trigger, copies: int):
        super().__init__(trigger)
        assert trigger.mask is not None
        top, left, height, width = _box(trigger.mask)
        rows, columns = (
            [int(share * (side - own)) for share in _ANCHORS[copies]]
            for side, own in zip(trigger.mask.shape[1:], (height, width), strict=True)
        )
        self.shown = [ShiftedTrigger(trigger, row - top, column - left) for row, column in product(rows, columns)]

    def embed(
        self, pixels: Tensor, generator: torch.Generator | None = None, conditions: Tensor | None = None
    ) -> Tensor:
        """Return images ``(N, C, H, W)`` with every copy, not rounded; all of an image are of the same draw."""
        state = None if generator is None else generator.get_state()
        embedded = pixels
        for each in self.shown:
            if generator is not None and state is not None:
                generator.set_state(state)
            # From the plain image: no two copies share a pixel.
            embedded = embedded + (each.embed(pixels, generator, conditions) - pixels)
        return embedded


def _box(mask: Tensor) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the smallest box that holds the trigger's pixels."""
    rows, columns = (mask.any(0).any(across).nonzero().squeeze(1) for across in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    return top, left, int(rows[-1]) - top + 1, int(columns[-1]) - left + 1
