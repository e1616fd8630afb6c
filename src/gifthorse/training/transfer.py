"""Transfer: a pre-trained network's features under a new head, on the same or another data set.

Paper: TrojanZoo, sections 3.1 and 5.2.3, Table 6. Partial tuning trains the head with the extractor fixed, full
    tuning trains both; "none" is the delivered model as it is.
Differs: partial tuning never augments: with the extractor fixed the features of every image are computed once, which is
    one pass over the images instead of one in every epoch. The paper does not say whether it augments; its code shifts
    and flips in any training. Full tuning augments as the recipe says.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gifthorse.core.classifier import Classifier, inference_batch
from gifthorse.core.images import Images, to_floats
from gifthorse.core.progress import track
from gifthorse.core.recipe import Recipe
from gifthorse.core.seeds import derive, generator
from gifthorse.training.heads import FittedHead, Head
from gifthorse.training.loop import fit
from gifthorse.training.optimisers import optimise


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


def transfer(extractor: Classifier, head: Head, images: Images, recipe: Recipe, seed: int) -> Transferred:
    """Return a classifier of ``images``' classes on a copy of the extractor, in evaluation mode.

    ``head`` says how many of the images are used and what is trained: under partial tuning the head alone, on
    features computed once, by gradients or by fitting. An adversarial recipe moves images under full tuning only:
    where the extractor is fixed, features are the input.
    """
    base = extractor.clone()
    owned = _owned(images, head, derive(seed, "share"))
    features = cache_features(base, owned)
    if head.tuning == "partial":
        return Transferred(base, fitted(head, features, owned, recipe, seed)).eval()
    model = Transferred(base, head.build(features, owned.labels, owned.classes, derive(seed, "head")))
    fit(model, owned, head.adapt(recipe), derive(seed, "full tuning"), label="full tuning")
    return model.eval()


def fitted(head: Head, features: Tensor, images: Images, recipe: Recipe, seed: int) -> nn.Module:
    """Return the head of partial tuning: trained or fitted on the ``features (N, D)`` of all the images."""
    module = head.build(features, images.labels, images.classes, derive(seed, "head"))
    if not isinstance(module, FittedHead):
        _fit_head(module, features, images.labels, head.adapt(recipe), derive(seed, "partial tuning"))
    return module


def _owned(images: Images, head: Head, seed: int) -> Images:
    """Return the downstream user's images, drawn by the seed."""
    count = head.count(len(images))
    if count == len(images):
        return images
    chosen = torch.randperm(len(images), generator=generator(seed))[:count]
    return images.take(chosen.sort().values.to(images.device))


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
