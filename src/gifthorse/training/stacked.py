"""Many small models of one architecture trained at once: their weights are stacked, and one pass serves them all.

What each model learns is what :func:`gifthorse.training.loop.fit` would teach it alone: its own weights, seed,
batches, augmentation and running statistics. Losses of different models share no weight, and SGD works element by
element, so the gradient of their sum trains each as its own loss would. Two things differ. Dropout draws from one
stream for all. And a stacked pass is computed in float32 everywhere: torch's autocast does not reach convolutions
inside ``vmap``.

Stacked convolutions are grouped convolutions. They save a GPU the launches of many small kernels; a CPU computes all
but the narrowest networks faster one after another, so there that is what happens unless ``at_once`` says otherwise.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn.functional import cross_entropy

from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images, to_floats
from gifthorse.core.progress import track
from gifthorse.core.recipe import AdversarialRecipe, Recipe
from gifthorse.core.seeds import derive, generator, isolated
from gifthorse.training.augment import shift_and_flip
from gifthorse.training.loop import batches, fit
from gifthorse.training.optimisers import optimise


def fit_stacked(
    models: Sequence[Classifier],
    images: Images | Sequence[Images],
    recipe: Recipe,
    seeds: Sequence[int],
    *,
    at_once: int | None = None,
    label: str = "training",
) -> None:
    """Train models of one architecture in place, each by its own seed; they are left in evaluation mode.

    ``images`` is one set for all models, or a set for each, equal in number and shape. ``at_once`` is how many models
    share a pass, and with it the memory; ``None`` leaves the choice to the device, 1 trains one after another. An
    adversarial recipe seeks its inputs model by model and cannot be stacked.
    """
    sets = [images] * len(models) if isinstance(images, Images) else list(images)
    if not len(models) == len(seeds) == len(sets):
        raise RequestError(f"{len(models)} models need as many seeds and sets of images, not {len(seeds)}, {len(sets)}")
    adversarial = isinstance(recipe, AdversarialRecipe)
    if at_once is None:
        at_once = 1 if adversarial or not sets else models_at_once(sets[0].device, recipe)
    if at_once > 1:
        _check(models, sets, adversarial)
    for start in range(0, len(models), at_once):
        group = slice(start, start + at_once)
        if len(models[group]) == 1:
            fit(models[start], sets[start], recipe, seeds[start], label=label)
        else:
            _fit_together(models[group], sets[group], recipe, seeds[group], label)


def models_at_once(device: torch.device, recipe: Recipe) -> int:
    """Return how many models share a pass where nobody says: one on a CPU, as many as make 4,096 images on a GPU."""
    return max(4096 // recipe.batch_size, 1) if device.type == "cuda" else 1


def _check(models: Sequence[Classifier], sets: list[Images], adversarial: bool) -> None:
    if adversarial:
        raise RequestError("adversarial training cannot be stacked: at_once must be 1")
    # The printed form tells what the shapes do not: a dropout rate, a stride.
    shapes = [(str(model), {key: part.shape for key, part in model.state_dict().items()}) for model in models]
    if any(shape != shapes[0] for shape in shapes):
        raise RequestError("stacked models must be of one architecture and size")
    if len({part.pixels.shape for part in sets}) > 1:
        raise RequestError("stacked models need sets of equally many images of one shape")


def _fit_together(
    models: Sequence[Classifier], sets: list[Images], recipe: Recipe, seeds: Sequence[int], label: str
) -> None:
    device, together = sets[0].device, len(models)
    randoms = [generator(seed, "batches", device=device) for seed in seeds]
    steps, size = batches(len(sets[0]), recipe)
    for model in models:
        model.train()
    weights, buffers = stack_module_state(list(models))
    # Batch normalisation updates its running statistics in place: they are stacked too, so each model has its own.
    parameters = nn.ParameterList(nn.Parameter(part.detach(), part.requires_grad) for part in weights.values())
    weights = dict(zip(weights, parameters, strict=True))
    optimizer, scheduler = optimise(parameters, recipe, recipe.epochs * steps)

    def forward(weights: dict[str, Tensor], buffers: dict[str, Tensor], pixels: Tensor) -> Tensor:
        logits: Tensor = functional_call(models[0], (weights, buffers), (pixels,))
        return logits

    forward_all = torch.vmap(forward, randomness="different")
    with isolated(derive(seeds[0], "training", *seeds[1:])):
        for _ in track(range(recipe.epochs), label, recipe.epochs):
            orders = torch.stack([torch.randperm(len(sets[0]), generator=one, device=device) for one in randoms])
            for index in orders[:, : steps * size].view(together, steps, size).unbind(1):
                pixels, labels = _take(sets, index)
                pixels = to_floats(shift_and_flip(pixels, recipe.shift, recipe.flip, *randoms)).contiguous()
                logits = forward_all(weights, buffers, pixels.unflatten(0, (together, size)))
                losses = cross_entropy(logits.flatten(0, 1), labels, reduction="none")
                optimizer.zero_grad()
                # A sum over models of means over images.
                (losses.sum() / size).backward()
                optimizer.step()
                scheduler.step()
    _unstack(models, weights | buffers)


def _take(sets: list[Images], index: Tensor) -> tuple[Tensor, Tensor]:
    """Return pixels ``(K·N, C, H, W)`` and labels ``(K·N,)`` at each model's places ``index (K, N)``."""
    if all(part is sets[0] for part in sets):
        return sets[0].pixels[index.flatten()], sets[0].labels[index.flatten()]
    taken = [part.take(places) for part, places in zip(sets, index, strict=True)]
    return torch.cat([part.pixels for part in taken]), torch.cat([part.labels for part in taken])


@torch.no_grad()
def _unstack(models: Sequence[Classifier], stacked: dict[str, Tensor]) -> None:
    """Copy each model's slice of the stacked parameters and buffers into it, in place."""
    for number, model in enumerate(models):
        for name, part in [*model.named_parameters(), *model.named_buffers()]:
            part.copy_(stacked[name][number])
        model.to(memory_format=torch.channels_last)
        model.zero_grad()
        model.eval()
