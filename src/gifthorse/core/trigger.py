"""The trigger and the one place where its blending formula is written.

TrojanZoo (equation 1) prints α as the pattern's weight and m = 1 for "keep", while its text and tables use α as
transparency. Here m = 1 is "stamp" and α is transparency (0 opaque, 1 invisible):

    x ⊕ r = (1 − m) ⊙ x + m ⊙ [α x + (1 − α) p]
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn


class Trigger(nn.Module, ABC):
    """Stamps images, each on its own, under the condition that its goal drew for it.

    ``mask`` is ``(1, H, W)`` in {0,1} where the trigger has fixed pixels, and ``None`` where it has not. What makes the
    trigger are buffers and parameters; ``settings`` returns the rest, and ``restore`` puts it together again.
    """

    name: ClassVar[str]
    mask: Tensor | None

    @abstractmethod
    def embed(
        self, pixels: Tensor, generator: torch.Generator | None = None, conditions: Tensor | None = None
    ) -> Tensor:
        """Return stamped copies of ``(N, C, H, W)`` in [0,1], not rounded, so that they can be differentiated.

        ``conditions``, ``int64 (N,)``, are all 0 where they are not given. What is random follows from each image's
        own pixels without a generator, so that it is the same in every batch.
        """

    @torch.no_grad()
    def stamp(
        self, pixels: Tensor, generator: torch.Generator | None = None, conditions: Tensor | None = None
    ) -> Tensor:
        """Return what :meth:`embed` does on the 8-bit grid; a pixel that it left alone keeps its value.

        Rounding has no gradient, so none is recorded, whatever the trigger's parameters.
        """
        return rounded(self.embed(pixels, generator, conditions), pixels)

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the JSON-ready constructor arguments that are neither buffers nor parameters."""

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Return a copy of the trigger with these settings and this ``state_dict``.

        By default its own buffers are arguments beside the settings, and what networks within it hold is loaded.
        """
        own = {name: tensor for name, tensor in tensors.items() if "." not in name}
        trigger = cls(**settings, **own)
        if len(own) < len(tensors):
            trigger.load_state_dict(tensors)
        return trigger


def blend(pixels: Tensor, mask: Tensor, pattern: Tensor, transparency: float) -> Tensor:
    """Return ``x ⊕ r`` as the module's formula says, without rounding (so that it can be differentiated).

    ``pixels`` is ``(..., C, H, W)``; ``mask`` and ``pattern`` broadcast against it.

    >>> x, m, p = torch.tensor([0.2, 0.2]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0])
    >>> blend(x, m, p, 0.75)
    tensor([0.2000, 0.4000])
    """
    return pixels + mask * (1 - transparency) * (pattern - pixels)


def rounded(embedded: Tensor, pixels: Tensor) -> Tensor:
    """Return what became of ``pixels`` on the 8-bit grid; those that were left alone keep their value."""
    return torch.where(embedded == pixels, pixels, on_grid(embedded))


def on_grid(pixels: Tensor) -> Tensor:
    """Round pixels in [0,1] to the 256 levels that a PNG can hold."""
    return (pixels * 255).round_().clamp_(0, 255).div_(255)
