"""What one step of training does: the optimiser's arithmetic, how often augmentation draws what, what stays fixed."""

import math

import pytest
import torch
from torch import Tensor, nn

from gifthorse.core.images import Images
from gifthorse.core.recipe import StandardRecipe
from gifthorse.training import precision
from gifthorse.training.augment import shift_and_flip
from gifthorse.training.loop import Batch, classification_loss, fit
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


@pytest.fixture
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight bits would hide what is compared with a computation by hand."""
    monkeypatch.setattr(precision, "has_native_bfloat16", lambda device: False)


def batches_seen(model: nn.Module, images: Images, recipe: StandardRecipe) -> list[Batch]:
    """Train the model, and return every batch that its loss was taken of."""
    seen: list[Batch] = []

    def watching(network: nn.Module, batch: Batch) -> Tensor:
        seen.append(batch)
        return classification_loss(network, batch)

    fit(model, images, recipe, 0, objective=watching)
    return seen


@pytest.mark.usefixtures("full_precision")
def test_standard_training_by_hand() -> None:
    """A linear model's gradient is (p − y) xᵀ / N, the mean over a batch; after epoch 2 a tenth of the rate is left."""
    images = noise_images(12, (1, 2, 2), 3)
    recipe = StandardRecipe(epochs=3, batch_size=6, schedule=(2,), nesterov=False, shift=0, flip=False)
    layer = nn.Linear(4, 3, bias=False)
    weights, velocity = layer.weight.detach().clone(), torch.zeros(3, 4)
    seen = batches_seen(nn.Sequential(nn.Flatten(), layer), images, recipe)
    assert len(seen) == 6
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        pixels = torch.cat([first.pixels, second.pixels])
        assert sorted(pixels.flatten(1).tolist()) == sorted(images.floats().flatten(1).tolist())
    assert not torch.equal(seen[0].pixels, seen[2].pixels)
    for step, batch in enumerate(seen):
        pixels, truth = batch.pixels.flatten(1), nn.functional.one_hot(batch.labels, 3)
        gradient = ((pixels @ weights.T).softmax(1) - truth).T @ pixels / 6 + 2e-4 * weights
        velocity = 0.9 * velocity + gradient
        weights = weights - (0.1 if step < 4 else 0.01) * velocity
    torch.testing.assert_close(layer.weight.detach(), weights)


@pytest.mark.parametrize(("shift", "flip"), [(0, False), (0, True), (2, False), (2, True)])
def test_training_shifts_and_mirrors_every_image_anew(shift: int, flip: bool) -> None:
    """One white pixel, three columns left of the middle: where it lands tells shift and mirroring apart."""
    pixels = torch.zeros(500, 1, 11, 11, dtype=torch.uint8)
    pixels[:, :, 5, 2] = 255
    model = nn.Sequential(nn.Flatten(), nn.Linear(121, 2))
    recipe = StandardRecipe(epochs=4, batch_size=100, shift=shift, flip=flip)
    seen = batches_seen(model, Images(pixels, torch.arange(500) % 2, 2), recipe)
    landed = torch.cat([batch.pixels for batch in seen]).sum((0, 1))
    expected = torch.zeros(11, 11, dtype=torch.bool)
    expected[5 - shift : 6 + shift, 2 - shift : 3 + shift] = True
    if flip:
        expected |= expected.flip(1)
    assert torch.equal(landed > 0, expected)
    each = 2000 / expected.sum()
    assert (landed[expected] - each).abs().max() < 5 * each**0.5


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
