"""Attacks around an attack: what wraps another one says only what it changes of its stages.

A stage that is not overridden is the base's, run on the wrapper's own injection: seeds derive from the wrapper's name.
"""

from collections.abc import Callable
from typing import Self

from pydantic import Field

from gifthorse.core.attack import Preparation
from gifthorse.core.classifier import Classifier
from gifthorse.core.goal import Goal
from gifthorse.core.images import Images
from gifthorse.core.task import Task
from gifthorse.core.trigger import Trigger
from gifthorse.core.trojan import Backdoor, DeliveredSet
from gifthorse.planting.adaptation import Adaptation
from gifthorse.planting.mixing import PoisonedSet
from gifthorse.planting.poisoning import Injection, StagedAttack
from gifthorse.planting.schedule import Schedule
from gifthorse.training.loop import Mix, Objective


class WrappingAttack(StagedAttack):
    """Carries out another attack, which trains in stages, and changes some of these."""

    base: StagedAttack = Field(description="the attack that is wrapped")

    def goal(self, task: Task) -> Goal:
        """Return what the base wants."""
        return self.base.goal(task)

    def aimed_at(self, target: int) -> Self | None:
        """Return the same attack around a base with another target; ``None`` where the base's was named."""
        base = self.base.aimed_at(target)
        return None if base is None else self.changed(base=base)

    def preparation(self, task: Task) -> Preparation | None:
        """Return what the base prepares on the benign model."""
        return self.base.preparation(task)

    def check(self, task: Task) -> None:
        """Refuse what the base refuses."""
        self.base.check(task)

    def empty_model(self, task: Task) -> Classifier:
        """Return a classifier of the structure that the base delivers."""
        return self.base.empty_model(task)

    def exportable(self) -> str | None:
        """Return a sentence: the set that the base poisons is not what the wrapper makes of it."""
        return f"the attack '{self}' is more than what '{self.base.name}' poisons: that data set alone would not be it"

    def schedule(self, task: Task) -> Schedule:
        """Return how long, from where and on which images the base trains."""
        return self.base.schedule(task)

    def known(self, task: Task, seed: int) -> Task:
        """Return the task as the base has it."""
        return self.base.known(task, seed)

    @property
    def budget(self) -> float | None:
        """The clean accuracy that the base may cost."""
        return self.base.budget

    def make_trigger(self, task: Task, benign: Classifier, seed: int) -> Trigger:
        """Return the base's trigger."""
        return self.base.make_trigger(task, benign, seed)

    def adaptation(
        self, task: Task, benign: Classifier, model: Classifier, backdoor: Backdoor, images: Images, seed: int
    ) -> Adaptation | None:
        """Return what training against the defenses of the base changes."""
        return self.base.adaptation(task, benign, model, backdoor, images, seed)

    def poison(self, injection: Injection) -> PoisonedSet | None:
        """Return the training set as the base poisons it."""
        return self.base.poison(injection)

    def mix(self, injection: Injection) -> Mix | None:
        """Return what the base makes of every mini-batch."""
        return self.base.mix(injection)

    def twin_mix(self, task: Task, seed: int) -> Mix | None:
        """Return what the mini-batches of the base's twin undergo."""
        return self.base.twin_mix(task, seed)

    def objective(self, injection: Injection) -> Objective | None:
        """Return the base's loss."""
        return self.base.objective(injection)

    def before_epoch(self, injection: Injection) -> Callable[[int], None] | None:
        """Return what the base does before every epoch."""
        return self.base.before_epoch(injection)

    def after_step(self, injection: Injection) -> Callable[[], None] | None:
        """Return what the base does after every step of the model."""
        return self.base.after_step(injection)

    def deliver(self, injection: Injection, poisoned: PoisonedSet | None) -> DeliveredSet | None:
        """Return the training set as the base hands it over."""
        return self.base.deliver(injection, poisoned)
