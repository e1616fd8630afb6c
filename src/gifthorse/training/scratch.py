"""Training from scratch."""

from dataclasses import dataclass

from gifthorse.core.architecture import Architecture
from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images
from gifthorse.core.recipe import Recipe
from gifthorse.core.seeds import derive
from gifthorse.core.task import Task
from gifthorse.training.loop import fit


@dataclass(frozen=True)
class FromScratch:
    """Trains fresh classifiers of one architecture by one recipe."""

    architecture: Architecture
    recipe: Recipe
    label: str = "training from scratch"

    def train(self, images: Images, seed: int) -> Classifier:
        """Return a fresh classifier trained on ``images``, on their device; the same seed gives the same weights."""
        model = self.architecture.build(images.shape, images.classes, derive(seed, "model")).to(images.device)
        fit(model, images, self.recipe, derive(seed, "train"), label=self.label)
        return model


def train(task: Task, seed: int) -> Classifier:
    """Train a fresh benign classifier by the task's recipe, on the task's images.

    An attack that trains from scratch with the same seed starts from the same weights and draws the same batches.
    """
    return FromScratch(task.architecture, task.recipe, "benign model").train(task.train, seed)
