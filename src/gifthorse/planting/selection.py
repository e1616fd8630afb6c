"""A budget for the clean accuracy that an attack may cost, kept by choosing among the epochs of its training.

Paper: TrojanZoo, sections 5.2.1 (3 %) and 6.1 (5 %).
Differs: the paper chooses the number of iterations and does not say on which images; here they are the attacker's own.
"""

import copy
import logging

import torch

from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.images import Images
from gifthorse.core.trojan import Backdoor

VALIDATION = 0.1

log = logging.getLogger("gifthorse")


def set_aside(images: Images, random: torch.Generator) -> tuple[Images, torch.Tensor, Images]:
    """Return the images to train on, their positions ``int64 (N,)``, and a tenth of all, to validate on."""
    order = torch.randperm(len(images), generator=random).to(images.device)
    aside = max(round(VALIDATION * len(images)), 1)
    return images.take(order[aside:]), order[aside:], images.take(order[:aside])


class EpochSelection:
    """Called after every epoch, keeps the weights and the trigger of the best one within the budget.

    Best is the highest attack success on the validation images, the later of equals; where no epoch is within the
    budget, the one that costs least accuracy, with a warning.
    """

    def __init__(self, model: Classifier, twin: Classifier, backdoor: Backdoor, validation: Images, budget: float):
        self.model, self.backdoor, self.validation, self.budget = model, backdoor, validation, budget
        self.twin_accuracy = self._share(twin, validation)
        self.best: tuple[bool, float] = (False, -torch.inf)
        self.drop = torch.inf
        self.kept: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = ({}, {})

    def __call__(self, epoch: int) -> None:  # noqa: ARG002
        """Measure the model as it is now, and keep it where it is the best so far."""
        self.model.eval()
        drop = self.twin_accuracy - self._share(self.model, self.validation)
        stamped, targets = self.backdoor.stamp(self.validation.floats(), self.validation.labels)
        hits = (predict(self.model, stamped).argmax(1) == targets)[targets != self.validation.labels]
        within = drop <= self.budget
        rank = (within, float(hits.float().mean()) if within else -drop)
        if rank >= self.best:
            self.best, self.drop = rank, drop
            self.kept = copy.deepcopy(self.model.state_dict()), copy.deepcopy(self.backdoor.trigger.state_dict())
        self.model.train()

    def restore(self) -> None:
        """Put the kept epoch's weights and trigger back."""
        weights, trigger = self.kept
        self.model.load_state_dict(weights)
        self.backdoor.trigger.load_state_dict(trigger)
        if not self.best[0]:
            log.warning(
                "no epoch kept the drop of clean accuracy within %g; the one with %.3f is delivered",
                self.budget,
                self.drop,
            )

    @staticmethod
    def _share(model: Classifier, images: Images) -> float:
        return float((predict(model, images).argmax(1) == images.labels).float().mean())
