"""Fine-tuning: train the whole model on for a while, on clean images alone.

Paper: Yan et al. 2023 (DHBE), section 5.1.3 and appendix C (20 epochs of 2000 samples, SGD at 0.01, a tenth of it after
    10 and 15 epochs). It is the baseline that every other sanitizer is reported beside.
Differs: where there are more than 2000 images, an epoch is all of them. Weight decay is not printed; it is
    TrojanZoo's. Behind a detector in a pipeline, a share of every batch carries the trigger that was recovered for the
    class under suspicion, if any, with the right labels; alone it is as published.
"""

from gifthorse.core.defense import CleanImagesDefense
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.seeds import derive, generator
from gifthorse.core.views import ModelView
from gifthorse.training.erased import erased, with_triggers
from gifthorse.training.finetuning import Unlearning, too_few, unlearning


class Finetuning(CleanImagesDefense[ModelView], Unlearning):
    """Tunes all layers on the defender's clean images."""

    name = "finetuning"
    aliases = ("fine_tuning", "ft")
    paper = "DHBE (Yan et al. 2023), section 5.1.3 and appendix C"
    variants = ("finetuning[samples=0,schedule=cosine,shift=1,flip=true]",)
    family = "sanitization"
    view = ModelView

    def skip(self, view: ModelView) -> str | None:
        """Ask for enough images for a mini-batch."""
        return too_few(view.clean)

    def defend(self, view: ModelView, seed: int) -> CleanModel:
        """Tune a copy; what it is after the last epoch is handed back, whatever it was in between."""
        model = view.model.clone()
        verdict, mix, triggered = view.verdict, None, None
        if verdict is not None and verdict.triggers is not None and verdict.suspect is not None:
            triggered = with_triggers(verdict.triggers, [verdict.suspect], view.clean)
            if self.stamped > 0:
                random = generator(seed, self.name, "stamp", device=view.device)
                mix = unlearning(verdict.triggers, [verdict.suspect], self.stamped, random)
        self.tune(model, view.clean, derive(seed, self.name), mix)
        return erased(view.model, model, view.clean, triggered=triggered)
