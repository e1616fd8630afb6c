"""What one step of training does: the optimiser's arithmetic, how often augmentation draws what, what stays fixed."""

import math

import pytest
import torch
from torch import Tensor, nn

from gifthorse.core.recipe import StandardRecipe
from gifthorse.training.augment import shift_and_flip
from gifthorse.training.loop import fit
from gifthorse.training.optimisers import optimise
from worlds import noise_images


def by_hand(start: Tensor, recipe: StandardRecipe, steps: int) -> Tensor:
    """SGD on half of the squared weights, whose gradient is the weights themselves; Sutskever's form of Nesterov."""
    weights, velocity = start.clone(), torch.zeros_like(start)
    for _ in range(steps):
        gradient = weights + recipe.weight_decay * weights
        velocity = recipe.momentum * velocity + gradient
        weights = weights - recipe.lr * (gradient + recipe.momentum * velocity if recipe.nesterov else velocity)
    return weights


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_a_recipes_steps_are_those_computed_by_hand(nesterov: bool, weight_decay: float) -> None:
    recipe = StandardRecipe(schedule="constant", nesterov=nesterov, weight_decay=weight_decay)
    layer = nn.Linear(3, 2, bias=False)
    expected = by_hand(layer.weight.detach(), recipe, 4)
    optimizer, scheduler = optimise(layer, recipe, 4)
    for _ in range(4):
        optimizer.zero_grad()
        (layer.weight.square().sum() / 2).backward()
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(layer.weight.detach(), expected)


def test_a_cosine_falls_from_the_learning_rate_to_nothing() -> None:
    optimizer, scheduler = optimise(nn.Linear(1, 1), StandardRecipe(lr=0.1), 8)
    for step in range(8):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * (1 + math.cos(math.pi * step / 8)))
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("parts", [1, 4])
def test_half_of_the_images_are_mirrored(parts: int) -> None:
    pixels = torch.zeros(4000, 1, 2, 2, dtype=torch.uint8)
    pixels[:, :, :, 0] = 255
    draws = [torch.Generator().manual_seed(part) for part in range(parts)]
    share = (shift_and_flip(pixels, 0, True, *draws)[:, 0, 0, 1] == 255).float().mean()
    assert 0.46 < share < 0.54  # five standard deviations


@pytest.mark.parametrize("shift", [1, 2, 4])
def test_every_offset_of_a_crop_is_as_likely_as_any_other(shift: int) -> None:
    offsets = (2 * shift + 1) ** 2
    pixels = torch.zeros(200 * offsets, 1, 11, 11, dtype=torch.uint8)
    pixels[:, :, 5, 5] = 255
    moved = shift_and_flip(pixels, shift, False, torch.Generator().manual_seed(0))
    landed = (moved == 255).sum((0, 1))
    expected = torch.zeros(11, 11, dtype=torch.bool)
    expected[5 - shift : 6 + shift, 5 - shift : 6 + shift] = True
    assert torch.equal(landed > 0, expected)
    assert (landed[expected] - 200).abs().max() < 5 * math.sqrt(200)


def test_what_is_fixed_keeps_its_weights_and_the_statistics_of_its_batch_normalisation() -> None:
    """Running means drift in training mode although no weight moves, and with them what the fixed layers compute."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Flatten()
    )
    model.append(nn.Linear(3 * 4 * 4, 4))
    before = {name: values.clone() for name, values in model.state_dict().items()}
    images = noise_images(64, (1, 8, 8), 4)
    fit(model, images, StandardRecipe(epochs=2, batch_size=16, shift=0, flip=False), 0, fixed=[model[0], model[1]])
    changed = {name for name, values in model.state_dict().items() if not torch.equal(values, before[name])}
    assert not {name for name in changed if name.startswith(("0.", "1."))}
    assert {"4.weight", "4.running_mean", "4.running_var", "4.num_batches_tracked", "6.weight"} <= changed
    assert not model.training
    assert all(weight.requires_grad for weight in model.parameters())
