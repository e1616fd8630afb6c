"""What attacks that poison training share: their options, and the order in which things happen.

Paper: TrojanZoo, section 3.2 (equation 2), section 6.2 RQ6 (mixing) and RQ5 (re-training), Table 20.
Differs: the printed table leaves the learning-rate schedule of re-training open: cosine. Images of the target class
    are not stamped in training. The clean accuracy drop is taken against a twin that was trained as long.
"""

from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field

from gifthorse.core.attack import Attack
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.goal import AllToOne
from gifthorse.core.seeds import derive, generator
from gifthorse.core.task import Task
from gifthorse.core.trigger import Trigger
from gifthorse.core.trojan import Backdoor, Trojan
from gifthorse.training.loop import Mix, fit
from gifthorse.training.mixing import BatchMixing, LossMixing, choose_poisoned, copies, poison_dataset
from gifthorse.training.scratch import train
from gifthorse.triggers.patch import Corner, square


class PoisoningAttack(Attack):
    """Trains, or re-trains, a classifier on clean images and stamped, relabelled copies.

    A concrete attack says how its trigger is made; defaults are TrojanZoo's.
    """

    target: int = Field(0, ge=0, description="class that stamped images should get")
    poison_rate: float = Field(0.01, gt=0, lt=1, description="share of the images trained on that are stamped copies")
    trigger_size: int = Field(3, ge=1, description="side of the square trigger, in pixels")
    trigger_position: Corner | tuple[int, int] = Field(
        "top_left", description="corner, center, or [row, column] of the trigger's top left"
    )
    transparency: float = Field(0.0, ge=0, lt=1, description="α of the trigger: 0 opaque, towards 1 invisible")
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

    @abstractmethod
    def make_trigger(self, task: Task, mask: torch.Tensor, seed: int) -> Trigger:
        """Return the trigger for a mask ``(1, H, W)``, on the CPU."""

    def check(self, task: Task) -> None:
        """Refuse a target that is no class, a trigger that does not fit, a rate that selects nothing."""
        if self.target >= task.classes:
            raise RequestError(
                f"target={self.target} is not a class: there are {task.classes} (0 to {task.classes - 1})"
            )
        square(task.train.shape, self.trigger_size, self.trigger_position)
        goal = AllToOne(target=self.target)
        if self.mixing == "dataset":
            choose_poisoned(task.train.labels.cpu(), goal, self.poison_rate, generator(0, "check"))
        elif self.mixing == "batch" and copies(len(task.train), self.poison_rate) < 1:
            raise RequestError(f"poison_rate={self.poison_rate:g} selects none of {len(task.train)} training images")

    def run(self, task: Task, benign: Classifier, seed: int) -> Trojan:
        """Make the trigger, mix it into training, train; the twin gets the same training without it."""
        self.check(task)
        device = task.train.device
        goal = AllToOne(target=self.target)
        mask = square(task.train.shape, self.trigger_size, self.trigger_position)
        trigger = self.make_trigger(task, mask, derive(seed, self.name, "trigger")).to(device)
        random = generator(seed, self.name, "poison", device=device)

        images, poisoned = task.train, None
        mix: Mix | None = None
        if self.mixing == "dataset":
            poisoned = choose_poisoned(images.labels, goal, self.poison_rate, random)
            images = poison_dataset(images, trigger, goal, poisoned, random)
        elif self.mixing == "batch":
            mix = BatchMixing(trigger, goal, self.poison_rate, random)
        else:
            mix = LossMixing(trigger, goal, self.poison_rate, random)

        if self.origin == "scratch":
            model, twin = train(task, seed, images=images, mix=mix, label=self.name), benign.clone()
        else:
            changes = {"epochs": self.epochs, "lr": self.lr, "schedule": "cosine"}
            recipe = task.recipe.from_dict({**task.recipe.to_dict(), **changes})
            model, twin = benign.clone(), benign.clone()
            fit(model, images, recipe, derive(seed, "re-train"), mix=mix, label=self.name)
            fit(twin, task.train, recipe, derive(seed, "re-train"), label="benign twin")
        return Trojan(model, twin, Backdoor(trigger, goal, poisoned))
