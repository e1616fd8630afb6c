"""Autoencoders that a defender trains on clean images, to tell what such images look like.

Paper: Meng and Chen 2017 (MagNet), arXiv:1705.09064, section 4 (convolutions that keep the size, noise while training);
    Li et al. 2020, arXiv:2004.04692, appendix B (strided ones with a bottleneck, those of the code that it names).
Differs: images whose sides a bottleneck does not divide are padded with their own edge, and cut back. MagNet's penalty
    on the hidden layers, 1e-9, is left out.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss, pad

from gifthorse.core.configuration import Configuration
from gifthorse.core.images import Images, to_floats
from gifthorse.core.progress import track
from gifthorse.core.seeds import generator, isolated
from gifthorse.training.optimisers import adam


class Autoencoding(Configuration):
    """A network and its training, as the fields of whatever defense has one; the defaults are MagNet's."""

    structure: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (32,), min_length=1, description="channels of the encoder's layers; the decoder mirrors them"
    )
    stride: int = Field(1, ge=1, le=2, description="of every layer; 2 halves the size each time, which is a bottleneck")
    noise: float = Field(0.1, ge=0, description="standard deviation of Gaussian noise on the inputs while training")
    loss: Literal["squared", "cross_entropy"] = Field("squared", description="between reconstruction and clean image")
    epochs: int = Field(100, ge=1, description="passes over the clean images")
    batch_size: int = Field(256, ge=1, description="images per step")
    lr: float = Field(1e-3, gt=0, description="Adam's learning rate")

    def train_autoencoder(self, images: Images, seed: int) -> dict[str, Tensor]:
        """Return the weights of an autoencoder of these images by name; the same seed gives the same weights."""
        with isolated(seed, "autoencoder"):
            network = Autoencoder(self, images.shape[0])
        network.to(images.device).to(memory_format=torch.channels_last)
        random = generator(seed, "batches", device=images.device)
        optimizer = adam(network.parameters(), self.lr)
        loss_of = mse_loss if self.loss == "squared" else binary_cross_entropy_with_logits
        for pixels in self._batches(images, random):
            noisy = pixels
            if self.noise:
                drawn = torch.randn(pixels.shape, generator=random, device=pixels.device)
                noisy = (pixels + self.noise * drawn).clamp(0, 1)
            answer = network(noisy) if self.loss == "squared" else network.logits(noisy)
            loss = loss_of(answer, pixels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return {name: tensor.detach() for name, tensor in network.state_dict().items()}

    def autoencoder(self, weights: Mapping[str, Tensor], colours: int, device: torch.device) -> "Autoencoder":
        """Return the network with these weights, frozen and in evaluation mode."""
        with isolated(0, "autoencoder"):  # drawn to be overwritten, but not from the global state
            network = Autoencoder(self, colours)
        network.load_state_dict(dict(weights))
        return network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def _batches(self, images: Images, random: torch.Generator) -> Iterator[Tensor]:
        size = min(self.batch_size, len(images))
        steps = len(images) // size
        for _ in track(range(self.epochs), "autoencoder", self.epochs):
            order = torch.randperm(len(images), generator=random, device=images.device)
            for index in order[: steps * size].view(steps, size):
                yield to_floats(images.pixels[index])


class Autoencoder(nn.Module):
    """Float pixels ``(N, C, H, W)`` in [0,1] to the like, whatever their size."""

    def __init__(self, settings: Autoencoding, colours: int):
        super().__init__()
        widths = settings.structure
        self.multiple = settings.stride ** len(widths)
        layers: list[nn.Module]
        if settings.stride == 1:
            layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise((colours, *widths))]
            layers += [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise((widths[-1], *widths[::-1], colours))]
        else:
            layers = [nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise((colours, *widths))]
            layers += [nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise((*widths[::-1], colours))]
        between: list[nn.Module] = [part for layer in layers for part in (layer, nn.ReLU())]
        self.layers = nn.Sequential(*between[:-1])

    def logits(self, pixels: Tensor) -> Tensor:
        """Return the reconstruction before its sigmoid."""
        height, width = pixels.shape[2:]
        below, right = -height % self.multiple, -width % self.multiple
        if below or right:
            pixels = pad(pixels, (0, right, 0, below), mode="replicate")
        maps: Tensor = self.layers(pixels)
        return maps[:, :, :height, :width]

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the reconstruction."""
        return self.logits(pixels).sigmoid()
