"""No attack: the benign model, which every detector is judged on as well.

Paper: none; the "vanilla" row of every table.
Differs: nothing. Beside trojans that were re-trained it can have had the same training as their benign twin
    (``trained``), so that a detector cannot tell the two by how long they were trained.
"""

from pydantic import Field

from gifthorse.core.attack import Attack, Twin
from gifthorse.core.classifier import Classifier
from gifthorse.core.seeds import generator
from gifthorse.core.task import Task
from gifthorse.core.trojan import DeliveredSet, Trojan


class NoAttack(Attack):
    """Delivers the benign model untouched."""

    name = "none"
    aliases = ("benign",)
    paper = "the benign row of every table"
    variants = ("none[trained=schedule[epochs=2,lr=0.01]]",)

    trained: Twin | None = Field(
        None,
        description="as the benign twin of attacks that re-train, for example schedule[epochs=10,lr=0.01]; by the "
        "recipe alone unless given",
    )

    def twin(self, task: Task) -> Twin | None:  # noqa: ARG002
        """Return how the model is trained, where the recipe alone does not say it."""
        return self.trained

    def check(self, task: Task) -> None:
        """Refuse what cannot be trained so."""
        if self.trained is not None:
            self.trained.check(task)

    def run(self, task: Task, benign: Classifier, seed: int, twin: Classifier | None = None) -> Trojan:
        """Return a copy of the benign model, or of the twin, with nothing planted, and the clean images it saw."""
        how = self.trained
        if twin is None:
            twin = benign.clone() if how is None else how.train(task, benign, seed)
        seen = None if how is None else how.trained_on(task, seed)
        delivered = DeliveredSet.clean(task.train, generator(seed, self.name, "deliver"), seen)
        return Trojan(twin.clone(), twin, None, delivered)
