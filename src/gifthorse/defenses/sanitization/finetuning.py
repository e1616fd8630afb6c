"""Fine-tuning: train the whole model on for a while, on clean images alone.

Paper: Yan et al. 2023 (DHBE), section 5.1.3 and appendix C (20 epochs of 2000 samples, SGD at 0.01, a tenth of it after
    10 and 15 epochs). It is the baseline that every other sanitizer is reported beside.
Differs: where there are more than 2000 images, an epoch is all of them. Weight decay is not printed; it is
    TrojanZoo's.
"""

from typing import Literal

from pydantic import Field

from gifthorse.core.defense import Defense
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.seeds import derive
from gifthorse.core.views import ModelView
from gifthorse.training.finetuning import FineTuning, too_few


class Finetuning(Defense[ModelView], FineTuning):
    """Tunes all layers on the defender's clean images."""

    name = "finetuning"
    aliases = ("fine_tuning", "ft")
    paper = "DHBE (Yan et al. 2023), section 5.1.3 and appendix C"
    variants = ("finetuning[samples=0,schedule=cosine,shift=1,flip=true]",)
    family = "sanitization"
    view = ModelView

    epochs: int = Field(20, ge=1, description="passes over the clean images")
    batch_size: int = Field(64, ge=2, description="images per step")
    lr: float = Field(0.01, gt=0, description="learning rate of SGD at the start")
    nesterov: bool = Field(False, description="Nesterov momentum")
    schedule: Literal["constant", "cosine", "one_cycle"] | tuple[int, ...] = Field(
        (10, 15), description="learning rate over time; [10,15]: a tenth after each of so many epochs"
    )
    samples: int = Field(2000, ge=0, description="images per epoch, where there are fewer: these are repeated; 0: once")
    shift: int = Field(0, ge=0, description="random crop of the clean images, in pixels")
    flip: bool = Field(False, description="random left-right flip of the clean images")

    def skip(self, view: ModelView) -> str | None:
        """Ask for enough images for a mini-batch."""
        return too_few(view.clean)

    def defend(self, view: ModelView, seed: int) -> CleanModel:
        """Tune a copy; what it is after the last epoch is handed back, whatever it was in between."""
        model = view.model.clone()
        self.tune(model, view.clean, derive(seed, self.name))
        return CleanModel(model)
