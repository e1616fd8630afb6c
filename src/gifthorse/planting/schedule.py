"""How long, from where and on which images an attack trains; the benign twin is trained by the same schedule.

Paper: TrojanZoo, section 6.2 RQ5 (re-training), Table 20.
Differs: the printed table leaves the learning-rate schedule of re-training open: cosine.
"""

from math import ceil
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from gifthorse.core.attack import Twin
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images
from gifthorse.core.recipe import Recipe
from gifthorse.core.seeds import derive, generator
from gifthorse.core.task import Task
from gifthorse.planting.selection import set_aside
from gifthorse.training.loop import Mix, fit


class Schedule(Twin):
    """Trains anew by the task's recipe, or re-trains the benign model."""

    name = "schedule"

    origin: Literal["benign", "scratch"] = "benign"
    epochs: int | None = Field(None, ge=1, description="epochs of re-training")
    lr: float | None = Field(None, gt=0, description="learning rate of re-training")
    set_aside: str | None = Field(None, description="attack that keeps a tenth of the images for validation")
    share: float = Field(1.0, gt=0, le=1, description="share of the images of every class that are used at all")
    fixed: tuple[str, ...] = Field((), description="modules of the network that stay as they are")

    @model_validator(mode="after")
    def _re_training_has_its_own_length_and_rate(self) -> Self:
        if self.origin == "benign" and (self.epochs is None or self.lr is None):
            raise ValueError("re-training needs epochs and lr")
        if self.origin == "scratch" and (self.epochs is not None or self.lr is not None):
            raise ValueError("from scratch epochs and lr are those of the task's recipe")
        return self

    @property
    def is_benign(self) -> bool:
        """Whether it is how the benign model itself was trained."""
        return self.origin == "scratch" and self.set_aside is None and not self.fixed and self.share == 1

    def start(self, task: Task, benign: Classifier, seed: int) -> Classifier:
        """Return the model that training begins with."""
        return task.build(derive(seed, "model")) if self.origin == "scratch" else benign.clone()

    def recipe(self, task: Task) -> Recipe:
        """Return the recipe of the training."""
        if self.origin == "scratch":
            return task.recipe
        return task.recipe.changed(epochs=self.epochs, lr=self.lr, schedule="cosine")

    def images(self, task: Task, seed: int) -> tuple[Images, torch.Tensor, Images | None]:
        """Return the clean images to train on, their positions ``int64 (N,)``, and those to validate on, if any."""
        train, positions = part_of(task.train, self.share, seed)
        if self.set_aside is None:
            return train, positions, None
        used, within, validation = set_aside(train, generator(seed, self.set_aside, "validation"))
        return used, positions[within], validation

    def trained_on(self, task: Task, seed: int) -> torch.Tensor:
        """Return the positions ``int64 (N,)`` in the task's training set of the images that are trained on."""
        return self.images(task, seed)[1]

    def check(self, task: Task) -> None:
        """Refuse modules that the network has not, and what is the benign model itself: it would have two keys."""
        if self.is_benign:
            raise RequestError(f"'{self}' is how the benign model itself is trained: leave it out")
        known = dict(task.build(0).network.named_modules()) if self.fixed else {}
        for name in self.fixed:
            if name not in known:
                raise RequestError(f"'{self}': {task.architecture.name} has no module '{name}'")

    def fit(self, model: Classifier, images: Images, task: Task, seed: int, **stages: Any) -> None:
        """Train a model in place; ``stages`` are those of :func:`gifthorse.training.loop.fit`."""
        purpose = derive(seed, "train" if self.origin == "scratch" else "re-train")
        fixed = [model.network.get_submodule(name) for name in self.fixed]
        fit(model, images, self.recipe(task), purpose, fixed=fixed, **stages)

    def train(self, task: Task, benign: Classifier, seed: int, mix: Mix | None = None) -> Classifier:
        """Return the twin: the same training without the attack, its mini-batches mixed where that is asked for."""
        if self.is_benign and mix is None:
            return benign.clone()
        twin = self.start(task, benign, seed)
        self.fit(twin, self.images(task, seed)[0], task, seed, mix=mix, label="benign twin")
        return twin


def part_of(train: Images, share: float, seed: int) -> tuple[Images, torch.Tensor]:
    """Return the images that whoever has a share of them has, and their positions ``int64 (N,)``; all where it is 1."""
    if share == 1:
        return train, torch.arange(len(train), device=train.device)
    positions = share_of_each_class(train, share, generator(seed, Schedule.name, "share"))
    return train.take(positions), positions


def share_of_each_class(images: Images, share: float, random: torch.Generator) -> torch.Tensor:
    """Return the positions ``int64 (N,)``, in order, of a share of every class, drawn; at least one image of each."""
    order = torch.randperm(len(images), generator=random).to(images.device)
    labels = images.labels[order]
    drawn = (order[labels == label] for label in range(images.classes))
    return torch.cat([each[: ceil(share * len(each))] for each in drawn]).sort().values
