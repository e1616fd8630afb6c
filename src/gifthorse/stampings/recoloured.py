"""The trigger in another colour.

Paper: Rethinking the Trigger of Backdoor Attack (Li et al. 2020, arXiv:2004.04692), section 3.2 and Figure 3: the
    trigger's pixels that are not black get another value from 0 to 255.
Differs: the paper has a patch of black and one grey, here it may be any pattern: wherever it is not black in all
    channels it gets the level, at the transparency that it has.
"""

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.seeds import generator as seeded
from gifthorse.core.seeds import image_draws
from gifthorse.core.stamping import Stamping, VariedTrigger
from gifthorse.core.trigger import Trigger

_HALF_A_LEVEL = 0.5 / 255


class Recoloured(Stamping):
    """Gives the trigger's pixels that are not black another level."""

    name = "recoloured"
    paper = "Li et al. 2020, arXiv:2004.04692, section 3.2"
    variants = ("recoloured[level=0]",)

    level: float = Field(0.5, ge=0, le=1, description="what they get instead in every channel; 0 is black, 1 is white")

    def skip(self, trigger: Trigger, shape: tuple[int, int, int]) -> str | None:
        """Return why there is nothing to recolour: the trigger does not cover pixels, or covers them with black."""
        device = next((tensor.device for tensor in trigger.state_dict().values()), torch.device("cpu"))
        grey = torch.full((1, *shape), 0.5, device=device)
        opacity, pattern = _appearance(trigger, grey, seeded(0, "recoloured", device=device), None)
        shown = trigger.embed(grey, seeded(0, "recoloured", device=device))
        if not torch.allclose(shown, grey + opacity * (pattern - grey), rtol=0, atol=_HALF_A_LEVEL):
            return f"{self} needs a trigger that covers pixels with a pattern; this attack's changes what is there"
        if not _lit(opacity, pattern).any():
            return f"{self}: the trigger's pattern is black, so that there is nothing to recolour"
        return None

    def vary(self, trigger: Trigger) -> Trigger:
        """Return the recoloured trigger; :meth:`skip` says whether it can be."""
        return RecolouredTrigger(trigger, self.level)


class RecolouredTrigger(VariedTrigger):
    """Shows another trigger's pattern with one level wherever it is not black."""

    def __init__(self, trigger: Trigger, level: float):
        super().__init__(trigger)
        self.level = level

    def embed(
        self, pixels: Tensor, generator: torch.Generator | None = None, conditions: Tensor | None = None
    ) -> Tensor:
        """Return images ``(N, C, H, W)`` with the recoloured trigger, not rounded."""
        if generator is None:
            # A black image has other draws of its own than the image that it stands for.
            seeds = image_draws(pixels, 0, 2**62, 1).squeeze(1).tolist()
            each = (
                conditions
                if conditions is not None
                else torch.zeros(len(pixels), dtype=torch.long, device=pixels.device)
            )
            return torch.cat(
                [
                    self.embed(image, torch.Generator(pixels.device).manual_seed(seed), condition)
                    for image, seed, condition in zip(pixels.split(1), seeds, each.split(1), strict=True)
                ]
            )
        opacity, pattern = _appearance(self.trigger, pixels, generator, conditions)
        recoloured = torch.where(_lit(opacity, pattern), self.level, pattern)
        return pixels + opacity * (recoloured - pixels)


def _appearance(
    trigger: Trigger, pixels: Tensor, generator: torch.Generator, conditions: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return opacity and pattern ``(N, C, H, W)`` in [0,1] of a trigger, 0 where it does not show.

    What is drawn once on black and once on white tells both, as two backgrounds do in matting.
    """
    state = generator.get_state()
    on_black = trigger.embed(torch.zeros_like(pixels), generator, conditions)
    generator.set_state(state)
    on_white = trigger.embed(torch.ones_like(pixels), generator, conditions)
    opacity = 1 - (on_white - on_black)
    opacity = torch.where(opacity > _HALF_A_LEVEL, opacity, 0.0)
    return opacity, torch.where(opacity > 0, on_black / opacity.clamp_min(_HALF_A_LEVEL), 0.0)


def _lit(opacity: Tensor, pattern: Tensor) -> Tensor:
    """Return where a trigger shows and is not black in all channels, ``bool (N, 1, H, W)``."""
    return ((opacity > 0) & (pattern > _HALF_A_LEVEL)).any(1, keepdim=True)
