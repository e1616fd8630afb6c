"""Neural attention distillation: the model is tuned to look where a fine-tuned copy of it looks.

Paper: Li et al. 2021, ICLR, arXiv:2101.05930, section 3 (attention maps, equations 1 to 4); Yan et al. 2023 (DHBE),
    section 5.1.3 and appendix C (tuned as its fine-tuning, with a loss after each of the four residual blocks).
Differs: the weight of these losses is lost in DHBE's print; it is the one that Li et al.'s code gives to all blocks but
    the first (which has half of it), for every stage. How long the teacher is tuned is not printed there either (5 to
    10 epochs in that code): it is tuned by the same recipe, so it is what plain fine-tuning hands back. What is kept is
    the model after the last epoch; that code keeps the best by test accuracy and attack success. Images are not
    augmented unless asked for, nor cut out. Weight decay is TrojanZoo's.
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import cross_entropy, mse_loss

from gifthorse.core.classifier import Classifier
from gifthorse.core.defense import CleanImagesDefense
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.seeds import derive
from gifthorse.core.views import ModelView
from gifthorse.training.erased import erased
from gifthorse.training.finetuning import Erasing, too_few
from gifthorse.training.loop import Batch, Objective


class Nad(CleanImagesDefense[ModelView], Erasing):
    """Tunes all layers on clean images and draws the attention of every stage towards a teacher's."""

    name = "nad"
    aliases = ("neural_attention_distillation",)
    paper = "Li et al. 2021, ICLR, arXiv:2101.05930; DHBE (Yan et al. 2023), appendix C"
    variants = ("nad[power=1.0,shift=1,flip=true]",)
    family = "sanitization"
    view = ModelView

    beta: float = Field(1000.0, ge=0, description="β: weight of each stage's attention loss; 0: fine-tuning")
    power: float = Field(2.0, ge=1, description="p: a map is the sum over channels of |activation|^p")

    def skip(self, view: ModelView) -> str | None:
        """Refuse a model without named stages, and too few images for a mini-batch."""
        return too_few(view.clean) if view.model.stage_names else "needs a model whose stages are known"

    def defend(self, view: ModelView, seed: int) -> CleanModel:
        """Tune a teacher, then a student that begins where the teacher did."""
        teacher, student = view.model.clone(), view.model.clone()
        self.tune(teacher, view.clean, derive(seed, self.name, "teacher"))
        self.tune(student, view.clean, derive(seed, self.name), objective=self.distillation(teacher, student))
        return erased(view.model, student, view.clean)

    def distillation(self, teacher: Classifier, student: Classifier) -> Objective:
        """Return cross-entropy + β · (distance of the attention maps, summed over the stages); the teacher is fixed.

        Stages are watched in the student itself: compiled passes would not show them.
        """
        teacher.eval().requires_grad_(False)

        def loss(_: nn.Module, batch: Batch) -> Tensor:
            with torch.no_grad():
                wanted = teacher.stages_and_logits(batch.pixels)[0]
            found, logits = student.stages_and_logits(batch.pixels)
            distances = [
                mse_loss(attention(ours, self.power), attention(theirs, self.power))
                for ours, theirs in zip(found, wanted, strict=True)
            ]
            classification: Tensor = cross_entropy(logits.float(), batch.labels)
            return classification + self.beta * torch.stack(distances).sum()

        return loss


def attention(maps: Tensor, power: float) -> Tensor:
    """Return the attention ``(N, H, W)`` of maps ``(N, C, H, W)``: Σ |activation|^p over channels, of L2 norm 1."""
    energy = vector_norm(maps.float(), power, dim=1).pow(power)
    length = vector_norm(energy, dim=(1, 2), keepdim=True).clamp_min(1e-6)
    found: Tensor = energy / length
    return found
