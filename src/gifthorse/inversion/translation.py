"""Images moved to a class by the model itself: what a robust network has learnt of the class shows in them.

Paper: Soremekun, Udeshi, Chattopadhyay 2020, arXiv:2003.00865 (AEGIS), section IV, steps 1 and 2 (Eq. 5).
Differs: images keep to [0,1] all along.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gifthorse.core.classifier import Classifier, inference_batch
from gifthorse.core.images import Images
from gifthorse.core.pgd import Pgd
from gifthorse.core.progress import track
from gifthorse.training.adversarial import perturb

PENULTIMATE = "penultimate"
"""The name of the layer that the head receives, among those of stages."""


@dataclass(frozen=True, eq=False)
class Translation:
    """What became of N images on their way to each of K classes.

    ``features (K, N, …)`` are of the layer that was asked for, ``reached bool (K, N)`` tells which get the class,
    ``pictures (K, P, C, H, W)`` in [0,1] are the first of them, and ``change (K,)`` is the mean L2 norm of what was
    added to them.
    """

    features: Tensor
    reached: Tensor
    pictures: Tensor
    change: Tensor


def translate(model: Classifier, seeds: Tensor, search: Pgd, layer: str, pictures: int) -> Translation:
    """Translate ``seeds (N, C, H, W)`` to every class, in blocks that bound the memory.

    ``model`` is frozen; ``search`` is targeted. Of the images themselves only the first ``pictures`` are kept.
    """
    blocks = seeds.split(inference_batch(seeds.device))
    work = [(label, block) for label in range(model.classes) for block in blocks]
    features, reached, kept, moved = [], [], [], []
    for place, (label, block) in enumerate(track(work, "image translation", len(work))):
        wanted = torch.full((len(block),), label, device=seeds.device)
        found = perturb(model, block, wanted, search)
        inner, logits = features_of(model, found, layer)
        features.append(inner)
        reached.append(logits.argmax(1) == label)
        moved.append((found - block).flatten(1).norm(dim=1))
        before = place % len(blocks) * len(blocks[0])
        kept.append(found[: max(pictures - before, 0)])
    classes = model.classes
    return Translation(
        torch.cat(features).unflatten(0, (classes, -1)),
        torch.cat(reached).unflatten(0, (classes, -1)),
        torch.cat(kept).unflatten(0, (classes, min(pictures, len(seeds)))),
        torch.cat(moved).unflatten(0, (classes, -1)).mean(1),
    )


@torch.inference_mode()
def features_of(model: Classifier, pixels: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Return the features ``(N, …)`` of a layer, the penultimate one or a stage, and the logits ``(N, K)``."""
    if layer == PENULTIMATE:
        return model.features_and_logits(pixels)
    stages, logits = model.stages_and_logits(pixels)
    return stages[model.stage_names.index(layer)], logits


def features_of_images(model: Classifier, images: Images, layer: str) -> Tensor:
    """Return the features ``(N, …)`` of clean images, batch by batch."""
    return torch.cat(
        [features_of(model, pixels, layer)[0] for pixels, _ in images.batches(inference_batch(images.device))]
    )


def separation(translated: Tensor, real: Tensor) -> Tensor:
    """Return how far the mean direction of translated features ``(N, D)`` lies from that of real images' ``(M, D)``.

    A scalar from 0 to 2, ours: the distance of the means of features of unit length. A backdoor's target is reached by
    the trigger, which none of its images shows, so that translated images end up where no real one is.
    """
    first, second = (
        torch.nn.functional.normalize(each.flatten(1).float(), dim=1).mean(0) for each in (translated, real)
    )
    distance: Tensor = (first - second).norm()
    return distance
