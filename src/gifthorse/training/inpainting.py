"""A completion network that a defender trains on clean images, to fill what was taken out of an image.

Paper: Iizuka et al. 2017 (GLCIC), section 3 and Equation 2 (weighted squared error in the hole, completion network of
    dilated convolutions, holes of 96 to 128 of 256 pixels); Gulrajani et al. 2017 (WGAN-GP), arXiv:1704.00028,
    Algorithm 1; Doan et al. 2020 (Februus), arXiv:1908.03369, whose code gives the network's layers.
Differs: Februus's code has no training. Its adversarial loss is WGAN-GP's, of one critic that sees the whole image;
    GLCIC has a second one for the hole. Adam, not ADADELTA. A critic that takes several steps before each of the
    network's needs no phase of its own. Images whose sides are no multiples of four are padded with their own edge.
    The squared error is the mean over the pixels of all holes.
"""

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from gifthorse.core.configuration import Configuration
from gifthorse.core.images import Images, to_floats
from gifthorse.core.progress import track
from gifthorse.core.seeds import generator, isolated
from gifthorse.training.optimisers import adam


class Inpainting(Configuration):
    """A completion network and its training, as the fields of whatever defense has one."""

    width: int = Field(64, ge=2, description="channels of the first layer; the innermost have four times as many")
    dilations: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (2, 4, 8, 16), description="of the innermost convolutions, in order"
    )
    smallest_hole: float = Field(0.375, gt=0, le=1, description="share of the sides that a hole has at least")
    largest_hole: float = Field(0.5, gt=0, le=1, description="share of the sides that a hole has at most")
    steps: int = Field(20_000, ge=1, description="steps down the squared error alone")
    adversarial_steps: int = Field(5_000, ge=0, description="steps after these, down both losses")
    adversarial_weight: float = Field(4e-4, ge=0, description="of the critic's loss beside the squared error; 0: none")
    critic_steps: int = Field(5, ge=1, description="steps of the critic before each of the network's")
    gradient_penalty: float = Field(10.0, ge=0, description="λ: weight of the penalty on the critic's slope")
    batch_size: int = Field(96, ge=1, description="images per step")
    lr: float = Field(1e-4, gt=0, description="Adam's learning rate, of both networks")

    def train_inpainting(self, images: Images, seed: int) -> dict[str, Tensor]:
        """Return the weights of a completion network of these images by name; the same seed gives the same weights."""
        device, random = images.device, generator(seed, "inpainting", device=images.device)
        fill = images.floats().mean((0, 2, 3))
        with isolated(seed, "inpainting"):
            network, critic = Completion(self, images.shape[0]), _critic(images.shape, self.width)
        network.fill.copy_(fill.view(1, -1, 1, 1))
        network.to(device).to(memory_format=torch.channels_last)
        optimizer, batches = adam(network.parameters(), self.lr), self._batches(images, random)
        for _ in track(range(self.steps), "inpainting", self.steps):
            pixels, holes = next(batches)
            _step(optimizer, _error(network.paint(pixels, holes), pixels, holes))
        if self.adversarial_weight:
            critic.to(device).to(memory_format=torch.channels_last)
            self._compete(network, critic, batches, random)
        return {name: tensor.detach() for name, tensor in network.state_dict().items()}

    def inpainting_network(self, weights: Mapping[str, Tensor], colours: int, device: torch.device) -> "Completion":
        """Return the network with these weights, frozen and in evaluation mode."""
        with isolated(0, "inpainting"):  # drawn to be overwritten, but not from the global state
            network = Completion(self, colours)
        network.load_state_dict(dict(weights))
        return network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def _compete(
        self,
        network: "Completion",
        critic: nn.Module,
        batches: Iterator[tuple[Tensor, Tensor]],
        random: torch.Generator,
    ) -> None:
        moments = (0.0, 0.9)  # Gulrajani et al.
        ours, theirs = (adam(each.parameters(), self.lr, moments) for each in (network, critic))
        for _ in track(range(self.adversarial_steps), "adversarial inpainting", self.adversarial_steps):
            for _ in range(self.critic_steps):
                pixels, holes = next(batches)
                with torch.no_grad():
                    made = blend(pixels, network.paint(pixels, holes), holes)
                _step(theirs, critic(made).mean() - critic(pixels).mean() + self._penalty(critic, pixels, made, random))
            pixels, holes = next(batches)
            painted = network.paint(pixels, holes)
            fooled = -critic(blend(pixels, painted, holes)).mean()
            _step(ours, _error(painted, pixels, holes) + self.adversarial_weight * fooled)

    def _penalty(self, critic: nn.Module, pixels: Tensor, made: Tensor, random: torch.Generator) -> Tensor:
        share = torch.rand(len(pixels), 1, 1, 1, generator=random, device=pixels.device)
        between = torch.lerp(pixels, made, share).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        penalty: Tensor = self.gradient_penalty * (slope.flatten(1).norm(dim=1) - 1).square().mean()
        return penalty

    def _batches(self, images: Images, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pixels and a hole for each without end; all images are shown before one is shown again."""
        size = min(self.batch_size, len(images))
        for _ in count():
            order = torch.randperm(len(images), generator=random, device=images.device)
            for index in order[: len(images) // size * size].view(-1, size):
                yield to_floats(images.pixels[index]), self.holes(size, images.shape[1:], random, images.device)

    def holes(self, number: int, size: tuple[int, ...], random: torch.Generator, device: torch.device) -> Tensor:
        """Return masks ``(N, 1, H, W)`` that are 1 in a rectangle, drawn for each, and 0 elsewhere."""
        largest = max(self.smallest_hole, self.largest_hole)
        inside = []
        for side in size:
            extent, place = torch.rand(2, number, 1, generator=random, device=device)
            extent = ((self.smallest_hole + extent * (largest - self.smallest_hole)) * side).round().clamp_min(1)
            start = (place * (side - extent + 1)).floor()
            along = torch.arange(side, device=device)
            inside.append((along >= start) & (along < start + extent))
        mask: Tensor = (inside[0].unsqueeze(2) & inside[1].unsqueeze(1)).unsqueeze(1).float()
        return mask


class Completion(nn.Module):
    """Fills holes: the neutral colour ``fill (1, C, 1, 1)`` first, and then what the network makes of that."""

    fill: Tensor

    def __init__(self, settings: Inpainting, colours: int):
        super().__init__()
        width = settings.width
        self.register_buffer("fill", torch.zeros(1, colours, 1, 1))

        def layer(before: int, after: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
            convolution = nn.Conv2d(before, after, kernel, stride, dilation * (kernel // 2), dilation)
            return [convolution, nn.ReLU(), nn.BatchNorm2d(after)]

        def doubled(before: int, after: int) -> list[nn.Module]:
            return [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.ReLU(), nn.BatchNorm2d(after)]

        inner = 4 * width
        self.layers = nn.Sequential(
            *layer(colours + 1, width, kernel=5),
            *layer(width, 2 * width, stride=2),
            *layer(2 * width, 2 * width),
            *layer(2 * width, inner, stride=2),
            *(part for _ in range(2) for part in layer(inner, inner)),
            *(part for dilation in settings.dilations for part in layer(inner, inner, dilation=dilation)),
            *(part for _ in range(2) for part in layer(inner, inner)),
            *doubled(inner, 2 * width),
            *layer(2 * width, 2 * width),
            *doubled(2 * width, width),
            *layer(width, width // 2),
            nn.Conv2d(width // 2, colours, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, pixels: Tensor, holes: Tensor) -> Tensor:
        """Return ``pixels (N, C, H, W)`` in [0,1] whose ``holes (N, 1, H, W)``, where these are 1, are painted anew."""
        return blend(pixels, self.paint(pixels, holes), holes)

    def paint(self, pixels: Tensor, holes: Tensor) -> Tensor:
        """Return the network's own image, of which the holes are shown."""
        height, width = pixels.shape[2:]
        seen = torch.cat([blend(pixels, self.fill, holes), holes], 1)
        if height % 4 or width % 4:
            seen = pad(seen, (0, -width % 4, 0, -height % 4), mode="replicate")
        painted: Tensor = self.layers(seen.contiguous(memory_format=torch.channels_last))
        return painted[:, :, :height, :width]


def blend(pixels: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Return ``mask · other + (1 - mask) · pixels``."""
    return mask * other + (1 - mask) * pixels


def _error(painted: Tensor, pixels: Tensor, holes: Tensor) -> Tensor:
    error: Tensor = (holes * (painted - pixels)).square().sum() / (holes.sum() * pixels.shape[1])
    return error


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _critic(shape: tuple[int, int, int], width: int) -> nn.Sequential:
    """Return a network that halves images until their sides are four pixels or fewer, and gives each a number."""
    channels, *sides = shape
    layers: list[nn.Module] = []
    while max(sides) > 4:
        wider = width if not layers else min(2 * channels, 8 * width)
        layers += [nn.Conv2d(channels, wider, 5, 2, 2), nn.LeakyReLU(0.2)]
        channels, sides = wider, [-(-side // 2) for side in sides]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * sides[0] * sides[1], 1))
