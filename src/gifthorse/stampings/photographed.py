"""The stamped image printed and photographed, simulated.

Paper: Rethinking the Trigger of Backdoor Attack (Li et al. 2020, arXiv:2004.04692), section 5.4 and Figure 8: pictures
    taken of stamped images from near and from far.
Differs: the paper holds a camera; here a picture is seen at an angle (perspective), out of focus (blur), under a tinted
    light (colour cast), at a lower resolution (resize) and with noise, in this order. All strengths are ours: the paper
    prints none. The image fills the picture from near and from far; from far it has half the resolution.
"""

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from gifthorse.core.seeds import image_noise
from gifthorse.core.stamping import ImageTransformation

_CORNERS = 8
"""Numbers that are drawn for where the corners are seen; a tint of every channel and the noise follow."""


class _View(NamedTuple):
    """How strong everything is: ``angle`` and ``blur`` are shares of the side, the others of the range of pixels."""

    angle: float
    blur: float
    tint: float
    resolution: float
    noise: float


_VIEWS = {"near": _View(0.03, 0.012, 0.05, 0.9, 0.01), "far": _View(0.08, 0.025, 0.1, 0.5, 0.03)}


class Photographed(ImageTransformation):
    """Prints the stamped image and photographs it, from near or from far; another view of every image."""

    name = "photographed"
    paper = "Li et al. 2020, arXiv:2004.04692, section 5.4"
    variants = ("photographed[distance=far]",)

    distance: Literal["near", "far"] = Field("near", description="how far the camera is, and so how much is lost")

    def transform(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return photographs ``(N, C, H, W)`` of images."""
        from torchvision.transforms.functional import gaussian_blur

        count, channels, height, width = pixels.shape
        view, noisy = _VIEWS[self.distance], _CORNERS + channels
        drawn = noisy + channels * height * width
        if generator is None:
            shares = image_noise(pixels, 0, drawn)
        else:
            shares = torch.rand(count, drawn, generator=generator, device=pixels.device)
        # From (0,1) to (−1,1), without the ends, where the normal distribution has none.
        signed = (2 * shares - 1).clamp(-1 + 1e-6, 1 - 1e-6)
        moved = signed[:, :_CORNERS].view(count, 4, 2) * view.angle * signed.new_tensor([width, height])
        photos = seen_at_an_angle(pixels, moved)
        sigma = view.blur * min(height, width)
        photos = gaussian_blur(photos, [2 * round(3 * sigma) + 1] * 2, [sigma, sigma])
        photos = photos * (1 + view.tint * signed[:, _CORNERS:noisy].view(count, channels, 1, 1))
        small = [max(1, round(side * view.resolution)) for side in (height, width)]
        photos = interpolate(photos, small, mode="bilinear", align_corners=False, antialias=True)
        photos = interpolate(photos, (height, width), mode="bilinear", align_corners=False)
        noise = torch.erfinv(signed[:, noisy:]).view(pixels.shape) * 2**0.5
        return (photos + view.noise * noise).clamp(0, 1)


def seen_at_an_angle(pixels: Tensor, moved: Tensor) -> Tensor:
    """Return images ``(N, C, H, W)`` whose corners were moved by ``moved (N, 4, 2)`` pixels, across and down, each.

    The corners' order is top left, top right, bottom right, bottom left; what was not in the image is black.
    """
    count, _, height, width = pixels.shape
    corners = torch.tensor([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], device=pixels.device)
    corners = corners.double().expand(count, 4, 2)
    seen = corners + moved
    # A place (x, y) of a photograph shows (ax + by + c, dx + ey + f) / (gx + hy + 1) of the image; 4 corners tell all.
    homogeneous = torch.cat([seen, torch.ones_like(seen[..., :1])], 2)
    zero = torch.zeros_like(homogeneous)
    across = torch.cat([homogeneous, zero, -corners[..., :1] * seen], 2)
    down = torch.cat([zero, homogeneous, -corners[..., 1:] * seen], 2)
    found = torch.linalg.solve(torch.cat([across, down], 1), corners.transpose(1, 2).flatten(1))
    maps = torch.cat([found, torch.ones_like(found[:, :1])], 1).view(count, 3, 3).to(pixels.dtype)
    rows, columns = (torch.arange(side, device=pixels.device, dtype=pixels.dtype) + 0.5 for side in (height, width))
    places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), 2).view(1, -1, 2)
    places = torch.cat([places, torch.ones_like(places[..., :1])], 2) @ maps.transpose(1, 2)
    shown = places[..., :2] / places[..., 2:] / pixels.new_tensor([width / 2, height / 2]) - 1
    return grid_sample(pixels, shown.view(count, height, width, 2), mode="bilinear", align_corners=False)
