"""Compiled training: the same network comes out, and nothing of the compiler stays in it."""

from typing import Any

import pytest
import torch
from torch import nn

from gifthorse.core.classifier import Classifier
from gifthorse.core.images import to_floats
from gifthorse.core.recipe import AdversarialRecipe, Recipe, StandardRecipe
from gifthorse.core.task import Task
from gifthorse.training.loop import fit
from worlds import digits_task

RECIPES = [
    StandardRecipe(epochs=1, batch_size=64, shift=1, flip=False),
    AdversarialRecipe(epochs=1, batch_size=64, shift=1, flip=False, steps=1),
]


def trained(task: Task, recipe: Recipe, compiled: bool) -> Classifier:
    model = task.build(0)
    fit(model, task.train.take(slice(256)), recipe.model_copy(update={"compile": compiled}), 0)
    return model


def difference(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((first - second).detach().abs().max()) for first, second in pairs)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """What was compiled, by a compiler that traces and makes no code."""
    seen: list[nn.Module] = []
    real: Any = torch.compile

    def tracing(model: nn.Module) -> Any:
        seen.append(model)
        return real(model, backend="eager")

    monkeypatch.setattr(torch, "compile", tracing)
    return seen


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_compiled_training_ends_in_the_same_plain_network(recipe: Recipe, compilations: list[nn.Module]) -> None:
    task = digits_task()
    plain = trained(task, recipe, compiled=False)
    assert not compilations
    model = trained(task, recipe, compiled=True)
    assert compilations == [model]
    assert type(model) is Classifier
    assert not model.training
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert difference(model, plain) < 1e-4
    assert model(to_floats(task.test.pixels[:2])).shape == (2, task.classes)


@pytest.mark.slow
def test_compiled_code_computes_the_same() -> None:
    task, recipe = digits_task(), RECIPES[0]
    assert difference(trained(task, recipe, compiled=True), trained(task, recipe, compiled=False)) < 0.03
