"""Models trained together are the models trained alone: weights, running statistics, and whose images they saw."""

import copy

import pytest
import torch

from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.recipe import AdversarialRecipe, StandardRecipe
from gifthorse.models import ARCHITECTURES
from gifthorse.training import precision
from gifthorse.training.loop import fit
from gifthorse.training.stacked import fit_stacked, models_at_once
from worlds import noise_images

SHAPE, CLASSES, SEEDS = (3, 16, 16), 4, [5, 6, 7]
RECIPE = StandardRecipe(epochs=2, batch_size=16, lr=0.02, shift=2, flip=True)
IMAGES = noise_images(40, SHAPE, CLASSES)


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding to eight bits would hide what these tests look for."""
    monkeypatch.setattr(precision, "has_native_bfloat16", lambda device: False)


def build(name: str, count: int = len(SEEDS)) -> list[Classifier]:
    return [ARCHITECTURES.build(name).build(SHAPE, CLASSES, number) for number in range(count)]


def assert_same(found: Classifier, expected: Classifier, tolerance: float = 2e-4) -> None:
    expected_state = expected.state_dict()
    for key, part in found.state_dict().items():
        torch.testing.assert_close(part, expected_state[key], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_each_model_learns_what_it_would_learn_alone(schedule: str) -> None:
    recipe = StandardRecipe.from_dict({**RECIPE.to_dict(), "schedule": schedule})
    alone, together = build("small_cnn[width=4,embedding=8]"), build("small_cnn[width=4,embedding=8]")
    for model, seed in zip(alone, SEEDS, strict=True):
        fit(model, IMAGES, recipe, seed)
    fit_stacked(together, IMAGES, recipe, SEEDS, at_once=3)
    for found, expected in zip(together, alone, strict=True):
        assert_same(found, expected)
        assert not found.training
        assert int(found.network.stage1[1].num_batches_tracked) == 4  # type: ignore
    means = [model.network.stage1[1].running_mean for model in together]  # type: ignore
    assert not torch.allclose(means[0], means[1], rtol=0.01)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18[width=8,blocks=[1,1,1,1]]",
        "wrn_16_1[width=8,blocks=1]",
        "vgg13[width=4]",
        "densenet121[width=8,growth_rate=4,blocks=[1,1,1,1]]",
    ],
)
def test_every_kind_of_network_can_be_stacked(name: str) -> None:
    """Two steps: deep networks at random weights soon magnify rounding."""
    recipe = StandardRecipe(epochs=1, batch_size=20, lr=0.01, shift=1, flip=True)
    alone, together = build(name, 2), build(name, 2)
    for model, seed in zip(alone, SEEDS[:2], strict=True):
        fit(model, IMAGES, recipe, seed)
    fit_stacked(together, IMAGES, recipe, SEEDS[:2], at_once=2)
    for found, expected in zip(together, alone, strict=True):
        assert_same(found, expected, 2e-3)


def test_each_model_may_have_its_own_images_and_a_last_group_may_be_smaller() -> None:
    sets = [noise_images(40, SHAPE, CLASSES, number) for number in range(3)]
    alone, together = build("small_cnn[width=4,embedding=8]"), build("small_cnn[width=4,embedding=8]")
    for model, images, seed in zip(alone, sets, SEEDS, strict=True):
        fit(model, images, RECIPE, seed)
    fit_stacked(together, sets, RECIPE, SEEDS, at_once=2)
    for found, expected in zip(together, alone, strict=True):
        assert_same(found, expected)


def test_a_cpu_trains_one_after_another_unless_told_otherwise() -> None:
    alone, together = build("cnn_mnist[width=2]"), build("cnn_mnist[width=2]")
    for model, seed in zip(alone, SEEDS, strict=True):
        fit(model, IMAGES, RECIPE, seed)
    fit_stacked(together, IMAGES, RECIPE, SEEDS)
    for found, expected in zip(together, alone, strict=True):
        assert_same(found, expected, 0)
    assert models_at_once(torch.device("cpu"), RECIPE) == 1
    assert models_at_once(torch.device("cuda"), RECIPE) == 256


@pytest.mark.parametrize(("dropout", "differ"), [(0.0, False), (0.5, True)])
def test_each_model_drops_its_own_units_and_the_same_ones_again(dropout: float, differ: bool) -> None:
    """Two models alike in weights, seed and images differ by their dropout alone."""

    def twins() -> list[Classifier]:
        model = build(f"cnn_mnist[width=2,dropout={dropout}]", 1)[0]
        both = [model, copy.deepcopy(model)]
        fit_stacked(both, IMAGES, RECIPE, [3, 3], at_once=2)
        return both

    first, second = twins()
    assert torch.allclose(first.head.weight, second.head.weight, atol=1e-6) is not differ
    torch.manual_seed(1)
    again = twins()
    assert_same(again[0], first, 0)
    assert_same(again[1], second, 0)


def test_frozen_weights_stay() -> None:
    models = build("small_cnn[width=4,embedding=8]")
    for model in models:
        model.head.requires_grad_(False)
    heads = [model.head.weight.clone() for model in models]
    fit_stacked(models, IMAGES, RECIPE, SEEDS, at_once=3)
    for model, head in zip(models, heads, strict=True):
        assert torch.equal(model.head.weight, head)
        assert model.head.weight.grad is None


def test_a_stacked_pass_is_in_full_precision_also_where_lower_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    here, elsewhere = build("small_cnn[width=4,embedding=8]"), build("small_cnn[width=4,embedding=8]")
    fit_stacked(here, IMAGES, RECIPE, SEEDS, at_once=3)
    monkeypatch.setattr(precision, "has_native_bfloat16", lambda device: True)
    fit_stacked(elsewhere, IMAGES, RECIPE, SEEDS, at_once=3)
    for found, expected in zip(elsewhere, here, strict=True):
        assert_same(found, expected, 0)


def test_what_cannot_be_stacked_is_refused() -> None:
    models = build("small_cnn[width=4]")
    with pytest.raises(RequestError, match="as many seeds"):
        fit_stacked(models, IMAGES, RECIPE, [0])
    with pytest.raises(RequestError, match="as many seeds"):
        fit_stacked(models, [IMAGES], RECIPE, SEEDS)
    with pytest.raises(RequestError, match="one architecture"):
        fit_stacked([*models[:2], *build("small_cnn[width=5]", 1)], IMAGES, RECIPE, SEEDS, at_once=2)
    mixed = [*build("cnn_mnist[width=2]", 1), *build("cnn_mnist[width=2,dropout=0.1]", 1)]
    with pytest.raises(RequestError, match="one architecture"):
        fit_stacked(mixed, IMAGES, RECIPE, SEEDS[:2], at_once=2)
    with pytest.raises(RequestError, match="equally many"):
        fit_stacked(models, [IMAGES, IMAGES, IMAGES.take(slice(9))], RECIPE, SEEDS, at_once=3)
    with pytest.raises(RequestError, match="adversarial"):
        fit_stacked(models, IMAGES, AdversarialRecipe(epochs=1), SEEDS, at_once=3)


def test_nothing_to_train_is_no_error() -> None:
    fit_stacked([], [], RECIPE, [])
