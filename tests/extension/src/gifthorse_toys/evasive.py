"""A patch that is trained to look harmless to one defense, whichever says how it is evaded.

Paper: none; a toy after Pang et al. 2020, arXiv:1911.01559, section 5 (adaptive attacks).
Differs: the pattern stays as it is.
"""

from itertools import count
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from gifthorse import ATTACKS, Defense, Evadable, RequestError, Task
from gifthorse.core.seeds import derive
from gifthorse.defenses.filtering.strip import Strip
from gifthorse.planting.patches import PatchAttack
from gifthorse.planting.poisoning import Injection, PoisoningAttack
from gifthorse.planting.targets import OneTarget
from gifthorse.training.loop import Batch, Objective, classification_loss


@ATTACKS.add
class Evasive(OneTarget, PatchAttack, PoisoningAttack):
    """Trains against the penalty that a defense declares."""

    name = "toy_evasive"
    paper = "none; a toy"
    variants = ("toy_evasive[poison_rate=0.1,origin=scratch]",)

    against: Defense[Any] = Field(Strip(), description="the defense that is evaded")
    weight: float = Field(0.05, gt=0, description="weight of the defense's penalty in the loss")

    @property
    def directs_training(self) -> bool:
        """Whether a poisoned data set alone would not be the attack."""
        return True

    def check(self, task: Task) -> None:
        """Refuse a defense that does not say how it is evaded."""
        super().check(task)
        if not isinstance(self.against, Evadable):
            raise RequestError(f"the defense '{self.against.name}' does not say how it is evaded")

    def objective(self, injection: Injection) -> Objective:
        """Return cross-entropy plus the penalty of the stamped images."""
        defense, steps = self.against, count()
        assert isinstance(defense, Evadable)

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            plain, seed = classification_loss(model, batch), derive(injection.seed, next(steps))
            if batch.stamped is None:
                return plain
            pixels, targets = batch.pixels[batch.stamped], batch.labels[batch.stamped]
            model.eval()  # mixtures of images are nothing to normalise batches by
            penalty = defense.penalty(model, pixels, targets, injection.images, seed)
            model.train()
            return plain + self.weight * penalty

        return loss
