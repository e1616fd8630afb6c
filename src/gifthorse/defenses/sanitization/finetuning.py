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
from gifthorse.training.finetuning import Unlearning, too_few, unlearning
from gifthorse.training.loop import Mix


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
        self.tune(model, view.clean, derive(seed, self.name), self.recovered(view, seed))
        return CleanModel(model)

    def recovered(self, view: ModelView, seed: int) -> Mix | None:
        """Return what stamps the trigger of the suspect class, if a detector told of one."""
        verdict = view.verdict
        if verdict is None or verdict.triggers is None or verdict.suspect is None or self.stamped == 0:
            return None
        random = generator(seed, self.name, "stamp", device=view.device)
        return unlearning(verdict.triggers, [verdict.suspect], self.stamped, random)
