"""Mode connectivity repair: between the model and a tuned copy lie networks as accurate that have lost the backdoor.

Paper: Zhao et al. 2020, ICLR, arXiv:2005.00060, sections 3 and 4; Garipov et al. 2018, NeurIPS, arXiv:1802.10026 (the
    curve and its training, :mod:`gifthorse.training.curve`); Yan et al. 2023 (DHBE), section 5.1.3 and appendix C (b)
    (200 epochs, a tenth of the learning rate after 100 and 150; both ends are the model itself: end=delivered).
Differs: Zhao et al. connect two backdoored models where they have them; whoever has one tunes a copy of it, as DHBE's
    fine-tuning does. Learning rate and momentum of the curve are lost in DHBE's print: they are the same. Statistics of
    batch normalisation are those of the clean images; DHBE takes them from the test set. DHBE hands back the middle of
    the curve; so it is here, unless its accuracy on clean images that nothing was trained on is lower than the
    delivered model's by more than max_accuracy_drop: then the nearest place that is not so bad (of two, that towards
    the end), and where none is, the best. None is chosen by attack success. Weight decay is that of the networks on
    the curve.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import get_total_norm

from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.defense import CleanImagesDefense
from gifthorse.core.images import Images
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.seeds import derive, generator
from gifthorse.core.views import ModelView
from gifthorse.training.curve import Curve
from gifthorse.training.erased import erased
from gifthorse.training.finetuning import Erasing, too_few
from gifthorse.training.loop import Batch, Objective

PLACES = 20
"""Intervals that the curve is looked at in."""


class Mcr(CleanImagesDefense[ModelView], Erasing):
    """Trains a curve of accurate networks between the model and a tuned copy and takes one from its middle."""

    name = "mcr"
    aliases = ("mode_connectivity_repair",)
    paper = "Zhao et al. 2020, ICLR, arXiv:2005.00060; DHBE (Yan et al. 2023), appendix C (b)"
    variants = ("mcr[end=delivered,shift=1,flip=true]",)
    family = "sanitization"
    view = ModelView

    end: Literal["tuned", "delivered"] = Field("tuned", description="where the curve ends; it begins at the model")
    curve_epochs: int = Field(
        200, ge=1, description="epochs that the curve is trained for, its learning rate falling as that of the end does"
    )
    validation: float = Field(
        0.2, ge=0, lt=1, description="share of each class's clean images that only choose the place on the curve"
    )
    max_accuracy_drop: float = Field(
        0.02,
        ge=0,
        le=1,
        description="clean accuracy that the middle may cost before another place is looked for",
    )

    def skip(self, view: ModelView) -> str | None:
        """Ask for enough images for a mini-batch."""
        return too_few(view.clean)

    def defend(self, view: ModelView, seed: int) -> CleanModel:
        """Tune the end, train the curve, take a network of it."""
        images, validated = self.parts(view.clean, seed)
        last = view.model.clone()
        if self.end == "tuned":
            self.tune(last, images, derive(seed, self.name, "end"))
        curve = Curve(view.model, last, generator(seed, self.name, "t"))
        self.along_the_curve().tune(curve, images, derive(seed, self.name), objective=self.training(curve))
        return erased(view.model, self.chosen(curve, view.model, images, validated), view.clean)

    def along_the_curve(self) -> Erasing:
        """Return the recipe of the curve, whose rate falls after the same shares of its epochs; θ does not decay."""
        schedule = self.schedule
        if isinstance(schedule, tuple):
            schedule = tuple(epoch * self.curve_epochs // self.epochs for epoch in schedule)
        return self.model_copy(update={"epochs": self.curve_epochs, "schedule": schedule, "weight_decay": 0.0})

    def training(self, curve: Curve) -> Objective:
        """Return cross-entropy + half the weight decay · the squared norm of the weights, of a network of the curve.

        The network is known to the curve itself: compiled passes would not show it.
        """

        def loss(_: nn.Module, batch: Batch) -> Tensor:
            classification: Tensor = cross_entropy(curve(batch.pixels).float(), batch.labels)
            if not self.weight_decay:
                return classification
            return classification + self.weight_decay / 2 * get_total_norm(curve.shown.values()).square()

        return loss

    def chosen(self, curve: Curve, delivered: Classifier, images: Images, validated: Images) -> Classifier:
        """Return the network nearest to the middle of the curve that is accurate enough, or the most accurate."""
        least = accuracy(delivered, validated) - self.max_accuracy_drop
        tried: list[tuple[float, Classifier]] = []
        for place in sorted(range(1, PLACES), key=lambda place: (abs(2 * place - PLACES), -place)):
            found = curve.at(place / PLACES, images)
            tried.append((accuracy(found, validated), found))
            if tried[-1][0] >= least:
                return found
        return max(tried, key=lambda each: each[0])[1]

    def parts(self, clean: Images, seed: int) -> tuple[Images, Images]:
        """Return the images that are trained on, and the share of each class that only chooses the place."""
        order = torch.randperm(len(clean), generator=generator(seed, self.name, "validation")).to(clean.device)
        same = clean.labels[order].unsqueeze(0) == clean.labels[order].unsqueeze(1)
        chooses = same.tril(-1).sum(1) < (self.validation * same.sum(1)).floor()
        return clean.take(order[~chooses]), clean.take(order[chooses])


def accuracy(model: Classifier, images: Images) -> float:
    """Return the share that is answered rightly; of no images it is 1, so that nothing speaks against the middle."""
    return float((predict(model, images).argmax(1) == images.labels).float().mean()) if len(images) else 1.0
