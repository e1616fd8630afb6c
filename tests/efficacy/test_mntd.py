"""MNTD on digits: what shadow models teach holds for models that the defender did not train."""

import pytest
import torch

from gifthorse.bench.cell import resolve
from gifthorse.bench.views import materials_of
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.task import Task
from gifthorse.defenses.inspection.mntd import Mntd
from gifthorse.inversion.meta_classifier import Stack, aurocs
from gifthorse.inversion.shadows import train_shadows
from gifthorse.models.small_cnn import SmallCnn


@pytest.fixture(scope="module")
def found(task: Task) -> tuple[Mntd, dict[str, torch.Tensor]]:
    """Meta-classifiers fitted on few and narrow shadow models."""
    method = resolve(dataset="digits", defense=SMALL).defense
    assert isinstance(method, Mntd)
    return method, method.prepare(materials_of(method, narrow(task)), 0)


SMALL = "mntd[shadows=24,validation=8,copies=1,epochs=12,queries=20,classifiers=3]"
ARCHITECTURE = SmallCnn(width=4, embedding=32)


def narrow(task: Task) -> Task:
    return Task(**{**vars(task), "architecture": ARCHITECTURE})


def test_meta_classifiers_tell_models_with_backdoors_from_benign_ones(
    task: Task, found: tuple[Mntd, dict[str, torch.Tensor]]
) -> None:
    """Other models, trained on other images, with backdoors of their own."""
    method, fitted = found
    recipe = StandardRecipe(epochs=12, batch_size=32, lr=0.05, shift=0, flip=False, schedule="one_cycle")
    theirs, held_out = task.train.take(slice(160)), task.train.take(slice(160, 200))
    others = train_shadows(ARCHITECTURE, theirs, held_out, recipe, benign=12, trojaned=12, seed=77)
    assert others.success[others.trojaned].mean() > 0.8
    logits = Stack.of(others.models).ask_all(fitted["queries"])
    scores = method.suspicion(fitted, method.scores(fitted, logits)).mean(0, keepdim=True)
    assert aurocs(scores, others.trojaned).item() > 0.75


def test_shadow_models_of_either_kind_are_as_accurate_and_learn_their_triggers(
    found: tuple[Mntd, dict[str, torch.Tensor]],
) -> None:
    """Otherwise accuracy would tell them apart, which it does not where a backdoor is planted well."""
    parts = found[1]
    assert parts["accuracy"].mean() > 0.8
    assert abs(float(parts["accuracy"].mean() - parts["trojaned_accuracy"].mean())) < 0.05
    assert parts["trojaned_success"].mean() > 0.8
