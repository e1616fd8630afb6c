"""What AEGIS sees in real digits that a model was trained on against a PGD adversary."""

from pathlib import Path

import pytest

from gifthorse.bench.cell import resolve
from gifthorse.core.classifier import Classifier
from gifthorse.core.outcomes import ModelVerdict
from gifthorse.core.task import Task
from gifthorse.core.views import ModelView
from gifthorse.defenses.inspection.aegis import Aegis
from gifthorse.training.scratch import train

TARGET = 7
ATTACK = f"badnets[target={TARGET},mixing=dataset,poison_rate=0.1,trigger_position=bottom_right]"


def inspected(model: Classifier, task: Task) -> ModelVerdict:
    found = Aegis(seeds=100, step_size=0.5, steps=40, reduction="pca").defend(ModelView(model, task.holdout), 0)
    assert isinstance(found, ModelVerdict)
    return found


@pytest.mark.slow
def test_images_translated_to_the_target_lie_further_from_real_ones_than_to_any_class_of_a_benign_model() -> None:
    """Two robust models are trained: a minute."""
    cell = resolve(dataset="digits", attack=ATTACK, training="adversarial", seed=100)
    splits = cell.dataset.load(Path("unused"))
    task = Task(**vars(splits), architecture=cell.model, recipe=cell.training)
    benign = train(task, 100)
    trojan = cell.attack.run(task, benign, 100)
    of_trojan, of_benign = inspected(trojan.model, task), inspected(benign, task)
    separations = of_trojan.findings["separations"]
    assert isinstance(separations, list)
    assert separations.index(max(separations)) == TARGET
    assert of_trojan.readouts["separation"] > of_benign.readouts["separation"] + 0.1
