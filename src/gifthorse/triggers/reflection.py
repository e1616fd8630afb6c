"""A reflection in a window pane: light of another picture, added to the image's own.

Paper: Liu et al. 2020, "Reflection Backdoor" (ECCV), sections 3.1 and 3.2: x ⊕ r = x + r ⊗ k, where the kernel k is one
    of three: in focus (same depth), out of focus (a Gaussian), ghost (two pulses).
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from gifthorse.core.seeds import image_draws
from gifthorse.core.trigger import Trigger, blend

Kind = Literal["in_focus", "out_of_focus", "ghost"]
KINDS: tuple[Kind, ...] = ("in_focus", "out_of_focus", "ghost")
GAMMA = 2.2
# Below it the root is steeper than any gradient can use; it shows as black.
DARKEST = 1e-6


class Reflection(Trigger):
    """Adds one of several reflections to every image, or shows it in a patch.

    ``layers (R, C, H, W)`` are the reflections, as light in [0,1]. An image's own light weighs ``image_weight``, the
    reflection's the rest. ``mask (1, H, W)`` in {0,1} says where this shows, everywhere without it, and
    ``transparency`` in [0,1] is the α of the trigger formula.
    """

    name = "reflection"
    layers: Tensor

    def __init__(
        self, layers: Tensor, mask: Tensor | None = None, *, image_weight: float = 0.0, transparency: float = 0.0
    ):
        super().__init__()
        self.register_buffer("layers", layers)
        self.register_buffer("mask", mask)
        self.image_weight = image_weight
        self.transparency = transparency

    def embed(
        self,
        pixels: Tensor,
        generator: torch.Generator | None = None,
        conditions: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return images with one of the reflections, drawn alike under every condition, not rounded."""
        if generator is None:
            drawn = image_draws(pixels, 0, len(self.layers), 1).squeeze(1)
        else:
            drawn = torch.randint(len(self.layers), (len(pixels),), generator=generator, device=pixels.device)
        light = self.image_weight * to_light(pixels) + (1 - self.image_weight) * self.layers[drawn]
        shown = pixels.new_ones(1) if self.mask is None else self.mask
        return blend(pixels, shown, to_pixels(light), self.transparency)

    def settings(self) -> dict[str, Any]:
        """Return the image's weight and the transparency."""
        return {"image_weight": self.image_weight, "transparency": self.transparency}


def to_light(pixels: Tensor) -> Tensor:
    """Return the light, in [0,1], that pixels in [0,1] stand for."""
    return pixels**GAMMA


def to_pixels(light: Tensor) -> Tensor:
    """Return the pixels, in [0,1], that show this light."""
    return light.clamp(DARKEST, 1) ** (1 / GAMMA)


def in_focus(light: Tensor, height: int, width: int) -> Tensor:
    """Return pictures ``(R, C, H', W')`` as sharp layers ``(R, C, height, width)``: the pane shows them as they are."""
    return interpolate(light, (height, width), mode="bilinear", antialias=True)


def out_of_focus(layers: Tensor, sigmas: Tensor) -> Tensor:
    """Return layers ``(R, C, H, W)``, each blurred by a Gaussian of its own width, ``sigmas (R,)`` in pixels."""
    count, channels, height, width = layers.shape
    radius = int((2 * sigmas.max()).ceil())
    distance = torch.arange(-radius, radius + 1, device=layers.device)
    weights = torch.exp(-((distance / sigmas.unsqueeze(1)) ** 2) / 2)
    weights = (weights / weights.sum(1, keepdim=True)).repeat_interleave(channels, 0).unsqueeze(1)
    blurred = pad(layers.reshape(1, count * channels, height, width), [radius] * 4, mode="replicate")
    blurred = conv2d(blurred, weights.unsqueeze(3), groups=count * channels)
    return conv2d(blurred, weights.unsqueeze(2), groups=count * channels).view_as(layers)


def ghost(light: Tensor, offsets: Tensor, weights: Tensor, height: int, width: int) -> Tensor:
    """Return pictures ``(R, C, H', W')`` as layers ``(R, C, height, width)`` seen twice, as in a pane with two faces.

    The second copy is shifted by ``offsets (R, 2)``, rows and columns, and has what ``weights (R,)`` leaves.
    """
    down, right = offsets.unbind(1)
    larger = in_focus(light, height + int(down.max()), width + int(right.max()))
    first = weights.view(-1, 1, 1, 1)
    second = larger.unfold(2, height, 1).unfold(3, width, 1)[torch.arange(len(light)), :, down, right]
    return first * larger[:, :, :height, :width] + (1 - first) * second


def reflect(pictures: Tensor, height: int, width: int, kinds: tuple[Kind, ...], generator: torch.Generator) -> Tensor:
    """Return pictures ``(R, C, H', W')`` in [0,1] as reflections ``(R, C, height, width)``, in linear light.

    Each is of a kind drawn from ``kinds``. Shift and width of the blur are drawn as the authors draw them at 560
    pixels, smaller in proportion to the image, but so that they can be seen.
    """
    count, scale = len(pictures), max(height, width) / 560
    light = to_light(pictures)
    far = max(round(8 * scale), 2)
    offsets = torch.randint(min(max(round(3 * scale), 1), far), far + 1, (count, 2), generator=generator)
    lopsided = 0.15 + 0.35 * torch.rand(count, generator=generator)
    weights = torch.where(torch.rand(count, generator=generator) < 0.5, lopsided, 1 - lopsided)
    narrow, wide = max(scale, 0.5), max(5 * scale, 1.0)
    sigmas = narrow + (wide - narrow) * torch.rand(count, generator=generator)
    sharp = in_focus(light, height, width)
    made = {"in_focus": sharp, "out_of_focus": out_of_focus(sharp, sigmas)}
    made["ghost"] = ghost(light, offsets, weights, height, width)
    kind = torch.randint(len(kinds), (count,), generator=generator)
    return torch.stack([made[name] for name in kinds])[kind, torch.arange(count)].clamp(0, 1).contiguous()


def cut(layers: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Return layers ``(R, C, H, W)`` that show, where the mask ``(1, H, W)`` is, a piece from a random place."""
    height, width = mask.shape[1:]
    rows, columns = mask[0].nonzero().unbind(1)
    top, left = int(rows.min()), int(columns.min())
    high, wide = int(rows.max()) - top + 1, int(columns.max()) - left + 1
    down = torch.randint(height - high + 1, (len(layers),), generator=generator)
    right = torch.randint(width - wide + 1, (len(layers),), generator=generator)
    pieces = layers.unfold(2, high, 1).unfold(3, wide, 1)[torch.arange(len(layers)), :, down, right]
    return pad(pieces, [left, width - left - wide, top, height - top - high])
