"""Generative distribution modeling: all triggers that work are modelled, and unlearnt, not one of them.

Paper: Qiao, Yang, Li 2019, NeurIPS, arXiv:1910.03749, sections 3 to 5 (MESA); Yan et al. 2023 (DHBE), section 5.1.3 and
    appendix D (tuned as Neural Cleanse's unlearning; every sample carries a trigger with probability 0.1; the defender
    is told which class is attacked: target_known=true).
Differs: both hyper-parameters that DHBE gives are lost in print; α and the β are those of the authors' code, as are the
    triggers' size, which it assumes to be known, and the generators (:mod:`gifthorse.inversion.trigger_distribution`).
    Its ten epochs over 8000 images are said in steps, for whoever has fewer. It calls a class attacked whose triggers
    reach "about 90 %", and prints no threshold: here it is the class whose triggers, at the largest β, reach it most on
    held-out clean images, if they do on more than half; with none the model is handed back as it was. Behind a detector
    it is that one's suspect. The triggers of all β are mixed, where that code shows one β per epoch.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.classifier import Classifier
from gifthorse.core.defense import CleanImagesDefense
from gifthorse.core.images import Images
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.seeds import derive, generator
from gifthorse.core.views import DataFreeView, KnownClassView, ModelView
from gifthorse.inversion.inspector import hold_out
from gifthorse.inversion.trigger_distribution import Modelling, paste, random_place, success_rates
from gifthorse.training.finetuning import Unlearning, too_few
from gifthorse.training.loop import Batch, Mix


class Gdm(CleanImagesDefense[ModelView], Unlearning):
    """Models the distribution of an attacked class's triggers and tunes the model to ignore them all."""

    name = "gdm"
    aliases = ("mesa", "generative_distribution_modeling")
    paper = "Qiao et al. 2019, NeurIPS, arXiv:1910.03749; DHBE (Yan et al. 2023), appendix D"
    variants = ("gdm[target_known=true]",)
    family = "sanitization"
    view = ModelView

    target_known: bool = Field(False, description="the defender is told which classes are attacked, as DHBE assumes")
    success: float = Field(
        0.5, ge=0, le=1, description="share of held-out images that a class's triggers must reach to make it suspect"
    )
    stamped: float = Field(0.1, ge=0, le=1, description="probability that a sample carries a trigger")
    betas: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.5, 0.8, 0.9), min_length=1, description="β: confidence up to which triggers are rewarded, a generator each"
    )
    alpha: float = Field(0.1, ge=0, description="α: weight of the mutual information of triggers and noise")
    trigger_size: int = Field(3, ge=1, description="side of the triggers, in pixels")
    generator_steps: int = Field(625, ge=1, description="steps that the generators are trained for")
    generator_batch_size: int = Field(128, ge=2, description="images per step and generator")
    generator_lr: float = Field(2e-4, gt=0, description="Adam's learning rate for generators and estimator")
    noise: int = Field(64, ge=4, multiple_of=4, description="dimension of the noise, a quarter for each layer")
    hidden: int = Field(512, ge=1, description="units of each hidden layer")
    deviation: float = Field(0.1, ge=0, description="standard deviation of the noise that is added to a trigger")

    def sees(self) -> type[DataFreeView]:
        """Return the view that tells the attacked classes, if they are known."""
        return KnownClassView if self.target_known else ModelView

    def skip(self, view: ModelView) -> str | None:
        """Ask for enough images to tune on, as large as the trigger at least."""
        if min(view.shape[1:]) < self.trigger_size:
            size = "×".join(map(str, view.shape))
            return f"a trigger of {self.trigger_size}×{self.trigger_size} does not fit into images of {size}"
        return too_few(view.clean)

    def defend(self, view: ModelView, seed: int) -> CleanModel:
        """Tell which classes are meant, model their triggers, tune a copy."""
        images, held_out = hold_out(view.clean, seed)
        if isinstance(view, KnownClassView):
            classes: Sequence[int] = view.known_classes
        elif view.verdict is not None:
            classes = [] if view.verdict.suspect is None else [view.verdict.suspect]
        else:
            classes = self.attacked(view.model, images, held_out, derive(seed, "search"))
        model = view.model.clone()
        if classes:
            triggers = self.model_triggers(view.model, images, classes, self.betas, derive(seed, "triggers"))
            mix = self.unlearning(triggers.flatten(0, 1), derive(seed, self.name, "stamp"))
            self.tune(model, view.clean, derive(seed, self.name), mix)
        return CleanModel(model)

    def attacked(self, model: Classifier, images: Images, held_out: Images, seed: int) -> list[int]:
        """Return the class whose triggers reach it most often, if that is often enough."""
        triggers = self.model_triggers(model, images, range(model.classes), [max(self.betas)], seed)
        every = torch.arange(model.classes, device=images.device)
        best, label = success_rates(model, triggers, every, held_out, seed).max(0)
        return [int(label)] if best > self.success else []

    def model_triggers(
        self, model: Classifier, images: Images, classes: Sequence[int], betas: Sequence[float], seed: int
    ) -> Tensor:
        """Return triggers of each class and β, ``(classes · betas, P, C, size, size)``."""
        modelling = Modelling(
            self.trigger_size,
            self.generator_steps,
            self.generator_batch_size,
            self.generator_lr,
            self.alpha,
            self.noise,
            self.hidden,
            self.deviation,
        )
        targets = torch.tensor(list(classes), device=images.device).repeat_interleave(len(betas))
        staircase = torch.tensor(list(betas), device=images.device).repeat(len(classes))
        return modelling.triggers(model, images, targets, staircase, seed)

    def unlearning(self, triggers: Tensor, seed: int) -> Mix:
        """Return what stamps some images of a batch, each with one of ``triggers (P, C, size, size)``, labels kept."""
        random, places = generator(seed, device=triggers.device), generator(seed, "places")

        def stamp(batch: Batch) -> Batch:
            count, device = len(batch.pixels), triggers.device
            carrying = torch.rand(count, generator=random, device=device) < self.stamped
            drawn = triggers[torch.randint(len(triggers), (count,), generator=random, device=device)]
            channels, height, width = batch.pixels.shape[1:]
            pasted = paste(batch.pixels, drawn, random_place((channels, height, width), self.trigger_size, places))
            return batch._replace(pixels=torch.where(carrying.view(-1, 1, 1, 1), pasted, batch.pixels))

        return stamp
