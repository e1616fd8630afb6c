"""What defenses share that know the training set as delivered: which sets they refuse, its latents, training anew."""

import torch
from torch import Tensor

from gifthorse.core.errors import NotApplicableError
from gifthorse.core.images import Images
from gifthorse.core.outcomes import SuspectSamples
from gifthorse.core.seeds import derive
from gifthorse.core.views import SuspectDataView
from gifthorse.inversion.frozen import freeze
from gifthorse.training.transfer import cache_features


def refusal(suspect: Images) -> str | None:
    """Return one sentence why the images of some class cannot be compared with each other, or ``None``."""
    if not len(suspect):
        return "needs the images that the model was trained on; there are none"
    count = torch.bincount(suspect.labels, minlength=suspect.classes)
    few = (count < 2).nonzero().flatten().tolist()
    if few:
        return f"needs two images of every class in the training set; class {few[0]} has {int(count[few[0]])}"
    return None if suspect.classes > 1 else "needs images of two classes in the training set; there is one"


def suspect_latents(view: SuspectDataView) -> Tensor:
    """Return the penultimate layer ``float32 (N, D)`` of every image of the training set, in one pass over it."""
    return cache_features(freeze(view.model), view.suspect)


def train_without(view: SuspectDataView, scores: Tensor, removed: Tensor, seed: int) -> SuspectSamples:
    """Train on the images that are not removed; where all are kept the model stays as it was delivered.

    :class:`NotApplicableError` where no image of a class would be left.
    """
    if not removed.any():
        return SuspectSamples(scores, removed, view.model.clone())
    kept = view.suspect.take(~removed)
    lost = (torch.bincount(kept.labels, minlength=kept.classes) == 0).nonzero().flatten().tolist()
    if lost:
        raise NotApplicableError(f"all images of class {', '.join(map(str, lost))} would be removed from the training set")
    return SuspectSamples(scores, removed, view.trainer.train(kept, derive(seed, "train without")))
