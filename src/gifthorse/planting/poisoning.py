"""What attacks that poison training share: their options, and the order in which things happen.

Paper: TrojanZoo, section 3.2 (equation 2), section 6.2 RQ6 (mixing) and RQ5 (re-training), Table 20.
Differs: the printed table leaves the learning-rate schedule of re-training open: cosine. Images of the target class
    are not stamped in training. The clean accuracy drop is taken against a twin that was trained as long. A bound on
    it chooses among epochs, on images of the attacker's own; the paper chooses the number of iterations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.goal import Goal
from gifthorse.core.images import Images
from gifthorse.core.seeds import derive, generator
from gifthorse.core.task import Task
from gifthorse.core.trigger import Trigger
from gifthorse.core.trojan import Backdoor, Trojan
from gifthorse.planting.mixing import BatchMixing, LossMixing, PoisonedSet, choose_poisoned, copies, poison_dataset
from gifthorse.planting.selection import EpochSelection, set_aside
from gifthorse.planting.stamping import StampingAttack
from gifthorse.training.loop import Mix, Objective, fit


@dataclass(frozen=True, eq=False)
class Injection:
    """A training under way: what an attack may look at while the backdoor goes in."""

    model: Classifier
    benign: Classifier
    images: Images
    trigger: Trigger
    goal: Goal
    seed: int


class PoisoningAttack(StampingAttack):
    """Trains, or re-trains, a classifier on clean images and stamped, relabelled copies.

    A concrete attack says how its trigger is made, and what else it does in training; defaults are TrojanZoo's.
    """

    poison_rate: float = Field(0.01, gt=0, lt=1, description="share of the images trained on that are stamped copies")
    mixing: Literal["batch", "dataset", "loss"] = Field(
        "batch",
        description="batch: fresh copies in every batch, stamped after augmentation; dataset: copies added once, "
        "stamped before augmentation; loss: every image has a copy, poison_rate is the weight λ of their loss",
    )
    origin: Literal["benign", "scratch"] = Field(
        "benign", description="benign: re-train the benign model; scratch: train anew by the task's recipe"
    )
    epochs: int = Field(50, ge=1, description="epochs of re-training (origin=benign)")
    lr: float = Field(0.01, gt=0, description="learning rate of re-training (origin=benign)")
    cad_budget: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="largest drop of clean accuracy: a tenth of the training images is kept for validation, and of the "
        "epochs within the budget the one with the highest attack success is delivered",
    )

    @property
    def directs_training(self) -> bool:
        """Whether the attack does more in training than poison it, so that a poisoned data set alone is not enough."""
        return False

    def objective(self, injection: Injection) -> Objective | None:  # noqa: ARG002
        """Return the loss to train with; ``None`` is cross-entropy."""
        return None

    def before_epoch(self, injection: Injection) -> Callable[[int], None] | None:  # noqa: ARG002
        """Return what is to be done before every epoch; it may change the trigger's buffers."""
        return None

    def choose(self, labels: torch.Tensor, goal: Goal, random: torch.Generator) -> torch.Tensor:
        """Return the positions ``int64 (P,)`` of the images to poison a data set with."""
        return choose_poisoned(labels, goal, self.poison_rate, random)

    def fixed_modules(self, model: Classifier, task: Task) -> list[nn.Module]:  # noqa: ARG002
        """Return the parts of a model that training leaves as they are."""
        return []

    def poison(self, images: Images, trigger: Trigger, goal: Goal, random: torch.Generator) -> PoisonedSet:
        """Return the poisoned training set."""
        return poison_dataset(images, trigger, goal, self.choose(images.labels, goal, random), random)

    def check(self, task: Task) -> None:
        """Refuse what cannot be stamped, and a rate that selects nothing."""
        super().check(task)
        if self.mixing == "dataset":
            self.choose(task.train.labels.cpu(), self.goal, generator(0, "check"))
        elif self.mixing == "batch" and copies(len(task.train), self.poison_rate) < 1:
            raise RequestError(f"poison_rate={self.poison_rate:g} selects none of {len(task.train)} training images")

    def poisoned_set(self, task: Task, benign: Classifier, seed: int) -> tuple[PoisonedSet, Trigger]:
        """Return the training set as the data-set level poisons it, and the trigger.

        It is the set that :meth:`run` trains on with the same seed.
        """
        trigger = self.make_trigger(task, benign, derive(seed, self.name, "trigger")).to(task.train.device)
        random = generator(seed, self.name, "poison", device=task.train.device)
        return self.poison(task.train, trigger, self.goal, random), trigger

    def run(self, task: Task, benign: Classifier, seed: int) -> Trojan:
        """Make the trigger, mix it into training, train; the twin gets the same training without it."""
        self.check(task)
        device, goal, scratch = task.train.device, self.goal, self.origin == "scratch"
        trigger = self.make_trigger(task, benign, derive(seed, self.name, "trigger")).to(device)
        random = generator(seed, self.name, "poison", device=device)
        purpose = derive(seed, "train" if scratch else "re-train")
        recipe = task.recipe
        if not scratch:
            recipe = recipe.changed(epochs=self.epochs, lr=self.lr, schedule="cosine")

        def start() -> Classifier:
            return task.build(derive(seed, "model")) if scratch else benign.clone()

        clean, kept, validation = task.train, torch.arange(len(task.train), device=device), None
        if self.cad_budget is not None:
            clean, kept, validation = set_aside(task.train, generator(seed, self.name, "validation"))
        twin = benign.clone()
        if not scratch or validation is not None:
            twin = start()
            fit(twin, clean, recipe, purpose, fixed=self.fixed_modules(twin, task), label="benign twin")
        model = start()
        selection = None
        if self.cad_budget is not None and validation is not None:
            selection = EpochSelection(model, twin, trigger, goal, validation, self.cad_budget)
        injection = Injection(model, benign, clean, trigger, goal, derive(seed, self.name, "injection"))
        images, poisoned, stamped = clean, None, None
        mix: Mix | None = None
        if self.mixing == "dataset":
            images, chosen, stamped = self.poison(clean, trigger, goal, random)
            poisoned = kept[chosen]
        else:
            strategy = BatchMixing if self.mixing == "batch" else LossMixing
            mix = strategy(trigger, goal, self.poison_rate, random)
        fit(
            model,
            images,
            recipe,
            purpose,
            mix=mix,
            stamped=stamped,
            objective=self.objective(injection),
            fixed=self.fixed_modules(model, task),
            before_epoch=self.before_epoch(injection),
            after_epoch=selection,
            label=self.name,
        )
        if selection is not None:
            selection.restore()
        return Trojan(model, twin, Backdoor(trigger, goal, poisoned))
