"""The one training loop: pixels stay 8-bit in memory on the device until a batch is made."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gifthorse.core.images import Images, to_floats
from gifthorse.core.progress import track
from gifthorse.core.recipe import AdversarialRecipe, Recipe
from gifthorse.core.seeds import derive, generator, isolated
from gifthorse.training.adversarial import perturb
from gifthorse.training.augment import shift_and_flip
from gifthorse.training.optimisers import optimise
from gifthorse.training.precision import fast_arithmetic


class Batch(NamedTuple):
    """Float pixels ``(N, C, H, W)``, labels ``(N,)``, and what may be known of each image.

    ``weights (N,)`` are those in the loss (``None``: the mean); ``stamped``, ``bool (N,)``, says which images carry a
    trigger (``None``: none does).
    """

    pixels: Tensor
    labels: Tensor
    weights: Tensor | None = None
    stamped: Tensor | None = None

    def shares(self) -> tuple[Tensor, Tensor]:
        """Return each image's weight ``(N,)`` in a loss of the clean images, and in one of the stamped images.

        Either is a mean over its images, 0 where there are none, or the sum weighed as the batch says.
        """
        stamped = torch.zeros_like(self.labels) if self.stamped is None else self.stamped
        parts = 1 - stamped.float(), stamped.float()
        if self.weights is not None:
            return parts[0] * self.weights, parts[1] * self.weights
        return parts[0] / parts[0].sum().clamp_min(1), parts[1] / parts[1].sum().clamp_min(1)


Mix = Callable[[Batch], Batch]
"""Turns a batch of augmented images into the one that is trained on."""

Objective = Callable[[nn.Module, Batch], Tensor]
"""Returns the loss of a batch, a scalar; it is called where the fast arithmetic is on."""


def fit(
    model: nn.Module,
    images: Images,
    recipe: Recipe,
    seed: int,
    *,
    mix: Mix | None = None,
    stamped: Tensor | None = None,
    objective: Objective | None = None,
    fixed: Sequence[nn.Module] = (),
    before_epoch: Callable[[int], None] | None = None,
    after_step: Callable[[], None] | None = None,
    after_epoch: Callable[[int], None] | None = None,
    label: str = "training",
) -> None:
    """Train ``model`` in place on ``images``, on their device; it is left in evaluation mode.

    ``mix`` may add images to every batch after its augmentation; an adversarial recipe then moves them all.
    ``stamped``, ``bool (N,)``, says which of the images carry a trigger already, for whoever asks.
    ``objective`` is the loss, cross-entropy unless given. ``fixed`` modules stay as they are, the statistics of their
    batch normalisation as well. ``before_epoch`` and ``after_epoch`` are called with the
    epoch's number, from 0, ``after_step`` with the gradients of the step there; the model is in training mode, and has
    to be when they return. The same seed gives the same weights.
    """
    loss_of = objective or classification_loss
    device = images.device
    random = generator(seed, "batches", device=device)
    steps, size = batches(len(images), recipe)
    optimizer, scheduler = optimise(model, recipe, recipe.epochs * steps)
    model.to(memory_format=torch.channels_last)
    passes = cast(nn.Module, torch.compile(model)) if recipe.compile else model
    held = [weight for module in fixed for weight in module.parameters() if weight.requires_grad]
    for weight in held:
        weight.requires_grad_(False)
    adversary = recipe.search() if isinstance(recipe, AdversarialRecipe) else None
    model.train()
    with isolated(derive(seed, "training")):
        for epoch in track(range(recipe.epochs), label, recipe.epochs):
            if before_epoch is not None:
                before_epoch(epoch)
            order = torch.randperm(len(images), generator=random, device=device)
            for index in order[: steps * size].view(steps, size):
                pixels = shift_and_flip(images.pixels[index], recipe.shift, recipe.flip, random)
                carrying = None if stamped is None else stamped[index]
                batch = Batch(to_floats(pixels), images.labels[index], stamped=carrying)
                if mix is not None:
                    batch = mix(batch)
                if adversary is not None:
                    batch = batch._replace(pixels=perturb(passes, batch.pixels, batch.labels, adversary, random))
                for module in fixed:
                    module.eval()
                with fast_arithmetic(device):
                    loss = loss_of(passes, batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                if after_step is not None:
                    after_step()
            if after_epoch is not None:
                after_epoch(epoch)
    for weight in held:
        weight.requires_grad_(True)
    model.zero_grad()
    model.eval()


def batches(count: int, recipe: Recipe) -> tuple[int, int]:
    """Return how many batches an epoch over ``count`` images has, and the images in each.

    A last batch of a few images would ruin batch normalisation: it is left out, and another one each epoch.
    """
    size = min(recipe.batch_size, count)
    return max(count // size, 1), size


def classification_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the cross-entropy of a batch: its mean, or the sum weighed as the batch says."""
    return weighed_cross_entropy(model(batch.pixels), batch)


def weighed_cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Return the cross-entropy of logits ``(N, K)`` in float32: its mean, or the sum weighed as the batch says."""
    logits = logits.float()
    if batch.weights is None:
        return cross_entropy(logits, batch.labels)
    return (batch.weights * cross_entropy(logits, batch.labels, reduction="none")).sum()
