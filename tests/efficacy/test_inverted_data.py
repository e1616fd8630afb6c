"""Distillation on inverted digits erases nothing: the negative control of all that erases without data."""

import pytest
import torch

from gifthorse.bench.cell import resolve
from gifthorse.bench.views import view_of
from gifthorse.core.classifier import predict
from gifthorse.core.images import Images
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.core.views import DataFreeView
from gifthorse.defenses.sanitization.inverted_data_distillation import InvertedDataDistillation, imitation
from gifthorse.inversion.frozen import freeze
from gifthorse.training.loop import fit
from worlds import rates


@pytest.fixture(scope="module")
def settings() -> InvertedDataDistillation:
    found = resolve(dataset="digits", defense="inverted_data_distillation[images=512]", profile="laptop").defense
    assert isinstance(found, InvertedDataDistillation)
    return found


@pytest.fixture(scope="module")
def images(settings: InvertedDataDistillation, task: Task, trojan: Trojan) -> Images:
    return settings.invert(trojan.model, task.train.shape, 0)


def test_images_are_of_their_class_and_as_dark_and_varied_as_the_digits_nobody_showed(
    images: Images, task: Task, trojan: Trojan
) -> None:
    assert (predict(trojan.model, images).argmax(1) == images.labels).float().mean() > 0.9
    ours, digits = images.floats(), task.train.floats()
    assert abs(float(ours.mean() - digits.mean())) < 0.03
    assert abs(float(ours.std() - digits.std())) < 0.03
    assert torch.unique(images.pixels, dim=0).shape[0] == len(images)


@pytest.mark.parametrize(
    ("start", "epochs", "accuracy_lost", "success"), [("teacher", 20, 0.04, 0.8), ("fresh", 60, 0.08, 0.3)]
)
def test_the_backdoor_passes_to_the_student_and_so_does_accuracy(
    start: str,
    epochs: int,
    accuracy_lost: float,
    success: float,
    settings: InvertedDataDistillation,
    images: Images,
    task: Task,
    trojan: Trojan,
) -> None:
    """In part also to one that has never seen the teacher's weights, nor a digit, nor the trigger."""
    chosen = settings.changed(start=start, epochs=epochs)
    view = view_of(chosen, trojan, task)
    assert isinstance(view, DataFreeView)
    student = chosen.student(view, 1)
    fit(student, images, chosen, 0, objective=imitation(freeze(view.model)))
    before, after = rates(trojan.model, task, trojan), rates(student, task, trojan)
    assert before[1] > 0.95
    assert after[0] > before[0] - accuracy_lost
    assert after[1] > success
