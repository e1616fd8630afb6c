"""No attack: the benign model, which every detector is judged on as well.

Paper: none; the "vanilla" row of every table.
Differs: nothing.
"""

from gifthorse.core.attack import Attack
from gifthorse.core.classifier import Classifier
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan


class NoAttack(Attack):
    """Delivers the benign model untouched."""

    name = "none"
    aliases = ("benign",)
    paper = "the benign row of every table"

    def run(self, task: Task, benign: Classifier, seed: int) -> Trojan:  # noqa: ARG002
        """Return copies of the benign model with nothing planted."""
        return Trojan(benign.clone(), benign.clone(), None)
