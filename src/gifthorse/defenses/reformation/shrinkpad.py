"""ShrinkPad: shrink the image by a few pixels and put it at a random place on black.

Paper: Li et al. 2020, "Rethinking the Trigger of Backdoor Attack", arXiv:2004.04692, section 5.1.
Differs: the random place is drawn from the image's own pixels and the seed, so that an image is treated the same
    alone and in a batch; its distribution over images is the paper's.
"""

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from gifthorse.core.defense import Defense
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.seeds import derive, image_draws
from gifthorse.core.views import DataFreeView
from gifthorse.training.augment import crop_each


class ShrinkPad(Defense[DataFreeView]):
    """Shrinks every input and pads it back at a random place before the model sees it."""

    name = "shrinkpad"
    paper = "Li et al. 2020, arXiv:2004.04692, section 5.1"
    family = "reformation"
    view = DataFreeView

    shrink: int = Field(4, ge=1, description="pixels taken off height and width (the paper runs 2 and 4)")

    def defend(self, view: DataFreeView, seed: int) -> CleanModel:
        """Put the transformation in front of the model."""
        reform = _Shrink(self.shrink, derive(seed, self.name))
        return CleanModel(view.model.behind(reform), reform)


class _Shrink(nn.Module):
    def __init__(self, shrink: int, seed: int):
        super().__init__()
        self.shrink, self.seed = shrink, seed

    def forward(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        amount = min(self.shrink, height - 1, width - 1)
        small = interpolate(pixels, (height - amount, width - amount), mode="bilinear", align_corners=False)
        top, left = image_draws(pixels, self.seed, amount + 1, 2).unbind(1)
        return crop_each(pad(small, [amount] * 4), top, left, height, width)
