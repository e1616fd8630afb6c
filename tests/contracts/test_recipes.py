"""Promises of every listed training recipe, in each of its declared variants."""

from dataclasses import replace

import pytest
import torch

from gifthorse.bench.cell import RECIPES, resolve
from gifthorse.core.classifier import predict
from gifthorse.training.scratch import train
from worlds import affordable, noise_task, requests

every_recipe = pytest.mark.parametrize("name", requests(RECIPES))


@every_recipe
def test_the_seed_alone_decides_the_model_and_the_images_are_left_alone(name: str) -> None:
    recipe = affordable(resolve(dataset="digits", training=name, profile="smoke").training)
    task = replace(noise_task((3, 12, 17)), recipe=recipe.changed(batch_size=32))
    pixels, models = task.train.pixels.clone(), []
    for state, seed in ((1, 0), (2, 0), (1, 1)):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        models.append(train(task, seed))
        assert torch.equal(torch.get_rng_state(), before)
    first, same, other = (predict(model, task.test) for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert first.isfinite().all()
    assert not any(module.training for module in models[0].modules())
    assert torch.equal(task.train.pixels, pixels)
