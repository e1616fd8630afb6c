"""Backdoors whose trigger is a reflection of another picture, chosen for how well a model learns it.

Paper: Liu et al. 2020, arXiv:2007.02343, section 3, and TrojanZoo's re-implementation (section 4.1: r = xʳ ⊗ k; Table
    20: candidates, selection, inner epochs).
Differs: the ranking trains one model with all the chosen candidates, one in every poisoned image, as Liu et al. do
    (TrojanZoo's code: a model for each), and relabels a tenth of its images whatever the attack does, so that few
    epochs tell candidates apart. Effect is the mean probability of the target on training images set aside, not a
    count of hits on test images; a candidate that was measured keeps its measure. Candidates come from the other
    classes, or from a folder; the authors' filters for photographs (brightness, structural similarity) are left out:
    what is measured decides.
"""

from abc import abstractmethod
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.errors import RequestError
from gifthorse.core.images import to_floats
from gifthorse.core.seeds import derive, generator
from gifthorse.core.task import Task
from gifthorse.core.trigger import Trigger
from gifthorse.core.trojan import Backdoor
from gifthorse.planting.mixing import BatchMixing, PoisonedSet, choose_from_target, poison_in_place
from gifthorse.planting.pictures import find_pictures, read_pictures
from gifthorse.planting.poisoning import Injection, PoisoningAttack
from gifthorse.planting.targets import OneTarget
from gifthorse.training.loop import fit
from gifthorse.triggers.reflection import KINDS, Kind, Reflection, reflect

RANKING_RATE = 0.1
SET_ASIDE = 256


