"""Training from scratch, the same way for a benign model and for a trojan."""

from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images
from gifthorse.core.seeds import derive
from gifthorse.core.task import Task
from gifthorse.training.loop import Mix, fit


def train(
    task: Task,
    seed: int,
    *,
    images: Images | None = None,
    mix: Mix | None = None,
    label: str = "benign model",
) -> Classifier:
    """Train a fresh classifier by the task's recipe, on the task's images unless others are given.

    A benign model and a trojan of the same seed start from the same weights and draw the same batches.
    """
    model = task.build(derive(seed, "model"))
    fit(
        model,
        task.train if images is None else images,
        task.recipe,
        derive(seed, "train"),
        mix=mix,
        label=label,
    )
    return model
