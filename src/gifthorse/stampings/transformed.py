"""The stamped image as a whole mirrored, shrunk or turned.

Paper: Rethinking the Trigger of Backdoor Attack (Li et al. 2020, arXiv:2004.04692), section 4.1: flipping,
    and shrinking by some pixels and padding with black at a random place (ShrinkPad-4).
Differs: rotation is not in the paper; its angle is ours, and the corners that become free are black.
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from gifthorse.core.errors import RequestError
from gifthorse.core.seeds import image_draws
from gifthorse.core.stamping import ImageTransformation
from gifthorse.triggers.places import anywhere, paste

PAPER = "Li et al. 2020, arXiv:2004.04692, section 4.1"


class Flipped(ImageTransformation):
    """Mirrors the stamped image, left to right."""

    name = "flipped"
    paper = PAPER

    def transform(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG002
        """Return mirrored images ``(N, C, H, W)``."""
        return pixels.flip(3)


class Shrunk(ImageTransformation):
    """Shrinks the stamped image and puts it somewhere on black, somewhere else for every image."""

    name = "shrunk"
    paper = PAPER

    pixels: int = Field(4, ge=0, description="pixels that height and width lose")

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise :class:`RequestError` where nothing would be left of the image."""
        if self.pixels >= min(shape[1:]):
            raise RequestError(f"{self.name}: pixels={self.pixels} leaves nothing of images of {shape[1]}×{shape[2]}")

    def transform(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return shrunk images ``(N, C, H, W)``, padded to their size."""
        _, channels, height, width = pixels.shape
        size = height - self.pixels, width - self.pixels
        small = interpolate(pixels, size, mode="bilinear", align_corners=False)
        places = anywhere((channels, height, width), size).to(pixels.device)
        if generator is None:
            drawn = image_draws(pixels, 0, len(places), 1).squeeze(1)
        else:
            drawn = torch.randint(len(places), (len(pixels),), generator=generator, device=pixels.device)
        return paste(torch.zeros_like(pixels), small, small.new_ones(1, *size), places[drawn], 0.0)


class Rotated(ImageTransformation):
    """Turns the stamped image about its centre."""

    name = "rotated"
    paper = "none; a spatial transformation, as Li et al. 2020 ask for (arXiv:2004.04692, section 4.1)"

    degrees: float = Field(15.0, ge=0, le=360, description="angle, counter-clockwise")

    def transform(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG002
        """Return turned images ``(N, C, H, W)``, black where nothing was."""
        from torchvision.transforms.functional import InterpolationMode, rotate

        turned: Tensor = rotate(pixels, self.degrees, InterpolationMode.BILINEAR)
        return turned.clamp(0, 1)
