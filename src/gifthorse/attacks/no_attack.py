"""No attack: the benign model, which every detector is judged on as well.

Paper: none; the "vanilla" row of every table.
Differs: nothing.
"""

from gifthorse.core.attack import Attack
from gifthorse.core.classifier import Classifier
from gifthorse.core.seeds import generator
from gifthorse.core.task import Task
from gifthorse.core.trojan import DeliveredSet, Trojan


class NoAttack(Attack):
    """Delivers the benign model untouched."""

    name = "none"
    aliases = ("benign",)
    paper = "the benign row of every table"

    def run(self, task: Task, benign: Classifier, seed: int, twin: Classifier | None = None) -> Trojan:
        """Return a copy of the benign model with nothing planted, and the clean training set."""
        delivered = DeliveredSet.clean(task.train, generator(seed, self.name, "deliver"))
        return Trojan(benign.clone(), twin or benign.clone(), None, delivered)
