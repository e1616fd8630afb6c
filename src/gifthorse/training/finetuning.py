"""Tuning a network that is there already on the few clean images that a defender has."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import arange, nn

from gifthorse.core.images import Images
from gifthorse.core.outcomes import RecoveredTriggers
from gifthorse.core.recipe import Recipe
from gifthorse.training.loop import Batch, Mix, Objective, fit

FEWEST = 4
"""Batch normalisation goes by the mini-batch while a network is tuned: with fewer images it learns next to nothing."""


class FineTuning(Recipe):
    """The recipe of a defender who tunes a network, as the fields of whatever defense does."""

    samples: int = Field(
        0, ge=0, description="images per epoch, where there are fewer: these are repeated; 0: each is shown once"
    )

    def tune(
        self,
        model: nn.Module,
        images: Images,
        seed: int,
        mix: Mix | None = None,
        objective: Objective | None = None,
    ) -> None:
        """Train ``model`` in place on clean images, which ``mix`` may change; it is left in evaluation mode.

        ``objective`` is the loss, cross-entropy unless given.
        """
        fit(model, repeated(images, self.samples), self, seed, mix=mix, objective=objective, label="fine-tuning")


class Erasing(FineTuning):
    """The recipe that DHBE gives to all that erase by tuning (appendix C)."""

    epochs: int = Field(20, ge=1, description="passes over the clean images")
    batch_size: int = Field(64, ge=2, description="images per step")
    lr: float = Field(0.01, gt=0, description="learning rate of SGD at the start")
    nesterov: bool = Field(False, description="Nesterov momentum")
    schedule: Literal["constant", "cosine", "one_cycle"] | tuple[int, ...] = Field(
        (10, 15), description="learning rate over time; [10,15]: a tenth after each of so many epochs"
    )
    samples: int = Field(2000, ge=0, description="images per epoch, where there are fewer: these are repeated; 0: once")
    shift: int = Field(0, ge=0, description="random crop of the clean images, in pixels")
    flip: bool = Field(False, description="random left-right flip of the clean images")


class Unlearning(Erasing):
    """The same recipe for whoever shows recovered triggers with the right labels.

    How many images carry the trigger is lost in print; a fifth is Wang et al.'s (2019, section VI-C).
    """

    stamped: float = Field(
        0.2, ge=0, le=1, description="share of a batch that carries a recovered trigger, where there is one"
    )


def unlearning(triggers: RecoveredTriggers, classes: Sequence[int], share: float, random: torch.Generator) -> Mix:
    """Return what stamps a share of every batch with the triggers of some classes and leaves the labels as they are.

    At least one image of a batch is stamped, drawn anew each time; several triggers take turns.
    """

    def stamp(batch: Batch) -> Batch:
        count = max(round(share * len(batch.pixels)), 1)
        chosen = torch.randperm(len(batch.pixels), generator=random, device=batch.pixels.device)[:count]
        pixels = batch.pixels.clone()
        for turn, label in enumerate(classes):
            taken = chosen[turn :: len(classes)]
            pixels[taken] = triggers.stamp(pixels[taken], label)
        return batch._replace(pixels=pixels)

    return stamp


def repeated(images: Images, count: int) -> Images:
    """Return the images, over and over until there are ``count``, or as they are where there are as many."""
    if count <= len(images):
        return images
    return images.take(arange(count, device=images.device) % len(images))


def too_few(images: Images) -> str | None:
    """Return one sentence saying that a network cannot be tuned on these images, or ``None``.

    A class that none of them is of would be unlearnt.
    """
    if len(images) < FEWEST:
        return f"needs {FEWEST} clean images to tune on; there are {len(images)}"
    counts = torch.bincount(images.labels, minlength=images.classes)
    missing = ", ".join(map(str, (counts == 0).nonzero().flatten().tolist()))
    return f"needs clean images of every class to tune on; there are none of {missing}" if missing else None
