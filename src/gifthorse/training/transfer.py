"""Transfer: a pre-trained network's features under a new head, on the same or another data set.

Paper: TrojanZoo, sections 3.1 and 5.2.3, Table 6. Partial tuning trains the head with the extractor fixed, full
    tuning trains both; "none" is the delivered model as it is.
Differs: nothing.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gifthorse.core.classifier import Classifier, inference_batch
from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images, to_floats
from gifthorse.core.progress import track
from gifthorse.core.recipe import Recipe
from gifthorse.core.seeds import derive, generator
from gifthorse.training.heads import FittedHead, Head
from gifthorse.training.loop import fit, optimise

Tuning = Literal["partial", "full"]


class Transferred(nn.Module):
    """A new head on the penultimate layer of an extractor; maps pixels in [0,1] to logits."""

    def __init__(self, extractor: Classifier, head: nn.Module):
        super().__init__()
        self.extractor = extractor
        self.head = head

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits ``(N, K)`` for ``(N, C, H, W)``."""
        logits: Tensor = self.head(self.extractor.features(pixels))
        return logits


def transfer(
    extractor: Classifier, head: Head, images: Images, recipe: Recipe, tuning: Tuning, seed: int
) -> Transferred:
    """Return a classifier of ``images``' classes on a copy of the extractor, in evaluation mode.

    Partial tuning computes the features once; it trains by gradients or fits, as the head needs. A head that is
    fitted passes no gradient, so it cannot be tuned fully: :class:`RequestError`.
    """
    base = extractor.clone()
    features = cache_features(base, images)
    module = head.build(features, images.labels, images.classes, derive(seed, "head"))
    if isinstance(module, FittedHead):
        if tuning == "full":
            raise RequestError(f"a '{head.name}' head passes no gradient: it takes tuning=partial, not full")
        return Transferred(base, module).eval()
    model = Transferred(base, module)
    if tuning == "full":
        fit(model, images, recipe, derive(seed, "full tuning"), label="full tuning")
    else:
        _fit_head(module, features, images.labels, recipe, derive(seed, "partial tuning"))
    return model.eval()


@torch.no_grad()
def cache_features(extractor: Classifier, images: Images) -> Tensor:
    """Return the penultimate layer ``float32 (N, D)`` of every image, in order."""
    size = inference_batch(images.device)
    return torch.cat([extractor.features(to_floats(part)).float() for part in images.pixels.split(size)])


def _fit_head(head: nn.Module, features: Tensor, labels: Tensor, recipe: Recipe, seed: int) -> None:
    """Train a head on cached features by the recipe; features are the input, so nothing is augmented."""
    random = generator(seed, "batches", device=features.device)
    batches = -(-len(labels) // recipe.batch_size)
    optimizer, scheduler = optimise(head, recipe, recipe.epochs * batches)
    for _ in track(range(recipe.epochs), "partial tuning", recipe.epochs):
        for index in torch.randperm(len(labels), generator=random, device=labels.device).split(recipe.batch_size):
            loss = cross_entropy(head(features[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    head.zero_grad()
