"""Filters the training set: poisoned images stand out along the first singular vector of their class's latents.

Paper: none; a toy after Tran et al. 2018, arXiv:1811.00636 (Spectral Signatures).
Differs: no lower bound on the size of a class.
"""

import torch
from pydantic import Field

from gifthorse import FAMILIES, Defense, Family, SuspectDataView, SuspectSamples
from gifthorse.core.seeds import derive
from gifthorse.training.transfer import cache_features

FAMILIES.add(
    Family(
        "toy_purification",
        "Training set purification",
        "Removes suspicious images from the training set and trains anew.",
        ("defense.tpr", "defense.fpr", "defense.auroc", "defense.removed", "defense.asr", "defense.acc"),
    )
)


class Spectral(Defense[SuspectDataView]):
    """Removes the images that stand out most in the classes where they do."""

    name = "toy_spectral"
    paper = "none; a toy"
    family = "toy_purification"
    view = SuspectDataView

    share: float = Field(0.15, gt=0, lt=1, description="share of all images that is removed")

    def skip(self, view: SuspectDataView) -> str | None:
        """Ask for images of every class."""
        found = len(view.suspect.labels.unique())
        return None if found == view.classes else f"needs images of {view.classes} classes, not {found}"

    def defend(self, view: SuspectDataView, seed: int) -> SuspectSamples:
        """Score every image by its squared projection, remove the highest, train on the rest."""
        latents, labels = cache_features(view.model, view.suspect), view.suspect.labels
        scores = torch.zeros_like(latents[:, 0])
        for label in range(view.classes):
            centred = latents[labels == label] - latents[labels == label].mean(0)
            direction = torch.linalg.svd(centred, full_matrices=False).Vh[0]
            scores[labels == label] = (centred @ direction).square()
        removed = scores > scores.quantile(1 - self.share)
        model = view.trainer.train(view.suspect.take(~removed), derive(seed, self.name))
        return SuspectSamples(scores, removed, model)
