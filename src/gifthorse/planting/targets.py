"""Which class an attacker wants: one for every image, the next one, one for images of some classes only, or several."""

from abc import abstractmethod
from typing import Literal, Self

from pydantic import Field

from gifthorse.core.attack import Attack
from gifthorse.core.errors import RequestError
from gifthorse.core.goal import AllToAll, AllToOne, ClassNumber, Goal, OnePerCondition, SourceSpecific
from gifthorse.core.task import Task


class TargetedAttack(Attack):
    """An attack with a goal; most have a field ``target``, whatever its type, and the goal follows from that."""

    @abstractmethod
    def goal(self, task: Task) -> Goal:
        """Return what stamped images should get."""

    def aimed_at(self, target: int) -> Self | None:
        """Return the same attack with another target; ``None`` where one was named, or there is no such field."""
        chosen = "target" in self.model_fields_set or "target" not in type(self).model_fields
        return None if chosen else self.changed(target=target)

    def check(self, task: Task) -> None:
        """Refuse a target, or another class of the goal, that is none of the task's."""
        super().check(task)
        check_class(task, "target", *self.goal(task).classes())


class OneTarget(TargetedAttack):
    """Wants one class for every stamped image."""

    target: int = Field(0, ge=0, description="class that stamped images should get")

    def goal(self, task: Task) -> AllToOne:  # noqa: ARG002
        """Every stamped image should get the target."""
        return AllToOne(target=self.target)

    def check_target_images(self, task: Task) -> None:
        """Refuse a training set without an image of the target class, for attacks that compare stamped ones to them."""
        if not (task.train.labels == self.target).any():
            raise RequestError(f"no training image is of the target class {self.target}")


class AnyGoal(TargetedAttack):
    """Wants one class for every stamped image, or for those of some classes, or for each image the class after its own.

    Where only some classes are attacked, stamped images of the others are trained with their own labels (cover
    images), as many as of the attacked: without them the trigger works on any image.
    """

    target: ClassNumber | Literal["next"] = Field(
        0, description="class that stamped images should get; next: the one after their own (all-to-all)"
    )
    source: tuple[ClassNumber, ...] | None = Field(
        None, min_length=1, description="classes whose images the trigger works on, on no others; null: on all"
    )

    def goal(self, task: Task) -> Goal:
        """Return the goal that target and source describe."""
        if self.target == "next":
            return AllToAll(count=task.classes)
        if self.source is None:
            return AllToOne(target=self.target)
        return SourceSpecific(target=self.target, source=self.source)

    def check(self, task: Task) -> None:
        """Refuse classes that are none of the task's, and sources that leave nothing to attack."""
        super().check(task)
        if self.source is None:
            return
        if self.target == "next":
            raise RequestError("target=next attacks all classes: leave source out")
        check_class(task, "source", *self.source)
        if set(self.source) == {self.target}:
            raise RequestError(f"source={list(self.source)} is the target itself: no image is left to attack")


class ManyTargets(TargetedAttack):
    """Wants one class for every stamped image, or one of several, which the trigger says."""

    target: ClassNumber | tuple[ClassNumber, ...] | Literal["all"] = Field(
        0, description="class that stamped images should get; [0,3,7]: one of these, as the trigger says; all: any"
    )

    def goal(self, task: Task) -> Goal:
        """Return the goal that the target describes: a condition for each of several classes."""
        targets = self.targets(task)
        return AllToOne(target=targets[0]) if len(targets) == 1 else OnePerCondition(target=targets)

    def targets(self, task: Task) -> tuple[int, ...]:
        """Return the classes, in the order of their conditions."""
        if self.target == "all":
            return tuple(range(task.classes))
        return (self.target,) if isinstance(self.target, int) else self.target

    def check(self, task: Task) -> None:
        """Refuse a list of no classes, one that names a class twice, and classes that are none of the task's."""
        targets = self.targets(task)
        if not targets or len(set(targets)) < len(targets):
            raise RequestError(f"target={list(targets)}: name one class or more, each once")
        super().check(task)


def check_class(task: Task, field: str, *classes: int) -> None:
    """Raise :class:`RequestError` for a class number that the task has not."""
    for wrong in classes:
        if wrong >= task.classes:
            raise RequestError(f"{field}={wrong} is not a class: there are {task.classes} (0 to {task.classes - 1})")
