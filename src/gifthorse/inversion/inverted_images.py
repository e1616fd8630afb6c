"""Images made from a model alone: pixels that it classifies as wanted and that its batch normalisation takes for known.

Paper: Yin et al. 2020, arXiv:1912.08795 (DeepInversion), section 3: cross-entropy, the image prior (Eqs. 2 and 3) and
    the matching of every layer's batch-norm statistics (Eq. 4). Settings are those of its code for CIFAR-10, where the
    images are made in normalised pixels, as here; its L2 weight there is 0.
Differs: a pixel is kept where an image can be, in [0,1], and is rounded to 8 bits at the end. What is taken is what the
    last step leaves, as in that code. The competition with a student (Adaptive DeepInversion) is left out: images are
    made once, before there is a student. A model that normalises by no running statistics has images of the right class
    and of the prior alone: nothing then says what its training images were like, and they are far from them. Mirroring
    (``mirror``) is what the code for ImageNet does.
"""

from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import cross_entropy

from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import Configuration
from gifthorse.core.images import Images, to_levels
from gifthorse.core.progress import track
from gifthorse.core.seeds import generator
from gifthorse.core.views import DataFreeView
from gifthorse.training.generators import total_variation
from gifthorse.training.optimisers import adam
from gifthorse.training.precision import fast_arithmetic


class ImageInversion(Configuration):
    """How images are made from a model, as the fields of whatever method makes some."""

    images: int = Field(50_000, ge=2, description="images that are made, as many of each class")
    inversion_steps: int = Field(2000, ge=1, description="steps that each image is optimised for")
    inversion_batch_size: int = Field(
        256, ge=2, description="images that are made together, by whose statistics they go"
    )
    inversion_lr: float = Field(0.05, gt=0, description="Adam's learning rate for the normalised pixels")
    statistics: float = Field(10.0, ge=0, description="weight of the distance to batch-norm statistics")
    first_statistics: float = Field(1.0, ge=0, description="factor of that weight for the model's first such layer")
    smoothness: float = Field(2.5e-5, ge=0, description="weight of the images' total variation (L2)")
    l2: float = Field(0.0, ge=0, description="weight of the images' L2 norm")
    jitter: int = Field(2, ge=0, description="pixels by which images are rolled at random at each step, at most")
    mirror: bool = Field(False, description="mirror the images at random at each step")

    def unable(self, view: DataFreeView) -> str | None:
        """Return one sentence saying that these images would not show every class of the model, or ``None``."""
        if self.images >= view.classes:
            return None
        return f"makes {self.images} images, which are fewer than the model's {view.classes} classes"

    def invert(self, model: Classifier, shape: tuple[int, int, int], seed: int) -> Images:
        """Return images of ``shape``, labelled with the class that each was made for: 0, 1, ... and over again.

        The model is left as it was. The same seed gives the same images.
        """
        # Not `freeze`: where batch normalisation is folded away there are no statistics left to match.
        watched = model.clone().requires_grad_(False).to(memory_format=torch.channels_last)
        distances: list[Tensor] = []
        for place, layer in enumerate(normalisations(watched)):
            factor = self.first_statistics if place == 0 else 1.0
            layer.register_forward_pre_hook(partial(_note, distances, factor))
        labels = torch.arange(self.images, device=model.device) % model.classes
        parts = labels.chunk(-(-self.images // self.inversion_batch_size))
        random = generator(seed, "inverted images", device=model.device)
        moves = generator(seed, "moves")  # on the host, which has to know them
        levels = []
        for place, wanted in enumerate(parts):
            label = f"image inversion, batch {place + 1} of {len(parts)}"
            raw = torch.randn(len(wanted), *shape, generator=random, device=model.device)
            levels.append(self._optimise(watched, raw, wanted, distances, moves, label))
        return Images(torch.cat(levels), labels, model.classes)

    def _optimise(
        self,
        model: Classifier,
        raw: Tensor,
        wanted: Tensor,
        distances: list[Tensor],
        moves: torch.Generator,
        label: str,
    ) -> Tensor:
        """Return the pixels, ``uint8 (N, C, H, W)``, that normalised ones ``raw (N, C, H, W)`` become."""
        mean, deviation = model.normalise.mean, model.normalise.std
        darkest, brightest = -mean / deviation, (1 - mean) / deviation
        raw = raw.clamp(darkest, brightest).contiguous(memory_format=torch.channels_last).requires_grad_()
        optimizer = adam([raw], self.inversion_lr)
        for _ in track(range(self.inversion_steps), label, self.inversion_steps):
            seen = self._moved(raw, moves)
            distances.clear()
            with fast_arithmetic(raw.device):
                logits = model(seen * deviation + mean)
            optimizer.zero_grad()
            self.loss(seen, logits, wanted, distances).backward()
            optimizer.step()
            with torch.no_grad():
                raw.clamp_(darkest, brightest)
        return to_levels(raw.detach() * deviation + mean)

    def loss(self, seen: Tensor, logits: Tensor, wanted: Tensor, distances: list[Tensor]) -> Tensor:
        """Return what is minimised, of normalised pixels, their logits, classes and distances layer by layer."""
        prior = self.smoothness * total_variation(seen) + self.l2 * vector_norm(seen)
        matching = self.statistics * sum(distances, seen.new_zeros(()))
        total: Tensor = cross_entropy(logits.float(), wanted) + prior + matching
        return total

    def _moved(self, pixels: Tensor, moves: torch.Generator) -> Tensor:
        """Roll all images by the same draw, and mirror them all or none."""
        down, right = torch.randint(-self.jitter, self.jitter + 1, (2,), generator=moves).tolist()
        mirrored = self.mirror and bool(torch.rand((), generator=moves) < 0.5)
        rolled = pixels.roll((down, right), (2, 3))
        return rolled.flip(3) if mirrored else rolled


def normalisations(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a model that normalise by running statistics, in the order that it has them."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    return [layer for layer in model.modules() if isinstance(layer, kinds) and layer.running_mean is not None]


def distance(maps: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return how far the statistics of ``maps (N, C, ...)`` are from a layer's running ``(C,)``, a scalar (Eq. 4)."""
    # Sums of rows, which channels last are as they lie in memory: a CPU takes a fifth of `var_mean`'s time for them.
    rows = maps.float().movedim(1, -1).flatten(0, -2)
    found = rows.mean(0)
    spread = rows.square().mean(0) - found.square()
    gap: Tensor = vector_norm(found - mean) + vector_norm(spread - variance)
    return gap


def _note(distances: list[Tensor], factor: float, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Add a layer's weighed distance to those of this forward pass."""
    distances.append(factor * distance(inputs[0], layer.running_mean, layer.running_var))  # type: ignore[arg-type]
