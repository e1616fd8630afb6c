"""Adversarial retraining: treat stamped inputs as adversarial ones, and train the model on against a PGD adversary.

Paper: Madry et al. 2018, arXiv:1706.06083, section 2; TrojanZoo section 4.3 and Table 21 (steps of 2/255, 7 of them, in
    a ball of 8/255, learning rate 0.01, 50 epochs).
Differs: the images are the defender's; TrojanZoo's code takes the whole training set. Every mini-batch is replaced by
    its adversarial version, as Madry et al. do; that code steps along the search. Batch size and schedule are not
    printed: 64 and cosine; SGD is that of TrojanZoo's training (Table 20).
"""

from pydantic import Field

from gifthorse.core.defense import CleanImagesDefense
from gifthorse.core.evasion import Attacker, Evasion
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.recipe import AdversarialRecipe
from gifthorse.core.seeds import derive
from gifthorse.core.views import ModelView
from gifthorse.training.erased import erased
from gifthorse.training.finetuning import too_few
from gifthorse.training.loop import fit


class AdversarialRetraining(CleanImagesDefense[ModelView], AdversarialRecipe):
    """Trains the model on, on worst-case versions of the defender's clean images."""

    name = "adversarial_retraining"
    aliases = ("ar",)
    paper = "Madry et al. 2018, arXiv:1706.06083; TrojanZoo Table 21"
    variants = ("adversarial_retraining[norm=l2,radius=0.5,step_size=0.1]",)
    family = "sanitization"
    view = ModelView
    offers = "adversary"

    epochs: int = Field(50, ge=1, description="passes over the clean images")
    batch_size: int = Field(64, ge=2, description="images per step")
    lr: float = Field(0.01, gt=0, description="learning rate of SGD at the start")
    shift: int = Field(0, ge=0, description="random crop of the clean images, in pixels")
    flip: bool = Field(False, description="random left-right flip of the clean images")

    def skip(self, view: ModelView) -> str | None:
        """Ask for enough images for a mini-batch."""
        return too_few(view.clean)

    def evasion(self, attacker: Attacker, seed: int) -> Evasion:  # noqa: ARG002
        """Make the model robust in advance: the same adversary moves the clean images (TrojanZoo, section 6.3)."""
        return Evasion(adversary=self.search())

    def defend(self, view: ModelView, seed: int) -> CleanModel:
        """Train a copy; what it is after the last epoch is handed back, whatever it was in between."""
        model = view.model.clone()
        fit(model, view.clean, self, derive(seed, self.name), label="adversarial retraining")
        return erased(view.model, model, view.clean)
