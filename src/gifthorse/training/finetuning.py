"""Tuning a network that is there already on the few clean images that a defender has."""

from pydantic import Field
from torch import arange, nn

from gifthorse.core.images import Images
from gifthorse.core.recipe import Recipe
from gifthorse.training.loop import fit

FEWEST = 4
"""Batch normalisation goes by the mini-batch while a network is tuned: with fewer images it learns next to nothing."""


class FineTuning(Recipe):
    """The recipe of a defender who tunes a network, as the fields of whatever defense does."""

    samples: int = Field(
        0, ge=0, description="images per epoch, where there are fewer: these are repeated; 0: each is shown once"
    )

    def tune(self, model: nn.Module, images: Images, seed: int) -> None:
        """Train ``model`` in place on clean images; it is left in evaluation mode."""
        fit(model, repeated(images, self.samples), self, seed, label="fine-tuning")


def repeated(images: Images, count: int) -> Images:
    """Return the images, over and over until there are ``count``, or as they are where there are as many."""
    if count <= len(images):
        return images
    return images.take(arange(count, device=images.device) % len(images))


def too_few(images: Images) -> str | None:
    """Return one sentence saying that a network cannot be tuned on so few images, or ``None``."""
    return None if len(images) >= FEWEST else f"needs {FEWEST} clean images to tune on; there are {len(images)}"
