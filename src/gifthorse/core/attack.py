"""The interface of every attack."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Self

from torch import Tensor

from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import Configuration
from gifthorse.core.errors import RequestError
from gifthorse.core.goal import Goal
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor, DeliveredSet, Trojan


class Twin(Configuration):
    """How a benign twin is trained; attacks that train alike share their twin."""

    catalogue = "twin"

    @abstractmethod
    def train(self, task: Task, benign: Classifier, seed: int) -> Classifier:
        """Return the twin, in evaluation mode; task and benign model are left as they were."""

    def trained_on(self, task: Task, seed: int) -> Tensor | None:  # noqa: ARG002
        """Return the positions ``int64 (N,)`` in the task's training set of the images trained on; ``None`` for all."""
        return None

    def check(self, task: Task) -> None:
        """Raise :class:`RequestError` where such a twin cannot be trained on this task, before any training."""


class Preparation(Configuration):
    """What an attack makes of the benign model before it has a trigger or a rate, which it does not get to see.

    It is computed once and shared by all attacks that prepare the same; they find it in ``task.prepared``.
    """

    catalogue = "preparation"

    @abstractmethod
    def prepare(self, task: Task, benign: Classifier, seed: int) -> dict[str, Tensor]:
        """Return what is made, by name, in types that numpy has; task and benign model are left as they were."""

    def accept(self, made: Mapping[str, Tensor], task: Task, benign: Classifier, seed: int) -> None:
        """Raise :class:`NotApplicableError`, with a sentence, where what was made with this seed is of no use."""


class Attack(Configuration):
    """An attack gets the whole task and a benign model of it, and delivers a trojan."""

    catalogue = "attack"

    @abstractmethod
    def run(self, task: Task, benign: Classifier, seed: int, twin: Classifier | None = None) -> Trojan:
        """Carry the attack out; task and both models are left as they were.

        ``twin`` is what :meth:`twin` trains with this seed; where it is not given it is trained first.
        """

    def goal(self, task: Task) -> Goal | None:  # noqa: ARG002
        """Return what stamped images should get, ``None`` for an attack that plants nothing."""
        return None

    def aimed_at(self, target: int) -> Self | None:  # noqa: ARG002
        """Return the same attack with another target; ``None`` where its target was named, or where it has not one."""
        return None

    def twin(self, task: Task) -> Twin | None:  # noqa: ARG002
        """Return how the benign twin is trained; ``None`` where it is the benign model itself."""
        return None

    def preparation(self, task: Task) -> Preparation | None:  # noqa: ARG002
        """Return what is prepared on the benign model, whatever else the attack is; ``None`` where nothing is."""
        return None

    def check(self, task: Task) -> None:
        """Raise :class:`RequestError` where the attack cannot be carried out on this task, before any training."""

    def empty_model(self, task: Task) -> Classifier:
        """Return a classifier of the structure that is delivered, for saved weights to be loaded into."""
        return task.build(0)

    def exportable(self) -> str | None:
        """Return one sentence saying why a poisoned training set alone would not be the attack, or ``None``."""
        return f"the attack '{self.name}' poisons no training set, so there is none to export"

    def poisoned_dataset(self, task: Task, benign: Classifier, seed: int) -> tuple[DeliveredSet, Backdoor]:  # noqa: ARG002
        """Return the training set as the attack poisons it, and what it plants; nothing but the trigger is trained.

        :class:`RequestError` where the attack is not exportable.
        """
        raise RequestError(self.exportable() or f"the attack '{self.name}' does not say how it poisons a training set")
