"""The same trigger, drawn anew by an attacker who is turned away and tries again.

Paper: Dynamic Backdoors (Salem et al. 2020, arXiv:2003.03675), section 4.6, which says that an attacker can query with
    freshly drawn triggers until the model accepts one, and runs nothing.
Differs: how often is not said: ten times, of which the first is what is judged without trying again. Image and target
    stay the same from try to try. Whoever passes the filter and does not get the target tries again as well.
"""

import torch
from pydantic import Field

from gifthorse.core.seeds import generator
from gifthorse.core.stamping import Stamping
from gifthorse.core.trigger import Trigger

_PROBES = 32
"""Images that are stamped twice to see whether a trigger varies: two places may be drawn alike on one of them."""


class Requeried(Stamping):
    """Tries again with a fresh draw of the same trigger where the one before failed."""

    name = "requeried"
    paper = "Dynamic Backdoors, section 4.6"
    variants = ("requeried[tries=3]",)

    tries: int = Field(10, ge=2, description="how often the attacker tries an image, the first time included")

    def attempts(self) -> int:
        """Return how often the attacker tries."""
        return self.tries

    def skip(self, trigger: Trigger, shape: tuple[int, int, int]) -> str | None:
        """Return why trying again gains nothing: the trigger looks the same whatever is drawn."""
        device = next((tensor.device for tensor in trigger.state_dict().values()), torch.device("cpu"))
        probes = torch.full((_PROBES, *shape), 0.5, device=device)
        first, second = (trigger.stamp(probes, generator(draw, self.name, device=device)) for draw in (0, 1))
        if torch.equal(first, second):
            return f"{self}: this attack's trigger looks the same every time, so that trying again gains nothing"
        return None

    def vary(self, trigger: Trigger) -> Trigger:
        """Return the trigger as it is: what varies is how often it is drawn."""
        return trigger
