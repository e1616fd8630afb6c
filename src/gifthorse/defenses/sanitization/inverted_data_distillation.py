"""Distillation on inverted data: images are made from the model, and a student learns its answers to them.

Paper: Yan et al. 2023 (DHBE), arXiv:2306.08009, section 5.4.4, which reports that backdoors pass to the student with a
    high probability: it is what data-free erasing is compared with, and not a cure. Images: Yin et al. 2020,
    arXiv:1912.08795 (:mod:`gifthorse.inversion.inverted_images`).
Differs: DHBE prints no settings for it. The loss (L1 between the logits) and the student's rate, momentum and weight
    decay are those of its own distillation, and so is where the student starts, as a copy of the model; ``start=fresh``
    is one of the same architecture that knows nothing. Yin et al. distil by the divergence of softened probabilities.
    How many images are made, for how many epochs the student sees them, and the cosine by which its rate falls are our
    choice. All images are made first; Yin et al. make some between epochs, against the student.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from gifthorse.core.classifier import Classifier
from gifthorse.core.defense import Defense
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.recipe import Recipe
from gifthorse.core.seeds import derive
from gifthorse.core.views import DataFreeView
from gifthorse.inversion.frozen import freeze
from gifthorse.inversion.inverted_images import ImageInversion
from gifthorse.training.erased import erased
from gifthorse.training.loop import Batch, Objective, fit

COMPARED = 512
"""Images, the first, that model and student are compared on."""


class InvertedDataDistillation(Defense[DataFreeView], ImageInversion, Recipe):
    """Makes images that the model knows, and distils it on them."""

    name = "inverted_data_distillation"
    aliases = ("deep_inversion",)
    paper = "DHBE (Yan et al. 2023), section 5.4.4; Yin et al. 2020, arXiv:1912.08795"
    variants = ("inverted_data_distillation[start=fresh,mirror=true,l2=1e-5]",)
    family = "sanitization"
    view = DataFreeView

    start: Literal["teacher", "fresh"] = Field("teacher", description="the student begins as a copy, or as a new model")
    epochs: int = Field(250, ge=1, description="passes of the student over the inverted images")
    batch_size: int = Field(256, ge=2, description="inverted images per step of the student")
    nesterov: bool = Field(False, description="Nesterov momentum")
    weight_decay: float = Field(5e-4, ge=0, description="the student's weight decay")
    shift: int = Field(0, ge=0, description="random crop of the inverted images, in pixels")
    flip: bool = Field(False, description="random left-right flip of the inverted images")

    def skip(self, view: DataFreeView) -> str | None:
        """Ask for images of every class, and for the architecture where the student is a new model."""
        if self.start == "fresh" and view.trainer is None:
            return "a fresh student needs the model's architecture, and nobody knows how this model was made"
        return self.unable(view)

    def defend(self, view: DataFreeView, seed: int) -> CleanModel:
        """Make images, then distil; what the student is after the last epoch is handed back."""
        images = self.invert(view.model, view.shape, derive(seed, self.name, "images"))
        student = self.student(view, derive(seed, self.name, "student"))
        objective = imitation(freeze(view.model))
        fit(student, images, self, derive(seed, self.name), objective=objective, label="distillation")
        return erased(view.model, student, samples=images.take(slice(COMPARED)).floats())

    def student(self, view: DataFreeView, seed: int) -> Classifier:
        """Return what is to be trained."""
        if self.start == "teacher" or view.trainer is None:
            return view.model.clone()
        return view.trainer.architecture.build(view.shape, view.classes, seed).to(view.device)


def imitation(teacher: nn.Module) -> Objective:
    """Return the mean distance of logits ``(N, K)`` to those of a teacher that is fixed; labels play no part."""

    def loss(student: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = teacher(batch.pixels)
        return l1_loss(student(batch.pixels).float(), wanted.float())

    return loss
