"""The interface of every attack."""

from abc import abstractmethod

from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import Configuration
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan


class Attack(Configuration):
    """An attack gets the whole task and a benign model of it, and delivers a trojan."""

    catalogue = "attack"

    @abstractmethod
    def run(self, task: Task, benign: Classifier, seed: int) -> Trojan:
        """Carry the attack out; task and benign model are left as they were."""

    def check(self, task: Task) -> None:
        """Raise :class:`RequestError` where the attack cannot be carried out on this task, before any training."""

    def empty_model(self, task: Task) -> Classifier:
        """Return a classifier of the structure that is delivered, for saved weights to be loaded into."""
        return task.build(0)
