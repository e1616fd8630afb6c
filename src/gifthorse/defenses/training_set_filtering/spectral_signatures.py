"""Spectral signatures: within a class, poisoned images stand out along the direction in which its latents vary most.

Paper: Tran, Li, Madry 2018, arXiv:1811.00636, section 4 and Algorithm 1; for inputs TrojanZoo section 4.3.
Differs: the paper's ε is known; here it is what the defender assumes, as a share of every class's images (in the
    paper's experiments 5 and 10 % of the target's). The default, 0.1, removes 15 % of a class, which is also what the
    authors' configuration does (``percentile=85.0``). Their code projects latents that are not centred, without
    squaring; here they are centred and squared, as in the paper. Where nothing is removed nothing is trained anew.
    As a filter of inputs it is fitted to the training set, and judges each in the class that it is given. TrojanZoo
    fits to the inputs themselves, half of them stamped: there most of the target class is, and clean ones stand out.
"""

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.clustering import principal_axes
from gifthorse.core.defense import CleanImagesDefense
from gifthorse.core.outcomes import InputScreen, SuspectSamples
from gifthorse.core.views import SuspectAndCleanView, SuspectDataView
from gifthorse.inversion.suspects import (
    LatentDefense,
    refusal,
    screen_latents,
    screening_refusal,
    suspect_latents,
    train_without,
)

EXCESS = 1.5


class SpectralSignatures(LatentDefense[SuspectDataView]):
    """Removes from every class the images that stand out most along its first singular vector, and trains anew."""

    name = "spectral_signatures"
    aliases = ("ss",)
    paper = "Tran et al. 2018, arXiv:1811.00636"
    variants = ("spectral_signatures[percentile=85.0]",)
    family = "training_set_filtering"
    view = SuspectDataView

    assumed_rate: float = Field(
        0.1, gt=0, lt=1 / EXCESS, description="ε: assumed share of poisoned images in a class; 1.5 ε of it is removed"
    )
    percentile: float | None = Field(
        None, gt=0, lt=100, description="remove what scores above this percentile of its class instead; null: do not"
    )

    def skip(self, view: SuspectDataView) -> str | None:
        """Ask for two images of every class."""
        return refusal(view.suspect)

    def defend(self, view: SuspectDataView, seed: int) -> SuspectSamples:
        """Score every image within its class, remove the highest of each, train on the rest."""
        latents, labels = suspect_latents(view), view.suspect.labels
        scores = Signatures(latents, labels, view.suspect.classes).score(latents, labels)
        removed = torch.zeros_like(labels, dtype=torch.bool)
        for label in range(view.suspect.classes):
            own = (labels == label).nonzero().squeeze(1)
            removed[own] = self.highest(scores[own])
        return train_without(view, scores, removed, seed)

    def highest(self, scores: Tensor) -> Tensor:
        """Return which images ``bool (N,)`` of one class are removed."""
        if self.percentile is not None:
            return scores > scores.quantile(self.percentile / 100)
        chosen = torch.zeros_like(scores, dtype=torch.bool)
        chosen[scores.topk(int(EXCESS * self.assumed_rate * len(scores) + 1e-9)).indices] = True
        return chosen


class SpectralSignaturesScreen(LatentDefense[SuspectAndCleanView], CleanImagesDefense[SuspectAndCleanView]):
    """Flags inputs that stand out along the first singular vector of the class that they are given."""

    name = "spectral_signatures_screen"
    paper = "Tran et al. 2018, arXiv:1811.00636"
    family = "filtering"
    view = SuspectAndCleanView

    fpr: float = Field(0.05, gt=0, lt=1, description="false positive rate that the threshold is set for")

    def skip(self, view: SuspectAndCleanView) -> str | None:
        """Ask for two training images of every class, and for enough clean ones to set a threshold on."""
        return screening_refusal(view, self.fpr)

    def defend(self, view: SuspectAndCleanView, seed: int) -> InputScreen:  # noqa: ARG002
        """Look at the training set once, and set the threshold on the clean images."""
        signatures = Signatures(suspect_latents(view), view.suspect.labels, view.suspect.classes)
        return screen_latents(view, signatures.score, self.fpr)


class Signatures:
    """Every class's centre and first right singular vector, of latents ``(N, D)`` with labels ``(N,)``."""

    def __init__(self, latents: Tensor, labels: Tensor, classes: int):
        of_class = [latents[labels == label] for label in range(classes)]
        self.centres = torch.stack([each.mean(0) for each in of_class])
        self.axes = torch.cat([principal_axes(each - each.mean(0), 1) for each in of_class])

    def score(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Return the squared projection ``(N,)`` of latents on the vector of the class that each is said to be of."""
        return ((latents - self.centres[labels]) * self.axes[labels]).sum(1).square()