class ReflectionAttack(OneTarget, PoisoningAttack):
    """Poisons training with the reflections, out of many, that a model learns best."""

    paper = "Liu et al. 2020, arXiv:2007.02343"

    labels: Literal["dirty", "clean"] = Field(
        "dirty",
        description="dirty: stamped copies get the target's label; clean: images of the target class are stamped, and "
        "all labels kept (needs mixing=dataset)",
    )
    poison_rate: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="share of the images trained on that are stamped copies (labels=dirty), or of the images of the "
        "target class that are stamped (labels=clean)",
    )
    kind: Kind | Literal["any"] = Field("any", description="how the pane reflects; any: drawn for every candidate")
    reflections: str | None = Field(
        None, description="folder of pictures to reflect; null: training images of the other classes"
    )
    candidates: int = Field(50, ge=1, description="pictures drawn to choose from")
    selected: int = Field(10, ge=1, description="candidates that are trained with and measured in an iteration")
    selection_iterations: int = Field(5, ge=1, description="iterations; the better half goes on to the next")
    inner_epochs: int = Field(5, ge=1, description="epochs of re-training in an iteration")
    kept: int = Field(1, ge=1, description="most effective candidates that make the trigger, one in every image")

    @property
    def relabels(self) -> bool:
        """Whether copies of other classes are stamped, and not images of the target's."""
        return self.labels == "dirty"

    def files(self) -> tuple[Path, ...]:
        """Return the folder of pictures, if one is named, and what else the request names."""
        return (*super().files(), *([] if self.reflections is None else [Path(self.reflections).expanduser()]))

    def check(self, task: Task) -> None:
        """Refuse settings that exclude each other, and a pool that is too small."""
        if self.labels == "clean" and self.mixing != "dataset":
            raise RequestError(f"labels=clean needs mixing=dataset, not {self.mixing}")
        if not self.kept <= self.selected <= self.candidates:
            raise RequestError(f"kept={self.kept} ≤ selected={self.selected} ≤ candidates={self.candidates} must hold")
        super().check(task)
        if self.reflections is None:
            found, where = int(self.goal(task).sources(task.train.labels).sum()), "the other classes"
        else:
            found, where = len(find_pictures(self.reflections)), self.reflections
            if task.train.shape[0] not in (1, 3):
                raise RequestError(f"a picture has 1 or 3 channels, the images have {task.train.shape[0]}")
        if found < self.candidates:
            raise RequestError(f"candidates={self.candidates}, but there are {found} pictures in {where}")

    def make_trigger(self, task: Task, benign: Classifier, seed: int) -> Trigger:
        """Return a trigger with the reflections that a model learns best."""
        trigger = self.candidate_reflections(task, seed)
        return showing(trigger, self.rank(trigger, task, benign, seed)[: self.kept])

    @abstractmethod
    def reflection(self, layers: Tensor, seed: int, random: torch.Generator) -> Reflection:
        """Return the trigger that shows layers ``(R, C, H, W)`` of light, on the CPU."""

    def candidate_reflections(self, task: Task, seed: int) -> Reflection:
        """Return a trigger with a reflection of every picture drawn from the pool, on the task's device."""
        _, height, width = task.train.shape
        random = generator(seed, "reflections")
        kinds = KINDS if self.kind == "any" else (self.kind,)
        layers = reflect(self.draw_pictures(task, random), height, width, kinds, random)
        return self.reflection(layers, seed, random).to(task.train.device)

    def draw_pictures(self, task: Task, random: torch.Generator) -> Tensor:
        """Return the candidates ``(R, C, H', W')`` in [0,1], on the CPU."""
        if self.reflections is not None:
            paths = find_pictures(self.reflections)
            drawn = torch.randperm(len(paths), generator=random)[: self.candidates]
            channels, height, width = task.train.shape
            return read_pictures([paths[place] for place in drawn.tolist()], channels, max(height, width))
        others = self.goal(task).sources(task.train.labels.cpu()).nonzero().squeeze(1)
        drawn = others[torch.randperm(len(others), generator=random)[: self.candidates]]
        return to_floats(task.train.pixels[drawn.to(task.train.device)]).cpu()

    def rank(self, trigger: Reflection, task: Task, benign: Classifier, seed: int) -> Tensor:
        """Return the positions ``int64 (R,)`` of the trigger's reflections, the most effective first.

        Each iteration re-trains the benign model with some of them and measures these; one that was never measured
        counts as the median while choosing, and comes last in the end.
        """
        device = task.train.device
        sources = self.goal(task).sources(task.train.labels.cpu()).nonzero().squeeze(1)
        sources = sources[torch.randperm(len(sources), generator=generator(seed, "set aside"))].to(device)
        aside = sources[: min(SET_ASIDE, max(len(sources) // 10, 1))]
        trained = torch.ones(len(task.train), dtype=torch.bool, device=device)
        trained[aside] = False
        images, unseen = task.train.take(trained), task.train.take(aside).floats()
        recipe = task.recipe.changed(epochs=self.inner_epochs, lr=self.lr, schedule="cosine")
        random = generator(seed, "ranking", device=device)
        effect = torch.full((self.candidates,), torch.nan, device=device)
        for iteration in range(self.selection_iterations):
            # Of equals, first what was never tried.
            expected = torch.where(effect.isnan(), effect.nanmedian() + 1e-6, effect)
            picked = expected.argsort(descending=True, stable=True)[: self.selected]
            model = benign.clone()
            mix = BatchMixing(Backdoor(showing(trigger, picked), self.goal(task)), RANKING_RATE, random)
            purpose = derive(seed, "ranking", iteration)
            fit(model, images, recipe, purpose, mix=mix, label=f"{self.name}: ranking {iteration + 1}")
            for place in picked.split(1):
                stamped = showing(trigger, place).stamp(unseen)
                effect[place] = predict(model, stamped).softmax(1)[:, self.target].mean()
        return effect.nan_to_num(-1).argsort(descending=True, stable=True)

    def choose(self, injection: Injection) -> Tensor:
        """Return the images to copy and relabel, or those of the target class to stamp."""
        if self.relabels:
            return super().choose(injection)
        labels, goal = injection.images.labels, injection.backdoor.goal
        return choose_from_target(labels, goal, self.poison_rate, injection.random)

    def poison(self, injection: Injection) -> PoisonedSet | None:
        """Return the poisoned training set; with clean labels images are stamped where they are, none is added."""
        if self.relabels:
            return super().poison(injection)
        return poison_in_place(injection.images, injection.backdoor, self.choose(injection), injection.random)

    def check_choice(self, task: Task) -> None:
        """Refuse a rate that cannot be had from the training set, or from the images of the target class."""
        if self.relabels:
            super().check_choice(task)
        else:
            choose_from_target(task.train.labels.cpu(), self.goal(task), self.poison_rate, generator(0, "check"))


def showing(trigger: Reflection, chosen: Tensor) -> Reflection:
    """Return the same trigger with only the chosen of its reflections."""
    return Reflection(trigger.layers[chosen], trigger.mask, **trigger.settings())
