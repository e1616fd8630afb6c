"""What changes how pixels look and leaves them where they are: noise, hue, contrast, brightness, saturation.

Paper: Li et al. 2020, "Rethinking the Trigger of Backdoor Attack", arXiv:2004.04692, appendix D (Gaussian noise with a
    standard deviation of 5, 10, 15 and 20 of 255; colours shifted by at most 0.1, 0.2, 0.3 and 0.4, as torchvision's
    ColorJitter does). The defaults are the first of each.
Differs: formulas of our own, so that every image of a batch has its own factor. Images are not rounded in between;
    noisy ones are cut to [0,1], which the paper does not say.
"""

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.transformation import Transformation

PAPER = "Li et al. 2020, arXiv:2004.04692, appendix D"
_SEEN_AS_GREY = (0.2989, 0.587, 0.114)


class GaussianNoise(Transformation):
    """Adds Gaussian noise to every pixel."""

    name = "gaussian_noise"
    paper = PAPER

    std: float = Field(5.0, gt=0, description="standard deviation, in levels of 255 (the paper runs 5, 10, 15 and 20)")

    def draws(self, shape: tuple[int, int, int]) -> int:
        """Return one for every pixel and channel."""
        channels, height, width = shape
        return channels * height * width

    def apply(self, pixels: Tensor, shares: Tensor) -> Tensor:
        """Return noisy images ``(N, C, H, W)``."""
        # Without the ends, where the normal distribution has none.
        signed = (2 * shares - 1).clamp(-1 + 1e-6, 1 - 1e-6)
        noise = torch.erfinv(signed).view(pixels.shape) * 2**0.5
        return (pixels + self.std / 255 * noise).clamp(0, 1)


class Hue(Transformation):
    """Turns the hue of all of an image's pixels by the same random angle."""

    name = "color_hue"
    paper = PAPER

    max_change: float = Field(0.1, gt=0, le=0.5, description="farthest turn either way, as a share of the circle")

    def draws(self, shape: tuple[int, int, int]) -> int:  # noqa: ARG002
        """Return 1: the turn."""
        return 1

    def unfit(self, shape: tuple[int, int, int]) -> str | None:
        """Return a sentence where there is no hue to turn."""
        return _colourless(shape)

    def apply(self, pixels: Tensor, shares: Tensor) -> Tensor:
        """Return images ``(N, 3, H, W)`` in other colours; those of other channels as they are."""
        if pixels.shape[1] != 3:
            return pixels
        return turn_hue(pixels, self.max_change * (2 * shares - 1))


class _Factor(Transformation):
    """Draws one factor for every image, around 1."""

    max_change: float = Field(0.1, gt=0, description="farthest that the factor is from 1; it is never below 0")

    def draws(self, shape: tuple[int, int, int]) -> int:  # noqa: ARG002
        """Return 1: the factor."""
        return 1

    def factors(self, shares: Tensor) -> Tensor:
        """Return the factors ``(N, 1, 1, 1)`` that ``shares (N, 1)`` stand for."""
        least = max(0.0, 1 - self.max_change)
        return (least + (1 + self.max_change - least) * shares).view(-1, 1, 1, 1)


class Contrast(_Factor):
    """Moves all pixels away from the image's mean brightness, or towards it, by a random factor."""

    name = "color_contrast"
    paper = PAPER

    def apply(self, pixels: Tensor, shares: Tensor) -> Tensor:
        """Return images ``(N, C, H, W)`` of more or less contrast."""
        return _away_from(seen_as_grey(pixels).mean((2, 3), keepdim=True), pixels, self.factors(shares))


class Brightness(_Factor):
    """Multiplies all pixels by a random factor."""

    name = "color_brightness"
    paper = PAPER

    def apply(self, pixels: Tensor, shares: Tensor) -> Tensor:
        """Return brighter or darker images ``(N, C, H, W)``."""
        return (pixels * self.factors(shares)).clamp(0, 1)


class Saturation(_Factor):
    """Moves every pixel away from grey of its own brightness, or towards it, by a random factor."""

    name = "color_saturation"
    paper = PAPER

    def unfit(self, shape: tuple[int, int, int]) -> str | None:
        """Return a sentence where there is no colour to change."""
        return _colourless(shape)

    def apply(self, pixels: Tensor, shares: Tensor) -> Tensor:
        """Return images ``(N, 3, H, W)`` of more or less colour; those of other channels as they are."""
        if pixels.shape[1] != 3:
            return pixels
        return _away_from(seen_as_grey(pixels), pixels, self.factors(shares))


def seen_as_grey(pixels: Tensor) -> Tensor:
    """Return the brightness ``(N, 1, H, W)`` of images, as eyes weigh red, green and blue; other channels alike."""
    if pixels.shape[1] != 3:
        return pixels.mean(1, keepdim=True)
    return (pixels * pixels.new_tensor(_SEEN_AS_GREY).view(3, 1, 1)).sum(1, keepdim=True)


def turn_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Return images ``(N, 3, H, W)`` whose hues are turned by ``turns (N, 1)``, as shares of the circle.

    Value and saturation, as HSV has them, stay.
    """
    pixels = pixels.contiguous()
    red, green, blue = pixels.unbind(1)
    value, least = pixels.amax(1), pixels.amin(1)
    chroma = value - least
    # Which of six corners of the colour circle a pixel is at, counted from red.
    divisor = torch.where(chroma > 0, chroma, 1)
    corner = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    corner = (corner + 6 * turns.unsqueeze(2)).unsqueeze(1)
    place = (pixels.new_tensor([5.0, 3.0, 1.0]).view(3, 1, 1) + corner).remainder(6)
    lost = torch.minimum(place, 4 - place).clamp(0, 1)
    return value.unsqueeze(1) - chroma.unsqueeze(1) * lost


def _away_from(other: Tensor, pixels: Tensor, factors: Tensor) -> Tensor:
    return (other + factors * (pixels - other)).clamp(0, 1)


def _colourless(shape: tuple[int, int, int]) -> str | None:
    return None if shape[0] == 3 else f"images of {shape[0]} channel{'s' * (shape[0] > 1)} have no colours to change"
