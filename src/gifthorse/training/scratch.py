"""Training from scratch."""

from gifthorse.core.classifier import Classifier
from gifthorse.core.seeds import derive
from gifthorse.core.task import Task
from gifthorse.training.loop import fit


def train(task: Task, seed: int) -> Classifier:
    """Train a fresh benign classifier by the task's recipe, on the task's images.

    An attack that trains from scratch with the same seed starts from the same weights and draws the same batches.
    """
    model = task.build(derive(seed, "model"))
    fit(model, task.train, task.recipe, derive(seed, "train"), label="benign model")
    return model
