"""Networks that make images and patches of noise, for whoever distils or searches without data.

Paper: Yan et al. 2023 (DHBE), appendix B.2 and Tables 10 to 13, whose rows are lost in print: layers are those of the
    authors' code. What is made has zero mean and unit variance in every colour before it is handed on (of a patch:
    before the tanh that bounds it).
Differs: sides that are no power of two times 5 to 9 are made a little larger and cut. Batch normalisation goes by the
    batch at all times, so nothing remembers statistics.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

SLOPE = 0.2
LARGEST_START = 9
"""Sides above this are grown from half as much."""


class _Grown(nn.Module):
    """Noise ``(N, D)`` to maps ``(N, width, H, W)``: a small map, then nearest neighbours and convolutions."""

    def __init__(self, size: tuple[int, int], noise: int, width: int):
        super().__init__()
        self.size = size
        doublings = 0
        while -(-min(size) // 2**doublings) > LARGEST_START:
            doublings += 1
        start = [-(-side // 2**doublings) for side in size]
        widths = [2 * width] * doublings + [width]
        layers: list[nn.Module] = [
            nn.Linear(noise, widths[0] * start[0] * start[1]),
            nn.Unflatten(1, (widths[0], *start)),
            _normalisation(widths[0]),
        ]
        for before, after in pairwise(widths):
            layers += [nn.UpsamplingNearest2d(scale_factor=2), nn.Conv2d(before, after, 3, padding=1)]
            layers += [_normalisation(after), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers)

    def forward(self, noise: Tensor) -> Tensor:
        maps: Tensor = self.layers(noise)
        return maps[:, :, : self.size[0], : self.size[1]].contiguous(memory_format=torch.channels_last)


class SampleGenerator(nn.Sequential):
    """Noise ``(N, D)`` to images ``(N, C, H, W)`` of zero mean and unit variance in every colour of a batch."""

    def __init__(self, shape: tuple[int, int, int], noise: int, width: int):
        colours, height, width_of_image = shape
        super().__init__(
            _Grown((height, width_of_image), noise, width),
            nn.Conv2d(width, colours, 3, padding=1),
            nn.Tanh(),
            _normalisation(colours, affine=False),
        )


class PatchGenerator(nn.Sequential):
    """Noise ``(N, D)`` to square patches ``(N, C, S, S)`` in [-1,1]."""

    def __init__(self, colours: int, size: int, noise: int, width: int):
        super().__init__(
            _Grown((size, size), noise, width),
            nn.Conv2d(width, colours, 3, padding=1),
            _normalisation(colours, affine=False),
            nn.Tanh(),
        )


def add_patches(pixels: Tensor, patches: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Return ``pixels (N, C, H, W)`` plus ``patches (N, C, S, S)`` whose corners are at ``top`` and ``left``.

    Both are ``(N, 1, 1)``, or ``(1, 1, 1)`` for one place in all images.
    """
    along = torch.arange(patches.shape[-1], device=pixels.device)
    images = torch.arange(len(pixels), device=pixels.device).view(-1, 1, 1)
    index = (images, top + along.view(1, -1, 1), left + along.view(1, 1, -1))
    canvas = pixels.permute(0, 2, 3, 1).clone()
    canvas = canvas.index_put(index, patches.permute(0, 2, 3, 1), accumulate=True)
    return canvas.permute(0, 3, 1, 2)


def total_variation(images: Tensor) -> Tensor:
    """Return the L2 norms, over a whole batch, of the differences to neighbours in the four directions."""
    across, down = images[..., :, 1:] - images[..., :, :-1], images[..., 1:, :] - images[..., :-1, :]
    falling = images[..., 1:, 1:] - images[..., :-1, :-1]
    rising = images[..., 1:, :-1] - images[..., :-1, 1:]
    return torch.stack([part.norm() for part in (across, down, falling, rising)]).sum()


def _normalisation(channels: int, *, affine: bool = True) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=affine, track_running_stats=False)
