"""The stamped image as a whole mirrored, shrunk or turned, or transformed in any listed way.

Paper: Rethinking the Trigger of Backdoor Attack (Li et al. 2020, arXiv:2004.04692), section 4.1: flipping,
    and shrinking by some pixels and padding with black at a random place (ShrinkPad-4). Definition 4: the ASR of what
    was transformed is the attack's robustness to the transformation, R(T); a compound one is allowed.
Differs: rotation is not in the paper; its angle is ours, and the corners that become free are black. The parts of a
    compound transformation are by default those of the paper's enhanced attack. What each transformation does
    differently is said in :mod:`gifthorse.transformations`.
"""

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.errors import RequestError
from gifthorse.core.stamping import ImageTransformation
from gifthorse.core.transformation import Transformation, one_after_the_other, random_shares, unfit
from gifthorse.transformations.spatial import ShrinkPad, nothing_left, shrink_and_pad

PAPER = "Li et al. 2020, arXiv:2004.04692, section 4.1"


class Transformed(ImageTransformation):
    """Transforms the stamped image in one way after the other."""

    name = "transformed"
    paper = "Li et al. 2020, arXiv:2004.04692, Definition 4"
    variants = ("transformed[transforms=[gaussian_noise,color_contrast]]",)

    transforms: tuple[Transformation, ...] = Field(
        ("flip", "shrinkpad"),  # type: ignore[arg-type]
        min_length=1,
        description="transformations, one after the other",
    )

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise :class:`RequestError` where a transformation does not suit images of ``shape``."""
        if (reason := unfit(self.transforms, shape)) is not None:
            raise RequestError(f"{self}: {reason}")

    def transform(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return transformed images ``(N, C, H, W)``."""
        shares = random_shares(self.transforms, pixels, 0, generator=generator)
        return one_after_the_other(self.transforms, pixels, shares.squeeze(1))


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
        if (reason := nothing_left("pixels", self.pixels, shape)) is not None:
            raise RequestError(f"{self.name}: {reason}")

    def transform(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return shrunk images ``(N, C, H, W)``, padded to their size."""
        shares = random_shares((ShrinkPad(),), pixels, 0, generator=generator)
        return shrink_and_pad(pixels, self.pixels, shares.squeeze(1))


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
