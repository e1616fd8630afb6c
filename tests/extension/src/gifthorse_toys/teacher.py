"""Erases a backdoor: the model learns from a teacher that the defender prepared without ever having seen it.

Paper: none; a toy after Li et al. 2021, arXiv:2101.05930 (Neural Attention Distillation).
Differs: the teacher is trained anew on the clean images; its logits are imitated; triggers that a detector recovered
    before it in a pipeline are stamped on copies.
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from gifthorse import DEFENSES, CleanModel, Defense, Materials, ModelView
from gifthorse.core.seeds import derive
from gifthorse.training.loop import Batch, Mix, fit


@DEFENSES.add
class Teacher(Defense[ModelView]):
    """Fine-tunes the model to say what a teacher says of clean images."""

    name = "toy_teacher"
    paper = "none; a toy"
    family = "sanitization"
    view = ModelView

    teacher_epochs: int = Field(20, ge=1, description="epochs that the teacher is trained for, once")
    epochs: int = Field(20, ge=1, description="epochs of fine-tuning")
    batch_size: int = Field(32, ge=2, description="images per step, of both")
    lr: float = Field(0.02, gt=0, description="learning rate of fine-tuning")
    weight: float = Field(1.0, ge=0, description="weight of the distance to what the teacher says")

    def prepare(self, materials: Materials, seed: int) -> dict[str, Tensor]:
        """Train the teacher on the defender's images."""
        clean, trainer = materials.clean, materials.trainer
        teacher = trainer.architecture.build(clean.shape, clean.classes, derive(seed, "model")).to(materials.device)
        recipe = trainer.recipe.changed(epochs=self.teacher_epochs, batch_size=self.batch_size)
        fit(teacher, clean, recipe, derive(seed, "train"), label="teacher")
        return teacher.state_dict()

    def skip(self, view: ModelView) -> str | None:
        """Ask for what a teacher needs."""
        if len(view.clean) < self.batch_size:
            return f"needs {self.batch_size} clean images; there are {len(view.clean)}"
        return None if view.trainer is not None else "needs to know the architecture"

    def defend(self, view: ModelView, seed: int) -> CleanModel:
        """Fine-tune a copy of the model on the clean images."""
        assert view.trainer is not None
        teacher = view.trainer.architecture.build(view.shape, view.classes, 0).to(view.device)
        teacher.load_state_dict(view.prepared)
        teacher.eval()
        student = view.model.clone()

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            logits = model(batch.pixels).float()
            with torch.no_grad():
                taught = teacher(batch.pixels).float().log_softmax(1)
            distance = kl_div(logits.log_softmax(1), taught, reduction="batchmean", log_target=True)
            return cross_entropy(logits, batch.labels) + self.weight * distance

        recipe = view.trainer.recipe.changed(epochs=self.epochs, batch_size=self.batch_size, lr=self.lr)
        fit(student, view.clean, recipe, derive(seed, self.name), objective=loss, mix=recovered(view), label=self.name)
        return CleanModel(student)


def recovered(view: ModelView) -> Mix | None:
    """Return what adds copies with the recovered trigger, if there is one, and their true labels."""
    if view.verdict is None or view.verdict.triggers is None or view.verdict.suspect is None:
        return None
    triggers, suspect = view.verdict.triggers, view.verdict.suspect

    def with_copies(batch: Batch) -> Batch:
        return Batch(torch.cat([batch.pixels, triggers.stamp(batch.pixels, suspect)]), batch.labels.repeat(2))

    return with_copies
