"""Generative distribution modeling: all triggers that work are modelled, and unlearnt, not one of them.

Paper: Qiao, Yang, Li 2019, NeurIPS, arXiv:1910.03749, sections 3 to 5 (MESA); Yan et al. 2023 (DHBE), section 5.1.3 and
    appendix D (tuned as Neural Cleanse's unlearning; every sample carries a trigger with probability 0.1; the defender
    is told which class is attacked: target_known=true).
Differs: both hyper-parameters that DHBE gives are lost in print; α and the β are those of the authors' code, as are the
    triggers' size and the generators (:mod:`gifthorse.inversion.trigger_distribution`). Its ten epochs over 8000 images
    are said in steps, for whoever has fewer. A class is searched for with the largest β; with none the model is handed
    back as it was. Behind a detector (MESA's own is ``mesa``) it is that one's suspect. The triggers of all β are
    mixed, where that code shows one β per epoch.
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
from gifthorse.inversion.trigger_distribution import TriggerModelling, carriers, paste, random_place
from gifthorse.training.erased import erased
from gifthorse.training.finetuning import Unlearning, too_few
from gifthorse.training.loop import Batch, Mix


class Gdm(CleanImagesDefense[ModelView], Unlearning, TriggerModelling):
    """Models the distribution of an attacked class's triggers and tunes the model to ignore them all."""

    name = "gdm"
    aliases = ("generative_distribution_modeling",)
    paper = "Qiao et al. 2019, NeurIPS, arXiv:1910.03749; DHBE (Yan et al. 2023), appendix D"
    variants = ("gdm[target_known=true]",)
    family = "sanitization"
    view = ModelView

    target_known: bool = Field(False, description="the defender is told which classes are attacked, as DHBE assumes")
    stamped: float = Field(0.1, ge=0, le=1, description="probability that a sample carries a trigger")
    betas: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.5, 0.8, 0.9), min_length=1, description="β: confidence up to which triggers are rewarded, a generator each"
    )

    def sees(self) -> type[DataFreeView]:
        """Return the view that tells the attacked classes, if they are known."""
        return KnownClassView if self.target_known else ModelView

    def skip(self, view: ModelView) -> str | None:
        """Refuse what no trigger fits, and too few images to tune on."""
        return self.unfit(view) or too_few(view.clean)

    def defend(self, view: ModelView, seed: int) -> CleanModel:
        """Tell which classes are meant, model their triggers, tune a copy; some of them are tried on it."""
        images, held_out = hold_out(view.clean, seed)
        if isinstance(view, KnownClassView):
            classes: Sequence[int] = view.known_classes
        elif view.verdict is not None:
            classes = [] if view.verdict.suspect is None else [view.verdict.suspect]
        else:
            classes = self.attacked(view.model, images, held_out, derive(seed, "search"))
        model = view.model.clone()
        if not classes:
            return erased(view.model, model, view.clean)
        triggers = self.model_triggers(view.model, images, classes, self.betas, derive(seed, "triggers"))
        mix = self.unlearning(triggers.flatten(0, 1), derive(seed, self.name, "stamp"))
        self.tune(model, view.clean, derive(seed, self.name), mix)
        shown = carriers(triggers.unflatten(0, (len(classes), -1)).flatten(1, 2), classes, held_out, seed)
        return erased(view.model, model, view.clean, triggered=shown)

    def attacked(self, model: Classifier, images: Images, held_out: Images, seed: int) -> list[int]:
        """Return the class whose triggers reach it most often, if that is often enough."""
        best, label = self.search(model, images, held_out, max(self.betas), seed)[1].max(0)
        return [int(label)] if best > self.success else []

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
