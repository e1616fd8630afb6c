"""Shadow models that a defender trains alone: benign ones, and ones with backdoors drawn from a wide distribution.

Paper: Xu et al. 2021 (MNTD), arXiv:1910.03137, its jumbo learning; sizes and ranges are those of its code.
Differs: a patch may lie at any place where it fits. Every set has one and a half times the clean images: as many
    stamped ones as make up the drawn share (r of them for every clean image are r / (1 + r) of a set), and the rest are
    clean images, some of them twice. So benign models are trained on as many images as trojaned ones, for as many
    steps, and any of them can share a pass. Stamped pixels are rounded to the 8-bit grid. The paper augments nothing
    and trains by Adam; here a recipe says how, as of all models of the platform, and triggers are stamped on crops.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from gifthorse.core.architecture import Architecture
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.images import Images, to_levels
from gifthorse.core.progress import track
from gifthorse.core.recipe import Recipe
from gifthorse.core.seeds import derive, generator
from gifthorse.core.trigger import blend
from gifthorse.inversion.frozen import freeze
from gifthorse.training.augment import shift_and_flip
from gifthorse.training.stacked import fit_stacked, models_at_once

SIZES = (2, 3, 4, 5)
"""Sides of a square patch; as often as each of these the pattern covers the whole image."""
OPACITY, OPAQUE_FROM, FAINT = (0.2, 0.6), 0.5, (0.05, 0.2)
"""Range of a patch's opacity, from where on it counts as opaque, and range of a whole image's."""
SHARE = (0.05, 0.5)
"""Stamped images that are added for every clean one."""


@dataclass(frozen=True, eq=False)
class Jumbo:
    """A backdoor: ``mask (1, H, W)`` in {0,1}, ``pattern (C, H, W)`` in [0,1], α = 1 − ``opacity``, and the rest.

    ``added`` is the number of stamped images for every clean one, all of them labelled ``target``.
    """

    mask: Tensor
    pattern: Tensor
    opacity: float
    target: int
    added: float

    @classmethod
    def draw(cls, shape: tuple[int, int, int], classes: int, random: torch.Generator) -> Self:
        """Draw one for images of ``shape``; of the sizes, those that fit."""
        channels, height, width = shape

        def whole(high: int) -> int:
            return int(torch.randint(high, (), generator=random))

        def between(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=random))

        sizes = [size for size in SIZES if size < min(height, width)]
        drawn = whole(len(sizes) + 1)
        mask = torch.ones(1, height, width)
        if drawn == len(sizes):
            opacity = between(*FAINT)
        else:
            size, opacity = sizes[drawn], between(*OPACITY)
            opacity = 1.0 if opacity > OPAQUE_FROM else opacity
            top, left = whole(height - size + 1), whole(width - size + 1)
            mask = torch.zeros(1, height, width)
            mask[:, top : top + size, left : left + size] = 1
        # Beyond the ends of the range, so that a pattern may be mostly black and white.
        beyond = between(0, 1)
        noise = torch.rand(channels, height, width, generator=random)
        pattern = (noise * (1 + 2 * beyond) - beyond).clamp(0, 1)
        return cls(mask, pattern, opacity, whole(classes), between(*SHARE))

    def stamp(self, pixels: Tensor) -> Tensor:
        """Return ``(N, C, H, W)`` in [0,1] with the trigger, not rounded."""
        mask, pattern = self.mask.to(pixels.device), self.pattern.to(pixels.device)
        return blend(pixels, mask, pattern, 1 - self.opacity)


def augmented(images: Images, recipe: Recipe, copies: int, random: torch.Generator) -> Images:
    """Return so many copies of the images, each cropped and mirrored anew as the recipe says."""
    pixels = images.pixels.repeat(copies, 1, 1, 1)
    pixels = shift_and_flip(pixels, recipe.shift, recipe.flip, random).contiguous()
    return Images(pixels, images.labels.repeat(copies), images.classes)


def training_set(images: Images, backdoor: Jumbo | None, random: torch.Generator) -> Images:
    """Return what one shadow model is trained on: half as many images again as ``images``, all of which are in it."""
    count, total = len(images), len(images) + len(images) // 2
    stamped = 0
    if backdoor is not None:
        stamped = min(round(total * backdoor.added / (1 + backdoor.added)), total - count)
    order = torch.randperm(count, generator=random).to(images.device)
    drawn = images.take(torch.cat([order, order])[: total - count])
    if backdoor is not None and stamped:
        carrying = drawn.take(slice(stamped))
        pixels = to_levels(backdoor.stamp(carrying.floats())).contiguous()
        wrong = Images(pixels, torch.full_like(carrying.labels, backdoor.target), images.classes)
        drawn = wrong.join(drawn.take(slice(stamped, None)))
    return images.join(drawn)


@dataclass(frozen=True, eq=False)
class Shadows:
    """Shadow models, frozen, the benign ones first; ``trojaned`` is ``bool (S,)``.

    ``accuracy (S,)`` is measured on images that none was trained on, and so is ``success (S,)``, the share of those of
    other classes that get the target of a model's backdoor; 0 where it has none.
    """

    models: Sequence[Classifier]
    trojaned: Tensor
    accuracy: Tensor
    success: Tensor

    def take(self, index: Tensor) -> "Shadows":
        """Return those that ``index``, ``bool (S,)``, says."""
        models = [model for model, taken in zip(self.models, index.tolist(), strict=True) if taken]
        return Shadows(models, self.trojaned[index], self.accuracy[index], self.success[index])


def train_shadows(
    architecture: Architecture,
    images: Images,
    held_out: Images,
    recipe: Recipe,
    *,
    benign: int,
    trojaned: int,
    seed: int,
    copies: int = 1,
    at_once: int | None = None,
) -> Shadows:
    """Train so many models of each kind on ``images``, each from its own weights; ``held_out`` only measures them.

    The recipe's augmentation is drawn ``copies`` times for every image, before triggers are stamped: crops would move
    them, and few of the models would learn theirs.
    ``at_once`` is how many share a pass; see :func:`gifthorse.training.stacked.fit_stacked`.
    """
    device, total = images.device, benign + trojaned
    group = at_once or models_at_once(device, recipe)
    seeds = [derive(seed, "shadow", number) for number in range(total)]
    backdoors = [
        None if number < benign else Jumbo.draw(images.shape, images.classes, generator(one, "backdoor"))
        for number, one in enumerate(seeds)
    ]
    plain = recipe.model_copy(update={"shift": 0, "flip": False})
    models, accuracy, success = [], [], []
    for start in track(range(0, total, group), "shadow models", -(-total // group)):
        part = slice(start, start + group)
        fresh = [architecture.build(images.shape, images.classes, one).to(device) for one in seeds[part]]
        sets = [
            training_set(
                augmented(images, recipe, copies, generator(one, "crops", device=device)),
                backdoor,
                generator(one, "set"),
            )
            for backdoor, one in zip(backdoors[part], seeds[part], strict=True)
        ]
        fit_stacked(fresh, sets, plain, seeds[part], at_once=group)
        for model, backdoor in zip(fresh, backdoors[part], strict=True):
            models.append(freeze(model))
            accuracy.append((predict(model, held_out).argmax(1) == held_out.labels).float().mean())
            success.append(success_of(model, backdoor, held_out))
    flags = torch.arange(total, device=device) >= benign
    return Shadows(models, flags, torch.stack(accuracy), torch.stack(success))


def success_of(model: Classifier, backdoor: Jumbo | None, held_out: Images) -> Tensor:
    """Return the share, a scalar, of images of other classes that get the backdoor's target; 0 without either."""
    if backdoor is None:
        return torch.zeros((), device=held_out.device)
    reached = predict(model, backdoor.stamp(held_out.floats())).argmax(1) == backdoor.target
    others = held_out.labels != backdoor.target
    return (reached & others).sum() / others.sum().clamp_min(1)
