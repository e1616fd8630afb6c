"""What defenses share that know the training set as delivered: its latents, training anew, and screens of inputs."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gifthorse.core.classifier import Classifier, inference_batch
from gifthorse.core.defense import Defense, V
from gifthorse.core.errors import NotApplicableError
from gifthorse.core.evasion import Attacker, Evasion, Seen
from gifthorse.core.images import Images
from gifthorse.core.outcomes import InputScreen, SuspectSamples
from gifthorse.core.seeds import derive
from gifthorse.core.views import SuspectAndCleanView, SuspectDataView
from gifthorse.inversion.frozen import freeze
from gifthorse.training.transfer import cache_features


class LatentDefense(Defense[V]):
    """A defense that tells poisoned images of a class from clean ones by where their latents lie.

    How an attacker trains against it is in no paper.
    """

    offers = "penalty"

    def evasion(self, attacker: Attacker, seed: int) -> Evasion:  # noqa: ARG002
        """Keep the latents of stamped images among those of clean ones of the class that they should get."""
        return Evasion(penalty=separability)


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
        raise NotApplicableError(
            f"all images of class {', '.join(map(str, lost))} would be removed from the training set"
        )
    return SuspectSamples(scores, removed, view.trainer.train(kept, derive(seed, "train without")))


def screening_refusal(view: SuspectAndCleanView, fpr: float) -> str | None:
    """Return one sentence why there can be no screen with a threshold for ``fpr``, or ``None``."""
    needed = math.ceil(1 / fpr)
    if len(view.clean) < needed:
        return f"needs {needed} clean images at fpr={fpr}; there are {len(view.clean)}"
    return refusal(view.suspect)


def screen_latents(view: SuspectAndCleanView, score: Callable[[Tensor, Tensor], Tensor], fpr: float) -> InputScreen:
    """Return a screen that scores the latents ``(N, D)`` of inputs in the classes ``(N,)`` that they are given.

    Its threshold is the quantile of clean images' scores. The model is run once on every input.
    """
    model = freeze(view.model)

    @torch.inference_mode()
    def score_inputs(pixels: Tensor) -> Tensor:
        scores = []
        for part in pixels.to(view.device).split(inference_batch(view.device)):
            latents, logits = model.features_and_logits(part)
            scores.append(score(latents.float(), logits.argmax(1)))
        return torch.cat(scores)

    clean = score_inputs(view.clean.floats())
    return InputScreen(score_inputs, float(clean.quantile(1 - fpr, interpolation="higher")))


def separability(_: Classifier, seen: Seen) -> Tensor:
    """Return how far stamped images lie from clean ones of the class that they are trained to get, by their latents.

    That is log(1 + the squared distance of the means, in units of the variance of clean images about the mean of their
    class), over the classes of which a mini-batch has both; 0 where it has none. What makes clusters and signatures.
    """
    latents, kept, classes = seen.latents.float(), seen.kept, seen.logits.shape[1]
    members = one_hot(seen.labels, classes).float()
    counts = members[:kept].sum(0), members[kept:].sum(0)
    clean, stamped = (
        part.mT @ own / count.clamp_min(1).unsqueeze(1)
        for part, own, count in (
            (members[:kept], latents[:kept], counts[0]),
            (members[kept:], latents[kept:], counts[1]),
        )
    )
    both = (counts[0] > 0) & (counts[1] > 0)
    # With its gradient: by the distance alone all latents would shrink, and nothing be won by it.
    within = (latents[:kept] - clean[seen.labels[:kept]]).square().sum(1).mean()
    distances = (stamped - clean).square().sum(1)
    # The variance shrinks as training goes on: the ratio itself would end in nothing but this penalty.
    return (both * (distances / within.clamp_min(1e-12)).log1p()).sum() / both.sum().clamp_min(1)
