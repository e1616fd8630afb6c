"""What moves every pixel, and a trigger with them: flipping, shrinking, resizing, cropping.

Paper: Li et al. 2020, "Rethinking the Trigger of Backdoor Attack", arXiv:2004.04692, section 5.1 (flip, ShrinkPad);
    Salem et al. 2022, "Dynamic Backdoor Attacks", arXiv:2003.03675, section 4.9 (resize: 32 to 16 and back; crop: 4
    black pixels on every side, then a window of the old size anywhere).
Differs: how images are resized is not printed; it is bilinear, with a filter against aliasing on the way down.
"""

from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate, pad

from gifthorse.core.transformation import Transformation
from gifthorse.training.augment import crop_each

RETHINKING = "Li et al. 2020, arXiv:2004.04692, section 5.1"
DYNAMIC = "Salem et al. 2022, arXiv:2003.03675, section 4.9"


class Flip(Transformation):
    """Mirrors images, left to right."""

    name = "flip"
    paper = RETHINKING

    def apply(self, pixels: Tensor, shares: Tensor) -> Tensor:  # noqa: ARG002
        """Return mirrored images ``(N, C, H, W)``."""
        return pixels.flip(3)


class ShrinkPad(Transformation):
    """Shrinks images by a few pixels and puts each at a random place on black."""

    name = "shrinkpad"
    paper = RETHINKING

    shrink: int = Field(4, ge=1, description="pixels taken off height and width (the paper runs 2 and 4)")

    def draws(self, shape: tuple[int, int, int]) -> int:  # noqa: ARG002
        """Return 2: how far down, how far right."""
        return 2

    def unfit(self, shape: tuple[int, int, int]) -> str | None:
        """Return a sentence where nothing would be left of an image."""
        return nothing_left("shrink", self.shrink, shape)

    def apply(self, pixels: Tensor, shares: Tensor) -> Tensor:
        """Return shrunk images ``(N, C, H, W)``, padded to their size."""
        return shrink_and_pad(pixels, self.shrink, shares)


class Resize(Transformation):
    """Makes images smaller and as large again."""

    name = "resize"
    paper = DYNAMIC

    ratio: float = Field(0.5, gt=0, lt=1, description="height and width of the small image, as a share")

    def apply(self, pixels: Tensor, shares: Tensor) -> Tensor:  # noqa: ARG002
        """Return images ``(N, C, H, W)`` that have lost what is fine."""
        return down_and_up(pixels, self.ratio)


class Crop(Transformation):
    """Pads images with black and cuts a window of the old size out of each, at a random place."""

    name = "crop"
    paper = DYNAMIC

    padding: int = Field(4, ge=1, description="black pixels put on every side, and so the farthest that an image moves")

    def draws(self, shape: tuple[int, int, int]) -> int:  # noqa: ARG002
        """Return 2: how far down, how far right."""
        return 2

    def unfit(self, shape: tuple[int, int, int]) -> str | None:
        """Return a sentence where nothing would be left of an image."""
        return nothing_left("padding", self.padding, shape)

    def apply(self, pixels: Tensor, shares: Tensor) -> Tensor:
        """Return moved images ``(N, C, H, W)``."""
        top, left = (shares * (2 * self.padding + 1)).long().unbind(1)
        return crop_each(pad(pixels, [self.padding] * 4), top, left, *pixels.shape[2:])


def nothing_left(field: str, amount: int, shape: tuple[int, int, int]) -> str | None:
    """Return a sentence where ``amount`` pixels are all that images of ``shape`` (channels, height, width) have."""
    _, height, width = shape
    return f"{field}={amount} leaves nothing of images of {height}×{width}" if amount >= min(height, width) else None


def shrink_and_pad(pixels: Tensor, amount: int, shares: Tensor) -> Tensor:
    """Return images ``(N, C, H, W)`` made ``amount`` pixels smaller, on black; ``shares (N, 2)`` tell where."""
    height, width = pixels.shape[2:]
    small = interpolate(pixels, (height - amount, width - amount), mode="bilinear", align_corners=False)
    top, left = (shares * (amount + 1)).long().unbind(1)
    return crop_each(pad(small, [amount] * 4), top, left, height, width)


def down_and_up(pixels: Tensor, ratio: float) -> Tensor:
    """Return images ``(N, C, H, W)`` made smaller by a ratio below 1, without aliasing, and as large again.

    The small image's sides are rounded down, so that it is smaller whatever the ratio, to a pixel at least.
    """
    height, width = pixels.shape[2:]
    size = max(int(height * ratio), 1), max(int(width * ratio), 1)
    small = interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
    return interpolate(small, (height, width), mode="bilinear", align_corners=False)
