"""Flip: mirror the image, left to right.

Paper: Li et al. 2020, "Rethinking the Trigger of Backdoor Attack", arXiv:2004.04692, section 5.1.
Differs: nothing.
"""

from torch import Tensor, nn

from gifthorse.core.defense import Defense
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.views import DataFreeView


class Flip(Defense[DataFreeView]):
    """Mirrors every input before the model sees it."""

    name = "flip"
    paper = "Li et al. 2020, arXiv:2004.04692, section 5.1"
    family = "reformation"
    view = DataFreeView

    def defend(self, view: DataFreeView, seed: int) -> CleanModel:  # noqa: ARG002
        """Put the transformation in front of the model."""
        reform = _Mirror()
        return CleanModel(view.model.behind(reform), reform)


class _Mirror(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.flip(3)
